"""The full-screen chat on a real pseudo-terminal, through a running node."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Parley
from tests.nodes import NodeProcess

TIMEOUT_S = 30.0
CTRL_C, CTRL_D = b"\x03", b"\x04"


class Terminal:
    """A process on a pseudo-terminal of 24 rows and 100 columns, and what it has drawn since the last key."""

    def __init__(self, *arguments: object) -> None:
        self.controller, self.terminal = pty.openpty()
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.mode_before = termios.tcgetattr(self.terminal)
        self.drawn = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "parley.cli", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"},
            stdin=self.terminal,
            stdout=self.terminal,
            stderr=self.terminal,
            start_new_session=True,
        )

    def type(self, keys: bytes) -> None:
        self.drawn = ""
        os.write(self.controller, keys)

    def wait_for(self, text: str) -> None:
        """Until ``text`` was drawn, since the last key."""
        ends_at = time.monotonic() + TIMEOUT_S
        while text not in self.drawn:
            readable, _, _ = select.select([self.controller], [], [], max(0.0, ends_at - time.monotonic()))
            assert readable, f"{text!r} was not drawn: {self.drawn[-2000:]!r}"
            self.drawn += os.read(self.controller, 65_536).decode("utf-8", "replace")

    def exit_code(self) -> int:
        return self.process.wait(TIMEOUT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for descriptor in (self.controller, self.terminal):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def enter(terminals: list[Terminal], node: NodeProcess, user: int, peer: int) -> Terminal:
    terminal = Terminal("chat", "--user", user, "--peer", peer, "--data", node.data_dir, "--port", node.port)
    terminals.append(terminal)
    terminal.wait_for("connected")
    return terminal


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D, b"/quit\r"])
def test_leaving_restores_the_terminal(terminals: list[Terminal], node: NodeProcess, key: bytes) -> None:
    terminal = enter(terminals, node, 301, 302)
    assert termios.tcgetattr(terminal.terminal) != terminal.mode_before
    terminal.type(key)
    assert terminal.exit_code() == 0
    assert termios.tcgetattr(terminal.terminal) == terminal.mode_before


def test_being_told_to_end_restores_the_terminal(terminals: list[Terminal], node: NodeProcess) -> None:
    terminal = enter(terminals, node, 311, 312)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.exit_code() == 0
    assert termios.tcgetattr(terminal.terminal) == terminal.mode_before


def test_two_people_see_each_others_messages_and_marks(
    terminals: list[Terminal], node: NodeProcess, parley: Parley
) -> None:
    parley("chat", "--user", 321, "--peer", 322, "--data", node.data_dir, "--port", node.port, stdin="before\n")
    ann, bob = enter(terminals, node, 321, 322), enter(terminals, node, 322, 321)
    ann.wait_for("before")
    bob.wait_for("before")
    ann.type("grüß dich 🙂\r".encode())
    bob.wait_for("grüß dich 🙂")
    ann.wait_for("✓✓")


def test_a_vanished_terminal_ends_the_visit(terminals: list[Terminal], node: NodeProcess) -> None:
    terminal = enter(terminals, node, 331, 332)
    os.close(terminal.terminal)
    os.close(terminal.controller)
    assert terminal.exit_code() == 0


def test_a_node_that_is_not_there_leaves_one_line_on_a_restored_terminal(
    terminals: list[Terminal], tmp_path: Path
) -> None:
    terminal = Terminal("chat", "--token", "x", "--port", 1)
    terminals.append(terminal)
    terminal.wait_for("parley: no node answers")
    assert terminal.exit_code() == 1
    assert termios.tcgetattr(terminal.terminal) == terminal.mode_before
