"""Every statement that the tables use, by name.

Owns the CQL and the order of its values; knows no rule of when to send what. A driver prepares ``STATEMENTS`` once; an engine
that is simulated interprets them by ``name``.

Invariants: a write is an INSERT, UPDATE or DELETE that may be executed late and again, and its timestamp is a value of it
(the last one of an INSERT, the first of a DELETE); conditional statements carry none and go through ``decide`` alone. No
null is ever written: what a column does not have is left out or has a value of its own.
"""

# ruff: noqa: S608 - the parts of a statement are constants of this file

from __future__ import annotations

from storage.api import RESEND_DAYS
from storage.scylla.ports import Statement

SLOTS_PER_PART = 64

KEYS_PER_READ = 64
"""Of one ``IN ?``. ScyllaDB refuses more than 100 as it comes; more keys are more requests, side by side."""

# --------------------------------------------------------------------------------------------------- slots

CLAIM_NEW_SLOT = Statement(
    "claim_new_slot",
    "INSERT INTO slots (part, slot, epoch, worker, incarnation, is_released) VALUES (?, ?, ?, ?, ?, false) IF NOT EXISTS",
)
CLAIM_SLOT = Statement(
    "claim_slot",
    "UPDATE slots SET epoch = ?, worker = ?, incarnation = ?, is_released = false WHERE part = ? AND slot = ?"
    " IF epoch = ? AND worker = ? AND incarnation = ? AND is_released = ?",
    key=(3,),
)
RELEASE_SLOT = Statement(
    "release_slot",
    "UPDATE slots SET is_released = true WHERE part = ? AND slot = ? IF epoch = ? AND worker = ? AND incarnation = ?",
)
MARK_PART = Statement("mark_part", "UPDATE slots SET changed = ? WHERE part = ?", key=(1,))
"""Without a condition of its own: it goes with the conditional statements of its partition, and counts if they do."""
READ_SLOTS = Statement(
    "read_slots", "SELECT slot, epoch, worker, incarnation, is_released, changed FROM slots WHERE part = ?"
)
READ_CHANGED = Statement("read_changed", "SELECT DISTINCT part, changed FROM slots WHERE part IN ?", key=())

# ------------------------------------------------------------------------------------------------ messages

_MESSAGE = "chat_id, seq, head, body"

PUT_MESSAGE = Statement(
    "put_message",
    "INSERT INTO messages (chat_id, bucket, seq, base_seq, head, body) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
    key=(0, 1),
)
PUT_CHANGING_MESSAGE = Statement(
    "put_changing_message",
    "INSERT INTO messages (chat_id, bucket, seq, base_seq, head, body, changes) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " USING TIMESTAMP ?",
    key=(0, 1),
)
"""A message row with what it changes of the chat and its members."""
PUT_RESEND = Statement(
    "put_resend",
    "INSERT INTO resends (chat_id, sender_id, client_msg_id, seq) VALUES (?, ?, ?, ?)"
    f" USING TTL {RESEND_DAYS * 86_400} AND TIMESTAMP ?",
    key=(0, 1),
)
FENCE = Statement(
    "fence",
    "DELETE FROM messages USING TIMESTAMP ? WHERE chat_id = ? AND bucket = ? AND seq > ? AND seq < ?",
    key=(1, 2),
)
RAISE_BUCKET = Statement("raise_bucket", "INSERT INTO chats (chat_id, bucket) VALUES (?, ?) USING TIMESTAMP ?")
READ_TAIL = Statement(
    "read_tail",
    f"SELECT {_MESSAGE}, base_seq, changes FROM messages WHERE chat_id = ? AND bucket = ? ORDER BY seq DESC LIMIT ?",
    key=(0, 1),
)
"""Never with a smaller limit than a whole batch and one row more: a read repairs just the rows that it returns, and a batch of
which another replica got one row alone could not be adopted whole any more."""
READ_NEWEST = Statement(
    "read_newest",
    f"SELECT {_MESSAGE} FROM messages WHERE chat_id = ? AND bucket = ? AND seq > ? AND seq < ?"
    " ORDER BY seq DESC LIMIT ?",
    key=(0, 1),
    is_shared=True,
)
"""Shared, as READ_OLDEST: whoever asks with these bounds knows that all rows within them were committed before."""
READ_OLDEST = Statement(
    "read_oldest",
    f"SELECT {_MESSAGE} FROM messages WHERE chat_id = ? AND bucket = ? AND seq > ? AND seq < ?"
    " ORDER BY seq ASC LIMIT ?",
    key=(0, 1),
    is_shared=True,
)
READ_MESSAGES = Statement(
    "read_messages", f"SELECT {_MESSAGE} FROM messages WHERE chat_id = ? AND bucket = ? AND seq IN ?", key=(0, 1)
)
READ_RESENDS = Statement(
    "read_resends",
    "SELECT client_msg_id, seq FROM resends WHERE chat_id = ? AND sender_id = ? AND client_msg_id IN ?",
    key=(0, 1),
)

