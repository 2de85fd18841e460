"""Whole exports through a running node, and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from parley.replay.export import EntryKind, read_export
from parley.replay.stamps import DateOrder
from tests.cli.conftest import Parley
from tests.nodes import NodeProcess

SAMPLES = Path(__file__).parent.parent / "data"
MESSAGES = {"android.txt": 16, "ios.txt": 9, "pokemon.txt": 20, "lorem-2000.txt": 2_000}


def replay(parley: Parley, node: NodeProcess, file: Path, *more: object) -> str:
    outcome = parley("replay", file, "--data", node.data_dir, "--host", node.host, "--port", node.port, *more)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert re.search(r"read back ([\d,]+) from another device: no difference", outcome.stdout)
    count = f"{MESSAGES[file.name]:,}"
    assert f"{file.name}: {count} messages by" in outcome.stdout
    assert f"sent {count} messages in" in outcome.stdout
    assert f"read back {count} from another device" in outcome.stdout
    return str(outcome.stdout)


@pytest.mark.parametrize("name", ["android.txt", "ios.txt"])
def test_an_export_comes_back_as_it_was_sent(parley: Parley, node: NodeProcess, name: str) -> None:
    replay(parley, node, SAMPLES / name)


@pytest.mark.parametrize("name", ["pokemon.txt", "lorem-2000.txt"])
def test_a_real_export_comes_back_as_it_was_sent(
    parley: Parley, node: NodeProcess, real_export: Callable[[str], Path], name: str
) -> None:
    replay(parley, node, real_export(name))


def test_an_export_can_be_replayed_twice_on_one_node(parley: Parley, node: NodeProcess) -> None:
    chats = [re.findall(r"--chat (\d+)", replay(parley, node, SAMPLES / "ios.txt")) for _ in range(2)]
    assert chats[0] != chats[1]


def test_an_export_can_be_replayed_by_tokens_alone(parley: Parley, node: NodeProcess, tmp_path: Path) -> None:
    made = parley("token", "--user", "51..55", "--device", "510,511", "--data", node.data_dir)
    (tmp_path / "tokens").write_text(made.stdout)
    replay(parley, node, SAMPLES / "ios.txt", "--token-file", "tokens", "--data", tmp_path / "no-key-here")


def test_a_token_of_another_key_is_refused_in_one_line(parley: Parley, node: NodeProcess, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "auth.key").write_bytes(b"x" * 32)
    outcome = parley("replay", SAMPLES / "ios.txt", "--port", node.port)
    assert outcome.returncode == 1
    assert outcome.stderr.count("\n") == 1
    assert "the node refuses" in outcome.stderr


def test_the_published_exports_are_read_as_they_are(real_export: Callable[[str], Path]) -> None:
    pokemon = read_export(real_export("pokemon.txt"))
    assert (len(pokemon.authors()), pokemon.order) == (9, DateOrder.DAY_MONTH_YEAR)
    assert [entry.text[:28] for entry in pokemon.entries if entry.kind is EntryKind.SYSTEM] == [
        "Messages you send to this gr"
    ]
    lorem = read_export(real_export("lorem-2000.txt"))
    assert lorem.authors() == ["+1 123 456 789", "Mary", "John", "Giuseppe"]
    assert lorem.order is DateOrder.YEAR_MONTH_DAY
    assert all(entry.line_count == 1 for entry in lorem.entries)
