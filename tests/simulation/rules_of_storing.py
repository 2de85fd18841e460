"""Rules of the tables, taken out one at a time: timestamps, fence, adoption, members. Owns nothing but the ways to break them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from gateway.protocol.identifiers import epoch_of
from storage.api import StoreTimedOut
from storage.scylla import adoption, messages, rows, statements
from storage.scylla.adoption import Adoptions
from storage.scylla.messages import Appends
from storage.scylla.ports import Write
from tests.simulation.agenda import Agenda
from tests.simulation.replicas import Cluster
from tests.simulation.rules import Patches, Rule


class _Clock:
    """A worker's wall clock, by the epoch that it writes under: some seconds wrong, as clocks are."""

    def __init__(self, patches: Patches) -> None:
        def init(agenda: Agenda) -> None:
            original(agenda)
            self.agenda = agenda

        original = patches.set(Agenda, "__init__", init)
        self.agenda: Agenda | None = None

    def timestamp(self, epoch: int) -> int:
        assert self.agenda is not None
        return int((self.agenda.now_s + epoch * 3_307 % 8_001 / 1000 - 4) * 1000)


def written_by_the_clock(patches: Patches) -> None:
    clock = _Clock(patches)

    def row_writes(of: Sequence[Any], base_seq: int, epoch: int, changes: dict[int, bytes]) -> list[Write]:
        return [_at(clock.timestamp(epoch), write) for write in original(of, base_seq, epoch, changes)]

    def resend_writes(of: Sequence[Any], epoch: int) -> list[Write]:
        return [_at(clock.timestamp(epoch), write) for write in original_resends(of, epoch)]

    def fence(chat_id: int, epoch: int, last_seq: int) -> list[Write]:
        timestamp = clock.timestamp(epoch) - 1
        return [Write(w.statement, (timestamp, *w.values[1:])) for w in original_fence(chat_id, epoch, last_seq)]

    original = patches.set(rows, "row_writes", row_writes)
    original_resends = patches.set(rows, "resend_writes", resend_writes)
    patches.set(adoption, "row_writes", row_writes)
    patches.set(adoption, "resend_writes", resend_writes)
    original_fence = patches.set(adoption, "_fence", fence)


def bucket_by_the_clock(patches: Patches) -> None:
    clock = _Clock(patches)

    def begin(self: Adoptions, chat_id: int, epoch: int, tail: Any, bucket: int) -> Any:
        begun = original(self, chat_id, epoch, tail, bucket)
        begun.rows = [
            _at(clock.timestamp(epoch), write) if write.statement is statements.RAISE_BUCKET else write
            for write in begun.rows
        ]
        return begun

    def append(self: Appends, batch: Any, done: Any) -> None:
        before = self._executor.write_then

        def write_then(writes: Sequence[Write], then: Any) -> None:
            if writes[0].statement is statements.RAISE_BUCKET:
                writes = [_at(clock.timestamp(batch.epoch), write) for write in writes]
            before(writes, then)

        self._executor.write_then = write_then  # type: ignore[method-assign]
        try:
            original_append(self, batch, done)
        finally:
            self._executor.write_then = before  # type: ignore[method-assign]

    original = patches.set(Adoptions, "_begin", begin)
    original_append = patches.set(Appends, "append", append)


def _at(timestamp: int, write: Write) -> Write:
    return Write(write.statement, (*write.values[:-1], timestamp))


def no_fence(patches: Patches) -> None:
    patches.set(adoption, "_fence", lambda chat_id, epoch, last_seq: [])


def no_fence_in_the_next_bucket(patches: Patches) -> None:
    original = patches.set(adoption, "_fence", lambda *args: original(*args)[:1])


def fence_at_the_epoch(patches: Patches) -> None:
    def fence(chat_id: int, epoch: int, last_seq: int) -> list[Write]:
        return [Write(w.statement, (epoch, *w.values[1:])) for w in original(chat_id, epoch, last_seq)]

    original = patches.set(adoption, "_fence", fence)


def nothing_adopted(patches: Patches) -> None:
    def begin(self: Adoptions, chat_id: int, epoch: int, tail: Any, bucket: int) -> Any:
        return original(self, chat_id, epoch, tail._replace(base_seq=tail.last.seq), bucket)

    original = patches.set(Adoptions, "_begin", begin)


def adopted_as_it_was(patches: Patches) -> None:
    def row_writes(of: Sequence[Any], base_seq: int, epoch: int, changes: dict[int, bytes]) -> list[Write]:
        return original(of, base_seq, epoch_of(of[0].seq), changes)  # type: ignore[no-any-return]

    original = patches.set(adoption, "row_writes", row_writes)


def ids_not_adopted(patches: Patches) -> None:
    patches.set(adoption, "resend_writes", lambda of, epoch: [])


def adoption_computed_anew(patches: Patches) -> None:
    async def settle(self: Adoptions, one: Any, writes: Sequence[Write], latest: float) -> None:
        if writes:
            await self._executor.write(writes)
        if self._is_doubtful(adoption.slot_of(one.chat_id), one.epoch):
            raise StoreTimedOut("not confirmed")

    patches.set(Adoptions, "_settle", settle)
    patches.set(Adoptions, "_kept_for", lambda self, chat_id, epoch: None)


