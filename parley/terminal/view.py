"""The open chat as a person sees it: its messages in order, their marks, who is typing.

Pure state: told what came, asked what to show; times are given by the caller. Knows neither connections nor screens.
Invariant: ``posts`` rise in seq, each seq once; a message of one's own is either pending or a post, never both.
"""

from __future__ import annotations

import enum
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from parley import Chat, ChatKind, Event, Kind, Message, ReceiptKind

TYPING_LAPSES_S = 10.0
MAX_POSTS = 20_000
"""A view stops paging back here, so that a long evening of scrolling has an end in memory."""

FIRST_APPLICATION_KIND = 64


class Mark(enum.Enum):
    """How far a message of one's own has come."""

    PENDING = enum.auto()
    FAILED = enum.auto()
    SENT = enum.auto()
    DELIVERED = enum.auto()
    READ = enum.auto()


@dataclass(slots=True)
class Post:
    """A message on show. ``seq`` 0: not durable yet. ``is_notice``: nobody's words (membership, an imported system
    line).
    """

    seq: int
    sender_id: int
    time_ms: int
    text: str
    client_msg_id: bytes
    is_notice: bool = False
    is_edited: bool = False
    is_deleted: bool = False
    failure: str = ""
    reactions: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Progress:
    delivered_seq: int = 0
    read_seq: int = 0


