"""Once a second: connections that are silent, stalled or past their credential; and the end of all of them at a drain.

Owns the timers of the clients' side. Invariant: whoever is ended is told why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from gateway.metrics import WorkerMetrics
from gateway.net.gate import Gate
from gateway.net.greeting import Greeter
from gateway.net.replies import Replies
from gateway.net.sessions import SessionTable
from gateway.protocol.errors import Code
from gateway.protocol.frames import encode
from gateway.protocol.messages import Goaway, Op
from gateway.pump import GREETING_EXPIRED, STALLED, monotonic_s

if TYPE_CHECKING:
    from gateway._framing import Kernel

SWEEP_S = 1.0


class Keeping:
    """``is_link`` tells links' connections, whose timers belong to somebody else."""

    def __init__(self, kernel: Kernel, gate: Gate, greeter: Greeter, sessions: SessionTable, replies: Replies) -> None:
        self._kernel = kernel
        self._gate = gate
        self._greeter = greeter
        self._sessions = sessions
        self._replies = replies
        self._told: set[int] = set()
        """Connections that heard GOAWAY."""

    async def run(self, metrics: WorkerMetrics, on_link: Callable[[int], bool], flush: Callable[[], None]) -> None:
        """Until cancelled. ``on_link`` takes a swept connection if it is a link's."""
        while True:
            await trio.sleep(SWEEP_S)
            for conn, reason in self._kernel.sweep(monotonic_s()):
                if not on_link(conn):
                    self._end(conn, reason, metrics)
            for session in self._sessions.expired(time.time()):
                self._gate.end_session(session, Code.EXPIRED, "the credential has expired")
            flush()

    def _end(self, conn: int, reason: int, metrics: WorkerMetrics) -> None:
        session = self._sessions.of_conn(conn)
        if session is not None:
            self._gate.forget(session)
        self._greeter.closed(conn)
        if reason == GREETING_EXPIRED:
            self._replies.end(conn, Code.TIMED_OUT, "no HELLO in time")
        elif reason == STALLED:
            metrics.slow_consumers += 1
            self._replies.end(conn, Code.SLOW_CONSUMER, "you read too slowly")
        else:
            self._replies.end(conn, Code.TIMED_OUT, "silent for 1.5 keep-alives")

    def say_goaway(self, spread_ms: int, addresses: Sequence[str] = ()) -> None:
        """To every session that has not heard it yet. ``addresses``: where to go, in order; none: the same again."""
        conns = [session.conn for session in self._sessions if session.conn not in self._told]
        self._told.update(conns)
        frame = encode(Op.GOAWAY, Goaway("the node is restarting", 0, spread_ms, [*addresses]))
        self._kernel.fanout(conns, frame)
        self._kernel.flush()

    def end_all(self) -> None:
        for session in self._sessions:
            self._gate.forget(session)
            self._replies.end(session.conn, Code.UNAVAILABLE, "the node is restarting", retry_after_ms=1000)
        self._kernel.flush()
