"""Fixtures that several packages of tests share: a node that runs, servers that it may use, and profiles for hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.nodes import NodeProcess

pytest_plugins = ("tests.servers.fixtures",)

settings.register_profile("fuzz", max_examples=20_000, deadline=None)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One running node of two workers for all tests that do it no harm."""
    process = NodeProcess(tmp_path_factory.mktemp("node") / "data")
    process.start()
    yield process
    process.close()


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Nodes of a test's own, started; ended after it whatever happened to them."""
    nodes: list[NodeProcess] = []

    def make(*, workers: int = 2, config: str = "") -> NodeProcess:
        process = NodeProcess(tmp_path / f"data{len(nodes)}", workers=workers, config=config)
        nodes.append(process)
        process.start()
        return process

    yield make
    for process in nodes:
        process.close()
