"""Finding what a resend was before.

Owns the way from a client_msg_id to its message. A resend row alone proves nothing: its batch may have been written in part
by an owner that was overtaken, and what it names may be another message by now. So an id counts only where the message row
itself is read and carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.protocol.messages import Kind
from storage.api import Message
from storage.scylla.parallel import chunks, for_each
from storage.scylla.ports import Executor
from storage.scylla.rows import bucket_of, message_of
from storage.scylla.statements import KEYS_PER_READ, READ_MESSAGES, READ_RESENDS


async def find_sent(executor: Executor, sender: tuple[int, int], ids: Sequence[bytes], oldest_ms: int) -> list[Message]:
    """``sender``: (chat, user). Two reads one after the other, more side by side for more than 64 ids."""

    async def read_seqs(part: Sequence[bytes]) -> list[Any]:
        return await executor.read(READ_RESENDS, *sender, tuple(part))

    found = await for_each(read_seqs, chunks(list(dict.fromkeys(ids)), KEYS_PER_READ))
    named = {(seq, bytes(client_msg_id)) for rows in found for client_msg_id, seq in rows}
    messages = await read_rows(executor, sender[0], sorted({seq for seq, _ in named}))
    return [
        message
        for message in messages
        if (message.seq, message.client_msg_id) in named
        and message.sender_id == sender[1]
        and message.kind != Kind.SYSTEM
        and message.time_ms >= oldest_ms
    ]


async def read_rows(executor: Executor, chat_id: int, seqs: Sequence[int]) -> list[Message]:
    """Single rows of a log, those that there are."""
    by_bucket: dict[int, list[int]] = {}
    for seq in seqs:
        by_bucket.setdefault(bucket_of(seq), []).append(seq)
    parts = [(bucket, part) for bucket, all_ in by_bucket.items() for part in chunks(all_, KEYS_PER_READ)]

    async def read_part(part: tuple[int, Sequence[int]]) -> list[Any]:
        return await executor.read(READ_MESSAGES, chat_id, part[0], tuple(part[1]))

    return [message_of(row) for rows in await for_each(read_part, parts) for row in rows]
