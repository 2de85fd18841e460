"""A rolling restart: each node is told to end, ends when its people have moved, and starts again; then the next.

Nobody's message is refused, and a chat is without an answer no longer than a hand-over takes.
"""

from __future__ import annotations

import pytest

from tests.faults.conftest import Gather, Judge, StartCluster, mend
from tests.nodes import ClusterProcess, Servers

TALK_S = 2.0


@pytest.fixture(scope="module")
def _cluster(start_cluster: StartCluster, servers_of_file: Servers) -> ClusterProcess:
    return start_cluster(servers_of_file)


@pytest.fixture
def cluster(_cluster: ClusterProcess) -> ClusterProcess:
    return mend(_cluster)


def test_a_rolling_restart_of_all_nodes_refuses_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        for node in cluster.nodes:
            with node.stopping() as wait:
                people.talk_while(lambda node=node: node.is_running)  # type: ignore[misc]
                assert wait() == 0
            is_ready = node.launch()
            people.talk_until(is_ready.is_set)
            node.wait_ready(is_ready)
            people.talk_for(TALK_S)
    assert outage.moved
    judge("a rolling restart of all nodes", people, outage)
    assert people.sent_errors == []
