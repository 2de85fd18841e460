"""Migrations: numbered files, forward only, each once.

Owns the schema's version (SQLite's user_version). Safe with many processes starting at once: they queue on a file lock,
and whoever comes later finds nothing to do. A file and its version are one transaction, so a process that dies in the
middle leaves the version before.
"""

from __future__ import annotations

import sqlite3
from importlib.resources import files

from storage.api import SchemaTooNew


def scripts() -> dict[int, str]:
    """SQL by version, from storage/schema/sqlite/NNNN_*.sql."""
    folder = files("storage").joinpath("schema", "sqlite")
    found = {int(file.name[:4]): file.read_text() for file in folder.iterdir() if file.name.endswith(".sql")}
    return dict(sorted(found.items()))


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the newest version. The caller holds the write lock. Raises SchemaTooNew."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    newest = max(scripts())
    if version > newest:
        raise SchemaTooNew(f"the database has schema {version}, this release knows {newest}: run the later release")
    for number, script in scripts().items():
        if number > version:
            connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
