"""The store's ports: what the chat rules need of a durable store, in which order, and what they may rely on.

This file owns the value types, the errors and the written guarantees. It knows no driver and no engine. Every backend
passes one conformance suite (``tests/storage``), which is these docstrings as tests.

The rules behind it, in one paragraph. A chat hashes to a *slot*. A slot has at most one owner at a time, named by an
*epoch* that only the store gives out. Rows of a chat's log carry the epoch in their seq. ``append`` under an epoch that is
no longer the slot's stores nothing, or nothing that survives the next ``open_chat``: that is the fence, and all of the
order of a chat rests on it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from gateway.protocol.identifiers import ChatId, DeviceId, Epoch, Seq, UserId, WorkerId

SLOTS = 16_384
MAX_BATCH_ROWS = 64
MAX_BATCH_BYTES = 24_576
"""Of bodies in a batch of several rows: Cassandra refuses batches above 50 KiB, and a chat's rows must not be split. A single
row may be larger."""
BUCKET_BITS = 12
TAIL_ROWS = 65
RESEND_DAYS = 8
"""A client_msg_id is recognised at least this long (the protocol promises 7 days)."""


def slot_of(chat_id: int) -> int:
    """Chat ids are random, so their low bits are a uniform hash already."""
    return chat_id & (SLOTS - 1)


# ------------------------------------------------------------------------------------------------- errors


class StoreError(Exception):
    """A dependency's fault. ``is_unknown`` says whether the operation may have happened all the same."""

    is_unknown = True


class StoreUnavailable(StoreError):
    """Nothing was written: the disk is full, the engine refuses, the queue is at its bound. Try later."""

    is_unknown = False


class StoreTimedOut(StoreError):
    """No answer in time. The operation may have happened, or may still happen."""


class StoreConflict(StoreError):
    """Our bug: the call contradicts what is stored (a seq or a chat id used twice, with other content) or cannot be stored
    at all. Nothing of it was written, and calling again will not help: drop what is in memory and read it anew."""

    is_unknown = False


class SchemaTooNew(StoreError):
    """A later release migrated the store: this one must not touch it. Raised by ``open``; the message is one line."""

    is_unknown = False


class SlotLost(Exception):
    """The slot's epoch is not the caller's any more: somebody else owns it. Nothing of the call counts."""


# ------------------------------------------------------------------------------------------------- values


class Message(NamedTuple):
    """A row of a chat's log: immutable once it has a seq. The first ten fields are those of the protocol's MSG, in order."""

    chat_id: int
    seq: int
    prev_seq: int
    sender_id: int
    sender_device: int
    time_ms: int
    kind: int
    body: bytes
    client_msg_id: bytes
    target_seq: int | None
    digest: bytes
    """BLAKE2b-128 of all that a resend must repeat; it outlives a deleted body."""


class ChatKind(enum.IntEnum):
    DIRECT = 0
    GROUP = 1


class Member(NamedTuple):
    """``left_seq`` is 0 while the user is in the chat. Both ends are inclusive: a member sees joined_seq … left_seq."""

    user_id: int
    role: int
    joined_seq: int
    left_seq: int
    changed_counter: int
    """Counter of the system row that last changed this member (0: since creation). Orders concurrent rewrites."""


class Chat(NamedTuple):
    chat_id: int
    kind: int
    title: str
    version: int
    changed_counter: int


class Head(NamedTuple):
    """The newest row of a log."""

    seq: Seq
    time_ms: int


class Membership(NamedTuple):
    """A chat as one user's list shows it."""

    chat: Chat
    member: Member


class MembershipChange(NamedTuple):
    """What a system row changes, as the rows' new values. Writing it again is harmless (highest changed_counter wins)."""

    chat: Chat
    members: Sequence[Member]


class Batch(NamedTuple):
    """Rows of one chat that are written together: 1 … 64 rows, rising seqs of one epoch, one bucket (counter >> 12)."""

    chat_id: int
    epoch: int
    base_seq: int
    """The committed head when the batch was formed (0: none)."""
    rows: Sequence[Message]
    changes: Sequence[MembershipChange] = ()
    """Applied with or after the rows, and before the batch is acknowledged."""


class Watermark(NamedTuple):
    user_id: int
    delivered_seq: int
    read_seq: int


class OpenedChat(NamedTuple):
    chat: Chat
    members: Sequence[Member]
    """All that ever were in, left ones included."""
    watermarks: Sequence[Watermark]
    tail: Sequence[Message]
    """The newest rows, newest first, at most TAIL_ROWS: all of them committed, none of them ever to change."""
    adopted: Sequence[Message]
    """Those of ``tail`` that an earlier owner may have left half written, in its order. They count now; push them to the
    members. Named once under an epoch, whether this call or ``heads`` adopted them."""


