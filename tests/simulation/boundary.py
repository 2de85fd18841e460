"""The edge of a worker's process: everything that comes in and goes out passes here, and can be held back.

Owns pauses and ends. A paused worker takes nothing in and gives nothing out while time passes; when it resumes, what it
had given out leaves and what had come is taken, each in its order. The tasks of a paused worker's are not stopped, and their
timers fire: one that fires meanwhile is as good as one that fired late, or as a process that ran on behind a network that
held everything back, since nothing of what it does can be seen before the resume. Both happen, and both must be survived.

An ended worker gives and takes nothing, for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Step = Callable[[], None]


class Boundary:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held: deque[Step] = deque()
        self._is_open = True
        self.is_ended = False
        self._paused_at_s = 0.0
        self._stood_still_s = 0.0

    @property
    def is_paused(self) -> bool:
        return not self._is_open

    def cross(self, step: Step) -> None:
        """In or out: do it now, or when the worker resumes, or never."""
        if self.is_ended:
            return
        if self._is_open:
            step()
        else:
            self._held.append(step)

    def pause(self) -> None:
        if self._is_open:
            self._is_open = False
            self._paused_at_s = self._clock()

    def resume(self) -> None:
        if self._is_open:
            return
        while self._held:  # what crosses meanwhile waits behind what was held
            self._held.popleft()()
        self._is_open = True
        self._stood_still_s += self._clock() - self._paused_at_s

    def end(self) -> None:
        self.is_ended = True
        self._held.clear()

    def running_s(self) -> float:
        """A clock that stands still while the worker is paused, as CLOCK_MONOTONIC does while a machine is suspended."""
        now_s = self._clock() if self._is_open else self._paused_at_s
        return now_s - self._stood_still_s
