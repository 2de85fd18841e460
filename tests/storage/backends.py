"""The backends under test: each a way to open handles on one set of data. A new backend is one more entry here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from storage.api import Store
from storage.memory import MemoryDatabase, MemoryStore
from storage.sqlite import SqliteStore

MakeStore = Callable[..., Store]
"""Called with the options that all backends share: ``queue_rows_max``, ``now_ms``."""


class Stores(NamedTuple):
    """Two workers' handles on the same data; in half of the runs they are one and the same."""

    one: Store
    other: Store


def memory(folder: Path) -> MakeStore:
    database = MemoryDatabase()
    return lambda **options: MemoryStore(database, **options)


def sqlite(folder: Path) -> MakeStore:
    return lambda **options: SqliteStore(folder / "parley.db", **options)


BACKENDS: dict[str, Callable[[Path], MakeStore]] = {"memory": memory, "sqlite": sqlite}
