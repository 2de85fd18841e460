"""Connections and views of a directory, each with a prefix of its own server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from storage.redis.connection import Connection
from storage.redis.settings import RedisSettings
from tests.cluster.directories import RedisWorld
from tests.redis.fake import FakeRedis
from tests.servers.redis import RedisServer

Connect = Callable[[RedisSettings], Awaitable[Connection]]


@pytest.fixture
def settings(redis_server: RedisServer) -> RedisSettings:
    return RedisSettings(port=redis_server.port, settle_s=0)


@pytest.fixture
async def fake(nursery: trio.Nursery) -> AsyncIterator[FakeRedis]:
    fake = FakeRedis()
    await fake.start(nursery)
    yield fake
    nursery.cancel_scope.cancel()


@pytest.fixture
async def connect(nursery: trio.Nursery) -> AsyncIterator[Connect]:
    """A connection that is up."""

    async def connect(settings: RedisSettings) -> Connection:
        connection = Connection(settings)
        await nursery.start(connection.run)
        await until(lambda: connection.is_up)
        return connection

    with trio.fail_after(60):
        yield connect
    nursery.cancel_scope.cancel()


@pytest.fixture
async def world(settings: RedisSettings, nursery: trio.Nursery) -> AsyncIterator[RedisWorld]:
    world = RedisWorld(settings, nursery)
    await world.start()
    with trio.fail_after(60):
        yield world
    nursery.cancel_scope.cancel()


async def until(is_so: Callable[[], bool], timeout_s: float = 20) -> None:
    """Other processes are waited for: there is no event of theirs, and they take what they take."""
    with trio.fail_after(timeout_s):
        while not is_so():
            await trio.sleep(0.005)
