"""Numbered schema files, applied forward, each once.

Owns ``PRAGMA user_version``: the number of the last file applied. A file and its number commit together, so that a migration
that is cut off is made again from the last whole file. The caller holds the write lock: of many processes that start at once
one migrates and the rest find it done.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from storage.api import SchemaTooNew


class Migration(NamedTuple):
    number: int
    sql: str


def load_migrations() -> list[Migration]:
    """The files ``storage/schema/sqlite/NNNN_name.sql`` by number."""
    folder = files("storage").joinpath("schema", "sqlite")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [Migration(int(name[:4]), folder.joinpath(name).read_text("utf-8")) for name in names]


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Bring the schema to the last of ``migrations``. SchemaTooNew: it is past that already."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    newest = migrations[-1].number
    if version > newest:
        raise SchemaTooNew(
            f"the database has schema {version}, this release knows {newest}: start the newer release, or restore a backup"
        )
    for migration in migrations:
        if migration.number > version:
            _apply(connection, migration)


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{migration.sql}\n;PRAGMA user_version = {migration.number};\nCOMMIT;"
        )
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
