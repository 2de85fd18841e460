"""What an application sees of chats and messages: immutable values, free of the wire.

This file owns their shapes. It must not know connections, queues or stores. Ids, seqs and times are integers as the
protocol has them: a seq orders the messages of one chat and means nothing else; times are milliseconds since the Unix
epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.protocol import frames
from gateway.protocol.errors import ProtocolError
from gateway.protocol.messages import ChatEntry, ChatKind, Event, Kind, Msg, ReceiptKind, Role, SystemBody

__all__ = [
    "Chat",
    "ChatKind",
    "ChatNews",
    "ChatSummary",
    "Event",
    "Kind",
    "Member",
    "Message",
    "ReceiptKind",
    "Role",
    "Sent",
    "SystemChange",
]


@dataclass(frozen=True, slots=True)
class SystemChange:
    """What a message of kind SYSTEM tells: who was added, removed, promoted, or the new title."""

    event: int
    version: int
    user_ids: tuple[int, ...]
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One row of a chat's log. ``body`` is the application's bytes, for kinds 0 to 3 and 5 mostly UTF-8 text."""

    chat_id: int
    seq: int
    sender_id: int
    sender_device: int
    time_ms: int
    kind: int
    body: bytes
    client_msg_id: bytes
    target_seq: int | None = None

    @property
    def text(self) -> str:
        """``body`` as UTF-8; what is not UTF-8 in it shows as U+FFFD."""
        return self.body.decode("utf-8", "replace")

    @property
    def system_change(self) -> SystemChange | None:
        """The membership or title change that this message is, if it is one that this version can read."""
        if self.kind != Kind.SYSTEM:
            return None
        try:
            body = frames.decode(SystemBody, self.body)
        except ProtocolError:
            return None  # a later server's event: the protocol has clients keep it raw
        return SystemChange(body.event, body.version, tuple(body.user_ids), body.title)

    @classmethod
    def from_wire(cls, msg: Msg) -> Message:
        return cls(
            msg.chat_id,
            msg.seq,
            msg.sender_id,
            msg.sender_device,
            msg.time_ms,
            msg.kind,
            msg.body,
            msg.client_msg_id,
            msg.target_seq,
        )


@dataclass(frozen=True, slots=True)
class Sent:
    """The server's word that a message is durable. ``is_duplicate``: an earlier attempt had already stored it."""

    chat_id: int
    seq: int
    time_ms: int
    is_duplicate: bool
    client_msg_id: bytes


@dataclass(frozen=True, slots=True)
class Member:
    user_id: int
    role: int
    delivered_seq: int
    read_seq: int

    @property
    def is_admin(self) -> bool:
        return self.role == Role.ADMIN


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat as ``Client.chat`` describes it. ``title`` is empty for a direct chat; ``version`` guards changes."""

    chat_id: int
    kind: int
    title: str
    version: int
    members: tuple[Member, ...]
    head_seq: int


@dataclass(frozen=True, slots=True)
class ChatSummary:
    """A line of the list of chats; ``read_seq`` is how far this user has read."""

    chat_id: int
    kind: int
    title: str
    version: int
    head_seq: int
    read_seq: int

    @classmethod
    def from_wire(cls, entry: ChatEntry) -> ChatSummary:
        return cls(entry.chat_id, entry.kind, entry.title, entry.version, entry.head_seq, entry.read_seq)


@dataclass(frozen=True, slots=True)
class ChatNews:
    """A chat in which something happened since this device's cursor."""

    chat_id: int
    head_seq: int
    read_seq: int
