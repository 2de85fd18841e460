"""The threads that read: a few connections, shared by all tasks.

Owns its threads and their connections. Reads never wait for writers in WAL mode, nor writers for reads. A thread takes
several waiting calls at a time and wakes the Trio thread once for them: under load a read costs it about 20 us.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

import trio

from storage.api import StoreUnavailable
from storage.sqlite.calls import Call

CALLS_PER_TURN = 16
"""At most so many calls wait behind a slow one while another thread is free."""

T = TypeVar("T")


class Readers:
    def __init__(self, connections: Sequence[sqlite3.Connection]) -> None:
        self._calls: SimpleQueue[Call[object] | None] = SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._is_closed = False
        self._running = len(connections)
        self._ended = trio.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(connection,), name=f"parley-store-reader-{index}", daemon=True)
            for index, connection in enumerate(connections)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``function`` on a reading connection. A task that is cancelled leaves it to itself."""
        if self._is_closed:
            raise StoreUnavailable("the store is closed")
        await trio.lowlevel.checkpoint_if_cancelled()
        call = Call(function)
        self._calls.put(call)  # type: ignore[arg-type]
        return await call.wait()

    async def close(self) -> None:
        """Answer all that was asked, then end the threads."""
        if not self._is_closed:
            self._is_closed = True
            for _ in self._threads:
                self._calls.put(None)
        await self._ended.wait()

    def _run(self, connection: sqlite3.Connection) -> None:
        is_ending = False
        while not is_ending:
            calls, is_ending = self._take()
            for call in calls:
                call.answer(connection)
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(_finish, calls)
        connection.close()
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._count_end)

    def _take(self) -> tuple[list[Call[object]], bool]:
        calls: list[Call[object]] = []
        call = self._calls.get()
        while call is not None:
            calls.append(call)
            if len(calls) >= CALLS_PER_TURN:
                return calls, False
            try:
                call = self._calls.get_nowait()
            except Empty:
                return calls, False
        return calls, True

    def _count_end(self) -> None:
        self._running -= 1
        if not self._running:
            self._ended.set()


def _finish(calls: Sequence[Call[object]]) -> None:
    for call in calls:
        call.finish()
