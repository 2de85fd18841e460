"""The cycle that moves bytes: wait for the kernel, poll it, dispatch its events, flush it.

Owns when the kernel is polled and flushed, and nothing else: it knows no connection, no frame and no chat. The kernel's
timers (``Kernel.sweep``) belong to whoever knows what to say to a silent connection.

Invariant: every cycle is bounded by ``max_events`` and ends in a checkpoint, so that a flood of input delays the other
tasks of the loop by one cycle, never for good; and whatever was queued is flushed by the end of the cycle, or soon after
``flush_soon``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

import trio

try:
    from gateway._framing import (
        ACCEPTED,
        CLOSED,
        DRAINED,
        GREETING_EXPIRED,
        SILENT,
        STALLED,
        TOO_LARGE,
        TOO_SHORT,
        Kernel,
        KernelFull,
    )
except ImportError:  # no extension was built: the twin has the same numbers
    from gateway._framing_py import (  # type: ignore[assignment]
        ACCEPTED,
        CLOSED,
        DRAINED,
        GREETING_EXPIRED,
        SILENT,
        STALLED,
        TOO_LARGE,
        TOO_SHORT,
        Kernel,
        KernelFull,
    )

__all__ = [
    "ACCEPTED",
    "CLOSED",
    "DRAINED",
    "GREETING_EXPIRED",
    "SILENT",
    "STALLED",
    "TOO_LARGE",
    "TOO_SHORT",
    "Event",
    "Kernel",
    "KernelFull",
    "Pump",
    "measure_loop_lag",
]

Event: TypeAlias = "tuple[int, int, int, bytes]"
"""(conn, op, tag, body), as ``Kernel.poll`` returns it."""

MAX_EVENTS = 4096
LAG_PERIOD_S = 0.1


def monotonic_s() -> int:
    """The kernel's clock: whole seconds that never go back."""
    return int(time.monotonic())


class Pump:
    """Runs one kernel under Trio. ``dispatch`` gets the events of a cycle, in order; what it raises ends ``run``."""

    def __init__(
        self, kernel: Kernel, dispatch: Callable[[list[Event]], None], *, max_events: int = MAX_EVENTS
    ) -> None:
        self._kernel = kernel
        self._dispatch = dispatch
        self._max_events = max_events
        self._token: trio.lowlevel.TrioToken | None = None
        self._is_flush_pending = False
        self._wait = trio.CancelScope()
        self.cycles = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Cycle until cancelled. Queued frames are flushed once more on the way out."""
        self._token = trio.lowlevel.current_trio_token()
        task_status.started()
        try:
            while True:
                await self._wait_for_work()
                self._cycle()
        finally:
            self._kernel.flush()
            self._token = None

    def flush_soon(self) -> None:
        """Flush in the loop's next turn. For frames queued, or connections admitted, outside of a dispatch.

        Free within a dispatch (the cycle flushes anyway) and when one is pending. Before ``run`` it does nothing: the
        first cycle flushes.
        """
        if self._is_flush_pending or self._token is None:
            return
        self._is_flush_pending = True
        self._token.run_sync_soon(self._flush_outside_of_a_cycle)

    async def _wait_for_work(self) -> None:
        """Return when a poll has something to do; always a checkpoint, which is what keeps the loop fair."""
        if self._kernel.has_backlog:
            await trio.lowlevel.checkpoint()
            return
        # wait_readable cannot see what the kernel holds in user space, so flush_soon ends the wait by its scope.
        with trio.CancelScope() as self._wait:
            await trio.lowlevel.wait_readable(self._kernel.fileno())

    def _cycle(self) -> None:
        self.cycles += 1
        self._is_flush_pending = True
        try:
            events = self._kernel.poll(self._max_events, monotonic_s())
            if events:
                self._dispatch(events)
            self._kernel.flush()
        finally:
            self._is_flush_pending = False

    def _flush_outside_of_a_cycle(self) -> None:
        # A cycle may have run in between and flushed; a second flush of nothing costs next to nothing.
        self._is_flush_pending = False
        self._kernel.flush()
        if self._kernel.has_backlog:
            self._wait.cancel()


async def measure_loop_lag(observe: Callable[[float], None], *, period_s: float = LAG_PERIOD_S) -> None:
    """Tell ``observe``, every period, how many seconds later than asked a timer fired: what any task has to wait."""
    while True:
        due = trio.current_time() + period_s
        await trio.sleep_until(due)
        observe(max(0.0, trio.current_time() - due))
