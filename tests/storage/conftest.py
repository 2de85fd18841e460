from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from storage.api import Store
from storage.scylla.settings import ScyllaSettings
from tests.servers.cassandra import CassandraNode
from tests.storage.backends import BACKENDS, MakeStore, Stores
from tests.storage.scylla.keyspace import Keyspace

OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture(scope="session")
def scylla_keyspace() -> Iterator[Keyspace]:
    keyspace = Keyspace()
    yield keyspace
    keyspace.close()


@pytest.fixture
def scylla_settings(cassandra: CassandraNode, scylla_keyspace: Keyspace) -> ScyllaSettings:
    """A keyspace on a real server, with empty tables."""
    return scylla_keyspace.emptied(cassandra.host, cassandra.port)


@pytest.fixture(params=BACKENDS)
def make_store(request: pytest.FixtureRequest) -> MakeStore:
    return BACKENDS[request.param](request)


@pytest.fixture
async def open_store(make_store: MakeStore) -> AsyncIterator[OpenStore]:
    """Open one more handle, with options; closed after the test."""
    async with AsyncExitStack() as opened:

        async def open_one(**options: object) -> Store:
            store = make_store(**options)
            await store.open()
            opened.push_async_callback(store.close)
            return store

        yield open_one


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()


@pytest.fixture(params=["one handle", "two handles"])
async def stores(request: pytest.FixtureRequest, open_store: OpenStore) -> Stores:
    one = await open_store()
    return Stores(one, one if request.param == "one handle" else await open_store())
