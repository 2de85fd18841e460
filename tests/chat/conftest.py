"""The fixtures of this folder: one worker with one group of Alice (admin) and Bob, its slot held, everybody located."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from gateway.chat.ports import Room
from storage.memory import MemoryDatabase
from tests.chat.world import ROOM, Places, Worker, database_with, everybody_at_home

StartWorker = Callable[..., Awaitable[Worker]]
Restart = Callable[[], Awaitable[Worker]]


@pytest.fixture
def database() -> MemoryDatabase:
    return database_with()


@pytest.fixture
def places() -> Places:
    return everybody_at_home()


@pytest.fixture
def start_worker(nursery: trio.Nursery, database: MemoryDatabase, places: Places) -> StartWorker:
    """Start a worker that holds the chat's slot: the later one overtakes the earlier."""

    async def start(number: int = 1, room: Room = ROOM) -> Worker:
        worker = Worker(database, places, number, room)
        await nursery.start(worker.run)
        await worker.acquire()
        return worker

    return start


@pytest.fixture
async def worker(start_worker: StartWorker) -> Worker:
    return await start_worker()


@pytest.fixture
def restart(start_worker: StartWorker, worker: Worker) -> Callable[[], Awaitable[Worker]]:
    """Kill the worker; another one takes over."""

    async def restart() -> Worker:
        worker.kill()
        return await start_worker(2)

    return restart
