"""One run for all who ask the same at once, and none of them can cut it off.

Owns the tasks in which shared work is done: a caller that is cancelled leaves, the work goes on. Invariant: at most one run a
key; after ``close`` none is under way and none begins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio

from storage.api import SlotLost, StoreError, StoreUnavailable

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class _Run(Generic[R]):
    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.result: R | None = None
        self.error: StoreError | SlotLost | None = StoreUnavailable("the store is closed")


class SharedRuns(Generic[K, R]):
    """``function(key)`` raises StoreError or SlotLost, or else it is a crash of the program."""

    def __init__(self, function: Callable[[K], Awaitable[R]]) -> None:
        self._function = function
        self._runs: dict[K, _Run[R]] = {}
        self._is_closed = False

    async def run(self, key: K) -> R:
        await trio.lowlevel.checkpoint_if_cancelled()
        run = self._runs.get(key)
        if run is None:
            if self._is_closed:
                raise StoreUnavailable("the store is closed")
            run = self._runs[key] = _Run()
            trio.lowlevel.spawn_system_task(self._work, key, run)
        await run.ended.wait()
        if run.error is not None:
            raise type(run.error)(*run.error.args)  # an exception of one's own: several tasks may raise it
        return run.result  # type: ignore[return-value]

    async def close(self) -> None:
        self._is_closed = True
        runs = list(self._runs.values())
        for run in runs:
            run.scope.cancel()
        for run in runs:
            await run.ended.wait()

    async def _work(self, key: K, run: _Run[R]) -> None:
        try:
            with run.scope:
                run.result = await self._function(key)
                run.error = None
        except (StoreError, SlotLost) as error:
            run.error = error
        finally:
            del self._runs[key]
            run.ended.set()
