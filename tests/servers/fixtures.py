"""The servers as fixtures: started when the first test asks for one, ended with the session.

A server that this machine lacks skips its tests with the reason; where PARLEY_NO_SKIP=1 it fails them. Invariant: a test
gets its server whole, whatever the test before did to it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.servers import installing
from tests.servers.addresses import NoAddress
from tests.servers.cassandra import CassandraNode
from tests.servers.cassandra_cluster import CassandraCluster
from tests.servers.installing import Cassandra, ServerMissing
from tests.servers.processes import ServerProcess, running
from tests.servers.redis import RedisServer
from tests.servers.toxiproxy import Toxiproxy

Found = TypeVar("Found")


def required(find: Callable[[], Found]) -> Found:
    """What ``find`` finds; else the test is skipped, or fails where nothing may be skipped."""
    try:
        return find()
    except (ServerMissing, NoAddress) as error:
        missing = str(error)
    if os.environ.get("PARLEY_NO_SKIP") == "1":
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def installed_cassandra() -> Cassandra:
    return required(installing.find_cassandra)


@pytest.fixture(scope="session")
def _cassandra(installed_cassandra: Cassandra, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CassandraNode]:
    with running(required(lambda: CassandraNode(installed_cassandra, tmp_path_factory.mktemp("cassandra")))) as node:
        yield node


@pytest.fixture
def cassandra(_cassandra: CassandraNode) -> CassandraNode:
    """One node for the whole session, patient with a busy machine. Use a keyspace of your own with one replica."""
    if _cassandra.process.is_running:
        _cassandra.resume()
    else:
        _cassandra.start()
    return _cassandra


@pytest.fixture(scope="session")
def _cassandra_cluster(
    installed_cassandra: Cassandra, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CassandraCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    proxies = Toxiproxy(required(installing.find_toxiproxy), folder / "proxies")
    cluster: CassandraCluster | None = None
    try:
        proxies.start()
        cluster = required(lambda: CassandraCluster(installed_cassandra, folder, proxies))
        cluster.start()
        yield cluster
    finally:
        if cluster is not None:
            cluster.close()
        proxies.close()


@pytest.fixture
def cassandra_cluster(_cassandra_cluster: CassandraCluster) -> CassandraCluster:
    """Three nodes for the whole session, whole at the beginning of a test, to pause, to kill and to cut off; time-outs of 1 s."""
    _cassandra_cluster.heal()
    return _cassandra_cluster


@pytest.fixture
def keyspace() -> str:
    """A name that no test had before; making it is the test's business."""
    return f"parley_{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def _redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running(RedisServer(required(installing.find_redis), tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def redis_server(_redis_server: RedisServer) -> RedisServer:
    """One server for the whole session, empty at the beginning of a test; nothing of it is on the disk."""
    _redis_server.heal()
    return _redis_server


@pytest.fixture
def make_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Servers of a test's own, started: ``make_redis(appendonly="yes")``. Ended after the test."""
    binary = required(installing.find_redis)
    servers: list[RedisServer] = []

    def make(**options: str) -> RedisServer:
        named = {name.replace("_", "-"): value for name, value in options.items()}
        server = RedisServer(binary, tmp_path / f"redis{len(servers)}", options=named)
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def _toxiproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    with running(Toxiproxy(required(installing.find_toxiproxy), tmp_path_factory.mktemp("toxiproxy"))) as toxiproxy:
        yield toxiproxy


@pytest.fixture
def toxiproxy(_toxiproxy: Toxiproxy) -> Iterator[Toxiproxy]:
    """``toxiproxy.proxy(host, port)`` makes a way to a server; all are gone after the test."""
    yield _toxiproxy
    _toxiproxy.resume()
    _toxiproxy.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the servers said that the test had."""
    report = yield
    if report.failed:
        report.sections.extend(_server_logs(item))
    return report


def _server_logs(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """(title, last lines) of each."""
    for value in getattr(item, "funcargs", {}).values():
        servers = value.nodes if isinstance(value, CassandraCluster) else [value]
        for process in (getattr(server, "process", None) for server in servers):
            if isinstance(process, ServerProcess):
                yield f"log of {process.name}", process.tail()
