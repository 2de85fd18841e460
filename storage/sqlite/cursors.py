"""Watermarks and cursors: SQL. Many rows travel as one JSON text."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from gateway.protocol.identifiers import ChatId, DeviceId, Seq, UserId
from storage.api import Watermark
from storage.sqlite.rows import fields, pack

_RAISE_WATERMARKS = f"""
INSERT INTO watermarks (chat_id, user_id, delivered_seq, read_seq)
SELECT {fields(0, 1, 2, 3)} FROM json_each(?) WHERE true
ON CONFLICT (chat_id, user_id) DO UPDATE SET
    delivered_seq = max(delivered_seq, excluded.delivered_seq), read_seq = max(read_seq, excluded.read_seq)
"""  # noqa: S608
_RAISE_CURSORS = f"""
INSERT INTO cursors (user_id, device_id, chat_id, seq)
SELECT {fields(0, 1, 2, 3)} FROM json_each(?) WHERE true
ON CONFLICT (user_id, device_id, chat_id) DO UPDATE SET seq = max(seq, excluded.seq)
"""  # noqa: S608
_SET_CURSORS = f"""
INSERT INTO cursors (user_id, device_id, chat_id, seq)
SELECT ?, ?, {fields(0, 1)} FROM json_each(?) WHERE true
ON CONFLICT (user_id, device_id, chat_id) DO UPDATE SET seq = excluded.seq
"""  # noqa: S608
_WATERMARKS = """
SELECT chat_id, user_id, delivered_seq, read_seq FROM watermarks
WHERE user_id = ? AND chat_id IN (SELECT value FROM json_each(?))
"""


def raise_watermarks(connection: sqlite3.Connection, marks: Sequence[tuple[ChatId, Watermark]]) -> None:
    connection.execute(_RAISE_WATERMARKS, (pack([(chat_id, *mark) for chat_id, mark in marks]),))


def select_watermarks(connection: sqlite3.Connection, user_id: int, chat_ids: Sequence[int]) -> dict[ChatId, Watermark]:
    rows = connection.execute(_WATERMARKS, (user_id, pack(list(chat_ids))))
    return {chat_id: Watermark._make(mark) for chat_id, *mark in rows}


def select_chat_watermarks(connection: sqlite3.Connection, chat_id: int) -> list[Watermark]:
    rows = connection.execute(
        "SELECT user_id, delivered_seq, read_seq FROM watermarks WHERE chat_id = ? ORDER BY user_id", (chat_id,)
    )
    return [Watermark._make(row) for row in rows]


def raise_cursors(connection: sqlite3.Connection, cursors: Sequence[tuple[UserId, DeviceId, ChatId, Seq]]) -> None:
    connection.execute(_RAISE_CURSORS, (pack(cursors),))


def set_cursors(
    connection: sqlite3.Connection, device: tuple[UserId, DeviceId], cursors: Mapping[ChatId, Seq], is_complete: bool
) -> None:
    if is_complete:
        connection.execute("DELETE FROM cursors WHERE user_id = ? AND device_id = ?", device)
    connection.execute(_SET_CURSORS, (*device, pack(list(cursors.items()))))


def select_cursors(connection: sqlite3.Connection, user_id: int, device_id: int) -> dict[ChatId, Seq]:
    return dict(
        connection.execute("SELECT chat_id, seq FROM cursors WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    )
