"""What a person types, and what it means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from parley.faults import CommandError, UsageError
from parley.terminal.commands import AddMembers, Bare, Command, MakeGroup, OpenListed, OpenUser, Say, parse
from parley.terminal.conversation import group_key
from parley.terminal.lines import MAX_LINE_BYTES, read_lines
from parley.terminal.target import Beginning, choose_chat

LINES: list[tuple[str, Command | None]] = [
    ("", None),
    ("   ", None),
    ("hello", Say("hello")),
    ("  hello ", Say("  hello ")),
    ("//help", Say("/help")),
    ("/help", Bare("help")),
    ("/quit ", Bare("quit")),
    ("/open 7", OpenUser(7)),
    ("/open #2", OpenListed(2)),
    ("/add 1, 2 3", AddMembers((1, 2, 3))),
    ("/add 4..6,4", AddMembers((4, 5, 6))),
    ("/group Hut: 1,2", MakeGroup("Hut", (1, 2))),
    ("/group Hut: part two: 3", MakeGroup("Hut: part two", (3,))),
]


@pytest.mark.parametrize(("line", "command"), LINES)
def test_a_line_is_one_command(line: str, command: Command | None) -> None:
    assert parse(line) == command


@pytest.mark.parametrize(
    "line", ["/nonsense", "/open", "/open a", "/open 1 2", "/open #x", "/group 1,2", "/group : 1", "/add"]
)
def test_a_wrong_command_says_how_to_write_it_in_one_line(line: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(line)
    assert "\n" not in str(raised.value)


def test_only_one_beginning_can_be_chosen() -> None:
    assert choose_chat(None, None, "Hut: 1") == Beginning(group=MakeGroup("Hut", (1,)))
    with pytest.raises(UsageError):
        choose_chat(1, 2, None)


def test_the_same_group_has_the_same_key_whatever_the_order_of_its_members() -> None:
    assert group_key(1, MakeGroup("a", (2, 3))) == group_key(1, MakeGroup("a", (3, 2)))
    keys = {
        group_key(1, MakeGroup("a", (2, 3))),
        group_key(1, MakeGroup("a", (23,))),
        group_key(2, MakeGroup("a", (2, 3))),
    }
    assert len(keys) == 3
    assert {len(key) for key in keys} == {16}


async def lines_of(path: Path) -> list[str]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return [line async for line in read_lines(descriptor)]
    finally:
        os.close(descriptor)


CONTENTS = [
    (b"", []),
    (b"one\ntwo\n", ["one", "two"]),
    (b"one\r\n\r\ntwo", ["one", "", "two"]),
    (b"\xff\n", ["\ufffd"]),
    ("ü\u2028x\n".encode(), ["ü\u2028x"]),
]


@pytest.mark.parametrize(("content", "lines"), CONTENTS)
async def test_lines_are_read_from_a_file(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    path = tmp_path / "input"
    path.write_bytes(content)
    assert await lines_of(path) == lines


async def test_lines_are_read_from_a_pipe_in_pieces() -> None:
    reading, writing = os.pipe()
    lines = read_lines(reading)
    os.write(writing, b"on")
    os.write(writing, b"e\ntw")
    assert await anext(lines) == "one"
    os.write(writing, b"o")
    os.close(writing)
    assert await anext(lines) == "two"
    await lines.aclose()  # type: ignore[attr-defined]
    os.close(reading)


async def test_a_line_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"x" * (MAX_LINE_BYTES + 100_000))
    with pytest.raises(CommandError, match="break it up"):
        await lines_of(path)
