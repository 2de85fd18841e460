"""A timetable without time: what is due later is done in Trio's next step. For tests of the tables alone, on any clock.

Owns nothing else. What would be a time-out never comes, because everything has been answered before it.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from tests.simulation.replicas import TIMEOUT_S


class Immediately:
    now_s = 0.0

    def at(self, when_s: float, step: Callable[[], None]) -> None:
        if when_s < TIMEOUT_S:
            trio.lowlevel.current_trio_token().run_sync_soon(step)

    def after(self, delay_s: float, step: Callable[[], None]) -> None:
        self.at(delay_s, step)

    def quietly_after(self, delay_s: float, step: Callable[[], None]) -> None:
        step()

    def catch_up(self) -> None:
        """Nothing is ever due."""
