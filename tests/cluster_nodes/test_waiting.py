"""A node whose servers are not there: it says so, in a line each time, and waits; it serves as soon as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes import ClusterProcess, NodeProcess, Servers
from tests.servers.addresses import free_port
from tests.servers.cassandra import CassandraNode


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    """Of a cluster of one, over servers that nobody started. It is launched, not ready."""
    nowhere = Servers(["127.0.0.1"], free_port(), "127.0.0.1", free_port(), "parley_nowhere")
    cluster = ClusterProcess(tmp_path, nowhere, hosts=["127.0.0.1"], workers=1)
    cluster.nodes[0].launch()
    yield cluster.nodes[0]
    cluster.close()


def test_a_store_that_is_not_there_is_one_line_and_another_try(node: NodeProcess) -> None:
    said = json.loads(node.wait_said("worker_waits"))
    assert "127.0.0.1" in said["error"]
    assert "\n" not in said["error"]
    node.wait_said("worker_waits")
    assert node.is_running


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path, cassandra: CassandraNode, keyspace: str) -> None:
    half = Servers([cassandra.host], cassandra.port, "127.0.0.1", free_port(), keyspace)
    cluster = ClusterProcess(tmp_path, half, hosts=["127.0.0.1"], workers=1)
    try:
        cluster.nodes[0].launch()
        said = json.loads(cluster.nodes[0].wait_said("worker_waits", timeout_s=90.0))
        assert "directory" in said["error"]
    finally:
        cluster.close()
