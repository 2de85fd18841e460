"""The embedded store: one SQLite file for all workers of a node."""

from storage.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
