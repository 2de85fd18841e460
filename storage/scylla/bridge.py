"""From the driver's threads to the Trio thread.

Owns the one crossing: a driver's callback puts an ending into a deque, and one ``run_sync_soon`` takes out everything that
has ended by then. Invariant: a wake-up of the Trio thread for all endings that came together, not for each; an ending that
comes after the loop has stopped is dropped, for nobody is left to hear it.

``deque.append`` and ``popleft`` are atomic. The flag is lowered before the deque is emptied, so an ending that finds it up
is always taken by the round that is due.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

Step = Callable[[], None]


class Bridge:
    def __init__(self, token: trio.lowlevel.TrioToken, after_round: Step) -> None:
        self._token = token
        self._after_round = after_round
        self._steps: deque[Step] = deque()
        self._is_due = False

    def call_soon(self, step: Step) -> None:
        """From any thread, the Trio thread too: run ``step`` there, later. It must not raise."""
        self._steps.append(step)
        if not self._is_due:
            self._is_due = True
            try:
                self._token.run_sync_soon(self._run_round)
            except trio.RunFinishedError:
                self._steps.clear()

    def _run_round(self) -> None:
        self._is_due = False
        steps = self._steps
        while steps:
            steps.popleft()()
        self._after_round()
