"""Moving the write-ahead log into the database file, beside the commits and not in them.

Owns when a checkpoint runs and in which process. SQLite's automatic checkpoint makes one unlucky commit pay for a
thousand pages; here a thread of its own looks once a second, and takes a lock that only one process gets at a time.

PASSIVE never waits for anybody and starts the log anew when nobody reads its end. Under steady load that may not happen
for long: beyond ``LOG_BYTES_MAX`` a RESTART waits for readers (milliseconds), so the log stays bounded.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

PERIOD_S = 1.0
LOG_BYTES_WORTH_IT = 8 << 20
LOG_BYTES_MAX = 256 << 20

log = structlog.get_logger(__name__)


class Checkpointer:
    def __init__(self, path: Path, connect: Callable[[Path], sqlite3.Connection]) -> None:
        self._path = path
        self._log_path = path.with_name(path.name + "-wal")
        self._lock_path = path.with_name(path.name + "-checkpointing")
        self._connect = connect
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="parley-checkpointer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Blocks until a checkpoint under way has ended."""
        self._is_closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closing.wait(PERIOD_S):
            size = self._log_bytes()
            if size >= LOG_BYTES_WORTH_IT:
                try:
                    self._checkpoint("RESTART" if size >= LOG_BYTES_MAX else "PASSIVE")
                except (sqlite3.Error, OSError) as error:
                    log.warning("checkpoint_failed", error=str(error), log_bytes=size)

    def _log_bytes(self) -> int:
        try:
            return self._log_path.stat().st_size
        except OSError:
            return 0

    def _checkpoint(self, mode: str) -> None:
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.closing(self._connect(self._path)) as connection:
                connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except BlockingIOError:
            return  # another worker is at it
        finally:
            os.close(lock)