def bucket_not_waited_for(patches: Patches) -> None:
    def bucket_raised(self: Appends, append: Any, bucket: int, error: Any) -> None:
        """Its end says nothing any more."""

    def append(self: Appends, batch: Any, done: Any) -> None:
        bucket, committed = rows.bucket_of(batch.rows[0].seq), self._committed
        is_raising = bucket > committed.bucket(batch.chat_id)
        original(self, batch, done)
        if is_raising and self.queued_rows:
            committed.raised(batch.chat_id, batch.epoch, bucket)
            self._write_rows(messages._Append(batch, done, 0.0))

    original = patches.set(Appends, "append", append)
    patches.set(Appends, "_bucket_raised", bucket_raised)


def bucket_with_the_rows(patches: Patches) -> None:
    def append(self: Appends, batch: Any, done: Any) -> None:
        bucket = rows.bucket_of(batch.rows[0].seq)
        if bucket <= self._committed.bucket(batch.chat_id):
            original(self, batch, done)
            return
        before = self._executor.write_then

        def write_then(writes: Sequence[Write], then: Any) -> None:
            self._executor.write_then = before  # type: ignore[method-assign]
            one = messages._Append(batch, done, 0.0)

            def rows_written(error: Any) -> None:
                if error is None:
                    self._committed.raised(batch.chat_id, batch.epoch, bucket)
                self._rows_written(one, error)

            before([*rows.batch_writes(batch), *writes], rows_written)

        self._executor.write_then = write_then  # type: ignore[method-assign]
        try:
            original(self, batch, done)
        finally:
            self._executor.write_then = before  # type: ignore[method-assign]

    original = patches.set(Appends, "append", append)


def bucket_not_adopted(patches: Patches) -> None:
    def begin(self: Adoptions, chat_id: int, epoch: int, tail: Any, bucket: int) -> Any:
        begun = original(self, chat_id, epoch, tail, bucket)
        begun.rows = [write for write in begun.rows if write.statement is not statements.RAISE_BUCKET]
        return begun

    original = patches.set(Adoptions, "_begin", begin)


def members_not_adopted(patches: Patches) -> None:
    async def settle(self: Adoptions, one: Any, writes: Sequence[Write], latest: float) -> None:
        await original(self, one, [] if writes is one.changes else writes, latest)

    original = patches.set(Adoptions, "_settle", settle)


def members_with_the_rows(patches: Patches) -> None:
    """In one write with them, instead of after their acknowledgement."""

    async def settle(self: Adoptions, one: Any, writes: Sequence[Write], latest: float) -> None:
        await original(self, one, [] if writes is one.changes else [*writes, *one.changes], latest)

    original = patches.set(Adoptions, "_settle", settle)


def members_not_waited_for(patches: Patches) -> None:
    def rows_written(self: Appends, append: Any, error: Any) -> None:
        changes = append.batch.changes
        if error is None and changes:
            writes = [write for change in changes for write in rows.change_writes(change)]
            self._executor.write_then(writes, partial(_ignore))
        self._end(append, error)

    patches.set(Appends, "_rows_written", rows_written)


def _ignore(error: object) -> None:
    """Nobody waits for it."""


def no_repair(patches: Patches) -> None:
    patches.set(Cluster, "repair", lambda *args: None)


RULES = (
    Rule("epoch-ts", "rows are written at their epoch, not at the worker's clock", written_by_the_clock),
    Rule("pointer-ts", "the chat's bucket is written at its own value, not at the worker's clock", bucket_by_the_clock),
    Rule("fence", "a new owner deletes what earlier ones may still write", no_fence),
    Rule("fence-next", "the fence reaches into the next bucket", no_fence_in_the_next_bucket),
    Rule("fence-ts", "the fence's time is the epoch less one", fence_at_the_epoch),
    Rule("adopt", "the last batch of the earlier owner is written again", nothing_adopted),
    Rule("adopt-ts", "what is adopted is written at the new epoch", adopted_as_it_was),
    Rule("adopt-ids", "the ids of what is adopted are written again", ids_not_adopted),
    Rule("adopt-same", "an adoption that timed out is repeated as it was", adoption_computed_anew),
    Rule("pointer", "a bucket's first batch waits until the chat's row names it at a quorum", bucket_not_waited_for),
    Rule("pointer-first", "the chat's row names a bucket before its first batch is written", bucket_with_the_rows),
    Rule("pointer-again", "an adoption writes the chat's bucket again", bucket_not_adopted),
    Rule("members", "an adoption writes again what adopted rows changed", members_not_adopted),
    Rule("members-after", "an adoption writes members after its rows were acknowledged", members_with_the_rows),
    Rule("members-first", "the next row waits for the member rows of the one before", members_not_waited_for),
    Rule("repair", "the store: a quorum read repairs, blocking, what it returns", no_repair),
)
