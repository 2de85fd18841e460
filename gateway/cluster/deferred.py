"""Steps that must not run inside the call that asks for them.

Owns a queue of callbacks and the task that runs them in the loop's next turn. Knows nothing of links. Invariant: steps
run in the order in which they were added, each once, never inside ``call_soon``.

Not ``run_sync_soon``: from within the loop it costs a wake-up through a socket pair, and what a step raises would end the
process as a Trio internal error rather than as our bug.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio


class Deferred:
    def __init__(self) -> None:
        self._steps: deque[Callable[[], None]] = deque()
        self._has_steps = trio.Event()

    def call_soon(self, step: Callable[[], None]) -> None:
        self._steps.append(step)
        self._has_steps.set()

    def run_pending(self) -> None:
        """Run what was added so far. Bounded: what these steps add waits for the next time."""
        for _ in range(len(self._steps)):
            self._steps.popleft()()

    async def run(self) -> None:
        """Run steps as they come, until cancelled; each round ends in a checkpoint."""
        while True:
            await self._has_steps.wait()
            if self._steps:
                self.run_pending()
            else:
                self._has_steps = trio.Event()
