"""Three nodes, three copies: what one lost node may cost."""

from __future__ import annotations

import secrets
from contextlib import suppress

import pytest

from storage.api import StoreTimedOut
from storage.scylla.executor import ScyllaExecutor
from storage.scylla.ports import Write
from storage.scylla.settings import ScyllaSettings
from tests.servers.cassandra_cluster import CassandraCluster
from tests.storage.scylla.executor.notes import MIGRATIONS, STATEMENTS, put

pytestmark = pytest.mark.slow

PAGES = 60


async def write_until_acknowledged(executor: ScyllaExecutor, *writes: Write) -> int:
    """Returns how often there was no answer at all. The nodes' own word that a replica was late is not counted."""
    silences = 0
    while True:
        try:
            await executor.write(writes)
        except StoreTimedOut as error:
            silences += "no answer" in str(error)
        else:
            return silences


async def test_writes_and_reads_go_on_while_one_of_three_nodes_hangs(
    cassandra_cluster: CassandraCluster, keyspace: str
) -> None:
    """Requests that it coordinates are unknown until it is suspected; from then on it is asked for nothing."""
    executor = ScyllaExecutor(
        ScyllaSettings(
            contact_points=tuple(cassandra_cluster.hosts),
            port=cassandra_cluster.nodes[0].port,
            keyspace=keyspace,
            replication_factor=3,
            request_timeout_s=4.0,
            connect_timeout_s=30.0,
        ),
        STATEMENTS,
        migrations=MIGRATIONS,
    )
    await executor.open()
    try:
        book = secrets.randbits(60)
        await write_until_acknowledged(executor, put(book, 0))
        before = executor.statistics().requests
        with suppress(StoreTimedOut):
            await executor.write([put(book, 0, page=page) for page in range(PAGES)])
        assert executor.statistics().requests - before == 1  # every node is a replica of every row
        cassandra_cluster.nodes[1].pause()
        silences = 0
        for number in range(20):
            silences += await write_until_acknowledged(executor, put(book, number, "text", page=number))
        assert silences <= 2
    finally:
        cassandra_cluster.nodes[1].resume()
        await executor.close()
