"""What is drawn: harmless text, wrapped rows, day separators, marks, the lines around the chat, scrolling."""

from __future__ import annotations

from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.utils import get_cwidth

from parley import (
    Chat,
    ChatKind,
    Connected,
    Disconnected,
    Kind,
    Member,
    Message,
    Role,
    SignedOut,
    StayedAway,
    Throttled,
)
from parley.terminal.connection import ConnectionLine
from parley.terminal.panes import Scrollback, list_pane, status_line, title_line
from parley.terminal.roster import Roster
from parley.terminal.rows import Fragments, Names, rows_of
from parley.terminal.text import one_line, printable, wrap
from parley.terminal.view import ChatView

ME, ANN = 1, 2
DAY_MS = 86_400_000

HARMFUL = [
    ("\x1b[2Jgone", "\ufffd[2Jgone"),
    ("\x9b31m", "\ufffd31m"),
    ("a\x00b\x07", "a\ufffdb\ufffd"),
    ("abc\u202ecba", "abc\ufffdcba"),
    ("a\u2066b\u2069", "a\ufffdb\ufffd"),
    ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
    ("a\tb", "a    b"),
    ("שלום \u200f!", "שלום \u200f!"),
    ("👩‍👩‍👧 ok", "👩‍👩‍👧 ok"),
]


@pytest.mark.parametrize(("text", "expected"), HARMFUL)
def test_text_of_others_cannot_command_the_terminal(text: str, expected: str) -> None:
    assert printable(text) == expected


WRAPS = [
    ("", 5, [""]),
    ("abc", 5, ["abc"]),
    ("ab cd", 5, ["ab cd"]),
    ("ab cde", 5, ["ab", "cde"]),
    ("abcde fg", 5, ["abcde", "fg"]),
    ("abcdefgh", 5, ["abcde", "fgh"]),
    ("a\n\nb", 5, ["a", "", "b"]),
    ("日本語", 4, ["日本", "語"]),
    ("日本語", 5, ["日本", "語"]),
    ("日", 1, ["日"]),
]


@pytest.mark.parametrize(("text", "width", "rows"), WRAPS)
def test_long_lines_break_at_spaces_by_display_width(text: str, width: int, rows: list[str]) -> None:
    assert wrap(text, width) == rows


@given(st.text(max_size=200), st.integers(2, 30))
def test_no_row_is_too_wide_and_no_word_is_lost(text: str, width: int) -> None:
    safe = printable(text)
    rows = wrap(safe, width)
    assert all(get_cwidth(row) <= width for row in rows)
    assert "".join("".join(rows).split(" ")) == "".join("".join(safe.split("\n")).split(" "))


@given(st.text(max_size=60), st.integers(1, 20))
def test_one_line_never_exceeds_its_width(text: str, width: int) -> None:
    assert get_cwidth(one_line(text, width)) <= width


def member(user_id: int, read_seq: int = 0) -> Member:
    return Member(user_id, Role.MEMBER, read_seq, read_seq)


def view_of(*messages: Message, kind: int = ChatKind.DIRECT, read_seq: int = 0) -> ChatView:
    view = ChatView(Chat(7, kind, "hut", 1, (member(ME), member(ANN, read_seq)), 0), ME)
    for message in messages:
        view.add(message)
    return view


def message(seq: int, sender_id: int, text: str, *, time_ms: int | None = None, kind: int = Kind.CONTENT) -> Message:
    at = seq * 60_000 if time_ms is None else time_ms
    return Message(7, seq, sender_id, 1, at, kind, text.encode(), seq.to_bytes(16, "big"), None)


def plain(lines: list[Fragments]) -> list[str]:
    return ["".join(text for _, text in line).rstrip() for line in lines]


def drawn(view: ChatView, width: int = 40, names: Names | None = None) -> list[str]:
    return plain([row.fragments for row in rows_of(view, names or Names(ME), width, UTC)])


def test_days_names_times_and_marks_are_drawn() -> None:
    view = view_of(
        message(1, ANN, "hello"),
        message(2, ANN, "are you there?"),
        message(3, ME, "yes, for a long while already", time_ms=DAY_MS),
        message(4, ME, "!", time_ms=DAY_MS + 60_000),
        read_seq=3,
    )
    assert drawn(view) == [
        "─────── Thursday, 1 January 1970 ───────",
        "00:01 2            hello",
        "00:02              are you there?",
        "──────── Friday, 2 January 1970 ────────",
        "00:00 you          yes, for a long",
        "                   while already ✓✓",
        "00:01              ! ✓",
    ]


def test_a_name_of_ones_own_is_shown() -> None:
    assert "Ines" in drawn(view_of(message(1, ME, "x")), names=Names(ME, "Ines"))[1]


def test_notices_are_centred_and_belong_to_nobody() -> None:
    rows = drawn(view_of(message(1, ANN, "a"), message(2, ME, "Ann left", kind=64), message(3, ANN, "b")))
    assert rows[2] == "             00:02 Ann left"
    assert "2 " in rows[3]


