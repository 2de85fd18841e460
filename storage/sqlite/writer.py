"""One thread that writes: everything queued while it committed becomes its next transaction.

Owns the write connection, the queue in front of it, and the fate of what is in a transaction that fails. Knows no table but
through ``statements``.

Group commit. A commit costs one fsync, whatever its size; so the queue is drained (up to ``ROWS_PER_COMMIT``) into one
transaction. Writers of several processes queue on an flock around BEGIN … COMMIT: SQLite's own busy wait sleeps and is
unfair (worst commit 135 ms against 11 ms with four writers).

Ends of a transaction. Committed: everybody in it is told at once, in one hop to the Trio thread. Failed before COMMIT, or
for want of space: rolled back, nothing is stored (StoreUnavailable). Failed inside COMMIT by an I/O error: unknown
(StoreTimedOut), since the log may have reached the disk. A batch under an old epoch ends in SlotLost, one that contradicts
what is stored in StoreConflict; neither touches its neighbours.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog
import trio

from storage.api import (
    AppendDone,
    Appended,
    Batch,
    SlotLost,
    StoreConflict,
    StoreError,
    StoreTimedOut,
    StoreUnavailable,
    slot_of,
)
from storage.completions import Ending, deliver
from storage.sqlite import statements
from storage.statistics import CommitStatistics

ROWS_PER_COMMIT = 1024
CALLS_PER_COMMIT = 256

log = structlog.get_logger(__name__)

Finish = Callable[[Any, StoreError | None], None]


class Contradiction(Exception):
    """A batch's seqs are stored with other content. The transaction is tried again without it."""

    def __init__(self, number: int, batch: Batch) -> None:
        super().__init__(f"chat {batch.chat_id}: other rows are stored at seq {batch.rows[0].seq} and after")
        self.number = number


class Call:
    """Something else than an append that shares the commits: ``work`` runs in the transaction."""

    __slots__ = ("error", "finish", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any], finish: Finish) -> None:
        self.work = work
        self.finish = finish
        self.result: Any = None
        self.error: StoreError | None = None


Append = tuple[Batch, AppendDone]


