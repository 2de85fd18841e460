"""Appending: a batch's rows, then what they change, then its end.

Owns the hot path and its queue bound. A batch is one request to its partition's replicas, and one for each sender's ids beside
it; the executor groups what many chats append within some milliseconds.

In order, each step after a quorum acknowledged the one before:
  the bucket   The chat's row names it before its first row is written, or whoever takes over would look for the newest row in
               an older partition. It is known from opening the chat; bucket 0 needs nothing, as an unwritten one reads as 0.
  the rows     With their resend ids, all USING TIMESTAMP epoch.
  the changes  Only while this worker may still believe that the slot is its own: a row that an overtaken owner writes is dead
               on arrival, but a member's row has the counter for its timestamp and would not be.
A step that fails after the first was sent makes the whole unknown; the caller appends the batch again, and every step of it
may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

from storage.api import (
    MAX_BATCH_BYTES,
    AppendDone,
    Appended,
    Batch,
    StoreConflict,
    StoreError,
    StoreTimedOut,
    StoreUnavailable,
    slot_of,
)
from storage.batches import conflict_in
from storage.completions import Ending, Refusals, deliver
from storage.scylla.committed import CommittedHeads
from storage.scylla.ports import Executor, Write
from storage.scylla.rows import batch_writes, bucket_of, change_writes
from storage.scylla.statements import RAISE_BUCKET
from storage.statistics import CommitStatistics


def unstorable(batch: Batch) -> StoreConflict | None:
    """Why this is no batch, or none that these tables can take whole."""
    conflict = conflict_in(batch)
    if conflict is not None:
        return conflict
    rows = batch.rows
    if bucket_of(rows[0].seq) != bucket_of(rows[-1].seq):
        return StoreConflict(f"chat {batch.chat_id}: a batch that crosses the end of a bucket")
    if len(rows) > 1 and sum([len(row.body) for row in rows]) > MAX_BATCH_BYTES:
        return StoreConflict(f"chat {batch.chat_id}: a batch of several rows with more than {MAX_BATCH_BYTES} bytes")
    return None


class _Append:
    __slots__ = ("batch", "done", "started_s")

    def __init__(self, batch: Batch, done: AppendDone, started_s: float) -> None:
        self.batch = batch
        self.done = done
        self.started_s = started_s


class Appends:
    """``is_doubtful(slot, epoch)``: the slot may be another's by now."""

    def __init__(
        self,
        executor: Executor,
        committed: CommittedHeads,
        is_doubtful: Callable[[int, int], bool],
        statistics: CommitStatistics,
        queue_rows_max: int,
    ) -> None:
        self._executor = executor
        self._committed = committed
        self._is_doubtful = is_doubtful
        self._statistics = statistics
        self._queue_rows_max = queue_rows_max
        self._endings: list[Ending] = []
        self._refusals: Refusals | None = None
        self._is_closed = False
        self.queued_rows = 0

    def open(self) -> None:
        self._refusals = Refusals(trio.lowlevel.current_trio_token())
        self._executor.after_writes = self.deliver

    def close(self) -> None:
        """From now on every batch is refused."""
        self._is_closed = True

    def append(self, batch: Batch, done: AppendDone) -> None:
        if self._refusals is None:
            raise RuntimeError("append before open")
        refusal = self._refusal(batch)
        if refusal is not None:
            self._statistics.refusals += 1
            self._refusals.add(batch, done, refusal)
            return
        self.queued_rows += len(batch.rows)
        self._committed.begun(batch)
        append = _Append(batch, done, trio.current_time())
        bucket = bucket_of(batch.rows[0].seq)
        if bucket > self._committed.bucket(batch.chat_id):
            raising = [Write(RAISE_BUCKET, (batch.chat_id, bucket, bucket))]
            self._executor.write_then(raising, partial(self._bucket_raised, append, bucket))
        else:
            self._write_rows(append)

    def _refusal(self, batch: Batch) -> StoreError | None:
        if self._is_closed:
            return StoreUnavailable("the store is closed")
        conflict = unstorable(batch)
        if conflict is not None:
            return conflict
        if self.queued_rows + len(batch.rows) > self._queue_rows_max:
            return StoreUnavailable("the append queue is full")
        if self._committed.is_full(batch.chat_id):
            return StoreUnavailable("too many batches have an unknown outcome")
        return None

    def _bucket_raised(self, append: _Append, bucket: int, error: StoreError | None) -> None:
        if error is not None:
            self._end(append, error)
            return
        self._committed.raised(append.batch.chat_id, append.batch.epoch, bucket)
        self._write_rows(append)

    def _write_rows(self, append: _Append) -> None:
        self._executor.write_then(batch_writes(append.batch), partial(self._rows_written, append))

    def _rows_written(self, append: _Append, error: StoreError | None) -> None:
        batch = append.batch
        if error is not None or not batch.changes:
            self._end(append, error)
        elif self._is_doubtful(slot_of(batch.chat_id), batch.epoch):
            self._end(append, StoreTimedOut("the rows are written, and the slot's epoch is not confirmed"))
        else:
            writes = [write for change in batch.changes for write in change_writes(change)]
            self._executor.write_then(writes, partial(self._changes_written, append))

    def _changes_written(self, append: _Append, error: StoreError | None) -> None:
        if error is not None and not error.is_unknown and not isinstance(error, StoreConflict):
            error = StoreTimedOut(f"the rows are written, what they change is not: {error}")
        self._end(append, error)

    def _end(self, append: _Append, error: StoreError | None) -> None:
        batch = append.batch
        self.queued_rows -= len(batch.rows)
        if error is None:
            self._committed.stored(batch)
            self._statistics.count_commit(len(batch.rows), trio.current_time() - append.started_s)
        else:
            self._committed.failed(batch, error.is_unknown)
            self._statistics.errors += 1
        self._endings.append((append.done, Appended(batch, error)))

    def deliver(self) -> None:
        """All that ended together, in the order in which it ended."""
        endings, self._endings = self._endings, []
        deliver(endings)

    def flush(self) -> None:
        self.deliver()
        if self._refusals is not None:
            self._refusals.flush()
