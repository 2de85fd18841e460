"""Who went down with its node is named by those whose connections its host refuses; nobody else is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from gateway.cluster.directory import DirectoryUnavailable, WorkerRecord, Workers
from gateway.cluster.links import Reply
from gateway.cluster.suspects import Suspects
from gateway.cluster.wire import LinkOp
from gateway.departures import Departures
from gateway.protocol.identifiers import WorkerId, worker_of
from tests.cluster.processes import TCP, Inbox, Process

ME, NEIGHBOUR = worker_of(1, 1), worker_of(1, 2)
ELSEWHERE, ALSO_ELSEWHERE = worker_of(2, 1), worker_of(3, 1)


def _answer(peer: WorkerId, payload: bytes, reply: Reply | None) -> None:
    if reply is not None:
        reply.reply(payload)


class Site:
    """Workers of three nodes, and what the first of them tells the directory."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.told = Inbox()
        self.is_deaf = False
        self.workers: Workers = {}
        self.processes = {
            worker: Process(worker, 1, str(directory / f"{worker}.sock"), time.monotonic, TCP)
            for worker in (ME, NEIGHBOUR, ELSEWHERE, ALSO_ELSEWHERE)
        }
        self.departures = Departures(ME, lambda: self.workers, self._tell_ended)
        links = self.processes[ME].links
        self.suspects = Suspects(links.is_refused, lambda: self.departures.take(self.suspects.gone))
        links.add_lost_listener(self.suspects.suspect)

    async def _tell_ended(self, worker: WorkerId, incarnation: int) -> None:
        await trio.lowlevel.checkpoint()
        self.told(worker, incarnation)
        if self.is_deaf:
            raise DirectoryUnavailable("nobody answers")

    async def start(self) -> None:
        for process in self.processes.values():
            await self._nursery.start(process.run)
        self.workers = {worker: WorkerRecord(worker, 1, "", False) for worker in self.processes}
        self.processes[ME].links.set_peers({worker: process.peer for worker, process in self.processes.items()})
        await self._nursery.start(self.departures.run)
        self._nursery.start_soon(self.suspects.run)

    async def talk_to(self, worker: WorkerId) -> None:
        """There is a link from the first worker to this one."""
        self.processes[worker].links.register(LinkOp.HEARTBEAT, _answer)
        with trio.fail_after(10):
            await self.processes[ME].links.call(worker, LinkOp.HEARTBEAT, b"")


@pytest.fixture
async def site(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Site]:
    made = Site(tmp_path, nursery)
    await made.start()
    yield made
    nursery.cancel_scope.cancel()


async def test_who_is_refused_after_its_link_broke_is_named_once(site: Site) -> None:
    await site.talk_to(ELSEWHERE)
    await site.talk_to(ALSO_ELSEWHERE)
    site.processes[ELSEWHERE].stop()
    assert await site.told.get() == (ELSEWHERE, 1)
    site.processes[ALSO_ELSEWHERE].stop()
    assert await site.told.get() == (ALSO_ELSEWHERE, 1)
    assert len(site.told.seen) == 2


async def test_a_neighbour_is_left_to_its_supervisor(site: Site) -> None:
    await site.talk_to(NEIGHBOUR)
    await site.talk_to(ELSEWHERE)
    site.processes[NEIGHBOUR].stop()
    site.processes[ELSEWHERE].stop()
    assert await site.told.get() == (ELSEWHERE, 1)
    assert [worker for worker, _ in site.told.seen] == [ELSEWHERE]


async def test_a_directory_that_does_not_answer_ends_nothing(site: Site) -> None:
    site.is_deaf = True
    await site.talk_to(ELSEWHERE)
    await site.talk_to(ALSO_ELSEWHERE)
    site.processes[ELSEWHERE].stop()
    assert await site.told.get() == (ELSEWHERE, 1)
    site.processes[ALSO_ELSEWHERE].stop()
    assert await site.told.get() == (ALSO_ELSEWHERE, 1)