class SlotTerms(NamedTuple):
    """What the holder of a slot must keep to where an append cannot check the epoch.

    A new owner of a slot that was not released waits ``wait_s`` from the return of its acquisition before it loads a chat.
    A holder answers nothing later than ``belief_s`` after it sent the question that confirmed its epoch last
    (``still_held``). ``wait_s`` is greater, so that whoever was overtaken is silent before the next one speaks.
    """

    wait_s: float
    belief_s: float


class SlotRow(NamedTuple):
    """Who was given a slot last. Epoch 0: nobody ever."""

    epoch: int
    worker: WorkerId
    incarnation: int
    is_released: bool


class Appended(NamedTuple):
    """The end of one ``append``: ``error`` is None when every row and change of the batch is durable."""

    batch: Batch
    error: StoreError | SlotLost | None


AppendDone = Callable[[Sequence[Appended]], None]


# -------------------------------------------------------------------------------------------------- ports


class SlotStore(Protocol):
    """Who owns which slot: the truth about it."""

    @property
    def terms(self) -> SlotTerms | None:
        """None: ``append`` and ``open_chat`` check the epoch themselves (SlotLost), and there is nothing to keep to."""
        ...

    async def acquire_slots(
        self, slots: Sequence[int], worker: WorkerId, incarnation: int, seen: Mapping[int, SlotRow]
    ) -> dict[int, Epoch]:
        """Raise the epoch of each slot by one and name (worker, incarnation) its owner.

        Atomic per slot: compare-and-set on ``seen`` (a missing slot counts as epoch 0). Returns the slots won with their
        new epochs; a slot that another took in between is absent. Not idempotent: every success raises the epoch.
        StoreTimedOut: unknown; read the rows again.
        """
        ...

    async def read_slots(self, slots: Sequence[int]) -> dict[int, SlotRow]:
        """The current rows (linearizable). A slot never acquired is absent."""
        ...

    async def still_held(self, epochs: Mapping[int, Epoch], worker: WorkerId, incarnation: int) -> set[int]:
        """Those of the slots that still name this owner under this epoch, unreleased. Cheap: asked for all slots twice a
        second. Sees every acquisition that had returned when the question was sent."""
        ...

    async def release_slots(self, epochs: Mapping[int, Epoch], worker: WorkerId, incarnation: int) -> None:
        """Mark as released what the caller still holds under these epochs; what it lost is left alone. Idempotent.

        The caller must have stopped serving the slot, for good under that epoch, before it calls.
        """
        ...


class MessageStore(Protocol):
    """The logs of the chats."""

    def append(self, batch: Batch, done: AppendDone) -> None:
        """Queue a batch; ``done`` is called on the Trio thread exactly once for it, with all batches that ended together
        for the same ``done``: in a later cycle, never from inside ``append``. It must not raise.

        Atomic: the batch's rows are visible all or none once acknowledged. Idempotent by (chat_id, seq): the same batch may
        be appended again after StoreTimedOut, and must be, until acknowledged or the slot is lost. Ordered: a caller keeps
        one batch of a chat in flight; batches of different chats share commits in any order. Durable: an acknowledged
        batch survives the loss of the process and of the power.
        Ends: None; StoreUnavailable (nothing of it is stored); StoreTimedOut (unknown); SlotLost (nothing of it survives);
        StoreConflict (our bug, nothing of it is stored). None of them touches another batch.
        Under ``terms`` neither SlotLost nor a seq used twice is noticed. What was appended under a lost epoch, acknowledged or
        not, counts for good or not at all, as the next owner's ``open_chat`` finds it, and what is appended after that is
        never read; the holder must not have told anybody. ``changes`` follow their rows, and only while this handle's own
        ``acquire_slots`` and ``still_held`` confirmed the epoch less than ``belief_s`` ago; else the batch ends in
        StoreTimedOut, and is appended again when it is confirmed.
        Bounded: beyond the backend's queue bound, and after ``close``, the batch ends in StoreUnavailable unqueued.
        """
        ...

    async def open_chat(self, chat_id: ChatId, epoch: Epoch) -> OpenedChat | None:
        """The first load of a chat under an epoch: fence what earlier owners may still write, adopt what they may have half
        written, then read. None: no such chat. Idempotent under one epoch: what a call that timed out began, the next one
        ends, and calls at the same time share. SlotLost when ``epoch`` is not the slot's; under ``terms`` only where a row
        of a later epoch shows it. The caller must have kept to ``terms``, and to one handle for all that it appends; a batch
        of its own that ended in StoreTimedOut is ended first. StoreTimedOut also where the slot is not confirmed in time.
        """
        ...

    async def read_messages(
        self, chat_id: ChatId, *, after_seq: int, before_seq: int, limit: int, is_newest_first: bool
    ) -> list[Message]:
        """Rows with after_seq < seq < before_seq (both exclusive), at most ``limit``, from the end that the direction names.

        The caller bounds ``before_seq`` by the committed head that the chat's owner named, plus one.
        """
        ...

    async def find_sent(self, chat_id: ChatId, sender_id: UserId, client_msg_ids: Sequence[bytes]) -> list[Message]:
        """The rows that these client_msg_ids of this sender became in this chat, within RESEND_DAYS, in no order.

        Absent ones are left out; system rows (kind 4) have no client_msg_id and are never found. The age of a row is its
        ``time_ms`` against the backend's clock. An id used again after that time is found as its newest row.
        """
        ...

    async def heads(self, chats: Mapping[ChatId, Epoch]) -> dict[ChatId, Head]:
        """The newest row of each log, by the epoch under which the caller owns it; a chat with an empty log is absent.

        As ``open_chat``, where the store cannot know otherwise that the row counts: it fences and adopts. What a head names
        was adopted for good, so it never goes back.
        """
        ...


