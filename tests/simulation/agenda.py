"""Virtual time, and what is to happen at which moment of it.

Owns the one clock of a simulation. ``Agenda`` is a Trio clock: as soon as no task can run, it jumps to the next moment at
which a task's deadline or an entry is due, and wakes the task that runs the entries. So a schedule of minutes costs as
much as what happens in it, and nothing ever waits.

Entries of the same moment run in the order in which they were made. A *quiet* entry changes only what nobody looks at
without running what is due first (a mutation that reaches a replica): it wakes nobody. Most entries are quiet, and a
wake-up costs fifty times as much as an entry.

Rejected: ``MockClock`` and a task per delay. It is the same order of events at ten times the price.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Protocol

import trio
from trio.abc import Clock

START_S = 1_000.0
"""Not 0: a time that was never set must not look like now."""

STEP_S = 0.01
"""Time moves in such steps: what is due within one happens in the same turn of Trio's loop, which costs more than all else."""

Entry = tuple[float, int, Callable[[], None]]


class Timetable(Protocol):
    """What those who do something later need of an agenda."""

    now_s: float

    def at(self, when_s: float, step: Callable[[], None]) -> None: ...
    def after(self, delay_s: float, step: Callable[[], None]) -> None: ...
    def quietly_after(self, delay_s: float, step: Callable[[], None]) -> None: ...
    def catch_up(self) -> None: ...


class Agenda(Clock):
    def __init__(self) -> None:
        self.now_s = START_S
        self._loud: list[Entry] = []
        self._quiet: list[Entry] = []
        self._ticket = itertools.count()
        self._driver: trio.lowlevel.Task | None = None

    # ------------------------------------------------------------------------------------------ Trio's clock

    def start_clock(self) -> None:
        """Virtual time begins with the object."""

    def current_time(self) -> float:
        return self.now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Called when no task can run: the moment to jump."""
        next_s = self._loud[0][0] if self._loud else math.inf
        if self._driver is not None and next_s <= deadline:
            self.now_s = max(self.now_s, next_s)
            driver, self._driver = self._driver, None
            trio.lowlevel.reschedule(driver)
            return 0.0
        if deadline < math.inf:
            self.now_s = max(self.now_s, _step_after(deadline))
            return 0.0
        return 999_999.0  # nothing will ever happen again: a simulation that hangs is seen as a test that does

    # ------------------------------------------------------------------------------------------ entries

    def at(self, when_s: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._loud, (_step_after(max(when_s, self.now_s)), next(self._ticket), step))

    def after(self, delay_s: float, step: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, step)

    def quietly_after(self, delay_s: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._quiet, (self.now_s + delay_s, next(self._ticket), step))

    def catch_up(self) -> None:
        """Run the quiet entries that are due: before anybody looks at what they change."""
        quiet, now_s = self._quiet, self.now_s
        while quiet and quiet[0][0] <= now_s:
            heapq.heappop(quiet)[2]()

    @property
    def next_s(self) -> float | None:
        """When the next entry that is not quiet is due."""
        return self._loud[0][0] if self._loud else None

    def run_due(self) -> None:
        """Run what is due by now."""
        while self._loud and self._loud[0][0] <= self.now_s:
            heapq.heappop(self._loud)[2]()

    def finish_quietly(self) -> None:
        """Run every quiet entry there is, however late."""
        while self._quiet:
            heapq.heappop(self._quiet)[2]()

    async def run(self) -> None:
        """Run entries as they become due, until cancelled."""
        while True:
            self.run_due()
            self._driver = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._driver = None
        return trio.lowlevel.Abort.SUCCEEDED


def _step_after(when_s: float) -> float:
    return max(when_s, math.ceil(when_s / STEP_S - 1e-6) * STEP_S)
