"""Screen or lines: which of the two a terminal can show."""

from __future__ import annotations

import os
import sys

import trio

from parley.terminal.target import Target

_PLAIN_TERMINALS = ("", "dumb", "unknown")


def start(target: Target, *, follow: bool) -> None:
    """Chat until the person leaves. Raises CommandError."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if is_terminal and os.environ.get("TERM", "") not in _PLAIN_TERMINALS:
        from parley.terminal.screen import run_screen

        run_screen(target)
    else:
        from parley.terminal.lines import run_lines

        trio.run(lambda: run_lines(target, follow=follow))
