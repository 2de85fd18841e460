"""The fixture of this folder: a cluster of processes within the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from gateway.cluster.links import LinkSettings
from tests.cluster.processes import UNIX, Cluster


@pytest.fixture
def settings() -> LinkSettings:
    """How the cluster's links are set up. Modules whose tests hold between nodes too override it with both."""
    return UNIX


@pytest.fixture
async def cluster(tmp_path: Path, nursery: trio.Nursery, settings: LinkSettings) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path, nursery, settings)
    with trio.fail_after(30):
        yield cluster
    for process in cluster.processes:
        process.stop()
