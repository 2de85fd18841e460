"""When a worker that ended is started again.

Owns the delays and the point of giving up; a clock-free calculation. A worker that fails before it is ready fails
again for the same reason, most likely: after a few such starts in a row the node ends and says so, instead of looking
alive.
"""

from __future__ import annotations

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 10.0
STEADY_S = 60.0
"""A life that lasted so long owes nothing to the ends before it."""
MAX_FAILED_STARTS = 5


class Restarts:
    """Of one worker. ``count`` only rises."""

    def __init__(self) -> None:
        self.count = 0
        self._delay_s = FIRST_DELAY_S
        self._failed_starts = 0

    def ended(self, alive_s: float, *, was_ready: bool) -> float | None:
        """Seconds until the next start; None: give up."""
        self.count += 1
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            return None
        if was_ready and alive_s >= STEADY_S:
            self._delay_s = FIRST_DELAY_S
        delay_s = self._delay_s
        self._delay_s = min(MAX_DELAY_S, 2 * delay_s)
        return delay_s