# --------------------------------------------------------------------------------------------------- chats

_CHAT = "chat_id, kind, title, version, changed_counter, bucket"
_MEMBER = "role, joined_seq, left_seq, changed_counter"

PUT_CHAT = Statement(
    "put_chat",
    "INSERT INTO chats (chat_id, kind, title, version, changed_counter) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
)
PUT_MEMBER = Statement(
    "put_member", f"INSERT INTO members (chat_id, user_id, {_MEMBER}) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
PUT_CHAT_BY_USER = Statement(
    "put_chat_by_user",
    f"INSERT INTO chats_by_user (user_id, chat_id, {_MEMBER}) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
)
READ_CHAT = Statement("read_chat", f"SELECT {_CHAT} FROM chats WHERE chat_id = ?")
READ_CHATS = Statement("read_chats", f"SELECT {_CHAT} FROM chats WHERE chat_id IN ?", key=())
READ_MEMBERS = Statement("read_members", f"SELECT user_id, {_MEMBER} FROM members WHERE chat_id = ?")
READ_CHATS_BY_USER = Statement("read_chats_by_user", f"SELECT chat_id, {_MEMBER} FROM chats_by_user WHERE user_id = ?")
FOUND_DIRECT = Statement(
    "found_direct", "INSERT INTO direct (low, high, chat_id) VALUES (?, ?, ?) IF NOT EXISTS", key=(0, 1)
)
READ_DIRECT = Statement("read_direct", "SELECT chat_id FROM direct WHERE low = ? AND high = ?", key=(0, 1))
FOUND_GROUP = Statement(
    "found_group",
    "INSERT INTO created (creator, client_chat_id, chat_id, content) VALUES (?, ?, ?, ?) IF NOT EXISTS",
    key=(0, 1),
)
READ_CREATED = Statement(
    "read_created", "SELECT chat_id, content FROM created WHERE creator = ? AND client_chat_id = ?", key=(0, 1)
)

# ------------------------------------------------------------------------------------- watermarks, cursors

RAISE_DELIVERED = Statement(
    "raise_delivered", "INSERT INTO watermarks (chat_id, user_id, delivered_seq) VALUES (?, ?, ?) USING TIMESTAMP ?"
)
RAISE_READ = Statement(
    "raise_read", "INSERT INTO watermarks (chat_id, user_id, read_seq) VALUES (?, ?, ?) USING TIMESTAMP ?"
)
READ_CHAT_WATERMARKS = Statement(
    "read_chat_watermarks", "SELECT chat_id, user_id, delivered_seq, read_seq FROM watermarks WHERE chat_id = ?"
)
READ_USER_WATERMARKS = Statement(
    "read_user_watermarks",
    "SELECT chat_id, user_id, delivered_seq, read_seq FROM watermarks WHERE chat_id IN ? AND user_id = ?",
    key=(),
)
RAISE_CURSOR = Statement(
    "raise_cursor",
    "INSERT INTO cursors (user_id, device_id, chat_id, raised_seq) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    key=(0, 1),
)
PUT_RECENT_CURSOR = Statement(
    "put_recent_cursor",
    "INSERT INTO cursors (user_id, device_id, chat_id, recent_seq, recent_us) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
    key=(0, 1),
)
SET_CURSOR = Statement(
    "set_cursor",
    "INSERT INTO cursors (user_id, device_id, chat_id, set_seq, set_over, set_us) VALUES (?, ?, ?, ?, ?, ?)"
    " USING TIMESTAMP ?",
    key=(0, 1),
)
READ_CURSORS = Statement(
    "read_cursors",
    "SELECT chat_id, raised_seq, recent_seq, recent_us, set_seq, set_over, set_us FROM cursors"
    " WHERE user_id = ? AND device_id = ?",
    key=(0, 1),
)

STATEMENTS = (
    *(CLAIM_NEW_SLOT, CLAIM_SLOT, RELEASE_SLOT, MARK_PART, READ_SLOTS, READ_CHANGED),
    *(PUT_MESSAGE, PUT_CHANGING_MESSAGE, PUT_RESEND, FENCE, RAISE_BUCKET),
    *(READ_TAIL, READ_NEWEST, READ_OLDEST, READ_MESSAGES, READ_RESENDS),
    *(PUT_CHAT, PUT_MEMBER, PUT_CHAT_BY_USER, READ_CHAT, READ_CHATS, READ_MEMBERS, READ_CHATS_BY_USER),
    *(FOUND_DIRECT, READ_DIRECT, FOUND_GROUP, READ_CREATED),
    *(RAISE_DELIVERED, RAISE_READ, READ_CHAT_WATERMARKS, READ_USER_WATERMARKS),
    *(RAISE_CURSOR, PUT_RECENT_CURSOR, SET_CURSOR, READ_CURSORS),
)
"""All of them."""
