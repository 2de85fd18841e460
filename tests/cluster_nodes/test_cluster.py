"""Two nodes as one service: whoever is connected where, the history is one, whatever process or server is lost."""

from __future__ import annotations

import os
import signal

import pytest

from gateway.protocol.frames import decode
from gateway.protocol.messages import Goaway, Op
from tests.cluster_nodes.conftest import Gather, MakeCluster
from tests.nodes import ClusterProcess
from tests.servers.redis import RedisServer

TALK_S = 1.0
MANY = 4
SHORT_DRAIN = "[serve]\ndrain_timeout_s = 10\n[session]\ndrain_spread_ms = 1000\n"


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> ClusterProcess:
    return make_cluster(config=SHORT_DRAIN)


def test_people_on_two_nodes_have_one_history(cluster: ClusterProcess, gather: Gather) -> None:
    people = gather(cluster, MANY)
    people.talk_for(TALK_S)
    people.settle()
    assert people.violations() == []
    assert all(node.counted("parley_connections") > 0 for node in cluster.nodes)
    assert sum(node.counted("parley_forwarded_requests_total") for node in cluster.nodes) > 0


def test_a_worker_that_is_killed_costs_no_message(cluster: ClusterProcess, gather: Gather) -> None:
    people = gather(cluster, MANY)
    people.talk_for(TALK_S)
    with people.through():
        os.kill(cluster.nodes[0].worker_pids()[0], signal.SIGKILL)
    people.settle()
    assert people.violations() == []


def test_a_node_that_is_killed_costs_no_message(cluster: ClusterProcess, gather: Gather) -> None:
    people = gather(cluster, MANY)
    people.talk_for(TALK_S)
    with people.through():
        cluster.nodes[0].kill_all()
    people.settle()
    assert people.violations() == []


def test_a_directory_that_is_emptied_costs_no_message(
    cluster: ClusterProcess, gather: Gather, redis_server: RedisServer
) -> None:
    people = gather(cluster, MANY)
    people.talk_for(TALK_S)
    with people.through():
        redis_server.flush()
    people.settle()
    assert people.violations() == []


def test_a_worker_that_was_stopped_costs_no_message_and_is_replaced(make_cluster: MakeCluster, gather: Gather) -> None:
    cluster = make_cluster(config="[serve]\nhung_timeout_s = 4\n")
    people = gather(cluster, MANY)
    people.talk_for(TALK_S)
    stopped = cluster.nodes[0].worker_pids()[0]
    with people.through():
        os.kill(stopped, signal.SIGSTOP)
        people.talk_until(lambda: stopped not in cluster.nodes[0].worker_pids())
    people.settle()
    assert people.violations() == []


def test_nodes_that_are_restarted_in_turn_refuse_no_message(cluster: ClusterProcess, gather: Gather) -> None:
    people = gather(cluster, MANY)
    for node in cluster.nodes:
        people.talk_for(TALK_S)
        with node.stopping() as wait:
            people.talk_until(lambda node=node: not node.is_running)  # type: ignore[misc]
            assert wait() == 0
        node.start()
    people.talk_for(TALK_S)
    people.settle()
    assert people.violations() == []
    assert people.sent_errors == []


def test_a_node_that_leaves_names_the_places_that_it_was_told(make_cluster: MakeCluster, gather: Gather) -> None:
    elsewhere = ["chat2.example:7800", "[2001:db8::2]:7800"]
    cluster = make_cluster(config=f"{SHORT_DRAIN}\n", advertise=elsewhere)
    people = gather(cluster, MANY)
    with cluster.nodes[0].stopping() as wait:
        people.talk_until(lambda: not cluster.nodes[0].is_running)
        assert wait() == 0
    told = [decode(Goaway, sign.body) for device in people.all for sign in device.signs if sign.op == Op.GOAWAY]
    assert told
    assert all(goaway.addresses == elsewhere for goaway in told)
