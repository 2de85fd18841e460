"""Processes that are killed, and nobody said goodbye: a worker that owns slots, a node with all of its workers."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.conftest import Gather, Judge, StartCluster, mend
from tests.nodes import ClusterProcess, Servers

TALK_S = 2.0


@pytest.fixture(scope="module")
def _cluster(start_cluster: StartCluster, servers_of_file: Servers) -> ClusterProcess:
    return start_cluster(servers_of_file, hosts=["127.0.0.1"] * 3)


@pytest.fixture
def cluster(_cluster: ClusterProcess) -> ClusterProcess:
    return mend(_cluster)


def test_a_worker_that_is_killed_costs_no_message(cluster: ClusterProcess, gather: Gather, judge: Judge) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        os.kill(cluster.nodes[0].worker_pids()[0], signal.SIGKILL)
    assert outage.moved
    judge("a worker killed", people, outage)


def test_a_node_that_is_killed_with_all_its_workers_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        cluster.nodes[1].kill_all()
    assert outage.moved
    judge("a node killed", people, outage)
