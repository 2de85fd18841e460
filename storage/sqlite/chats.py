"""Chats and members: SQL on whichever connection it is given."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from storage.api import Chat, ChatKind, Member, Membership, MembershipChange, StoreConflict

_CHAT = "SELECT chat_id, kind, title, version, changed_counter FROM chats WHERE chat_id = ?"
_MEMBERS = """
SELECT user_id, role, joined_seq, left_seq, changed_counter FROM members WHERE chat_id = ? ORDER BY user_id
"""
_CHATS_OF = """
SELECT c.chat_id, c.kind, c.title, c.version, c.changed_counter,
       m.user_id, m.role, m.joined_seq, m.left_seq, m.changed_counter
FROM members AS m JOIN chats AS c USING (chat_id) WHERE m.user_id = ? ORDER BY c.chat_id
"""
_PUT_CHAT = """
INSERT INTO chats (chat_id, kind, title, version, changed_counter) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (chat_id) DO UPDATE SET
    kind = excluded.kind, title = excluded.title, version = excluded.version, changed_counter = excluded.changed_counter
WHERE excluded.changed_counter >= changed_counter
"""
_PUT_MEMBER = """
INSERT INTO members (chat_id, user_id, role, joined_seq, left_seq, changed_counter) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (chat_id, user_id) DO UPDATE SET
    role = excluded.role, joined_seq = excluded.joined_seq, left_seq = excluded.left_seq,
    changed_counter = excluded.changed_counter
WHERE excluded.changed_counter >= changed_counter
"""


def select_chat(connection: sqlite3.Connection, chat_id: int) -> tuple[Chat, list[Member]] | None:
    row = connection.execute(_CHAT, (chat_id,)).fetchone()
    if row is None:
        return None
    return Chat._make(row), [Member._make(member) for member in connection.execute(_MEMBERS, (chat_id,))]


def select_chats_of(connection: sqlite3.Connection, user_id: int) -> list[Membership]:
    rows = connection.execute(_CHATS_OF, (user_id,))
    return [Membership(Chat._make(row[:5]), Member._make(row[5:])) for row in rows]


def apply_change(connection: sqlite3.Connection, change: MembershipChange) -> None:
    connection.execute(_PUT_CHAT, change.chat)
    _put_members(connection, change.chat.chat_id, change.members)


def create_direct(connection: sqlite3.Connection, low: int, high: int, chat_id: int) -> int:
    row = connection.execute("SELECT chat_id FROM direct WHERE low = ? AND high = ?", (low, high)).fetchone()
    if row is not None:
        return int(row[0])
    _create(connection, Chat(chat_id, ChatKind.DIRECT, "", 1, 0), [Member(user, 0, 0, 0, 0) for user in (low, high)])
    connection.execute("INSERT INTO direct (low, high, chat_id) VALUES (?, ?, ?)", (low, high, chat_id))
    return chat_id


def create_group(
    connection: sqlite3.Connection, creator: int, client_chat_id: bytes, chat: Chat, members: Sequence[Member]
) -> Chat:
    key = (creator, client_chat_id)
    row = connection.execute("SELECT chat_id FROM created WHERE creator = ? AND client_chat_id = ?", key).fetchone()
    if row is not None:
        return Chat._make(connection.execute(_CHAT, row).fetchone())
    _create(connection, chat, members)
    connection.execute("INSERT INTO created (creator, client_chat_id, chat_id) VALUES (?, ?, ?)", (*key, chat.chat_id))
    return chat


def _create(connection: sqlite3.Connection, chat: Chat, members: Iterable[Member]) -> None:
    if connection.execute(_CHAT, (chat.chat_id,)).fetchone() is not None:
        raise StoreConflict(f"chat id {chat.chat_id} is taken")
    connection.execute(_PUT_CHAT, chat)
    _put_members(connection, chat.chat_id, members)


def _put_members(connection: sqlite3.Connection, chat_id: int, members: Iterable[Member]) -> None:
    connection.executemany(_PUT_MEMBER, [(chat_id, *member) for member in members])
