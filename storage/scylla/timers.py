"""Steps at a time of Trio's clock, without a nursery of the caller's.

Owns one system task for all of an executor's waits: the linger of writes, the deadline of requests. A task for each would cost
more than what it waits for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

import trio


class Timers:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._is_earlier = trio.Event()
        self._scope = trio.CancelScope()

    def start(self) -> None:
        trio.lowlevel.spawn_system_task(self._run, name="storage.scylla timers")

    def stop(self) -> None:
        self._scope.cancel()

    def call_at(self, time_s: float, step: Callable[[], None]) -> None:
        """``step`` must not raise, and looks for itself whether there is still something to do: nothing is taken back."""
        is_earliest = not self._heap or time_s < self._heap[0][0]
        heapq.heappush(self._heap, (time_s, next(self._numbers), step))
        if is_earliest:
            self._is_earlier.set()

    async def _run(self) -> None:
        with self._scope:
            while True:
                self._is_earlier = trio.Event()
                with trio.move_on_at(self._heap[0][0] if self._heap else float("inf")):
                    await self._is_earlier.wait()
                now = trio.current_time()
                while self._heap and self._heap[0][0] <= now:
                    heapq.heappop(self._heap)[2]()