class ChatView:
    """``version`` changes whenever the posts or their marks do: what is drawn may be kept until then."""

    def __init__(self, chat: Chat, me: int) -> None:
        self.chat_id = chat.chat_id
        self.is_direct = chat.kind == ChatKind.DIRECT
        self.title = chat.title
        self.me = me
        self.posts: list[Post] = []
        self.pending: dict[bytes, Post] = {}
        self.is_complete = False
        self.version = 0
        self._progress = {member.user_id: _Progress(member.delivered_seq, member.read_seq) for member in chat.members}
        self._typing: dict[int, float] = {}
        self._amendments: dict[int, list[Message]] = {}

    @property
    def members(self) -> list[int]:
        return sorted(self._progress)

    @property
    def peer(self) -> int | None:
        """The other one of a direct chat."""
        return next((user for user in self._progress if user != self.me), None) if self.is_direct else None

    @property
    def oldest_seq(self) -> int | None:
        return self.posts[0].seq if self.posts else None

    @property
    def newest_seq(self) -> int:
        return self.posts[-1].seq if self.posts else 0

    @property
    def is_full(self) -> bool:
        return len(self.posts) >= MAX_POSTS

    def shown(self) -> Iterable[Post]:
        """Every post from the oldest on, one's own that wait last."""
        yield from self.posts
        yield from self.pending.values()

    # What came

    def add(self, message: Message) -> None:
        """A message of this chat, pushed or read back, in any order; a repeated one changes nothing."""
        self._typing.pop(message.sender_id, None)
        if message.target_seq is not None and message.kind in (Kind.EDIT, Kind.DELETE, Kind.REACTION):
            self._amend(message.target_seq, message)
            return
        change = message.system_change
        if change is not None:
            self._apply_change(change.event, change.user_ids, message.sender_id, change.title)
        if message.sender_id == self.me:
            self.pending.pop(message.client_msg_id, None)
        if self._find(message.seq) is None:
            insort(self.posts, self._post_of(message), key=_seq_of)
            for amendment in self._amendments.pop(message.seq, ()):
                self._amend(message.seq, amendment)
            self._trim()
        self.version += 1

    def add_page(self, messages: Sequence[Message], *, is_complete: bool) -> None:
        """Older messages, read back. ``is_complete``: there are none before them."""
        for message in sorted(messages, key=_seq_of):
            # Membership is known as it is now; an old change must not be applied on top of it.
            if message.kind == Kind.SYSTEM and self._find(message.seq) is None:
                insort(self.posts, self._post_of(message), key=_seq_of)
            else:
                self.add(message)
        self.is_complete = self.is_complete or is_complete
        self.version += 1

    def queue(self, client_msg_id: bytes, text: str, time_ms: int) -> None:
        """A message of one's own is on its way."""
        self.pending[client_msg_id] = Post(0, self.me, time_ms, text, client_msg_id)
        self.version += 1

    def fail(self, client_msg_id: bytes, reason: str) -> None:
        """It was refused; it stays on show, marked."""
        if client_msg_id in self.pending:
            self.pending[client_msg_id].failure = reason
            self.version += 1

    def receive_receipt(self, user_id: int, kind: int, seq: int) -> None:
        """Somebody received or read everything up to ``seq``."""
        progress = self._progress.setdefault(user_id, _Progress())
        progress.delivered_seq = max(progress.delivered_seq, seq)
        if kind == ReceiptKind.READ:
            progress.read_seq = max(progress.read_seq, seq)
        self.version += 1

    def set_typing(self, user_id: int, is_active: bool, now_s: float) -> None:
        if not is_active:
            self._typing.pop(user_id, None)
        elif user_id != self.me:
            self._typing[user_id] = now_s + TYPING_LAPSES_S

    # What to show

    def typists(self, now_s: float) -> list[int]:
        """Who is typing; what was not repeated in 10 s has lapsed."""
        self._typing = {user: until for user, until in self._typing.items() if until > now_s}
        return sorted(self._typing)

    def mark_of(self, post: Post) -> Mark | None:
        """The mark of a message of one's own; None for others' and for notices. In a group: when all others have it."""
        if post.sender_id != self.me or post.is_notice:
            return None
        if post.failure:
            return Mark.FAILED
        if post.seq == 0:
            return Mark.PENDING
        others = [progress for user, progress in self._progress.items() if user != self.me]
        if others and all(progress.read_seq >= post.seq for progress in others):
            return Mark.READ
        if others and all(progress.delivered_seq >= post.seq for progress in others):
            return Mark.DELIVERED
        return Mark.SENT

    # Inside

    def _trim(self) -> None:
        if len(self.posts) > MAX_POSTS:
            del self.posts[: len(self.posts) - MAX_POSTS]
            self.is_complete = False

    def _find(self, seq: int) -> Post | None:
        # From the new end: that is where amendments and repeats nearly always are.
        for post in reversed(self.posts):
            if post.seq <= seq:
                return post if post.seq == seq else None
        return None

    def _post_of(self, message: Message) -> Post:
        is_notice = message.kind == Kind.SYSTEM or message.kind >= FIRST_APPLICATION_KIND
        text = describe_change(message) if message.kind == Kind.SYSTEM else message.text
        return Post(message.seq, message.sender_id, message.time_ms, text, message.client_msg_id, is_notice)

    def _amend(self, target_seq: int, message: Message) -> None:
        post = self._find(target_seq)
        if post is None:
            is_older = self.oldest_seq is None or target_seq < self.oldest_seq
            if is_older and len(self._amendments) < MAX_POSTS:
                self._amendments.setdefault(target_seq, []).append(message)
            return
        if message.kind == Kind.REACTION:
            post.reactions.pop(message.sender_id, None)
            if message.body:
                post.reactions[message.sender_id] = message.text
        elif message.sender_id == post.sender_id and message.kind == Kind.EDIT:
            post.text, post.is_edited = message.text, True
        elif message.sender_id == post.sender_id:
            post.text, post.is_deleted = "", True
        self.version += 1

    def _apply_change(self, event: int, user_ids: Iterable[int], actor_id: int, title: str | None) -> None:
        if event in (Event.CREATED, Event.ADDED):
            for user_id in user_ids:
                self._progress.setdefault(user_id, _Progress())
        elif event in (Event.REMOVED, Event.LEFT):
            for user_id in [*user_ids, actor_id] if event == Event.LEFT else user_ids:
                self._progress.pop(user_id, None)
        if title is not None:
            self.title = title


def describe_change(message: Message) -> str:
    """A system message in words."""
    change = message.system_change
    if change is None:
        return "something changed that this version cannot show"
    users = ", ".join(str(user_id) for user_id in change.user_ids)
    match change.event:
        case Event.CREATED:
            return f"{message.sender_id} created the group “{change.title or ''}” with {users}"
        case Event.ADDED:
            return f"{message.sender_id} added {users}"
        case Event.REMOVED:
            return f"{message.sender_id} removed {users}"
        case Event.LEFT:
            return f"{users or message.sender_id} left"
        case Event.PROMOTED:
            return f"{message.sender_id} made {users} admin"
        case Event.DEMOTED:
            return f"{users} is no longer admin, says {message.sender_id}"
        case Event.TITLE:
            return f"{message.sender_id} named the group “{change.title or ''}”"
        case _:
            return "something changed that this version cannot show"


def _seq_of(item: Post | Message) -> int:
    return item.seq
