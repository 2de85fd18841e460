"""The line mode of ``parley chat`` through a running node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.cli.conftest import ROOT, Parley
from tests.nodes import NodeProcess


def chat(parley: Parley, node: NodeProcess, user: int, *more: object, stdin: str = "") -> tuple[int, str, str]:
    outcome = parley("chat", "--user", user, "--data", node.data_dir, "--port", node.port, *more, stdin=stdin)
    return outcome.returncode, outcome.stdout, outcome.stderr


def said(output: str) -> list[str]:
    """Lines without their times."""
    return [line[6:] for line in output.splitlines()]


def test_lines_are_sent_and_found_by_the_other_side(parley: Parley, node: NodeProcess) -> None:
    assert chat(parley, node, 201, "--peer", 202, stdin="hello\n\n//slash\nlast") == (0, "", "")
    code, output, errors = chat(parley, node, 202, "--peer", 201)
    assert (code, said(output), errors) == (0, ["201: hello", "201: /slash", "201: last"], "")


def test_a_group_is_made_once_and_found_again(parley: Parley, node: NodeProcess) -> None:
    for text in ("one\n", "two\n"):
        code, _, errors = chat(parley, node, 211, "--group", "Hut: 212, 213", "--as", "Ann", stdin=text)
        assert (code, errors) == (0, "")
    code, output, _ = chat(parley, node, 212, stdin="/open #1\n")
    assert code == 0
    assert said(output)[-2:] == ["211: one", "211: two"]


def test_commands_answer_on_standard_error(parley: Parley, node: NodeProcess) -> None:
    code, output, errors = chat(parley, node, 221, "--group", "Hut: 222", stdin="/who\n/chats\n")
    assert code == 0
    assert errors.splitlines() == ["you, 222", "#1 Hut"]
    assert "221 created the group" in output


def test_a_line_that_cannot_be_sent_fails_the_command(parley: Parley, node: NodeProcess) -> None:
    code, output, errors = chat(parley, node, 231, stdin="to nobody\n/nonsense\n")
    assert (code, output) == (1, "")
    assert "no chat is open" in errors
    assert errors.splitlines()[-1].startswith("parley: 2 of the lines failed")


def test_a_strangers_chat_is_refused_in_one_line(parley: Parley, node: NodeProcess) -> None:
    code, _, errors = chat(parley, node, 241, "--chat", 12345)
    assert code == 1
    assert errors.count("\n") == 1


def test_another_ones_terminal_is_safe_from_what_is_sent(parley: Parley, node: NodeProcess) -> None:
    chat(parley, node, 251, "--peer", 252, stdin="\x1b[2J\n")
    _, output, _ = chat(parley, node, 252, "--peer", 251)
    assert "\x1b" not in output


def test_a_follower_stays_until_it_is_interrupted(parley: Parley, node: NodeProcess) -> None:
    arguments = ["chat", "--user", "262", "--peer", "261", "--data", node.data_dir, "--port", node.port, "--follow"]
    follower = subprocess.Popen(
        [sys.executable, "-m", "parley.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        chat(parley, node, 261, "--peer", 262, stdin="hello\n")
        assert follower.stdout is not None
        assert said(follower.stdout.readline()) == ["261: hello"]
        follower.send_signal(signal.SIGINT)
        assert follower.communicate(timeout=30) == ("", "")
        assert follower.returncode == 0
    finally:
        follower.kill()
