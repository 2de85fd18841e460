"""The backends under test: each a way to open handles on one set of data. A new backend is one more entry here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from storage.api import Store
from storage.memory import MemoryDatabase, MemoryStore
from storage.scylla.executor import ScyllaExecutor
from storage.scylla.settings import ScyllaSettings
from storage.scylla.statements import STATEMENTS
from storage.scylla.store import ScyllaStore
from storage.sqlite import SqliteStore
from tests.simulation.boundary import Boundary
from tests.simulation.cql import SCHEMA, read_schema
from tests.simulation.dice import Dice
from tests.simulation.executor import Plans, SimulatedExecutor
from tests.simulation.immediately import Immediately
from tests.simulation.replicas import Cluster

MakeStore = Callable[..., Store]
"""Called with the options that all backends share: ``queue_rows_max``, ``now_ms``."""


class Stores(NamedTuple):
    """Two workers' handles on the same data; in half of the runs they are one and the same."""

    one: Store
    other: Store


def memory(request: pytest.FixtureRequest) -> MakeStore:
    database = MemoryDatabase()
    return lambda **options: MemoryStore(database, **options)


def sqlite(request: pytest.FixtureRequest) -> MakeStore:
    folder: Path = request.getfixturevalue("tmp_path")
    return lambda **options: SqliteStore(folder / "parley.db", **options)


def scylla(request: pytest.FixtureRequest) -> MakeStore:
    settings: ScyllaSettings = request.getfixturevalue("scylla_settings")
    return lambda **options: ScyllaStore(ScyllaExecutor(settings, STATEMENTS), **options)


def replicas(request: pytest.FixtureRequest) -> MakeStore:
    """The same tables over three simulated replicas, of which none fails."""
    cluster = Cluster(Immediately(), Dice(1), is_calm=True)
    plans = Plans(read_schema(SCHEMA))
    return lambda **options: ScyllaStore(SimulatedExecutor(cluster, plans, Boundary(lambda: 0.0)), **options)


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], MakeStore]] = {
    "memory": memory,
    "sqlite": sqlite,
    "replicas": replicas,
    "scylla": scylla,
}
"""Called with the request of the fixture, from which a backend gets what it needs."""
