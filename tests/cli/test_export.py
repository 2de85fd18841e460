"""The export parser: every style of stamp, what belongs together, and that no line is lost."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.replay.export import EntryKind, ExportError, parse_export, read_export
from parley.replay.stamps import DateOrder

SAMPLES = Path(__file__).parent.parent / "data"


def local(year: int, month: int, day: int, hour: int, minute: int) -> datetime:
    return datetime(year, month, day, hour, minute)  # noqa: DTZ001 - an export names no time zone


EVENING = local(2020, 12, 31, 21, 41)
STYLES = [
    ("12/31/20, 21:41 - Ann: hi", EVENING),
    ("12/31/20, 9:41 PM - Ann: hi", EVENING),
    ("12/31/20, 9:41\u202fPM - Ann: hi", EVENING),
    ("31/12/20, 9:41\u202fpm - Ann: hi", EVENING),
    ("31/12/2020, 9:41 p. m. - Ann: hi", EVENING),
    ("31/12/2020, 9:41\u00a0p.\u00a0m. - Ann: hi", EVENING),
    ("31.12.20, 21:41 - Ann: hi", EVENING),
    ("31.12.2020, 21:41 - Ann: hi", EVENING),
    ("31-12-2020 21:41 - Ann: hi", EVENING),
    ("31. 12. 2020 21:41 - Ann: hi", EVENING),
    ("2020. 12. 31. 21:41 - Ann: hi", EVENING),
    ("2020-12-31, 21:41 - Ann: hi", EVENING),
    ("2020/12/31, 21:41 - Ann: hi", EVENING),
    ("31/12/2020، 21:41 - Ann: hi", EVENING),
    ("[31/12/2020, 21:41:05] Ann: hi", EVENING.replace(second=5)),
    ("[31.12.20, 21:41:05] Ann: hi", EVENING.replace(second=5)),
    ("[12/31/20, 9:41:05 PM] Ann: hi", EVENING.replace(second=5)),
    ("[12/31/20, 9:41:05\u202fPM] Ann: hi", EVENING.replace(second=5)),
    ("\u200e[12/31/20, 9:41:05\u202fPM] Ann: hi", EVENING.replace(second=5)),
    ("\u200e[31/12/2020, 21:41:05] \u202aAnn\u202c: hi", EVENING.replace(second=5)),
    ("[2020-12-31 21:41] Ann: hi", EVENING),
    ("[2020-12-31, 21.41.05] Ann: hi", EVENING.replace(second=5)),
    ("\ufeff31.12.20, 21:41 - Ann: hi", EVENING),
    ("12/31/20, 12:05 AM - Ann: hi", local(2020, 12, 31, 0, 5)),
    ("12/31/20, 12:05 PM - Ann: hi", local(2020, 12, 31, 12, 5)),
    ("٣١/١٢/٢٠٢٠, ٢١:٤١ - Ann: hi", EVENING),
]


@pytest.mark.parametrize(("line", "moment"), STYLES)
def test_every_style_of_stamp_gives_time_author_and_text(line: str, moment: datetime) -> None:
    (entry,) = parse_export(line).entries
    assert (entry.moment, entry.author, entry.text, entry.kind) == (moment, "Ann", "hi", EntryKind.TEXT)


ORDERS = [
    (["3/4/20, 10:00 - A: x", "12/25/20, 10:00 - A: x"], DateOrder.MONTH_DAY_YEAR, "a 25 can only be a day"),
    (["3/4/20, 10:00 - A: x", "25/12/20, 10:00 - A: x"], DateOrder.DAY_MONTH_YEAR, "a 25 can only be a day"),
    (["1/9/20, 10:00 - A: x", "2/1/20, 10:00 - A: x"], DateOrder.MONTH_DAY_YEAR, "time runs forward"),
    (["9/1/20, 10:00 - A: x", "1/2/20, 10:00 - A: x"], DateOrder.DAY_MONTH_YEAR, "time runs forward"),
    (["19-12-30, 10:00 - A: x", "20-01-02, 10:00 - A: x"], DateOrder.YEAR_MONTH_DAY, "time runs forward"),
    (["3/4/20, 10:00 AM - A: x"], DateOrder.MONTH_DAY_YEAR, "slash and 12 hours: the American custom"),
    (["3/4/20, 10:00 - A: x"], DateOrder.DAY_MONTH_YEAR, "elsewhere the day comes first"),
    (["3.4.20, 10:00 - A: x"], DateOrder.DAY_MONTH_YEAR, "dots: the day comes first"),
    (["2020-04-03 10:00 - A: x"], DateOrder.YEAR_MONTH_DAY, "four digits are a year"),
]


@pytest.mark.parametrize(("lines", "order", "why"), ORDERS)
def test_the_date_order_is_found_over_the_whole_file(lines: list[str], order: DateOrder, why: str) -> None:
    assert parse_export("\n".join(lines)).order is order, why


HEAD = "31.12.20, 21:41 - "
RESTS = [
    ("Ann: hi", "Ann", "hi", EntryKind.TEXT),
    ("Ann: a: b", "Ann", "a: b", EntryKind.TEXT),
    ("Ann:", "Ann", "", EntryKind.TEXT),
    ("Ann: ", "Ann", "", EntryKind.TEXT),
    ("Ann:  two spaces ", "Ann", " two spaces ", EntryKind.TEXT),
    ("Club 8:30: see you", "Club 8:30", "see you", EntryKind.TEXT),
    ("\u202a+49 151 0000000\u202c: hi", "+49 151 0000000", "hi", EntryKind.TEXT),
    ("Ann: <Media omitted>", "Ann", "<Media omitted>", EntryKind.MEDIA),
    ("Ann: \u200e<attached: 1-PHOTO.jpg>", "Ann", "\u200e<attached: 1-PHOTO.jpg>", EntryKind.MEDIA),
    ("Ann: \u200eimage omitted", "Ann", "\u200eimage omitted", EntryKind.MEDIA),
    ("Ann: IMG-1.jpg (file attached)", "Ann", "IMG-1.jpg (file attached)", EntryKind.MEDIA),
    ("Ann: no <Media omitted> here", "Ann", "no <Media omitted> here", EntryKind.TEXT),
    ("Ann left", None, "Ann left", EntryKind.SYSTEM),
    ("\u200eAnn left", None, "Ann left", EntryKind.SYSTEM),
    ("Ann created group “a: b”", None, "Ann created group “a: b”", EntryKind.SYSTEM),
    ('Ann created group "a: b"', None, 'Ann created group "a: b"', EntryKind.SYSTEM),
    ("A" * 101 + ": long", None, "A" * 101 + ": long", EntryKind.SYSTEM),
]


@pytest.mark.parametrize(("rest", "author", "text", "kind"), RESTS)
def test_the_rest_of_a_line_is_author_and_text_or_a_system_line(
    rest: str, author: str | None, text: str, kind: EntryKind
) -> None:
    (entry,) = parse_export(HEAD + rest).entries
    assert (entry.author, entry.text, entry.kind) == (author, text, kind)


CONTINUATIONS = [
    ("a line without a stamp", "more"),
    ("a blank line", "\nmore"),
    ("a date that does not exist", "45.12.20, 21:41 - Bob: hi"),
    ("a stamp of another layout", "[31/12/2020, 21:41:05] Bob: hi"),
    ("another separator", "31/12/20, 21:41 - Bob: hi"),
    ("a date alone", "31.12.20 was a Thursday"),
    ("a stamp in the middle", "see 31.12.20, 21:41 - Bob: hi"),
    ("separators that are no line ends here", "a\u2028b\x0bc\x85d\re"),
]


@pytest.mark.parametrize(("what", "more"), CONTINUATIONS, ids=[what for what, _ in CONTINUATIONS])
def test_what_is_no_new_message_goes_on_the_one_above(what: str, more: str) -> None:
    entries = parse_export(f"{HEAD}Ann: hi\n{more}\n{HEAD}Bob: yes\n").entries
    assert [(entry.author, entry.text) for entry in entries] == [("Ann", f"hi\n{more}"), ("Bob", "yes")]


def test_blank_lines_at_the_end_belong_to_no_message() -> None:
    (entry,) = parse_export(f"{HEAD}Ann: hi\r\n\r\n\n").entries
    assert entry.text == "hi"


def test_lines_before_the_first_stamp_are_a_system_line_without_a_time() -> None:
    preamble, entry = parse_export(f"Chat history with Ann\nis attached\n{HEAD}Ann: hi").entries
    assert (preamble.moment, preamble.author, preamble.text) == (None, None, "Chat history with Ann\nis attached")
    assert entry.first_line == 3


@pytest.mark.parametrize("text", ["", "\n\n", "dear diary\n", "99.99.20, 21:41 - Ann: hi"])
def test_a_text_without_any_stamp_is_no_export(text: str) -> None:
    with pytest.raises(ExportError, match="Export chat"):
        parse_export(text)


def test_an_unreadable_file_is_one_line_that_says_the_mend(tmp_path: Path) -> None:
    binary = tmp_path / "chat.zip"
    binary.write_bytes(b"PK\x03\x04\xff\xfe")
    for path, mend in [(tmp_path / "absent.txt", "No such file"), (tmp_path, "directory"), (binary, "unpack the .zip")]:
        with pytest.raises(ExportError, match=mend) as raised:
            read_export(path)
        assert "\n" not in str(raised.value)


def test_the_android_sample_is_read_whole() -> None:
    export = read_export(SAMPLES / "android.txt")
    assert export.order is DateOrder.MONTH_DAY_YEAR
    assert export.authors() == ["Ines", "Tomasz", "+49 151 0000000", "Ayşe Ñandú"]
    kinds = [entry.kind for entry in export.entries]
    assert (len(kinds), kinds.count(EntryKind.SYSTEM), kinds.count(EntryKind.MEDIA)) == (16, 5, 1)
    assert export.entries[3].text.count("\n") == 4
    assert export.entries[-1].moment == local(2021, 1, 1, 23, 30)


def test_the_ios_sample_is_read_whole() -> None:
    export = read_export(SAMPLES / "ios.txt")
    assert export.order is DateOrder.DAY_MONTH_YEAR
    assert export.authors() == ["Hut weekend", "Ines", "Tomasz", "~\u202fAyşe"]
    kinds = [entry.kind for entry in export.entries]
    assert (len(kinds), kinds.count(EntryKind.SYSTEM), kinds.count(EntryKind.MEDIA)) == (9, 1, 2)
    assert export.entries[-1].text == "\n(on two lines)"
    assert not any("\r" in entry.text for entry in export.entries)


# What chats are made of, and what confuses a parser of them, beside arbitrary text.
PIECES = st.one_of(
    st.sampled_from(
        ["", "\u200e", "31.12.20, 21:41 - ", "1.2.21, 09:00 - ", "[31.12.20, 21:41:05] ", "Ann: ", ":", " ", "“"]
    ),
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=12),
)
LINES = st.lists(st.lists(PIECES, max_size=4).map("".join), max_size=12)


@given(LINES, st.sampled_from(["\n", "\r\n"]))
def test_no_line_is_ever_lost(lines: list[str], newline: str) -> None:
    whole = [f"{HEAD}Ann: hi", *lines, f"{HEAD}Bob: last"]
    entries = parse_export(newline.join(whole)).entries
    next_line = 1
    for entry in entries:
        assert entry.first_line == next_line
        source = whole[next_line - 1 : next_line - 1 + entry.line_count]
        said = entry.text.split("\n")
        assert said[1:] == source[1:]
        assert source[0].endswith(said[0])
        next_line += entry.line_count
    assert next_line == len(whole) + 1
