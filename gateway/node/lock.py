"""One node per data directory.

Owns two locks and the generation. ``supervisor.lock`` is held by the supervisor alone: who finds it taken has met a
living node. ``lock`` is held by the supervisor and inherited by its workers (flock belongs to the open file): who
finds only that one taken has met the workers of a supervisor that was killed, and waits for them to end. Not one
lock: the two cases want different answers, and a process id in a file proves nothing about who is alive.

Invariant: while a process of a node lives, no other node serves the same directory; generations of one directory
rise.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import trio

from gateway.node.errors import CannotServe

ORPHANS_TIMEOUT_S = 5.0
POLL_S = 0.05


class DataDirectoryInUse(CannotServe):
    """The operator's mistake: another node serves this directory. One line."""


class DirectoryLock:
    """Held from ``acquire`` to ``release``. ``descriptor`` is for the workers to inherit."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._supervisor = -1
        self.descriptor = -1
        self.generation = 0

    async def acquire(self) -> None:
        """Make the directory if need be, and take it. Raises DataDirectoryInUse, OSError."""
        run = self._data / "run"
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._supervisor = _open(run / "supervisor.lock")
        if not _try_lock(self._supervisor):
            pid = os.pread(self._supervisor, 64, 0).decode(errors="replace").strip()
            self.release()
            raise DataDirectoryInUse(
                f"{self._data} is served by another node (process {pid}): stop that one, or choose another --data"
            )
        _rewrite(self._supervisor, str(os.getpid()))
        self.descriptor = _open(self._data / "lock")
        await self._wait_for_orphans()
        self.generation = self._next_generation()

    def release(self) -> None:
        """Idempotent. Workers that still live keep their share of the lock."""
        for descriptor in (self.descriptor, self._supervisor):
            if descriptor != -1:
                os.close(descriptor)
        self.descriptor = self._supervisor = -1

    async def _wait_for_orphans(self) -> None:
        with trio.move_on_after(ORPHANS_TIMEOUT_S):
            while not _try_lock(self.descriptor):
                await trio.sleep(POLL_S)
            return
        self.release()
        raise DataDirectoryInUse(
            f"{self._data}: workers of an earlier node have not ended within {ORPHANS_TIMEOUT_S:g} s: end them first"
        )

    def _next_generation(self) -> int:
        """The clock, unless it went back: then one more than the last."""
        last = os.pread(self.descriptor, 32, 0).strip()
        generation = max(int(time.time()), int(last) + 1 if last.isdigit() else 0)
        _rewrite(self.descriptor, str(generation))
        os.fsync(self.descriptor)
        return generation


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _rewrite(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{text}\n".encode(), 0)
