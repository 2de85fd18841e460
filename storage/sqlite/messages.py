"""Reading the logs: SQL on a reader's connection, each function one moment of the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gateway.protocol.identifiers import ID_LIMIT, ChatId
from storage.api import TAIL_ROWS, Head, Message, OpenedChat, SlotLost, slot_of
from storage.sqlite.chats import select_chat
from storage.sqlite.connection import snapshot
from storage.sqlite.cursors import select_chat_watermarks
from storage.sqlite.rows import pack

_COLUMNS = "chat_id, seq, prev_seq, sender_id, sender_device, time_ms, kind, body, client_msg_id, target_seq, digest"
_OLDEST = f"SELECT {_COLUMNS} FROM messages WHERE chat_id = ? AND seq > ? AND seq < ? ORDER BY seq LIMIT ?"  # noqa: S608
_NEWEST = f"SELECT {_COLUMNS} FROM messages WHERE chat_id = ? AND seq > ? AND seq < ? ORDER BY seq DESC LIMIT ?"  # noqa: S608
_SENT = (
    f"SELECT {_COLUMNS} FROM messages WHERE chat_id = ? AND sender_id = ? AND kind <> 4 AND time_ms >= ?"  # noqa: S608
    " AND client_msg_id IN "
)
_HEADS = """
SELECT m.chat_id, m.seq, m.time_ms FROM json_each(?) AS asked JOIN messages AS m
ON m.chat_id = asked.value
AND m.seq = (SELECT seq FROM messages WHERE chat_id = asked.value ORDER BY seq DESC LIMIT 1)
"""
_ID_COUNTS = (1, 4, 16, 64, 256)
"""Numbers of ids that one statement is prepared for: an odd number is filled up by repeating the last id."""


def between(connection: sqlite3.Connection, chat_id: int, after_seq: int, before_seq: int) -> list[Message]:
    return [Message._make(row) for row in connection.execute(_OLDEST, (chat_id, after_seq, before_seq, -1))]


def select_messages(
    connection: sqlite3.Connection, chat_id: ChatId, bounds: tuple[int, int], limit: int, is_newest_first: bool
) -> list[Message]:
    """``bounds``: (after_seq, before_seq), both exclusive."""
    after_seq, before_seq = bounds
    parameters = (chat_id, after_seq, min(before_seq, ID_LIMIT - 1), max(0, limit))
    return [Message._make(row) for row in connection.execute(_NEWEST if is_newest_first else _OLDEST, parameters)]


def select_sent(
    connection: sqlite3.Connection, chat_id: int, sender_id: int, ids: Sequence[bytes], oldest_ms: int
) -> list[Message]:
    found: dict[bytes, Message] = {}
    for first in range(0, len(ids), _ID_COUNTS[-1]):
        chunk = list(ids[first : first + _ID_COUNTS[-1]])
        count = next(count for count in _ID_COUNTS if count >= len(chunk))
        chunk += chunk[-1:] * (count - len(chunk))
        statement = f"{_SENT} ({', '.join('?' * count)}) ORDER BY seq"
        for row in connection.execute(statement, (chat_id, sender_id, oldest_ms, *chunk)):
            message = Message._make(row)
            found[message.client_msg_id] = message
    return list(found.values())


def select_heads(connection: sqlite3.Connection, chat_ids: Sequence[ChatId]) -> dict[ChatId, Head]:
    rows = connection.execute(_HEADS, (pack(list(chat_ids)),))
    return {chat_id: Head(seq, time_ms) for chat_id, seq, time_ms in rows}


def select_opened_chat(connection: sqlite3.Connection, chat_id: ChatId, epoch: int) -> OpenedChat | None:
    """The fence is the snapshot: once it shows ``epoch`` in the slot, no append under an earlier one commits any more, and
    those that did are in it. Nothing is ever half written here, so nothing is adopted."""
    with snapshot(connection):
        held = connection.execute("SELECT epoch FROM slots WHERE slot = ?", (slot_of(chat_id),)).fetchone()
        if held is None or held[0] != epoch:
            raise SlotLost(f"slot {slot_of(chat_id)} is not held under epoch {epoch}")
        found = select_chat(connection, chat_id)
        if found is None:
            return None
        watermarks = select_chat_watermarks(connection, chat_id)
        tail = select_messages(connection, chat_id, (0, ID_LIMIT), TAIL_ROWS, True)
    return OpenedChat(*found, watermarks, tail, ())