class Writer:
    """See the module. ``append`` and ``call`` belong to the Trio thread; the rest is the writer's own thread."""

    def __init__(self, connection: sqlite3.Connection, lock_path: Path, queue_rows_max: int) -> None:
        self.statistics = CommitStatistics()
        self.queued_rows = 0
        self._connection = connection
        self._lock_fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._queue_rows_max = queue_rows_max
        self._appends: deque[Append] = deque()
        self._calls: deque[Call] = deque()
        self._condition = threading.Condition()
        self._is_closing = False
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._run, name="parley-writer", daemon=True)
        self._thread.start()

    def append(self, batch: Batch, done: AppendDone) -> bool:
        """False: the queue is at its bound, or closed; nothing was queued."""
        with self._condition:
            if self._is_closing or self.queued_rows + len(batch.rows) > self._queue_rows_max:
                return False
            self.queued_rows += len(batch.rows)
            self._appends.append((batch, done))
            self._condition.notify()
        return True

    def call(self, call: Call) -> bool:
        """Likewise, for anything else."""
        with self._condition:
            if self._is_closing or len(self._calls) >= self._queue_rows_max:
                return False
            self._calls.append(call)
            self._condition.notify()
        return True

    def close(self) -> None:
        """Commit what is queued, then end the thread. Blocks."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        self._thread.join()
        os.close(self._lock_fd)

    # ---------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._appends or self._calls or self._is_closing):
                    self._condition.wait()
                if not (self._appends or self._calls):
                    return
                appends, calls = self._take()
            self._commit(appends, calls)

    def _take(self) -> tuple[list[Append], list[Call]]:
        appends, rows = [], 0
        while self._appends and rows < ROWS_PER_COMMIT:
            append = self._appends.popleft()
            rows += len(append[0].rows)
            appends.append(append)
        self.queued_rows -= rows
        calls = [self._calls.popleft() for _ in range(min(len(self._calls), CALLS_PER_COMMIT))]
        return appends, calls

    def _commit(self, appends: list[Append], calls: list[Call]) -> None:
        began = time.monotonic()
        with self.locked():
            locked = time.monotonic()
            ends = self._transact(appends, calls)
        ended = time.monotonic()
        rows = sum(len(batch.rows) for (batch, _), error in zip(appends, ends, strict=True) if error is None)
        self.statistics.count_commit(rows, ended - locked, locked - began)
        self.statistics.errors += sum(isinstance(error, StoreError) for error in ends)
        endings = [(done, Appended(batch, error)) for (batch, done), error in zip(appends, ends, strict=True)]
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(_tell, endings, calls)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The write lock of all processes: one writer at a time, in the order in which they came."""
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _transact(self, appends: Sequence[Append], calls: Sequence[Call]) -> list[StoreError | SlotLost | None]:
        ends: list[StoreError | SlotLost | None] = [None] * len(appends)
        while True:
            try:
                self._try(appends, calls, ends)
            except Contradiction as found:
                ends[found.number] = StoreConflict(str(found))  # and again, without that one
            else:
                return ends

    def _try(
        self, appends: Sequence[Append], calls: Sequence[Call], ends: list[StoreError | SlotLost | None]
    ) -> None:
        connection = self._connection
        is_committing = False
        try:
            connection.execute("BEGIN IMMEDIATE")
            for call in calls:
                self._work(call)
            self._write(appends, ends)
            is_committing = True
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            failure = _failure(error, is_committing=is_committing)
            log.warning("commit_failed", error=str(error), batches=len(appends), calls=len(calls))
            for call in calls:
                call.error = call.error or failure
            ends[:] = [end or failure for end in ends]
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        """Nothing, after a commit."""
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _work(self, call: Call) -> None:
        """In a savepoint of its own: a call that is refused takes nobody with it."""
        self._connection.execute("SAVEPOINT call")
        try:
            call.result = call.work(self._connection)
        except StoreError as error:
            call.error = error
            self._connection.execute("ROLLBACK TO call")
        self._connection.execute("RELEASE call")

    def _write(self, appends: Sequence[Append], ends: list[StoreError | SlotLost | None]) -> None:
        slots = {slot_of(batch.chat_id) for batch, _ in appends}
        epochs = {slot: row.epoch for slot, row in statements.read_slots(self._connection, list(slots)).items()}
        for number, (batch, _) in enumerate(appends):
            if epochs.get(slot_of(batch.chat_id)) != batch.epoch:
                ends[number] = SlotLost(f"slot {slot_of(batch.chat_id)} is not held under epoch {batch.epoch}")
        good = [number for number, end in enumerate(ends) if end is None]
        rows = [row for number in good for row in appends[number][0].rows]
        if statements.insert_messages(self._connection, rows) < len(rows):
            self._check_repeated(appends, good)
        for number in good:
            for change in appends[number][0].changes:
                statements.apply_change(self._connection, change)

    def _check_repeated(self, appends: Sequence[Append], good: Sequence[int]) -> None:
        """Some rows were there before: repetitions are fine, other content under a seq is our bug."""
        for number in good:
            batch = appends[number][0]
            first, last = batch.rows[0].seq, batch.rows[-1].seq
            stored = statements.read_messages(
                self._connection, batch.chat_id, (first - 1, last + 1), len(batch.rows) + 1, is_newest_first=False
            )
            if [*batch.rows] != stored:
                log.error("append_contradicts_store", chat_id=batch.chat_id, first_seq=first, last_seq=last)
                raise Contradiction(number, batch)


def _failure(error: Exception, *, is_committing: bool) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if is_committing and code == sqlite3.SQLITE_IOERR:
        return StoreTimedOut(f"the database's disk failed: {error}")
    return StoreUnavailable(f"the database takes no writes: {error}")


def _tell(endings: Sequence[Ending], calls: Sequence[Call]) -> None:
    deliver(endings)
    for call in calls:
        call.finish(call.result, call.error)
