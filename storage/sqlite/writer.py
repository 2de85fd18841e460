"""The one thread of a worker that writes: group commit.

Owns the queue, its bounds, the writing connection and the write lock. It takes all that is queued, up to a bound, makes it
one transaction, and hands back what ended with one wake-up of the Trio thread. There is no waiting for more: what comes
while a commit's fsync runs is the next commit, so batches grow with load by themselves.

Invariants. A job that was queued ends exactly once, also when the engine fails and when the store closes. A batch's fault
ends that batch alone; the engine's fault ends the whole commit, and the next one is tried as if nothing had been.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple

import structlog
import trio

from storage.api import AppendDone, Appended, Batch, SlotLost, StoreConflict, StoreError, StoreUnavailable
from storage.batches import conflict_in
from storage.completions import Ending, deliver
from storage.sqlite.appending import COMMIT_ROWS, append_one, insert_rows
from storage.sqlite.calls import Call
from storage.sqlite.connection import CONTENT_ERRORS, ENGINE_ERRORS, savepoint, translate
from storage.sqlite.filelock import FileLock
from storage.statistics import CommitStatistics

COMMIT_BYTES = 4 << 20
ROW_BYTES = 128
"""What a queued row costs beside its body, for the bound in bytes."""

log = structlog.get_logger(__name__)


class AppendJob:
    __slots__ = ("batch", "done", "error", "size", "weight")

    def __init__(self, batch: Batch, done: AppendDone) -> None:
        self.batch = batch
        self.done = done
        self.weight = len(batch.rows)
        self.size = ROW_BYTES * self.weight + sum([len(row.body) for row in batch.rows])
        self.error: StoreError | SlotLost | None = None


Job = AppendJob | Call[object]


class QueueBounds(NamedTuple):
    rows: int
    size_bytes: int


class Writer:
    """``submit_*`` on the Trio thread, the rest on the writer's."""

    def __init__(
        self, connection: sqlite3.Connection, lock: FileLock, bounds: QueueBounds, statistics: CommitStatistics
    ) -> None:
        self._connection = connection
        self._lock = lock
        self._bounds = bounds
        self._statistics = statistics
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._run, name="parley-store-writer", daemon=True)
        self._is_closed = False
        self._ended = trio.Event()
        self.queued_rows = 0
        self._queued_bytes = 0
        self.has_written = threading.Event()
        """Set after each commit; the checkpointer clears it."""

    def start(self) -> None:
        self._thread.start()

    async def close(self) -> None:
        """Commit all that is queued, let it be delivered, end the thread."""
        if not self._is_closed:
            self._is_closed = True
            self._jobs.put(None)
        await self._ended.wait()

    def submit_append(self, batch: Batch, done: AppendDone) -> StoreError | None:
        """Queue a batch, or say why not."""
        conflict = conflict_in(batch)
        if conflict is not None:
            log.critical("store_conflict", error=str(conflict))
            self._statistics.refusals += 1
            return conflict
        job = AppendJob(batch, done)
        refusal = self._refusal(job.weight, job.size)
        if refusal is None:
            self.queued_rows += job.weight
            self._queued_bytes += job.size
            self._jobs.put(job)
        return refusal

    def submit_call(self, call: Call[object]) -> None:
        refusal = self._refusal(call.weight, 0)
        if refusal is not None:
            raise refusal
        self.queued_rows += call.weight
        self._jobs.put(call)

    def _refusal(self, rows: int, size: int) -> StoreError | None:
        if self._is_closed:
            return StoreUnavailable("the store is closed")
        if self.queued_rows + rows > self._bounds.rows or self._queued_bytes + size > self._bounds.size_bytes:
            self._statistics.refusals += 1
            return StoreUnavailable("the write queue is full")
        return None

    # ------------------------------------------------------------------------------------ the writer's thread

    def _run(self) -> None:
        is_ending = False
        while not is_ending:
            jobs, is_ending = self._drain()
            if jobs:
                self._end(jobs)
                self._tell(jobs)
        self._connection.close()
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._ended.set)

    def _drain(self) -> tuple[list[Job], bool]:
        jobs: list[Job] = []
        rows = size = 0
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            rows += job.weight
            size += job.size if isinstance(job, AppendJob) else 0
            if rows >= COMMIT_ROWS or size >= COMMIT_BYTES:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return jobs, False
        return jobs, True

    def _end(self, jobs: Sequence[Job]) -> None:
        """Commit the jobs and leave in each how it ended."""
        asked = time.perf_counter()
        try:
            with self._lock:
                began = time.perf_counter()
                self._commit(jobs)
                ended = time.perf_counter()
            self._statistics.count_commit(sum(job.weight for job in jobs), ended - began, began - asked)
            self.has_written.set()
        except Exception as error:
            # The thread must outlive everything: without it each later append would wait for ever.
            self._roll_back()
            if not isinstance(error, ENGINE_ERRORS):
                log.exception("commit_failed_by_our_fault")
            self._fail(jobs, translate(error))
        self._count_errors(jobs)

    def _commit(self, jobs: Sequence[Job]) -> None:
        plain = [job for job in jobs if isinstance(job, AppendJob) and not job.batch.changes]
        if len(plain) == len(jobs) and self._insert(plain):
            return
        self._connection.execute("BEGIN IMMEDIATE")
        is_inserted = self._insert(plain)
        for job in jobs:
            if isinstance(job, Call):
                self._call(job)
            elif job.batch.changes or not is_inserted:
                job.error = append_one(self._connection, job.batch)
        self._connection.execute("COMMIT")

    def _insert(self, jobs: Sequence[AppendJob]) -> bool:
        """Store the rows of all the jobs, or none of them."""
        if not jobs:
            return True
        try:
            insert_rows(self._connection, [row for job in jobs for row in job.batch.rows])
        except CONTENT_ERRORS:
            return False
        return True

    def _call(self, call: Call[object]) -> None:
        try:
            with savepoint(self._connection):
                call.run(self._connection)
        except (StoreError, SlotLost) as error:
            call.fail(error)
        except CONTENT_ERRORS as error:
            call.fail(translate(error))

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _fail(self, jobs: Sequence[Job], error: StoreError) -> None:
        for job in jobs:
            if isinstance(job, AppendJob):
                job.error = error
            else:
                job.fail(error)

    def _count_errors(self, jobs: Sequence[Job]) -> None:
        errors = [job.error for job in jobs if isinstance(job.error, StoreError)]
        self._statistics.errors += len(errors)
        for error in errors:
            if isinstance(error, StoreConflict):
                log.critical("store_conflict", error=str(error))

    def _tell(self, jobs: Sequence[Job]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._finish, jobs)

    # ------------------------------------------------------------------------------------------ the Trio thread

    def _finish(self, jobs: Sequence[Job]) -> None:
        endings: list[Ending] = []
        for job in jobs:
            self.queued_rows -= job.weight
            if isinstance(job, Call):
                job.finish()
            else:
                self._queued_bytes -= job.size
                endings.append((job.done, Appended(job.batch, job.error)))
        deliver(endings)
