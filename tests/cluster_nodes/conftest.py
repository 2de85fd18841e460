"""A cluster of two nodes over a real store and a real directory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.people import Door, Doors, People
from tests.nodes import ClusterProcess, Servers
from tests.servers.cassandra import CassandraNode
from tests.servers.redis import RedisServer

MakeCluster = Callable[..., ClusterProcess]
Gather = Callable[[ClusterProcess, int], People]


KEYSPACE = "parley_cluster_nodes"
"""Of all these tests: making the tables takes longer than a test. Each has users and a directory of its own."""


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def servers(cassandra: CassandraNode, redis_server: RedisServer) -> Servers:
    return Servers([cassandra.host], cassandra.port, redis_server.host, redis_server.port, KEYSPACE)


@pytest.fixture
def make_cluster(tmp_path: Path, servers: Servers) -> Iterator[MakeCluster]:
    """Clusters of a test's own, started; ended after it whatever happened to them."""
    clusters: list[ClusterProcess] = []

    def make(**options: object) -> ClusterProcess:
        cluster = ClusterProcess(tmp_path / f"cluster{len(clusters)}", servers, **options)  # type: ignore[arg-type]
        clusters.append(cluster)
        cluster.start()
        return cluster

    yield make
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def gather(numbers: Iterator[int]) -> Gather:
    """So many people, in turn at each node's door, who have come in and opened their chats."""

    def gather(cluster: ClusterProcess, count: int) -> People:
        doors = [Door(node.host, node.port) for node in cluster.nodes]
        people = People(Doors(cluster.secret, cluster.kid, doors), [next(numbers) for _ in range(count)])
        people.gather()
        return people

    return gather