class ChatStore(Protocol):
    """Chats and who is in them."""

    async def create_direct(self, low: UserId, high: UserId, chat_id: ChatId) -> ChatId:
        """The one direct chat of the two (low < high): made under ``chat_id`` if there was none, else the earlier one's id.

        Idempotent by (low, high): all callers get the same id, and none gets it before the chat is whole; one that is cut off
        leaves nothing, or what the next call completes. Both are members (role 0) from seq 0 on; the chat
        has no title, version 1 and changed_counter 0. StoreConflict: ``chat_id`` is another chat's; draw a new one.
        """
        ...

    async def create_group(self, creator: UserId, client_chat_id: bytes, chat: Chat, members: Sequence[Member]) -> Chat:
        """Make a group, or return the one that this (creator, client_chat_id) made before, as it is now.

        Idempotent by that key, and as whole as ``create_direct``. StoreConflict: ``chat.chat_id`` is another chat's; draw a
        new one.
        """
        ...

    async def read_chat(self, chat_id: ChatId) -> tuple[Chat, list[Member]] | None:
        """A chat and all who ever were in it, without any claim on the slot."""
        ...

    async def chats_of(self, user_id: UserId) -> list[Membership]:
        """Every chat that the user is or was in."""
        ...


class CursorStore(Protocol):
    """How far users and devices are. Written behind in bulk; a crash may lose the last second of it."""

    async def raise_watermarks(self, chat_id_watermarks: Sequence[tuple[ChatId, Watermark]]) -> None:
        """Fold in delivered and read marks: the highest of each wins. Atomic per row; idempotent; any order."""
        ...

    async def read_watermarks(self, user_id: UserId, chat_ids: Sequence[ChatId]) -> dict[ChatId, Watermark]:
        """One user's marks in some chats."""
        ...

    async def raise_cursors(self, cursors: Sequence[tuple[UserId, DeviceId, ChatId, Seq]]) -> None:
        """Fold in what devices have acknowledged: the highest wins. Idempotent; any order.

        Of a record that was set downward a backend may, until it passes what it was before, take the latest instead of the
        highest.
        """
        ...

    async def set_cursors(
        self, user_id: UserId, device_id: DeviceId, cursors: Mapping[ChatId, Seq], is_complete: bool
    ) -> None:
        """Set one device's record, downward too. ``is_complete``: forget the chats that are not named. Atomic, or (a record of
        some hundred chats on a replicated store) to be called again after an error, which is harmless."""
        ...

    async def read_cursors(self, user_id: UserId, device_id: DeviceId) -> dict[ChatId, Seq]:
        """One device's record."""
        ...


class StoreStatistics(NamedTuple):
    """Totals since start; histogram samples stay with the backend until ``statistics`` is read."""

    commits: int
    rows: int
    queued_rows: int
    errors: int
    commit_seconds: float
    batch_size_buckets: Mapping[float, int]
    """Rows per commit, cumulative by upper bound (``inf`` last), as Prometheus wants it."""
    commit_seconds_buckets: Mapping[float, int]
    """Time of a commit without the wait for other writers, cumulative by upper bound."""
    lock_wait_seconds: float = 0.0
    """Total time spent waiting for other writers of the same store."""


class Store(SlotStore, MessageStore, ChatStore, CursorStore, Protocol):
    """Everything durable. Made by the composition root, opened and closed once by the worker that uses it."""

    async def open(self) -> None:
        """Connect, migrate forward if needed (safe with many workers starting at once), start threads."""
        ...

    async def close(self) -> None:
        """End in-flight appends (each ``done`` is called), then let go of everything. Idempotent."""
        ...

    def statistics(self) -> StoreStatistics: ...
