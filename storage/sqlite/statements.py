"""The SQL of the store, as functions over a connection.

Owns every statement that reads or writes a row. It knows no thread and no transaction: whoever calls decides those.

Rows of messages go in by few statements with many rows each: sqlite3 gives up and takes back the interpreter's lock at
every step of a statement, and the Trio thread is busy, so a statement a row would queue for the lock once a row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from gateway.protocol.identifiers import WorkerId
from storage.api import Chat, Member, MembershipChange, Message, SlotRow, Watermark

COLUMNS = (
    "chat_id, seq, prev_seq, sender_id, sender_device, time_ms, kind, body, client_msg_id, target_seq, digest"
)
CHUNKS = (64, 16, 4, 1)
"""Rows per INSERT: a few shapes, so that each is prepared once."""

MAX_VARIABLES = 500

_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERTS = {
    size: f"INSERT INTO messages ({COLUMNS}) VALUES {', '.join([_ROW] * size)} ON CONFLICT DO NOTHING" for size in CHUNKS
}

_PUT_CHAT = """
    INSERT INTO chats (chat_id, kind, title, version, changed_counter) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (chat_id) DO UPDATE SET title = excluded.title, version = excluded.version,
        changed_counter = excluded.changed_counter WHERE excluded.changed_counter >= changed_counter"""

_PUT_MEMBER = """
    INSERT INTO members (chat_id, user_id, role, joined_seq, left_seq, changed_counter) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (chat_id, user_id) DO UPDATE SET role = excluded.role, joined_seq = excluded.joined_seq,
        left_seq = excluded.left_seq, changed_counter = excluded.changed_counter
        WHERE excluded.changed_counter >= changed_counter"""

_RAISE_WATERMARK = """
    INSERT INTO watermarks (chat_id, user_id, delivered_seq, read_seq) VALUES (?, ?, ?, ?)
    ON CONFLICT (chat_id, user_id) DO UPDATE SET delivered_seq = max(delivered_seq, excluded.delivered_seq),
        read_seq = max(read_seq, excluded.read_seq)"""

_RAISE_CURSOR = """
    INSERT INTO cursors (user_id, device_id, chat_id, seq) VALUES (?, ?, ?, ?)
    ON CONFLICT (user_id, device_id, chat_id) DO UPDATE SET seq = max(seq, excluded.seq)"""


def pieces(values: Sequence[int], size: int = MAX_VARIABLES) -> Iterator[Sequence[int]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


# ----------------------------------------------------------------------------------------------- messages


def insert_messages(connection: sqlite3.Connection, rows: Sequence[Message]) -> int:
    """Insert what is not there yet, by (chat_id, seq); returns how many rows that were."""
    before = connection.total_changes
    start = 0
    for size in CHUNKS:
        while len(rows) - start >= size:
            connection.execute(_INSERTS[size], list(chain.from_iterable(rows[start : start + size])))
            start += size
    return connection.total_changes - before


def read_messages(
    connection: sqlite3.Connection, chat_id: int, bounds: tuple[int, int], limit: int, *, is_newest_first: bool
) -> list[Message]:
    """``bounds``: after and before, both exclusive."""
    order = "DESC" if is_newest_first else "ASC"
    query = f"SELECT {COLUMNS} FROM messages WHERE chat_id = ? AND seq > ? AND seq < ? ORDER BY seq {order} LIMIT ?"
    return [Message(*row) for row in connection.execute(query, (chat_id, *bounds, limit))]


def find_sent(
    connection: sqlite3.Connection, chat_id: int, sender_id: int, ids: Sequence[bytes], since_ms: int
) -> list[Message]:
    query = f"""SELECT {COLUMNS} FROM messages WHERE chat_id = ? AND sender_id = ? AND kind <> 4
        AND client_msg_id IN ({_marks(ids)}) AND time_ms >= ?"""
    return [Message(*row) for row in connection.execute(query, (chat_id, sender_id, *ids, since_ms))]


def head(connection: sqlite3.Connection, chat_id: int) -> tuple[int, int] | None:
    query = "SELECT seq, time_ms FROM messages WHERE chat_id = ? ORDER BY seq DESC LIMIT 1"
    row: tuple[int, int] | None = connection.execute(query, (chat_id,)).fetchone()
    return row


# --------------------------------------------------------------------------------------- chats and members


def put_chat(connection: sqlite3.Connection, chat: Chat) -> None:
    connection.execute(_PUT_CHAT, chat)


def put_members(connection: sqlite3.Connection, chat_id: int, members: Iterable[Member]) -> None:
    connection.executemany(_PUT_MEMBER, [(chat_id, *member) for member in members])


def apply_change(connection: sqlite3.Connection, change: MembershipChange) -> None:
    put_chat(connection, change.chat)
    put_members(connection, change.chat.chat_id, change.members)


def read_chat(connection: sqlite3.Connection, chat_id: int) -> Chat | None:
    query = "SELECT chat_id, kind, title, version, changed_counter FROM chats WHERE chat_id = ?"
    row = connection.execute(query, (chat_id,)).fetchone()
    return Chat(*row) if row else None


def read_members(connection: sqlite3.Connection, chat_id: int) -> list[Member]:
    query = "SELECT user_id, role, joined_seq, left_seq, changed_counter FROM members WHERE chat_id = ? ORDER BY user_id"
    return [Member(*row) for row in connection.execute(query, (chat_id,))]


def read_memberships(connection: sqlite3.Connection, user_id: int) -> list[tuple[Chat, Member]]:
    query = """
        SELECT c.chat_id, c.kind, c.title, c.version, c.changed_counter,
            m.user_id, m.role, m.joined_seq, m.left_seq, m.changed_counter
        FROM members AS m JOIN chats AS c USING (chat_id) WHERE m.user_id = ? ORDER BY c.chat_id"""
    return [(Chat(*row[:5]), Member(*row[5:])) for row in connection.execute(query, (user_id,))]


# ------------------------------------------------------------------------------------------ marks and slots


def raise_watermarks(connection: sqlite3.Connection, marks: Iterable[tuple[int, Watermark]]) -> None:
    connection.executemany(_RAISE_WATERMARK, [(chat_id, *mark) for chat_id, mark in marks])


def read_watermarks(connection: sqlite3.Connection, chat_id: int) -> list[Watermark]:
    query = "SELECT user_id, delivered_seq, read_seq FROM watermarks WHERE chat_id = ? ORDER BY user_id"
    return [Watermark(*row) for row in connection.execute(query, (chat_id,))]


def read_watermarks_of(connection: sqlite3.Connection, user_id: int, chat_ids: Sequence[int]) -> dict[int, Watermark]:
    found: dict[int, Watermark] = {}
    for piece in pieces(chat_ids):
        query = f"""SELECT chat_id, user_id, delivered_seq, read_seq FROM watermarks
            WHERE chat_id IN ({_marks(piece)}) AND user_id = ?"""
        found.update((row[0], Watermark(*row[1:])) for row in connection.execute(query, (*piece, user_id)))
    return found


def raise_cursors(connection: sqlite3.Connection, cursors: Iterable[tuple[int, int, int, int]]) -> None:
    connection.executemany(_RAISE_CURSOR, list(cursors))


def set_cursors(
    connection: sqlite3.Connection, device: tuple[int, int], cursors: dict[int, int], *, is_complete: bool
) -> None:
    if is_complete:
        connection.execute("DELETE FROM cursors WHERE user_id = ? AND device_id = ?", device)
    query = "INSERT OR REPLACE INTO cursors (user_id, device_id, chat_id, seq) VALUES (?, ?, ?, ?)"
    connection.executemany(query, [(*device, chat_id, seq) for chat_id, seq in cursors.items()])


def read_cursors(connection: sqlite3.Connection, user_id: int, device_id: int) -> dict[int, int]:
    query = "SELECT chat_id, seq FROM cursors WHERE user_id = ? AND device_id = ?"
    return dict(connection.execute(query, (user_id, device_id)))


def read_slots(connection: sqlite3.Connection, slots: Sequence[int]) -> dict[int, SlotRow]:
    found: dict[int, SlotRow] = {}
    for piece in pieces(slots):
        query = f"SELECT slot, epoch, worker, incarnation, is_released FROM slots WHERE slot IN ({_marks(piece)})"
        for slot, epoch, worker, incarnation, is_released in connection.execute(query, tuple(piece)):
            found[slot] = SlotRow(epoch, WorkerId(worker), incarnation, bool(is_released))
    return found


def put_slot(connection: sqlite3.Connection, slot: int, row: SlotRow) -> None:
    query = "INSERT OR REPLACE INTO slots (slot, epoch, worker, incarnation, is_released) VALUES (?, ?, ?, ?, ?)"
    connection.execute(query, (slot, row.epoch, row.worker, row.incarnation, int(row.is_released)))
