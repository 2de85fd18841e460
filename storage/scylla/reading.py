"""Reads and conditional statements: what tasks ask and wait for.

Owns a question's life: it waits in its lane, is sent once, fetches page after page, and ends for all who asked. Invariants: a
task that is cancelled leaves, and its answer goes to nobody; a question that nobody waits for any more is not begun.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from storage.api import StoreError, StoreUnavailable
from storage.scylla.lanes import Lane
from storage.scylla.ports import Row
from storage.scylla.requests import Answer, Requests


class Question:
    """One request, or one for each page of its answer."""

    def __init__(self, statement: Any, profile: str, lane: Lane, requests: Requests, patience_s: float) -> None:
        self._statement = statement
        self._profile = profile
        self._lane = lane
        self._requests = requests
        self._latest = trio.current_time() + patience_s
        self._askers = 0
        self._ended = trio.Event()
        self._rows: list[Row] = []
        self._error: StoreError | None = None
        self.then: Callable[[], object] = lambda: None
        """Called when it has ended."""

    @property
    def is_ended(self) -> bool:
        return self._ended.is_set()

    def submit(self) -> None:
        """Raises StoreUnavailable where the lane is at its bound."""
        self._askers += 1  # nobody waits yet, and it is not abandoned
        try:
            self._lane.submit(self)
        finally:
            self._askers -= 1

    async def wait(self) -> list[Row]:
        self._askers += 1
        try:
            await self._ended.wait()
        finally:
            self._askers -= 1
        if self._error is not None:
            raise type(self._error)(*self._error.args)  # an exception of one's own: several tasks may raise it
        return self._rows.copy()

    def begin(self) -> bool:
        if self._askers == 0:
            self.refuse(StoreUnavailable("nobody waits for it any more"))
            return False
        if trio.current_time() > self._latest:
            self.refuse(StoreUnavailable("the cluster is too slow: it did not come to be asked in time"))
            return False
        self._requests.send(self._statement, self._profile, self._take)
        return True

    def refuse(self, error: StoreError) -> None:
        self._end(error)

    def _take(self, outcome: Answer | StoreError) -> None:
        if isinstance(outcome, StoreError):
            self._lane.release()
            self._end(outcome)
            return
        self._rows += outcome.rows
        if outcome.next_page is None:
            self._lane.release()
            self._end(None)
        elif self._askers == 0:
            self._lane.release()
            self._end(StoreUnavailable("nobody waits for it any more"))
        else:
            self._requests.send(self._statement, self._profile, self._take, outcome.next_page)

    def _end(self, error: StoreError | None) -> None:
        self._error = error
        self._ended.set()
        self.then()
