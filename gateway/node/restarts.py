"""When a worker that ended is started again.

Owns the delays and the point of giving up; a clock-free calculation. A worker that fails before it is ready fails
again for the same reason, most likely: after a few such starts in a row the node ends and says so, instead of looking
alive. Not so one that waits for a server of somebody else's (the store, the directory): that comes back, and the other
workers may have all their clients meanwhile.
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

    def ended(self, alive_s: float, *, was_ready: bool, is_waiting: bool = False) -> float | None:
        """Seconds until the next start; None: give up. ``is_waiting``: it ended for want of a server that may come back."""
        self.count += 1
        self._failed_starts = 0 if was_ready or is_waiting else self._failed_starts + 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            return None
        if was_ready and alive_s >= STEADY_S:
            self._delay_s = FIRST_DELAY_S
        delay_s = self._delay_s
        self._delay_s = min(MAX_DELAY_S, 2 * delay_s)
        return delay_s
