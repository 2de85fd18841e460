"""The fixture of this folder: a cluster of processes within the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.cluster.processes import Cluster


@pytest.fixture
async def cluster(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path, nursery)
    with trio.fail_after(30):
        yield cluster
    for process in cluster.processes:
        process.stop()
