"""Cables that are cut, both ways or one: between nodes, to Redis, to the store, and a node cut off from everything.

Each node is a host of its own; the servers and the people are on the hub. A cut loses packets and tells nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.conftest import Gather, Judge, StartCluster, mend
from tests.faults.network import HUB_ADDRESS, Host, Network
from tests.nodes import ClusterProcess, Servers
from tests.servers import installing
from tests.servers.cassandra import CassandraNode
from tests.servers.cassandra_settings import Place
from tests.servers.fixtures import required
from tests.servers.installing import Cassandra
from tests.servers.redis import RedisServer

TALK_S = 2.0
CUT_S = 8.0
GONE_S = 12.0

UNDER_WAY_S = 0.5
OVERTAKEN_S = 10.0
ARRIVED_S = 4.0
"""TCP sends again what is behind a cut 0.2, 0.6, 1.4, 3.0, 6.2 and 12.6 s after the first time: the last one comes through."""

WAYS = pytest.mark.parametrize(
    ("incoming", "outgoing", "told"),
    [
        (True, True, "both ways"),
        (True, False, "nothing comes in"),
        pytest.param(False, True, "nothing goes out", marks=pytest.mark.slow),
    ],
)


class Region(NamedTuple):
    """Where everything is."""

    cluster: ClusterProcess
    hosts: list[Host]
    redis_host: str
    store_host: str


@pytest.fixture(scope="module")
def on_the_hub(network: Network) -> Iterator[Network]:
    with network.hub.inside():
        yield network


@pytest.fixture(scope="module")
def store(
    on_the_hub: Network, installed_cassandra: Cassandra, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CassandraNode]:
    host = on_the_hub.add_address(11)
    node = CassandraNode(installed_cassandra, tmp_path_factory.mktemp("cassandra"), place=Place(host, host, (host,)))
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture(scope="module")
def redis(on_the_hub: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    folder: Path = tmp_path_factory.mktemp("redis")
    options = {"protected-mode": "no"}
    server = RedisServer(required(installing.find_redis), folder, options=options, host=on_the_hub.add_address(12))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def _region(
    on_the_hub: Network,
    store: CassandraNode,
    redis: RedisServer,
    start_cluster: StartCluster,
    new_keyspace: Callable[[], str],
) -> Region:
    hosts = [on_the_hub.add_host(number) for number in (2, 3)]
    servers = Servers([store.host], store.port, redis.host, redis.port, new_keyspace())
    withins = [("ip", "netns", "exec", host.name) for host in hosts]
    addresses = [host.address for host in hosts]
    cluster = start_cluster(servers, serve='ops_host = "0.0.0.0"', hosts=addresses, withins=withins)
    return Region(cluster, hosts, redis.host, store.host)


@pytest.fixture
def region(_region: Region) -> Region:
    for host in _region.hosts:
        host.mend_all()
    mend(_region.cluster)
    return _region


@WAYS
def test_nodes_that_are_cut_off_from_each_other_lose_no_message(
    region: Region, gather: Gather, judge: Judge, incoming: bool, outgoing: bool, told: str
) -> None:
    one, other = region.hosts
    people = gather(region.cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        one.cut(other.address, incoming=incoming, outgoing=outgoing)
        people.talk_for(CUT_S)
        one.mend_all()
    judge(f"cut: node - node, {told}, 8 s", people, outage)


@WAYS
def test_a_node_that_is_cut_off_from_redis_loses_no_message(
    region: Region, gather: Gather, judge: Judge, incoming: bool, outgoing: bool, told: str
) -> None:
    people = gather(region.cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        region.hosts[0].cut(region.redis_host, incoming=incoming, outgoing=outgoing)
        people.talk_for(CUT_S)
        region.hosts[0].mend_all()
    judge(f"cut: node - Redis, {told}, 8 s", people, outage)


@WAYS
def test_a_node_that_is_cut_off_from_the_store_loses_no_message(
    region: Region, gather: Gather, judge: Judge, incoming: bool, outgoing: bool, told: str
) -> None:
    people = gather(region.cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        region.hosts[0].cut(region.store_host, incoming=incoming, outgoing=outgoing)
        people.talk_for(CUT_S)
        region.hosts[0].mend_all()
    judge(f"cut: node - store, {told}, 8 s", people, outage)


def test_a_node_that_vanishes_from_the_network_loses_no_message(region: Region, gather: Gather, judge: Judge) -> None:
    gone, stays = region.hosts
    people = gather(region.cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        for address in (HUB_ADDRESS, stays.address, region.redis_host, region.store_host):
            gone.cut(address)
        people.talk_for(GONE_S)
        overtaken = outage.moved
        gone.mend_all()
    assert overtaken
    judge("cut: a node from everything, 12 s", people, outage)


def test_writes_that_reach_the_store_after_their_owner_was_overtaken_are_dead(
    region: Region, gather: Gather, judge: Judge
) -> None:
    """What the owner has written waits in its host's buffers behind the cut, and is sent again by TCP while it is stopped."""
    host, node = region.hosts[0], region.cluster.nodes[0]
    people = gather(region.cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        host.cut(region.store_host, incoming=False)
        people.talk_for(UNDER_WAY_S)
        node.pause()
        people.talk_for(OVERTAKEN_S)
        overtaken = outage.moved
        host.mend_all()
        people.talk_for(ARRIVED_S)
        node.resume()
    assert overtaken
    judge("a node stopped with writes under way, which arrive after it was overtaken", people, outage)
