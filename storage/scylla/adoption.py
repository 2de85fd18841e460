"""The first look at a chat under an epoch: what earlier owners left is adopted, what they may still write is dead.

Theory of operation
===================

An owner appends without asking whether it still is one. So when another takes over, three kinds of rows may be about that the
new owner has not written: rows that a quorum has (committed; somebody may have been told), rows that fewer replicas have (their
owner died or was overtaken before it knew), and rows that are on their way and arrive when they please. Reading tells the
first kind from the other two only in part: a row that a read shows may be of the first or the second kind, and a row that it
does not show is of the second or the third.

The write times settle it. Every row is written USING TIMESTAMP its epoch, and of a row and a tombstone of the same time the
tombstone wins.

The fence. Let (e, c) be the newest row that a quorum read shows, under an epoch e below ours, f. All that the earlier owners
may have written beyond it lies between (e, c) and (f, 0), and has a timestamp below f. So one range delete of that range
USING TIMESTAMP f - 1 buries it, what is stored and what arrives later alike, in this bucket and in the next (a batch stays in
its bucket, and the next one may have been begun). It cannot touch our own rows, which begin at (f, 1). A delete of an owner
between e and f that arrives late, or on one replica alone, cannot touch what we adopt either: its time is below f.

The adoption. The rows up to (e, c) count, but the newest of them may be on a minority, and would come and go with the replicas
that are asked. Each row carries ``base_seq``, the head that was committed when its batch was formed: the rows beyond the newest
row's base are its batch, and only they can be in doubt. They are written again, with their resend ids, USING TIMESTAMP f, until
a quorum acknowledged. Then, and only then, what their system rows change is written again too: members must not know of a row
that may still be buried by somebody else. For the same reason each of the two writes asks whether the slot is still believed in,
before it and after it.

Same as it was. An adoption that timed out has happened in part, and a replica may show it to the next read: a smaller or a
larger batch than the one that was adopted. So it is never computed anew; it is kept, by chat, and the next call under the
same epoch repeats it. What is kept is bounded; beyond that no new adoption is begun (StoreUnavailable). A worker that dies
forgets it, and comes back under a later epoch.

Whole. A read repairs the replicas that it asked, and just for the rows that it returns. A read of the newest row alone could
so leave that one row of a batch on a replica; the next owner, reading there, would adopt a batch with a hole. Hence the tail
is read in one piece (``TAIL_ROWS``: a batch and a row), also where a head is all that is asked for, and nothing else ever reads
beyond the committed head.

The bucket of the chat's row is read at a quorum like everything else, but the row that it came from may have been half written:
the adoption writes it again.

Once a chat and epoch: what was done is remembered in ``CommittedHeads``. Doing it twice is harmless: the delete ends below our
own rows, and the rows are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import trio

from gateway.protocol.identifiers import Seq, epoch_of, seq_of
from storage.api import (
    TAIL_ROWS,
    Chat,
    Head,
    Message,
    SlotLost,
    StoreConflict,
    StoreError,
    StoreTimedOut,
    StoreUnavailable,
    slot_of,
)
from storage.scylla.committed import NO_HEAD, CommittedHeads, Known
from storage.scylla.ports import Executor, Write
from storage.scylla.rows import (
    bucket_of,
    change_writes,
    chat_of,
    message_of,
    resend_writes,
    row_writes,
    unpack_changes,
)
from storage.scylla.statements import FENCE, RAISE_BUCKET, READ_CHAT, READ_TAIL

ADOPTION_S = 5.0
"""How long one call goes on trying; the next call goes on where it stopped."""
AGAIN_S = 0.1
KEPT_MAX = 4_096
"""At most 24 KiB of bodies each."""


class Tail(NamedTuple):
    """The newest rows of a log, newest first, with what only an adoption needs."""

    rows: list[Message]
    base_seq: int
    """Of the newest row."""
    changes: dict[int, bytes]

    @property
    def last(self) -> Head:
        return Head(Seq(self.rows[0].seq), self.rows[0].time_ms) if self.rows else NO_HEAD


class Loaded(NamedTuple):
    chat: Chat | None
    """As it was before anything was adopted."""
    tail: Sequence[Message]
    head: Head
    """Committed; seq 0: an empty log."""
    has_changes: bool
    """Something adopted changed the chat or its members."""


@dataclass
class Adoption:
    chat_id: int
    epoch: int
    last: Head
    base_seq: int
    bucket: int
    rows: list[Write]
    changes: list[Write]
    is_written: bool = False
    """The rows are; the changes may not be yet."""


class Adoptions:
    """``is_doubtful(slot, epoch)``: the slot may be another's by now."""

    def __init__(
        self,
        executor: Executor,
        committed: CommittedHeads,
        is_doubtful: Callable[[int, int], bool],
        kept_max: int = KEPT_MAX,
    ) -> None:
        self._executor = executor
        self._committed = committed
        self._is_doubtful = is_doubtful
        self._kept_max = kept_max
        self._kept: dict[int, Adoption] = {}

    async def load(self, chat_id: int, epoch: int) -> Loaded:
        """Raises SlotLost where a later owner wrote, and StoreError."""
        kept = self._kept_for(chat_id, epoch)
        if kept is not None:
            await self._carry_out(kept)
        row = await self._chat_row(chat_id)
        chat = chat_of(row) if row is not None else None
        bucket = (row[5] or 0) if row is not None else 0
        tail = await self._tail(chat_id, bucket)
        if chat is None and not tail.rows:
            return Loaded(None, (), NO_HEAD, False)  # nobody ever owned it, and nothing need be fenced
        if epoch_of(tail.last.seq) > epoch:
            raise SlotLost(f"chat {chat_id} has a row under epoch {epoch_of(tail.last.seq)}, above {epoch}")
        adoption, head = kept, tail.last
        if adoption is None and epoch_of(tail.last.seq) < epoch and not self._committed.known(chat_id, epoch):
            adoption = self._begin(chat_id, epoch, tail, bucket)
            await self._carry_out(adoption)
        elif adoption is None:
            head = self._head(chat_id, epoch, tail)
            self._committed.fenced(chat_id, Known(epoch, head, bucket))
        return Loaded(chat, tail.rows, head, bool(adoption and adoption.changes))

    def forget_slots(self, lost: Mapping[int, int]) -> None:
        """By slot, the epoch that is over."""
        for chat_id, adoption in list(self._kept.items()):
            if adoption.epoch <= lost.get(slot_of(chat_id), -1):
                del self._kept[chat_id]

    # ------------------------------------------------------------------------------------------------ reading

    async def _chat_row(self, chat_id: int) -> Sequence[Any] | None:
        rows = await self._executor.read(READ_CHAT, chat_id)
        return rows[0] if rows else None

    async def _tail(self, chat_id: int, bucket: int) -> Tail:
        rows: list[Any] = await self._executor.read(READ_TAIL, chat_id, bucket, TAIL_ROWS)
        if len(rows) < TAIL_ROWS and bucket > 0:
            # Empty: the bucket was announced and not begun. Else the rest is for whoever remembers what was sent; it is
            # committed, since a batch lies in one bucket.
            rows += await self._executor.read(READ_TAIL, chat_id, bucket - 1, TAIL_ROWS)
        rows = rows[:TAIL_ROWS]
        changes = {row[1]: row[-1] for row in rows if row[-1]}
        base_seq = rows[0][-2] if rows else 0
        if base_seq is None:
            raise StoreConflict(f"chat {chat_id}: row {rows[0][1]} does not say what was committed before it")
        return Tail([message_of(row) for row in rows], base_seq, changes)

    def _head(self, chat_id: int, epoch: int, tail: Tail) -> Head:
        """The newest row, unless this worker's own append of it has not ended: then the newest before that."""
        unfinished = self._committed.unfinished(chat_id, epoch)
        if unfinished is None:
            return tail.last
        committed = (row for row in tail.rows if row.seq <= unfinished.base_seq)
        return next((Head(Seq(row.seq), row.time_ms) for row in committed), NO_HEAD)

    # ----------------------------------------------------------------------------------------------- adopting

    def _kept_for(self, chat_id: int, epoch: int) -> Adoption | None:
        kept = self._kept.get(chat_id)
        if kept is not None and kept.epoch > epoch:
            raise SlotLost(f"chat {chat_id} was opened under epoch {kept.epoch}, above {epoch}")
        return kept if kept is not None and kept.epoch == epoch else None

    def _begin(self, chat_id: int, epoch: int, tail: Tail, bucket: int) -> Adoption:
        if chat_id not in self._kept and len(self._kept) >= self._kept_max:
            raise StoreUnavailable("too many chats wait for the store to take what was adopted")
        adopted = [row for row in tail.rows if row.seq > tail.base_seq][::-1]
        blobs = {row.seq: tail.changes[row.seq] for row in adopted if row.seq in tail.changes}
        last = tail.last
        bucket = max(bucket, bucket_of(last.seq))
        rows = row_writes(adopted, tail.base_seq, epoch, blobs) if adopted else []
        rows += _fence(chat_id, epoch, last.seq)
        rows += resend_writes(adopted, epoch)
        if bucket:
            rows.append(Write(RAISE_BUCKET, (chat_id, bucket, bucket)))
        changes = [w for blob in blobs.values() for change in unpack_changes(blob) for w in change_writes(change)]
        adoption = Adoption(chat_id, epoch, last, tail.base_seq, bucket, rows, changes)
        self._kept[chat_id] = adoption
        return adoption

    async def _carry_out(self, adoption: Adoption) -> None:
        latest = trio.current_time() + ADOPTION_S
        if not adoption.is_written:
            await self._settle(adoption, adoption.rows, latest)
            adoption.is_written = True
        if adoption.changes:
            await self._settle(adoption, adoption.changes, latest)
        untold = (adoption.base_seq, adoption.last.seq)
        self._committed.fenced(adoption.chat_id, Known(adoption.epoch, adoption.last, adoption.bucket, untold))
        if self._kept.get(adoption.chat_id) is adoption:
            del self._kept[adoption.chat_id]

    async def _settle(self, adoption: Adoption, writes: Sequence[Write], latest: float) -> None:
        """Write the same until a quorum has it while the slot is believed to be ours. Nothing to write is written at once."""
        slot, epoch = slot_of(adoption.chat_id), adoption.epoch
        is_written = not writes
        failure: StoreError = StoreTimedOut(f"slot {slot} is not confirmed under epoch {epoch}")
        while True:
            if not self._is_doubtful(slot, epoch):
                if is_written:
                    return
                try:
                    await self._executor.write(writes)
                except StoreConflict:
                    raise
                except StoreError as error:
                    failure = error
                else:
                    is_written = True
                    continue
            if trio.current_time() >= latest:
                raise StoreTimedOut(f"chat {adoption.chat_id} could not be taken over in time: {failure}")
            await trio.sleep(AGAIN_S)


def _fence(chat_id: int, epoch: int, last_seq: int) -> list[Write]:
    """Under the first epoch there is nobody to fence."""
    if epoch <= 1:
        return []
    bucket, end = bucket_of(last_seq), seq_of(epoch, 0)
    return [Write(FENCE, (epoch - 1, chat_id, at, last_seq, end)) for at in (bucket, bucket + 1)]
