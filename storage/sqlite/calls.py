"""A question that a task puts to a thread, and the answer's way back.

Owns the waiting of one task. ``trio.to_thread`` was the alternative: about 80 us of the Trio thread per call against 15, and
one wake-up per call, where a thread here answers many calls with one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import outcome
import structlog
import trio

from storage.api import SlotLost, StoreError
from storage.sqlite.connection import CONTENT_ERRORS, ENGINE_ERRORS, translate

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Call(Generic[T]):
    """Made and awaited on the Trio thread, ``run`` on another, ``finish`` on the Trio thread again.

    A task that is cancelled stops waiting at once; the call itself still happens, or not.
    """

    __slots__ = ("_function", "_outcome", "_task", "weight")

    def __init__(self, function: Callable[[sqlite3.Connection], T], weight: int = 1) -> None:
        self.weight = weight
        self._function = function
        self._outcome: outcome.Outcome[T] | None = None
        self._task: trio.lowlevel.Task | None = None

    @property
    def error(self) -> BaseException | None:
        return self._outcome.error if isinstance(self._outcome, outcome.Error) else None

    def run(self, connection: sqlite3.Connection) -> None:
        """Call the function and keep what it returns. What it raises goes to the caller, who knows the transaction."""
        self._outcome = outcome.Value(self._function(connection))

    def answer(self, connection: sqlite3.Connection) -> None:
        """As ``run``, for a call that is no part of anything else. Raises nothing: the thread must outlive every call."""
        try:
            self.run(connection)
        except (StoreError, SlotLost) as error:
            self.fail(error)
        except Exception as error:
            if not isinstance(error, (*CONTENT_ERRORS, *ENGINE_ERRORS)):
                log.exception("read_failed_by_our_fault")
            self.fail(translate(error))

    def fail(self, error: StoreError | SlotLost) -> None:
        self._outcome = outcome.Error(error)

    def finish(self) -> None:
        if self._task is not None and self._outcome is not None:
            trio.lowlevel.reschedule(self._task, self._outcome)
            self._task = None

    async def wait(self) -> T:
        """Wait for ``finish``. The caller has handed the call to its thread in this same step."""
        self._task = trio.lowlevel.current_task()

        def abandon(_: Callable[[], Any]) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        answer: T = await trio.lowlevel.wait_task_rescheduled(abandon)
        return answer
