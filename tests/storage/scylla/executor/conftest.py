from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from storage.scylla.executor import ScyllaExecutor
from storage.scylla.settings import ScyllaSettings
from tests.servers.cassandra import CassandraNode
from tests.storage.scylla.executor.notes import MIGRATIONS, STATEMENTS

OpenExecutor = Callable[..., Awaitable[ScyllaExecutor]]

PATIENCE_S = 15.0
"""A request's time in tests that are not about time: other tests share the machine."""


@pytest.fixture(scope="module")
def notebook() -> str:
    """A keyspace for a module's tests: each uses books of its own."""
    return f"notes_{secrets.token_hex(6)}"


@pytest.fixture
def book() -> int:
    return secrets.randbits(60)


@pytest.fixture
def settings(cassandra: CassandraNode, notebook: str) -> ScyllaSettings:
    return ScyllaSettings(
        contact_points=(cassandra.host,),
        port=cassandra.port,
        keyspace=notebook,
        replication_factor=1,
        request_timeout_s=PATIENCE_S,
        connect_timeout_s=20.0,
    )


@pytest.fixture
async def open_executor(settings: ScyllaSettings) -> AsyncIterator[OpenExecutor]:
    """Open one more executor, with other settings than the usual; closed after the test."""
    async with AsyncExitStack() as opened:

        async def open_one(**changes: object) -> ScyllaExecutor:
            executor = ScyllaExecutor(settings._replace(**changes), STATEMENTS, migrations=MIGRATIONS)
            await executor.open()
            opened.push_async_callback(executor.close)
            return executor

        yield open_one


@pytest.fixture
async def executor(open_executor: OpenExecutor) -> ScyllaExecutor:
    return await open_executor()
