"""Rows and batches for the tests, and an append that waits."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from gateway.protocol.identifiers import ChatId, Epoch, UserId, WorkerId, seq_of
from storage.api import Appended, Batch, MembershipChange, Message, SlotLost, Store, StoreError, slot_of

CHAT = ChatId(0x5A17_0000_0000_2001)
LOW, HIGH = UserId(1001), UserId(1002)
ME = WorkerId(1)
INCARNATION = 7
TIME_MS = 1_700_000_000_000


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def row(
    counter: int, *, chat_id: int = CHAT, epoch: int = 1, sender_id: int = LOW, body: bytes = b"", **fields: object
) -> Message:
    """The ``counter``-th row of a chat's log; its body says so unless given. ``fields``: other columns."""
    message = Message(
        chat_id=chat_id,
        seq=seq_of(epoch, counter),
        prev_seq=seq_of(epoch, counter - 1) if counter > 1 else 0,
        sender_id=sender_id,
        sender_device=11,
        time_ms=TIME_MS + counter,
        kind=0,
        body=body or b"message %d" % counter,
        client_msg_id=id_of(counter),
        target_seq=None,
        digest=b"d" * 16,
    )
    return message._replace(**fields)  # type: ignore[arg-type]


def batch(rows: Sequence[Message], changes: Sequence[MembershipChange] = ()) -> Batch:
    return Batch(rows[0].chat_id, rows[0].seq >> 40, rows[0].prev_seq, rows, changes)


def in_conflict(store: Store, changes: Sequence[MembershipChange] = ()) -> Batch:
    """A batch that a store refuses in which row 1 is: another row 1; or, where that is not noticed, one whose seqs fall."""
    if store.terms is None:
        return batch([row(1, body=b"other"), row(2)], changes)
    return batch([row(2), row(1)], changes)


def rows_of(first: int, last: int, *, chat_id: int = CHAT, epoch: int = 1) -> list[Message]:
    return [row(counter, chat_id=chat_id, epoch=epoch) for counter in range(first, last + 1)]


async def append(store: Store, *batches: Batch) -> list[StoreError | SlotLost | None]:
    """Append batches in one step and wait for all their ends, which come in the order of the batches."""
    ends: dict[int, StoreError | SlotLost | None] = {}
    ended = trio.Event()

    def done(appended: Sequence[Appended]) -> None:
        for end in appended:
            assert id(end.batch) not in ends, "a batch ended twice"
            ends[id(end.batch)] = end.error
        if len(ends) == len(batches):
            ended.set()

    for each in batches:
        store.append(each, done)
    await ended.wait()
    return [ends[id(each)] for each in batches]


async def own(store: Store, *chat_ids: int) -> Epoch:
    """Acquire the slots of some chats, all of the same past; the new epoch."""
    slots = sorted({slot_of(chat_id) for chat_id in chat_ids or (CHAT,)})
    won = await store.acquire_slots(slots, ME, INCARNATION, await store.read_slots(slots))
    assert sorted(won) == slots
    (epoch,) = set(won.values())
    return epoch


async def log_of(store: Store, chat_id: int = CHAT) -> list[Message]:
    return await store.read_messages(
        ChatId(chat_id), after_seq=0, before_seq=1 << 62, limit=10_000, is_newest_first=False
    )
