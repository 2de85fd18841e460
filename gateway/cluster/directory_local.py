"""A directory within one process: several workers' views of one table, without a link.

Owns the delivery of the table's effects to the views. For a node of one process, and for tests of whatever needs a
directory. Invariant: a view's events are called in a later step of the loop, as with any other implementation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import trio

from gateway.cluster.directory import (
    DirectoryEvents,
    DirectoryUnavailable,
    Location,
    Registered,
    Registration,
    WorkerRecord,
    Workers,
)
from gateway.cluster.directory_table import DirectoryTable
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId


class LocalDirectoryHub:
    """The shared part. ``remove`` is what a supervisor calls for a worker that died."""

    def __init__(self, table: DirectoryTable, *, now_s: Callable[[], float] = time.time) -> None:
        self.table = table
        self.now_s = now_s
        self._views: dict[WorkerId, LocalDirectory] = {}

    def add(self, worker: WorkerId, view: LocalDirectory) -> None:
        self._views[worker] = view

    def remove(self, worker: WorkerId, incarnation: int) -> None:
        self.table.remove(worker, incarnation)
        self.publish()

    def publish(self) -> None:
        """Tell the views what has changed."""
        effects = self.table.take_effects()
        soon = trio.lowlevel.current_trio_token().run_sync_soon
        if effects.are_workers_changed and self.table.is_settled:
            workers = dict(self.table.workers)
            for worker in workers:
                soon(self._views[worker].take_workers, workers)
        for worker, user_ids in effects.moved.items():
            soon(partial(self._views[worker].events.on_moved, user_ids))
        for worker, replaced in effects.replaced.items():
            soon(partial(self._views[worker].events.on_replaced, replaced))


class LocalDirectory:
    """See ``Directory``."""

    def __init__(self, hub: LocalDirectoryHub) -> None:
        self.events = DirectoryEvents()
        self._hub = hub
        self._workers: Workers = {}
        self._record: WorkerRecord | None = None
        self._has_workers = trio.Event()

    @property
    def workers(self) -> Workers:
        return self._workers

    def take_workers(self, workers: Workers) -> None:
        self._workers = workers
        self._has_workers.set()
        self.events.on_workers(workers)

    async def join(self, record: WorkerRecord) -> None:
        self._record = record
        self._hub.add(record.worker_id, self)
        if not self._hub.table.join(record):
            raise DirectoryUnavailable(f"worker {record.worker_id} was replaced by a later incarnation")
        self._hub.publish()
        await self._has_workers.wait()

    async def drain(self) -> None:
        self._hub.table.drain(self._joined())
        await self._published()

    async def leave(self) -> None:
        if self._record is not None:
            self._hub.table.remove(self._record.worker_id, self._record.incarnation)
        await self._published()

    async def register(self, registrations: Sequence[Registration]) -> list[Registered]:
        results = self._hub.table.register(self._joined(), registrations, int(self._hub.now_s()))
        await self._published()
        return results

    def unregister(self, user_id: UserId, device_id: DeviceId, session_id: SessionId) -> None:
        self._hub.table.unregister(self._joined(), user_id, device_id, session_id)
        self._hub.publish()

    async def locate(self, user_ids: Sequence[UserId]) -> dict[UserId, tuple[Location, ...]]:
        located = self._hub.table.locate(self._joined(), user_ids)
        await self._published()
        return dict(zip(user_ids, located, strict=True))

    def _joined(self) -> WorkerId:
        if self._record is None or self._record.worker_id not in self._hub.table.workers:
            raise DirectoryUnavailable("this worker has not joined")
        return self._record.worker_id

    async def _published(self) -> None:
        self._hub.publish()
        await trio.lowlevel.checkpoint()
