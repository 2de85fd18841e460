"""Directories to run the conformance suite on: one table behind direct calls, one behind links, a real Redis."""

from __future__ import annotations

from typing import Protocol

import trio

from gateway.cluster.directory import Directory, DirectoryEvents, WorkerRecord
from gateway.cluster.directory_client import DirectoryClient
from gateway.cluster.directory_local import LocalDirectory, LocalDirectoryHub
from gateway.cluster.directory_server import DirectoryServer
from gateway.cluster.directory_table import DirectoryTable
from gateway.cluster.links import SUPERVISOR
from gateway.protocol.identifiers import WorkerId
from storage.redis.directory import RedisDirectory
from storage.redis.settings import RedisSettings
from storage.redis.supervision import RedisSupervision
from tests.cluster.processes import Cluster, Inbox, Process


class Recorder:
    """The events of one view, each in an inbox of its own."""

    def __init__(self, events: DirectoryEvents) -> None:
        self.workers, self.moved, self.replaced, self.generation = Inbox(), Inbox(), Inbox(), Inbox()
        events.on_workers, events.on_moved = self.workers, self.moved
        events.on_replaced, events.on_generation = self.replaced, self.generation


class World(Protocol):
    """A directory as several workers see it, with what its supervisor says of them."""

    now_s: float
    """The wall clock of tokens."""

    async def view(self, worker: int, incarnation: int = 1) -> tuple[Directory, Recorder]:
        """A worker's directory before ``join``."""
        ...

    async def kill(self, worker: int, incarnation: int = 1) -> None:
        """The supervisor saw this process end, and has said so."""
        ...

    def settle(self) -> None:
        """Those who wait for workers that start with them have waited long enough."""
        ...


class LocalWorld:
    def __init__(self, table: DirectoryTable) -> None:
        self.table = table
        self.now_s = 1000.0
        self._hub = LocalDirectoryHub(table, now_s=lambda: self.now_s)

    async def view(self, worker: int, incarnation: int = 1) -> tuple[Directory, Recorder]:
        await trio.lowlevel.checkpoint()
        view = LocalDirectory(self._hub)
        return view, Recorder(view.events)

    async def kill(self, worker: int, incarnation: int = 1) -> None:
        self._hub.remove(WorkerId(worker), incarnation)
        await trio.lowlevel.checkpoint()

    def settle(self) -> None:
        self.table.settle()
        self._hub.publish()


class LinkedWorld:
    def __init__(self, table: DirectoryTable, cluster: Cluster) -> None:
        self.table = table
        self.now_s = 1000.0
        self.cluster = cluster
        self.supervisor: Process
        self.server: DirectoryServer
        self.processes: dict[int, Process] = {}

    async def start(self) -> None:
        self.supervisor = await self.cluster.start(SUPERVISOR)
        self.server = DirectoryServer(self.supervisor.links, self.table, now_s=lambda: self.now_s)
        await self.cluster.nursery.start(self.server.run)

    async def view(self, worker: int, incarnation: int = 1) -> tuple[Directory, Recorder]:
        process = self.processes[worker] = await self.cluster.start(worker, incarnation)
        client = DirectoryClient(process.links, self.supervisor.peer)
        await self.cluster.nursery.start(client.run)
        return client, Recorder(client.events)

    async def kill(self, worker: int, incarnation: int = 1) -> None:
        self.server.remove_worker(WorkerId(worker), incarnation)  # before anything that was sent is flushed
        await trio.lowlevel.checkpoint()

    def settle(self) -> None:
        self.server.settle()


class RedisWorld:
    """``views``: by worker, the latest life of each."""

    def __init__(self, settings: RedisSettings, nursery: trio.Nursery, expected_workers: int = 0) -> None:
        self.now_s = 1000.0
        self.views: dict[int, RedisDirectory] = {}
        self._settings = settings
        self._nursery = nursery
        self._expected_workers = expected_workers
        self._supervision = RedisSupervision(settings)

    async def start(self) -> None:
        await self._nursery.start(self._supervision.run)

    async def view(self, worker: int, incarnation: int = 1) -> tuple[RedisDirectory, Recorder]:
        view = RedisDirectory(self._settings, expected_workers=self._expected_workers, now_s=lambda: self.now_s)
        self.views[worker] = view
        recorder = Recorder(view.events)
        await self._nursery.start(view.run)
        return view, recorder

    async def kill(self, worker: int, incarnation: int = 1) -> None:
        await self._supervision.ended(WorkerId(worker), incarnation)

    def settle(self) -> None:
        for view in self.views.values():
            view.settle()


def record(worker: int, incarnation: int = 1, *, is_draining: bool = False) -> WorkerRecord:
    return WorkerRecord(WorkerId(worker), incarnation, f"/nowhere/{worker}.sock", is_draining)
