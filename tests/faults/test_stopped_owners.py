"""Owners that are stopped (SIGSTOP) with writes under way, and go on later (SIGCONT), as a machine that was suspended does.

Past its belief and its directory's patience an owner is overtaken; what it still writes when it wakes is dead on arrival, and
it says nothing that the next owner may contradict: the logs that people hold in the end say so. A shorter stop changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from tests.faults.conftest import Gather, Judge, StartCluster, mend
from tests.nodes import ClusterProcess, Servers

TALK_S = 2.0
LONG_S = 12.0
"""Longer than the belief (2 s), the directory's patience (4.5 s) and the next owner's wait (2.5 s) together."""
SHORT_S = 1.0


@pytest.fixture(scope="module")
def _cluster(start_cluster: StartCluster, servers_of_file: Servers) -> ClusterProcess:
    return start_cluster(servers_of_file)


@pytest.fixture
def cluster(_cluster: ClusterProcess) -> ClusterProcess:
    return mend(_cluster)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_an_owner_that_is_stopped_for_long_is_overtaken_and_its_late_writes_are_dead(
    cluster: ClusterProcess, gather: Gather, judge: Judge
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage, stopped(cluster.nodes[0].worker_pids()[1]):
        people.talk_for(LONG_S)
        overtaken = outage.moved
    assert overtaken
    judge("a worker stopped for 12 s, then continued", people, outage)


def test_an_owner_that_is_stopped_for_a_second_goes_on(cluster: ClusterProcess, gather: Gather, judge: Judge) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage, stopped(cluster.nodes[0].worker_pids()[0]):
        people.talk_for(SHORT_S)
    assert not outage.moved
    judge("a worker stopped for 1 s, then continued", people, outage)


def test_a_node_that_is_stopped_for_long_is_overtaken_and_comes_back(
    cluster: ClusterProcess, gather: Gather, judge: Judge
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        cluster.nodes[1].pause()
        people.talk_for(LONG_S)
        overtaken = outage.moved
        cluster.nodes[1].resume()
    assert overtaken
    judge("a node stopped for 12 s, then continued", people, outage)
