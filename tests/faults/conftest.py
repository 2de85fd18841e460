"""What the tests of faults stand on: clusters that live as long as a file's tests, people, and the judgement of a fault.

A cluster is mended before each test, not made anew: that it serves on after the fault before is part of what is tested.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.figures import figure, keep
from tests.faults.network import Network, NoNetwork
from tests.faults.outage import Outage
from tests.faults.people import Door, Doors, People
from tests.nodes import ClusterProcess, Servers
from tests.servers import installing
from tests.servers.cassandra import CassandraNode
from tests.servers.fixtures import required
from tests.servers.processes import running
from tests.servers.redis import RedisServer

StartCluster = Callable[..., ClusterProcess]
Gather = Callable[[ClusterProcess], People]
Judge = Callable[[str, People, Outage], None]

PEOPLE = 6
BOUND_S = 40.0
"""Of the silence of a chat, whatever happens: a generous one. The measured seconds are in docs/delivery.md."""
MEND_S = 40.0

CONFIG = """
[session]
drain_spread_ms = 1000

[serve]
hung_timeout_s = 60
drain_timeout_s = 10
"""
"""A supervisor that ends a worker after ten silent seconds would take the place of what is to be tested."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A hub, to which a test adds hosts."""
    required(installing.find_network)
    try:
        made = Network()
    except NoNetwork as reason:
        if os.environ.get("PARLEY_NO_SKIP") == "1":
            raise
        pytest.skip(f"no network namespaces: {reason}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def redis_of_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running(RedisServer(required(installing.find_redis), tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture(scope="module")
def start_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartCluster]:
    """``start_cluster(servers, hosts=…)``: ended after the file's tests, whatever happened to it. ``serve``: more of its
    settings."""
    clusters: list[ClusterProcess] = []

    def start(servers: Servers, *, serve: str = "", **options: object) -> ClusterProcess:
        folder = tmp_path_factory.mktemp("nodes")
        clusters.append(ClusterProcess(folder, servers, config=CONFIG + serve, **options))  # type: ignore[arg-type]
        clusters[-1].start()
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.close()


@pytest.fixture(scope="module")
def servers_of_file(_cassandra: CassandraNode, redis_of_file: RedisServer, new_keyspace: Callable[[], str]) -> Servers:
    """One Cassandra node, one copy of everything."""
    return Servers([_cassandra.host], _cassandra.port, redis_of_file.host, redis_of_file.port, new_keyspace())


@pytest.fixture(scope="session")
def new_keyspace() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"faults_{os.getpid()}_{next(numbers)}"


@pytest.fixture(scope="session")
def user_numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def gather(user_numbers: Iterator[int]) -> Iterator[Gather]:
    """People whom no other test has, in turn at each node's door, who have come in and opened their chats."""
    gathered: list[People] = []

    def gather(cluster: ClusterProcess) -> People:
        doors = [Door(node.host, node.port) for node in cluster.nodes]
        users = list(itertools.islice(user_numbers, PEOPLE))
        people = People(Doors(cluster.secret, cluster.kid, doors), users)
        gathered.append(people)
        people.gather()
        return people

    yield gather
    for people in gathered:
        people.close()


@pytest.fixture
def judge() -> Judge:
    """All is answered and read again; the row for the table is kept; nothing was lost, shown twice or out of order."""

    def judge(fault: str, people: People, outage: Outage) -> None:
        people.settle()
        violations = people.violations()
        keep(figure(fault, people, outage, violations))
        assert violations == []
        assert outage.longest_s < BOUND_S

    return judge


def mend(cluster: ClusterProcess) -> ClusterProcess:
    """All nodes run, and all of their workers serve."""
    for node in cluster.nodes:
        if node.is_running:
            node.resume()
    cluster.start()
    deadline = time.monotonic() + MEND_S
    for node in cluster.nodes:
        while node.page("/readyz")[0] != 200:
            assert time.monotonic() < deadline, node.lines[-5:]
            time.sleep(0.1)
    return cluster
