"""A bounded number of requests under way, and a bounded number that wait for that.

Owns who is next; knows nothing of what is sent. Reads and conditional statements have a lane each, and writes their own bounds:
a full one of writes must not keep a slot's holder from asking whether the slot is still its own.

Invariant: a job is begun once, or refused; never both. The waiting end within two time-outs: what is begun ends within one,
and what comes to its turn after waiting for longer than one refuses itself then.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from storage.api import StoreError, StoreUnavailable


class Job(Protocol):
    def begin(self) -> bool:
        """Says whether it is under way; if so it calls ``release`` once, when it has ended."""
        ...

    def refuse(self, error: StoreError) -> None: ...


class Lane:
    def __init__(self, name: str, max_in_flight: int, max_waiting: int) -> None:
        self._name = name
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self._waiting: deque[Job] = deque()
        self.in_flight = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Begin it now, or when there is room. Raises StoreUnavailable at the bound."""
        if self.in_flight < self._max_in_flight:
            self._begin(job)
        elif len(self._waiting) < self._max_waiting:
            self._waiting.append(job)
        else:
            raise StoreUnavailable(f"{self._max_waiting} {self._name} wait already")

    def release(self) -> None:
        self.in_flight -= 1
        while self._waiting and self.in_flight < self._max_in_flight:
            self._begin(self._waiting.popleft())

    def refuse_waiting(self, error: StoreError) -> None:
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.refuse(error)

    def _begin(self, job: Job) -> None:
        self.in_flight += 1
        if not job.begin():
            self.in_flight -= 1