def test_a_refused_message_says_why_below_it() -> None:
    view = view_of()
    view.queue(b"x", "hello", 0)
    view.fail(b"x", "300 forbidden: not in it")
    assert drawn(view)[1:] == ["00:00 you          hello ✗", "                   not sent: 300 forbid…"]


@given(
    st.lists(st.tuples(st.sampled_from([ME, ANN, 10**18]), st.text(max_size=80), st.integers(0, 2**42))),
    st.integers(20, 120),
)
def test_no_row_of_a_chat_is_wider_than_the_screen(said: list[tuple[int, str, int]], width: int) -> None:
    view = view_of(*[message(seq, who, text, time_ms=at) for seq, (who, text, at) in enumerate(said, 1)])
    rows = rows_of(view, Names(ME), width, UTC)
    assert all(sum(get_cwidth(text) for _, text in row.fragments) <= width for row in rows)
    assert len({row.key for row in rows}) == len(rows)


def long_view() -> ChatView:
    return view_of(*[message(seq, ANN, f"m{seq}", time_ms=0) for seq in range(1, 31)])


def last_words(lines: list[Fragments]) -> list[str]:
    return [line.split()[-1] for line in plain(lines)]


def test_the_newest_rows_are_shown_and_followed() -> None:
    view, scrollback = long_view(), Scrollback()
    assert last_words(scrollback.visible(view, Names(ME), 40, 3)) == ["m28", "m29", "m30"]
    view.add(message(31, ANN, "m31", time_ms=0))
    assert last_words(scrollback.visible(view, Names(ME), 40, 3)) == ["m29", "m30", "m31"]


def test_scrolled_back_the_place_stays_whatever_comes() -> None:
    view, scrollback = long_view(), Scrollback()
    scrollback.visible(view, Names(ME), 40, 3)
    scrollback.scroll(-10)
    assert last_words(scrollback.visible(view, Names(ME), 40, 3)) == ["m18", "m19", "m20"]
    view.add(message(31, ANN, "m31", time_ms=0))
    assert last_words(scrollback.visible(view, Names(ME), 40, 3)) == ["m18", "m19", "m20"]
    assert not scrollback.is_at_end
    scrollback.scroll(+100)
    assert scrollback.is_at_end


def test_scrolling_stops_at_the_start_where_older_pages_are_due() -> None:
    view, scrollback = long_view(), Scrollback()
    scrollback.visible(view, Names(ME), 40, 5)
    assert not scrollback.is_at_start
    scrollback.page(-100)
    assert last_words(scrollback.visible(view, Names(ME), 40, 5))[1:] == ["m1", "m2", "m3", "m4"]
    assert scrollback.is_at_start


def test_another_chat_begins_at_its_end() -> None:
    scrollback = Scrollback()
    scrollback.visible(long_view(), Names(ME), 40, 3)
    scrollback.scroll(-10)
    assert last_words(scrollback.visible(long_view(), Names(ME), 40, 3)) == ["m28", "m29", "m30"]


CONNECTIONS = [
    (Connected(1, 2, 3, False), 100.0, True, "connected"),
    (Disconnected(None, "connection lost", 4.0), 100.0, False, "reconnecting in 4 s (connection lost)"),
    (Disconnected(None, "connection lost", 4.0), 103.5, False, "reconnecting in 1 s (connection lost)"),
    (Disconnected(None, "", 4.0), 104.0, False, "reconnecting"),
    (Throttled("send", 2.0), 100.0, False, "the server asks for patience (send) in 2 s"),
    (StayedAway(203, "replaced"), 100.0, False, "away (203): Ctrl-R connects again (replaced)"),
    (SignedOut(202, "revoked"), 100.0, False, "signed out (revoked)"),
]


@pytest.mark.parametrize(("event", "at", "is_connected", "words"), CONNECTIONS)
def test_the_connections_line_says_its_state(event: Connected, at: float, is_connected: bool, words: str) -> None:
    line = ConnectionLine()
    line.take(event, 100.0)
    assert (line.is_connected, line.describe(at)) == (is_connected, words)


def test_the_title_says_who_is_typing() -> None:
    view = view_of()
    view.set_typing(ANN, True, 0.0)
    assert plain([title_line(view, Names(ME), 1.0, 40)]) == [" 2 is typing…"]
    assert plain([title_line(view, Names(ME), 11.0, 40)]) == [" 2"]
    assert "/open" in plain([title_line(None, Names(ME), 0.0, 80)])[0]


def test_the_status_counts_chats_with_news() -> None:
    roster = Roster(ME)
    line = ConnectionLine()
    line.take(Connected(1, 2, 3, False), 0.0)
    assert plain([status_line(line, roster, True, 0.0, 60)]) == [" connected"]


def test_the_list_is_cut_to_its_height_and_width() -> None:
    roster = Roster(ME)
    assert list_pane(roster, 20, 5) == []
