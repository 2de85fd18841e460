"""Every op of the protocol as a type: the fields of its MessagePack array, in order.

This file owns the shapes and nothing else: no state, no I/O, no rule about who may send what when (``session.py``), no
framing (``frames.py``). Decoding checks types (a wrong one is ``malformed``); the range of a value is checked by
``validation.py`` (a bad one is ``invalid``).

Optional fields are ``None`` when absent. Unknown trailing fields are ignored, in nested arrays too.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Op(enum.IntEnum):
    HELLO = 0x01
    WELCOME = 0x02
    PING = 0x03
    PONG = 0x04
    GOAWAY = 0x05
    ERROR = 0x06
    CLOSE = 0x07
    STATE = 0x08
    THROTTLE = 0x09
    REAUTH = 0x0A
    OK = 0x0F
    SEND = 0x10
    SENT = 0x11
    MSG = 0x12
    ACK = 0x13
    READ = 0x14
    RECEIPT = 0x15
    TYPING = 0x16
    SYNC = 0x17
    SYNC_DONE = 0x18
    GAP = 0x19
    HISTORY = 0x1A
    PAGE = 0x1B
    LAGGED = 0x1C
    CHAT_OPEN = 0x20
    CHAT_CREATE = 0x21
    CHAT_CHANGE = 0x22
    CHAT_LEAVE = 0x23
    CHAT_INFO = 0x24
    CHAT_LIST = 0x25


class Kind(enum.IntEnum):
    """What a message is. 64 and above belong to the application; the rest is reserved."""

    CONTENT = 0
    EDIT = 1
    DELETE = 2
    REACTION = 3
    SYSTEM = 4
    SILENT = 5


class Event(enum.IntEnum):
    """The first field of a system message's body."""

    CREATED = 0
    ADDED = 1
    REMOVED = 2
    LEFT = 3
    PROMOTED = 4
    DEMOTED = 5
    TITLE = 6


class ChatKind(enum.IntEnum):
    DIRECT = 0
    GROUP = 1


class Role(enum.IntEnum):
    MEMBER = 0
    ADMIN = 1


class ReceiptKind(enum.IntEnum):
    DELIVERED = 0
    READ = 1


class _Body(msgspec.Struct, array_like=True, gc=False):
    pass


class Hello(_Body):
    proto: int
    auth_kind: str
    credential: Any
    """str for "jwt", bin for "resume": the other field says which, so the check is validation's."""
    device_id: int
    caps: list[str]
    keepalive_s: int | None = None
    window: int | None = None
    agent: str | None = None


class Welcome(_Body):
    proto: int
    user_id: int
    device_id: int
    session_id: int
    caps: list[str]
    keepalive_s: int
    max_frame: int
    window: int
    server_time_ms: int
    resume_token: bytes
    resumed: bool
    auth_ttl_s: int


class Empty(_Body):
    """PING, PONG, LAGGED, and an OK that carries nothing. Written as an empty body, not as an empty array."""


class Goaway(_Body):
    reason: str
    delay_min_ms: int
    delay_max_ms: int
    addresses: list[str]


class Error(_Body):
    code: int
    message: str
    retry_after_ms: int | None = None
    detail: Any = None


class Close(_Body):
    code: int
    message: str
    retry_after_ms: int | None = None


class State(_Body):
    active: bool
    keepalive_s: int | None = None


class Throttle(_Body):
    scope: str
    retry_after_ms: int


class Reauth(_Body):
    auth_kind: str
    credential: str


class Send(_Body):
    chat_id: int
    client_msg_id: bytes
    kind: int
    body: bytes
    retry: bool | None = None
    target_seq: int | None = None
    envelopes: dict[int, bytes] | None = None
    notify: int | None = None


class Sent(_Body):
    chat_id: int
    seq: int
    time_ms: int
    duplicate: bool
    prev_seq: int


class Msg(_Body):
    chat_id: int
    seq: int
    prev_seq: int
    sender_id: int
    sender_device: int
    time_ms: int
    kind: int
    body: bytes
    client_msg_id: bytes
    target_seq: int | None = None


class Cursor(_Body):
    """One pair of ACK, READ and SYNC: everything visible up to ``seq``."""

    chat_id: int
    seq: int


class Ack(_Body):
    pairs: list[Cursor]


class Read(_Body):
    pairs: list[Cursor]


class Receipt(_Body):
    chat_id: int
    kind: int
    seq: int
    user_id: int | None = None
    count: int | None = None
    sample: list[int] | None = None


