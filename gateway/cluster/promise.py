"""A value that one task waits for and a callback delivers.

Owns the hand-over between a callback and a task, nothing else. Not ``trio.Event`` beside a field: at thousands of
registrations a second the event, its parking lot and the second attribute cost more than the work that is waited for.

Invariant: set or failed at most once; a waiter that was cancelled is never woken.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import outcome
import trio

T = TypeVar("T")


class Promise(Generic[T]):
    __slots__ = ("_outcome", "_task")

    def __init__(self) -> None:
        self._outcome: outcome.Value[T] | outcome.Error | None = None
        self._task: trio.lowlevel.Task | None = None

    @property
    def is_done(self) -> bool:
        return self._outcome is not None

    def set(self, value: T) -> None:
        self._finish(outcome.Value(value))

    def fail(self, error: Exception) -> None:
        """End the wait by ``error``: one exception object per promise, since raising writes to it."""
        self._finish(outcome.Error(error))

    async def wait(self) -> T:
        """The value, or the error. At most one task waits."""
        if self._outcome is None:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._give_up)
        else:
            await trio.lowlevel.checkpoint()
        assert self._outcome is not None
        return self._outcome.unwrap()

    def _give_up(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _finish(self, result: outcome.Value[T] | outcome.Error) -> None:
        if self._outcome is not None:
            raise RuntimeError("a promise is kept once")
        self._outcome = result
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)
