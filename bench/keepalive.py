"""Idle sessions that stay alive: each sends a PING now and then, and nothing else.

Owns the schedule: the PINGs of all sessions are spread evenly over the period, as they are in a crowd.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.generator import Generator
from bench.session import PING, Session

MAX_BURST = 1024


class KeepAlive:
    def __init__(self, generator: Generator, sessions: Sequence[Session], period_s: float) -> None:
        self._generator = generator
        self._conns = [session.conn for session in sessions]
        self._interval_ns = int(period_s * 1e9 / max(1, len(sessions)))
        self._due_ns = generator.now_ns
        self.sent = 0

    def send_due(self) -> None:
        """PING for every session whose turn has come; what a long pause has left over is spread over the next calls."""
        if not self._conns:
            return
        for _ in range(MAX_BURST):
            if self._due_ns > self._generator.now_ns:
                return
            self._due_ns += self._interval_ns
            self._generator.kernel.send(self._conns[self.sent % len(self._conns)], PING)
            self.sent += 1