class Typing(_Body):
    chat_id: int
    user_id: int
    active: bool


class Sync(_Body):
    pairs: list[Cursor] | None = None
    rest: bool | None = None
    per_chat: int | None = None
    total: int | None = None


class ChatNews(_Body):
    """An entry of SYNC_DONE."""

    chat_id: int
    head_seq: int
    read_seq: int


class SyncDone(_Body):
    chats: list[ChatNews]
    more: bool | None = None
    gone: list[int] | None = None


class Gap(_Body):
    chat_id: int
    after_seq: int
    before_seq: int


class History(_Body):
    chat_id: int
    before_seq: int | None
    after_seq: int | None
    limit: int


class Page(_Body):
    chat_id: int
    complete: bool
    messages: list[Msg]


class ChatOpen(_Body):
    peer_user_id: int


class ChatCreate(_Body):
    client_chat_id: bytes
    title: str
    user_ids: list[int]


class ChatChange(_Body):
    chat_id: int
    version: int | None = None
    add: list[int] | None = None
    remove: list[int] | None = None
    promote: list[int] | None = None
    demote: list[int] | None = None
    title: str | None = None


class ChatLeave(_Body):
    chat_id: int


class ChatInfo(_Body):
    chat_id: int


class ChatList(_Body):
    cursor: bytes | None
    limit: int


class SystemBody(_Body):
    """The MessagePack inside the body of a kind 4 message."""

    event: int
    version: int
    user_ids: list[int]
    title: str | None = None


# The fields of OK, by the request that it answers.


class StateOk(_Body):
    keepalive_s: int


class ReauthOk(_Body):
    auth_ttl_s: int


class ChatOpenOk(_Body):
    chat_id: int


class ChatCreateOk(_Body):
    chat_id: int
    version: int


class ChatChangeOk(_Body):
    version: int


class MemberEntry(_Body):
    user_id: int
    role: int
    delivered_seq: int
    read_seq: int


class ChatInfoOk(_Body):
    chat_id: int
    kind: int
    title: str
    version: int
    members: list[MemberEntry]
    head_seq: int


class ChatEntry(_Body):
    chat_id: int
    kind: int
    title: str
    version: int
    head_seq: int
    read_seq: int


class ChatListOk(_Body):
    chats: list[ChatEntry]
    next_cursor: bytes | None = None


CLIENT_OPS: Mapping[Op, type[_Body]] = {
    Op.HELLO: Hello,
    Op.PING: Empty,
    Op.PONG: Empty,
    Op.CLOSE: Close,
    Op.STATE: State,
    Op.REAUTH: Reauth,
    Op.SEND: Send,
    Op.ACK: Ack,
    Op.READ: Read,
    Op.TYPING: Typing,
    Op.SYNC: Sync,
    Op.HISTORY: History,
    Op.CHAT_OPEN: ChatOpen,
    Op.CHAT_CREATE: ChatCreate,
    Op.CHAT_CHANGE: ChatChange,
    Op.CHAT_LEAVE: ChatLeave,
    Op.CHAT_INFO: ChatInfo,
    Op.CHAT_LIST: ChatList,
}
"""What a client may send. Every other op is answered ``unknown_op``."""

SERVER_OPS: Mapping[Op, type[_Body]] = {
    Op.WELCOME: Welcome,
    Op.PING: Empty,
    Op.PONG: Empty,
    Op.GOAWAY: Goaway,
    Op.ERROR: Error,
    Op.CLOSE: Close,
    Op.THROTTLE: Throttle,
    Op.OK: Empty,
    Op.SENT: Sent,
    Op.MSG: Msg,
    Op.RECEIPT: Receipt,
    Op.TYPING: Typing,
    Op.SYNC_DONE: SyncDone,
    Op.GAP: Gap,
    Op.PAGE: Page,
    Op.LAGGED: Empty,
}
"""What a server may send. The fields of OK depend on the request: see ``OK_FIELDS``."""

OK_FIELDS: Mapping[Op, type[_Body]] = {
    Op.STATE: StateOk,
    Op.REAUTH: ReauthOk,
    Op.ACK: Empty,
    Op.READ: Empty,
    Op.TYPING: Empty,
    Op.CHAT_OPEN: ChatOpenOk,
    Op.CHAT_CREATE: ChatCreateOk,
    Op.CHAT_CHANGE: ChatChangeOk,
    Op.CHAT_LEAVE: Empty,
    Op.CHAT_INFO: ChatInfoOk,
    Op.CHAT_LIST: ChatListOk,
}
