"""The port's values as the tables' values, and back.

Owns the forms in which a message, a membership change, a chat and a member are stored; knows no rule of when. The functions
for messages are the hot path: two microseconds a row, of which there may be thousands a second.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway.protocol.identifiers import counter_of
from gateway.protocol.messages import Kind
from storage.api import BUCKET_BITS, Batch, Chat, Member, MembershipChange, Message, StoreConflict
from storage.scylla.ports import Write
from storage.scylla.statements import (
    PUT_CHANGING_MESSAGE,
    PUT_CHAT,
    PUT_CHAT_BY_USER,
    PUT_MEMBER,
    PUT_MESSAGE,
    PUT_RESEND,
)

NO_TARGET = -1
_PLAIN, _DEFLATED = b"\0", b"\1"
_DEFLATE_BYTES = 512
_SYSTEM = int(Kind.SYSTEM)
_HEAD = struct.Struct(">QQQQIq16s16s")
"""prev_seq, sender, device, time_ms, kind, target (or NO_TARGET), client_msg_id, digest. What a later release adds follows."""


def bucket_of(seq: int) -> int:
    return counter_of(seq) >> BUCKET_BITS


# ------------------------------------------------------------------------------------------------ messages


def batch_writes(batch: Batch) -> list[Write]:
    """A batch's rows, and the ids by which they are recognised: all under its epoch."""
    changes = _changes_by_seq(batch) if batch.changes else {}
    writes = row_writes(batch.rows, batch.base_seq, batch.epoch, changes)
    writes += resend_writes(batch.rows, batch.epoch)
    return writes


def row_writes(rows: Sequence[Message], base_seq: int, epoch: int, changes: dict[int, bytes]) -> list[Write]:
    """Rows of one bucket. ``changes``: what rows change, by seq."""
    bucket = bucket_of(rows[0].seq)
    writes = []
    for row in rows:
        chat_id, seq, prev_seq, sender_id, device, time_ms, kind, body, client_msg_id, target_seq, digest = row
        target = NO_TARGET if target_seq is None else target_seq
        head = _HEAD.pack(prev_seq, sender_id, device, time_ms, kind, target, client_msg_id, digest)
        values = (chat_id, bucket, seq, base_seq, head, body)
        if changes and seq in changes:
            writes.append(Write(PUT_CHANGING_MESSAGE, (*values, changes[seq], epoch)))
        else:
            writes.append(Write(PUT_MESSAGE, (*values, epoch)))
    return writes


def resend_writes(rows: Sequence[Message], epoch: int) -> list[Write]:
    return [
        Write(PUT_RESEND, (row.chat_id, row.sender_id, row.client_msg_id, row.seq, epoch))
        for row in rows
        if row.kind != _SYSTEM
    ]


def message_of(row: Sequence[Any]) -> Message:
    """From a row that begins with a message's columns. A body that was deleted reads as none. StoreConflict: it is no message."""
    chat_id, seq, head, body = row[:4]
    if head is None:
        raise StoreConflict(f"chat {chat_id}: row {seq} has no head")
    prev_seq, sender_id, device, time_ms, kind, target, client_msg_id, digest = _HEAD.unpack_from(head)
    target_seq = None if target == NO_TARGET else target
    place, sender = (chat_id, seq, prev_seq), (sender_id, device)
    return Message(*place, *sender, time_ms, kind, body or b"", client_msg_id, target_seq, digest)


# ------------------------------------------------------------------------------------------------- changes


def _changes_by_seq(batch: Batch) -> dict[int, bytes]:
    """Each change with the row that commits it (the one with its counter; else the batch's last)."""
    seqs = {counter_of(row.seq): row.seq for row in batch.rows}
    by_seq: dict[int, list[MembershipChange]] = {}
    for change in batch.changes:
        seq = seqs.get(change.chat.changed_counter, batch.rows[-1].seq)
        by_seq.setdefault(seq, []).append(change)
    return {seq: pack_changes(changes) for seq, changes in by_seq.items()}


def pack_changes(changes: Sequence[MembershipChange]) -> bytes:
    """Deflated from some members on: a change of 500 is 13 KB as it is and 5 KB so, beside rows that must share a request."""
    packed = msgspec.msgpack.encode(changes)
    if len(packed) < _DEFLATE_BYTES:
        return _PLAIN + packed
    return _DEFLATED + zlib.compress(packed, 1)


def unpack_changes(blob: bytes) -> list[MembershipChange]:
    packed = zlib.decompress(blob[1:]) if blob[:1] == _DEFLATED else blob[1:]
    return msgspec.msgpack.decode(packed, type=list[MembershipChange])


def change_writes(change: MembershipChange) -> list[Write]:
    return [Write(PUT_CHAT, (*change.chat, change.chat.changed_counter)), *member_writes(change)]


def member_writes(change: MembershipChange) -> list[Write]:
    """Without the chat's own row."""
    chat_id = change.chat.chat_id
    return [write for member in change.members for write in _member_writes(chat_id, member)]


def _member_writes(chat_id: int, member: Member) -> Iterator[Write]:
    user_id, role, joined_seq, left_seq, changed_counter = member
    rest = (role, joined_seq, left_seq, changed_counter, changed_counter)
    yield Write(PUT_MEMBER, (chat_id, user_id, *rest))
    yield Write(PUT_CHAT_BY_USER, (user_id, chat_id, *rest))


def chat_of(row: Sequence[Any]) -> Chat | None:
    """None: the row is but a log's bucket."""
    return None if row[1] is None else Chat._make(row[:5])
