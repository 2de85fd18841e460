"""What ``Client.events`` yields, as types for ``match``.

This file owns the vocabulary. Three families: the log (MessageReceived, MessageSent, GapSkipped), in seq order per
chat, each once, never lost while the application goes on reading; hints (ReceiptChanged, TypingChanged), which may be
lost when the application is slow, since a later one or ``Client.chat`` repeats what they said; and the connection's
news.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from parley.model import ChatNews, Message


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """The next message of a chat, by somebody else or by the system."""

    message: Message


@dataclass(frozen=True, slots=True)
class MessageSent:
    """The next message of a chat is your own: sent here, or on another device of yours."""

    message: Message


@dataclass(frozen=True, slots=True)
class GapSkipped:
    """Messages between the two seqs (exclusive) exist and will not come as events: ``Client.history`` has them.

    Only with ``Options(fill_gaps=False)``.
    """

    chat_id: int
    after_seq: int
    before_seq: int


@dataclass(frozen=True, slots=True)
class ReceiptChanged:
    """Everything in the chat up to ``seq`` was delivered to, or read by, somebody (``kind``: a ReceiptKind).

    ``user_id`` is yours: another device of yours has read the chat. ``count`` and ``sample`` describe large groups.
    """

    chat_id: int
    kind: int
    seq: int
    user_id: int | None = None
    count: int | None = None
    sample: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TypingChanged:
    """Somebody types, or stopped. Typing that is not repeated lapses after 10 s: the application's clock decides."""

    chat_id: int
    user_id: int
    is_active: bool


@dataclass(frozen=True, slots=True)
class Connected:
    """A session began. What was missed is on its way; ``Synced`` follows when it was all requested."""

    user_id: int
    device_id: int
    session_id: int
    is_resumed: bool


@dataclass(frozen=True, slots=True)
class Synced:
    """The server has told everything up to now. ``chats``: those with news; ``gone``: chats no longer visible to you."""

    chats: tuple[ChatNews, ...]
    gone: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session ended, or an attempt failed; the next one comes by itself in ``retry_in_s`` seconds.

    ``code`` is the server's, or None if it gave none (a lost connection).
    """

    code: int | None
    reason: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Throttled:
    """The server asked for patience. The client heeds it by itself; a user interface may want to say so."""

    scope: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class GoingAway:
    """The server will leave; the client moves in ``moves_in_s`` seconds and serves until then."""

    reason: str
    moves_in_s: float


@dataclass(frozen=True, slots=True)
class StayedAway:
    """The client will not reconnect by itself: another session took this device's place (203), or no version of the
    protocol is shared (104), or the server keeps finding fault with this client. ``Client.reconnect`` tries again.
    """

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class SignedOut:
    """The last event: the server no longer takes this device's credentials, and there is no source of new ones."""

    code: int
    reason: str


LogEvent: TypeAlias = MessageReceived | MessageSent | GapSkipped
HintEvent: TypeAlias = ReceiptChanged | TypingChanged
ConnectionEvent: TypeAlias = Connected | Synced | Disconnected | Throttled | GoingAway | StayedAway | SignedOut
ClientEvent: TypeAlias = LogEvent | HintEvent | ConnectionEvent
