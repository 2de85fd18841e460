"""Moving committed pages from the log into the database file, beside the commits instead of inside of them.

Owns one thread and its connection. A second after a commit it checkpoints passively: nobody waits for that, and in a quiet
moment it empties the log. Under steady writing it does not: the log starts over only when all of it has been moved, and
there is always a commit more. So past LOG_FRAMES it goes again over the rest while holding the write lock, which is short,
since the first pass has moved nearly all; the next commit then starts the log over. SQLite lets one connection checkpoint
at a time; a worker that comes second leaves it to the first.
"""

from __future__ import annotations

import sqlite3
import threading

import structlog

from storage.sqlite.connection import ENGINE_ERRORS
from storage.sqlite.filelock import FileLock

PAUSE_S = 1.0
LOG_FRAMES = 8_192
"""32 MiB of pages of 4 KiB: some seconds of the highest rate, and 0.2 s of reading after a crash."""

log = structlog.get_logger(__name__)


class Checkpointer:
    def __init__(self, connection: sqlite3.Connection, lock: FileLock, has_written: threading.Event) -> None:
        self._connection = connection
        self._lock = lock
        self._has_written = has_written
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="parley-store-checkpointer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread; blocks for as long as the running checkpoint takes."""
        self._is_closing.set()
        self._has_written.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            self._has_written.wait()
            if self._is_closing.wait(PAUSE_S):
                return
            self._has_written.clear()
            try:
                checkpoint(self._connection, self._lock)
            except ENGINE_ERRORS as error:
                # A full disk, mostly. Nothing is lost: the pages stay in the log, the next pass tries again.
                log.warning("checkpoint_failed", error=str(error))


def checkpoint(connection: sqlite3.Connection, lock: FileLock, log_frames: int = LOG_FRAMES) -> None:
    """Checkpoint; where the log is longer than ``log_frames``, so that the next commit starts it over."""
    if _pass(connection) > log_frames:
        with lock:
            _pass(connection)


def _pass(connection: sqlite3.Connection) -> int:
    """Move what no reader needs in the log, and return the number of frames in it (0: another one is at it)."""
    is_busy, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return 0 if is_busy else int(frames)
