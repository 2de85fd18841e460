"""Three Cassandra nodes, three copies: one that dies, is slow, restarts or acknowledges late; two that hang; all slow.

One of three is not missed. Without a quorum sends wait or are refused with the wish to come again, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.conftest import Gather, Judge, StartCluster, mend
from tests.nodes import ClusterProcess, Servers
from tests.servers.cassandra_cluster import CassandraCluster
from tests.servers.redis import RedisServer

TALK_S = 2.0
FAULT_S = 6.0
NO_QUORUM_S = 5.0
HALF_WRITTEN_S = 1.0
COPIES = 3


@pytest.fixture(scope="module")
def _cluster(
    start_cluster: StartCluster,
    _cassandra_cluster: CassandraCluster,
    redis_of_file: RedisServer,
    new_keyspace: Callable[[], str],
) -> ClusterProcess:
    store = _cassandra_cluster
    return start_cluster(
        Servers(store.hosts, store.port, redis_of_file.host, redis_of_file.port, new_keyspace(), COPIES)
    )


@pytest.fixture
def cluster(_cluster: ClusterProcess, cassandra_cluster: CassandraCluster) -> ClusterProcess:
    return mend(_cluster)


@pytest.fixture
def store(cassandra_cluster: CassandraCluster) -> CassandraCluster:
    """Whole at the beginning."""
    return cassandra_cluster


def test_a_store_node_that_is_killed_and_comes_back_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge, store: CassandraCluster
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        store.nodes[1].kill()
        people.talk_for(FAULT_S)
    judge("store: one node of three killed", people, outage)

    with people.through() as outage:
        store.nodes[1].launch()
        people.talk_until(store.nodes[1].is_answering)
        people.talk_for(TALK_S)
    judge("store: the killed node back", people, outage)


def test_a_store_node_that_is_restarted_in_order_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge, store: CassandraCluster
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    node = store.nodes[2]
    with people.through() as outage:
        node.stop()
        node.launch()
        people.talk_until(node.is_answering)
        people.talk_for(TALK_S)
    judge("store: one node of three restarted", people, outage)


def test_a_store_node_that_is_slow_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge, store: CassandraCluster
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        store.nodes[0].clients.delay(1000, 0, "downstream")
        store.nodes[0].peers.delay(1000, 0, "upstream")
        people.talk_for(FAULT_S)
        store.nodes[0].clients.heal()
        store.nodes[0].peers.heal()
    judge("store: one node of three answers 1 s late", people, outage)


def test_a_store_node_that_hears_its_peers_late_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge, store: CassandraCluster
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        store.nodes[0].peers.silence("upstream")
        people.talk_for(FAULT_S)
        store.nodes[0].peers.heal()
    judge("store: one node of three hears nothing of the others for 6 s", people, outage)


def test_without_a_quorum_for_five_seconds_nothing_is_lost(
    cluster: ClusterProcess, gather: Gather, judge: Judge, store: CassandraCluster
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        for node in store.nodes[:2]:
            node.pause()
        people.talk_for(NO_QUORUM_S)
        for node in store.nodes[:2]:
            node.resume()
    judge("store: two nodes of three stopped for 5 s (no quorum)", people, outage)


@pytest.mark.parametrize(("delay_ms", "told"), [(300, "0.3 s"), (1500, "1.5 s")])
def test_a_store_that_is_slow_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge, store: CassandraCluster, delay_ms: int, told: str
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        for node in store.nodes:
            node.clients.delay(delay_ms, 0, "downstream")
        people.talk_for(FAULT_S)
        for node in store.nodes:
            node.clients.heal()
    judge(f"store: every answer {told} late for 6 s", people, outage)


def test_rows_that_a_minority_has_when_their_owner_is_killed_are_settled_by_the_next_one(
    cluster: ClusterProcess, gather: Gather, judge: Judge, store: CassandraCluster
) -> None:
    """Two of three hear nothing of the others: what is written meanwhile is on one or two of them, and acknowledged by none."""
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        for node in store.nodes[:2]:
            node.peers.silence("upstream")
        people.talk_for(HALF_WRITTEN_S)
        cluster.nodes[0].kill_all()
        people.talk_for(HALF_WRITTEN_S)
        for node in store.nodes[:2]:
            node.peers.heal()
    assert outage.moved
    judge("store: two nodes of three deaf for 2 s, a node killed meanwhile", people, outage)
