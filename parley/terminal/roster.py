"""The list of a person's chats: titles, order, and how many messages are unread.

Pure state. Knows neither connections nor screens. Invariant: the open chat has no unread messages.

How many are unread is only known of messages that this device was told of; the server names heads, not numbers. Where a
chat has news and no number is known, ``unread`` is UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from parley import ChatKind, ChatSummary, Kind, Message

UNKNOWN = -1


@dataclass(slots=True)
class RosterEntry:
    chat_id: int
    is_direct: bool
    title: str
    head_seq: int
    read_seq: int
    peer: int | None = None
    seen_unread: int = 0
    last_ms: int = 0

    @property
    def unread(self) -> int:
        """Unread messages, or UNKNOWN when there are some."""
        if self.head_seq <= self.read_seq:
            return 0
        return self.seen_unread or UNKNOWN

    @property
    def name(self) -> str:
        if not self.is_direct:
            return self.title or f"group {self.chat_id}"
        return str(self.peer) if self.peer is not None else f"chat {self.chat_id}"


class Roster:
    def __init__(self, me: int) -> None:
        self.me = me
        self.open_chat_id: int | None = None
        self._entries: dict[int, RosterEntry] = {}

    def load(self, summaries: Iterable[ChatSummary]) -> None:
        """What the server lists, newest chat first; what is known beside it (peers, counts) stays."""
        for summary in summaries:
            entry = self._entries.setdefault(
                summary.chat_id, RosterEntry(summary.chat_id, summary.kind == ChatKind.DIRECT, summary.title, 0, 0)
            )
            entry.title = summary.title
            entry.head_seq = max(entry.head_seq, summary.head_seq)
            self.read_up_to(summary.chat_id, summary.read_seq)

    def entries(self) -> list[RosterEntry]:
        """Those with live news first, the newest of them on top; then as the server listed them."""
        return sorted(self._entries.values(), key=lambda entry: -entry.last_ms)

    def get(self, chat_id: int) -> RosterEntry | None:
        return self._entries.get(chat_id)

    def receive(self, message: Message) -> bool:
        """A message came in any chat. False: the chat is not in the list; ask the server for it."""
        entry = self._entries.get(message.chat_id)
        if entry is None:
            return False
        change = message.system_change
        if change is not None and change.title is not None:
            entry.title = change.title
        is_new = message.seq > entry.head_seq or entry.last_ms == 0
        entry.head_seq = max(entry.head_seq, message.seq)
        if is_new:
            entry.last_ms = max(entry.last_ms, message.time_ms)
        if message.chat_id == self.open_chat_id:
            entry.read_seq = max(entry.read_seq, message.seq)
        elif message.sender_id != self.me and message.kind in (Kind.CONTENT, Kind.SILENT):
            entry.seen_unread += message.seq > entry.read_seq
        return True

    def read_up_to(self, chat_id: int, seq: int) -> None:
        """This person has read the chat up to ``seq``, here or on another device."""
        entry = self._entries.get(chat_id)
        if entry is not None and seq > entry.read_seq:
            entry.read_seq = seq
            # What was seen of it lies before or after seq, and nobody counted which: unknown is the honest number.
            entry.seen_unread = 0

    def open(self, chat_id: int) -> None:
        self.open_chat_id = chat_id
        entry = self._entries.get(chat_id)
        if entry is not None:
            self.read_up_to(chat_id, entry.head_seq)

    def drop(self, chat_id: int) -> None:
        """The chat is no longer visible."""
        self._entries.pop(chat_id, None)
        if self.open_chat_id == chat_id:
            self.open_chat_id = None

    def unread_elsewhere(self) -> int:
        """How many chats beside the open one have unread messages."""
        return sum(entry.unread != 0 for entry in self._entries.values() if entry.chat_id != self.open_chat_id)
