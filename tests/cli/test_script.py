"""What a replay sends, as whom, and when."""

from __future__ import annotations

import pytest

from parley import Kind, Message
from parley.faults import CommandError
from parley.replay.cast import assign, mint_cast
from parley.replay.comparison import Spoken
from parley.replay.export import parse_export
from parley.replay.script import MAX_BODY_BYTES, SYSTEM_LINE_KIND, SYSTEM_SPEAKER, heard, write_script
from parley.tokens import Credential, Mint

EXPORT = """\
1.1.20, 10:00 - Ann created group "x"
1.1.20, 10:00 - Ann: one
1.1.20, 10:02 - Bob: two
1.1.20, 10:01 - Ann: three
1.1.20, 11:00 - Bob: four
"""
MINT = Mint(bytes(32))


def test_every_entry_is_sent_system_lines_as_a_kind_of_their_own() -> None:
    script = write_script(parse_export(EXPORT), 0)
    assert [cue.spoken for cue in script] == [
        Spoken(SYSTEM_SPEAKER, SYSTEM_LINE_KIND, 'Ann created group "x"'),
        Spoken("Ann", Kind.CONTENT, "one"),
        Spoken("Bob", Kind.CONTENT, "two"),
        Spoken("Ann", Kind.CONTENT, "three"),
        Spoken("Bob", Kind.CONTENT, "four"),
    ]


@pytest.mark.parametrize(
    ("speed", "waits"), [(0, [0, 0, 0, 0, 0]), (1, [0, 0, 120, 120, 3600]), (60, [0, 0, 2, 2, 60])]
)
def test_speed_divides_the_time_that_passed(speed: float, waits: list[float]) -> None:
    assert [cue.after_s for cue in write_script(parse_export(EXPORT), speed)] == waits


def test_a_text_larger_than_any_message_is_refused_by_its_line() -> None:
    with pytest.raises(CommandError, match="line 2: "):
        write_script(parse_export(f"1.1.20, 10:00 - Ann: a\n1.1.20, 10:00 - Ann: {'x' * (MAX_BODY_BYTES + 1)}"), 0)


def test_users_and_devices_are_those_that_parley_token_prints() -> None:
    cast = mint_cast(["Ann", "Bob"], MINT, first_user=10, first_device=100)
    assert cast.creator[:2] == (10, 100)
    assert cast.reader[:2] == (10, 101)
    assert {author: credential[:2] for author, credential in cast.authors.items()} == {
        "Ann": (11, 102),
        "Bob": (12, 104),
    }


def test_a_token_file_needs_a_user_more_than_authors_and_one_with_two_devices() -> None:
    tokens = [Credential(1, 1, "a"), Credential(2, 2, "b"), Credential(2, 3, "c"), Credential(3, 4, "d")]
    cast = assign(["Ann", "Bob"], tokens)
    assert (cast.creator, cast.reader) == (tokens[1], tokens[2])
    assert cast.authors == {"Ann": tokens[0], "Bob": tokens[3]}
    for too_few in (tokens[:3], [tokens[0], tokens[1], tokens[3]], []):
        with pytest.raises(CommandError, match="parley token --user"):
            assign(["Ann", "Bob"], too_few)


def test_what_was_read_back_is_put_in_the_exports_words() -> None:
    cast = mint_cast(["Ann"], MINT, first_user=10, first_device=100)

    def message(sender_id: int, kind: int, text: str) -> Message:
        return Message(7, 1, sender_id, 1, 0, kind, text.encode(), bytes(16), None)

    read = [
        message(10, Kind.SYSTEM, "?"),
        message(10, SYSTEM_LINE_KIND, "Ann left"),
        message(11, 0, "hi"),
        message(99, 0, "who?"),
    ]
    assert heard(read, cast) == [
        Spoken(SYSTEM_SPEAKER, SYSTEM_LINE_KIND, "Ann left"),
        Spoken("Ann", 0, "hi"),
        Spoken("99", 0, "who?"),
    ]
