"""The embedded backend: SQLite in WAL mode, every acknowledged row synced to the disk."""

from storage.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
