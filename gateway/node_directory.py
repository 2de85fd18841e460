"""The directory, as a supervisor sees it: who of its workers has ended, and how much is known.

Owns the port, and its embedded implementation: the directory that the supervisor itself serves to its workers. In a
cluster the directory is elsewhere (``backends.py``), and the supervisor only says there what it alone can see at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

import trio

from gateway.cluster.directory_server import DirectoryServer
from gateway.cluster.directory_table import DirectoryTable
from gateway.cluster.links import Links
from gateway.protocol.identifiers import WorkerId


class DirectorySizes(NamedTuple):
    """As the supervisor knows them."""

    workers: int
    devices: int


class NodeDirectory(Protocol):
    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """In the background, until cancelled."""
        ...

    def remove_worker(self, worker: WorkerId, incarnation: int) -> None:
        """Its process has ended: nothing is connected to it, and what it owned may be taken. Not waited for."""
        ...

    def sizes(self) -> DirectorySizes | None:
        """None: what is known there is not this node's to tell."""
        ...


MakeDirectory: TypeAlias = Callable[[Links, int], NodeDirectory]
"""From the supervisor's links, and the number of workers that it starts."""


class EmbeddedDirectory:
    """Served to the workers of this node, over their links to the supervisor."""

    def __init__(self, links: Links, workers: int) -> None:
        self._table = DirectoryTable(expected_workers=workers)
        self._server = DirectoryServer(links, self._table)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._server.run(task_status=task_status)

    def remove_worker(self, worker: WorkerId, incarnation: int) -> None:
        self._server.remove_worker(worker, incarnation)

    def sizes(self) -> DirectorySizes | None:
        return DirectorySizes(len(self._table.workers), self._table.device_count)
