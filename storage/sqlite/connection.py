"""Opening a connection to the file, and the only place where ``sqlite3`` errors become the store's.

Owns the pragmas. Knows no table. Invariant: no ``sqlite3`` exception leaves ``storage.sqlite``.

WAL with ``synchronous=FULL``: a commit returns after the log's fsync, so that an acknowledged row survives the loss of power
(with NORMAL it survives the process only). Checkpoints are ``checkpointer.py``'s: inside a commit, where SQLite would make
them, they cost the commit tens of milliseconds.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from storage.api import StoreConflict, StoreError, StoreTimedOut, StoreUnavailable

BUSY_TIMEOUT_MS = 5_000
"""Only for those who do not queue at the write lock (a person's ``sqlite3``, a backup); workers never get here."""

ENGINE_ERRORS = (sqlite3.OperationalError, sqlite3.DatabaseError, OSError, MemoryError)
CONTENT_ERRORS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,
)
"""What rows that cannot be stored raise: ours to mend, whatever the engine's state. Catch these before ENGINE_ERRORS."""

_CERTAIN_IO_ERRORS = frozenset(
    f"SQLITE_IOERR_{part}"
    for part in ("ACCESS", "LOCK", "NOMEM", "RDLOCK", "READ", "SHMLOCK", "SHMMAP", "SHMOPEN", "SHMSIZE", "SHORT_READ")
)
"""Those that cannot come from writing or syncing a commit. After any other the log may hold the commit or not."""


def connect(path: str, *, is_reader: bool) -> sqlite3.Connection:
    """A connection in autocommit mode, for one thread at a time."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    if is_reader:
        connection.execute("PRAGMA query_only = ON")
    return connection


def translate(error: BaseException) -> StoreError:
    """The store's error for what the engine said."""
    name = str(getattr(error, "sqlite_errorname", type(error).__name__))
    message = f"SQLite: {error} ({name})"
    if isinstance(error, CONTENT_ERRORS):
        return StoreConflict(message)
    if name.startswith("SQLITE_IOERR") and name not in _CERTAIN_IO_ERRORS:
        return StoreTimedOut(message)
    return StoreUnavailable(message)


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Several reads of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


@contextmanager
def savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """A part of a transaction that happens whole or not at all, whatever the rest does."""
    connection.execute("SAVEPOINT part")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # the engine itself rolls all back when the disk is full
            connection.execute("ROLLBACK TO part")
            connection.execute("RELEASE part")
        raise
    connection.execute("RELEASE part")


def sync_directory(path: str) -> None:
    """Make the entries of a directory durable (fsync of a new file does not make its name so)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
