"""Which workers hang: alive as processes, and answering nothing.

Owns the count of silence. It must not know how a worker is asked, nor what is done with one that hangs. A worker that
was stopped, or whose loop does not turn, keeps its connections and its name in the system: its clients would wait for ever.
(Its slots are taken over by the others much earlier, without us: here it is about who is connected to it.)

Invariant: silence is counted only while we ourselves were awake to hear. After a pause of our own (a suspended machine, a
stopped supervisor) everybody has the whole time anew, since answers and questions stood still together.
"""

from __future__ import annotations

from collections.abc import Iterable

PERIOD_S = 1.0
"""Between two questions."""
OVERSLEPT_S = 2.0
"""A period that took so much longer was a pause."""


class Watchdog:
    """``limit_s``: how long a question may be unanswered. A worker's life is named by its incarnation."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._asked: dict[int, float] = {}
        """Since when each has owed an answer."""
        self._last_s: float | None = None

    def heard(self, incarnation: int) -> None:
        """It answered."""
        self._asked.pop(incarnation, None)

    def tick(self, serving: Iterable[int], now_s: float) -> list[int]:
        """Once a period, with the lives that are to be watched: those that hang. All the others are to be asked now."""
        was_paused = self._last_s is not None and now_s - self._last_s > PERIOD_S + OVERSLEPT_S
        self._last_s = now_s
        known = {} if was_paused else self._asked
        self._asked = {incarnation: known.get(incarnation, now_s) for incarnation in serving}
        return [incarnation for incarnation, asked_s in self._asked.items() if now_s - asked_s >= self._limit_s]
