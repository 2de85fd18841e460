"""The Parley client: one device of one user, kept connected, told of every message once and in order.

    async with parley.connect("localhost", 7800, token) as client:
        async for event in client.events():
            match event:
                case parley.MessageReceived(message):
                    await client.send(message.chat_id, b"I heard: " + message.body)

Theory of operation: how delivery is made whole
-----------------------------------------------
The server promises that SENT means durable, and that the log of a chat is the truth; what it pushes is best effort. The
client turns that into: *every message is shown to the application once, in the chat's order, and every message that the
application sends is in the chat once, in the order of sending*. Five mechanisms, each a file that knows only itself:

- Towards the application (``chatlog.py``). Each message names its predecessor in the log. A message whose predecessor
  has not been shown is held back, and the hole is read by HISTORY until the server says that nothing is left in it.
  What comes twice has a seq that was already shown, and is dropped.
- After an interruption (``catchup.py``). Every session begins with SYNC, which carries this device's cursors, and so
  does what follows a LAGGED.
- With a slow application (``inbox.py``). The queue of events is bounded. What does not fit is let go and noted as one
  more hole, to be read from the log when the application has caught up. The alternative, to stop reading the socket,
  would deadlock an application that sends and never looks at events: the replies to its own requests come through
  the same socket.
- Acknowledging (``cursors.py``, ``journal.py``). A message counts as handled when the application asks for the event
  *after* it. Then its cursor moves, the store remembers the cursor, and only then the server is told by ACK. So after
  a crash the last message may be shown again (at least once, from process to process), and none is skipped.
- Towards the server (``outbox.py``). A message waits in the outbox under its client_msg_id from ``send`` until SENT.
  A lost connection makes its outcome unknown, and the same bytes go out again with retry = true: the server
  recognises the id and answers with the seq that the message already has.

Nothing here is unbounded but one small record for each chat of the user.

Reading order of the files: this one; ``lifecycle.py`` (connect, serve, what follows), ``session.py`` (one connection),
``dispatch.py`` (what each frame means), then the pure parts named above.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import trio

from gateway.protocol import messages as wire
from gateway.protocol.errors import ProtocolError
from gateway.protocol.frames import BODY_MARGIN
from gateway.protocol.messages import Op
from gateway.protocol.validation import validate_send
from parley import upkeep
from parley.addresses import Dialer, OpenStream
from parley.credentials import Credentials, TokenSource
from parley.errors import Refused
from parley.events import ClientEvent
from parley.inbox import Inbox
from parley.lifecycle import Lifecycle
from parley.marks import TypingMarks
from parley.model import Chat, ChatSummary, Member, Message, Sent
from parley.options import DEFAULTS, Options
from parley.outbox import PendingSend
from parley.paging import Pages
from parley.questions import ask
from parley.requests import SessionLost
from parley.store import ClientStore, MemoryClientStore
from parley.unwrap import without_group

ChatChange = wire.ChatChange
"""``ChatChange(chat_id, version, add, remove, promote, demote, title)``; all but the first optional, lists of user
ids.
"""

MAX_PAGE = 200
ID_BYTES = 16

T = TypeVar("T", bound=msgspec.Struct)


@asynccontextmanager
async def connect(
    host: str,
    port: int,
    token: str | TokenSource,
    *,
    store: ClientStore | None = None,
    options: Options = DEFAULTS,
    open_stream: OpenStream | None = None,
) -> AsyncIterator[Client]:
    """Connect a device, and keep it connected until the block ends.

    ``token`` is a JWT, or an async function that returns one: it is asked again when a token is about to expire or
    was refused, so that the client outlives its first token. ``store`` remembers cursors and unsent messages
    (default: in memory). ``open_stream(host, port)`` replaces ``trio.open_tcp_stream``, for proxies and tests.

    Enters when the first session has begun. Raises CannotConnect if nobody answers (``Options.patient`` tries on
    instead) and Refused if the server does not take the credentials. Leaving the block without an error acknowledges
    what was handled and takes leave of the server; messages still in the outbox stay in ``store``.
    """
    kept_in = store or MemoryClientStore()
    snapshot = await kept_in.load()
    credentials = Credentials(token, snapshot.resume_token)
    lifecycle = Lifecycle(Dialer((host, port), options, open_stream), credentials, kept_in, snapshot, options)
    with without_group():
        async with trio.open_nursery() as nursery:
            await nursery.start(lifecycle.run)
            yield Client(lifecycle)
            await lifecycle.aclose()
            nursery.cancel_scope.cancel()


class Events:
    """What ``Client.events`` returns."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> ClientEvent:
        try:
            return await self._inbox.next_event()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


@dataclass(frozen=True, slots=True)
class Statistics:
    """How full the client's queues are, and how many hints did not fit (see ``parley.events``)."""

    waiting_events: int
    unsent_messages: int
    lost_hints: int


class Client:
    """A connected device. Made by ``connect``; all methods belong to the same Trio run.

    Methods that ask the server something wait while there is no connection, repeat the question on the next one, and
    heed the server's wishes for patience: put ``trio.fail_after`` around those that must not wait. They raise Refused
    when the server says no, and NotConnected when the client stays away, signed out or was closed. (Messages alone may
    be queued while it stays away: they go out when it is told to ``reconnect``.)
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._typing = TypingMarks()

    @property
    def user_id(self) -> int:
        return self._welcome.user_id

    @property
    def device_id(self) -> int:
        return self._welcome.device_id

    @property
    def session_id(self) -> int:
        """The current session's, or the last one's."""
        return self._welcome.session_id

    @property
    def is_connected(self) -> bool:
        return self._lifecycle.session is not None

    def statistics(self) -> Statistics:
        inbox = self._lifecycle.inbox
        return Statistics(inbox.waiting_count, len(self._lifecycle.outbox), inbox.lost_hints)

    # Events

    def events(self) -> Events:
        """``async for event in client.events()``: events as they come, until the client signed out or was closed.

        Asking for the next event acknowledges the one before. One task at a time; it may stop and begin again. A slow
        application loses no message, see ``Options.max_events``.
        """
        return Events(self._lifecycle.inbox)

    async def next_event(self) -> ClientEvent:
        """The next event alone. Raises trio.EndOfChannel after the last, trio.BusyResourceError for a second task."""
        return await self._lifecycle.inbox.next_event()

    # Sending

    async def send(
        self,
        chat_id: int,
        body: bytes | str,
        *,
        kind: int = wire.Kind.CONTENT,
        target_seq: int | None = None,
        client_msg_id: bytes | None = None,
    ) -> Sent:
        """Send one message and wait until it is durable. Lost connections are survived; the message is stored once.

        Messages of a chat are stored in the order of the calls. ``body`` as str is sent as UTF-8. ``client_msg_id`` (16
        bytes) makes a repeated call, also from another process within 7 days, the same message.

        Cancelling takes the message back if it has not gone out; otherwise it may still arrive, once. A second call
        with the same id joins the first. Raises Refused, OutcomeUnknown, NotConnected. Waits while the outbox is
        full.
        """
        await self._lifecycle.outbox.wait_room()
        pending = self.send_nowait(chat_id, body, kind=kind, target_seq=target_seq, client_msg_id=client_msg_id)
        try:
            return await pending.sent()
        except trio.Cancelled:
            if pending.waiters == 0:
                pending.withdraw()
            raise

    def send_nowait(
        self,
        chat_id: int,
        body: bytes | str,
        *,
        kind: int = wire.Kind.CONTENT,
        target_seq: int | None = None,
        client_msg_id: bytes | None = None,
    ) -> PendingSend:
        """Queue one message and return at once; ``await pending.sent()`` waits for it.

        Raises OutboxFull, NotConnected when signed out or closed, and Refused for what the protocol does not allow (a
        body larger than the session's frames less 256 bytes, a kind that only servers send).
        """
        message = wire.Send(
            chat_id=chat_id,
            client_msg_id=client_msg_id or secrets.token_bytes(ID_BYTES),
            kind=kind,
            body=body.encode() if isinstance(body, str) else body,
            retry=True if client_msg_id else None,  # an id of the caller's may have been sent before, by whomever
            target_seq=target_seq,
        )
        self._lifecycle.require_presence()
        try:
            validate_send(message, self._welcome.max_frame - BODY_MARGIN)
        except ProtocolError as error:
            raise Refused(error.code, error.message) from None
        pending = self._lifecycle.outbox.add(message, trio.current_time())
        self._lifecycle.journal.note_queued(message)
        return pending

    # Saying what was read, and who types

    def mark_read(self, chat_id: int, seq: int) -> None:
        """This user has read the chat up to ``seq``. Told within 200 ms; after a lost connection, again."""
        self._lifecycle.reads.mark(chat_id, seq)

    def typing(self, chat_id: int, is_active: bool = True) -> None:
        """A hint for the others; call it at every key. It goes out every 5 s at most, and not at all while offline."""
        session = self._lifecycle.session
        if session is not None and self._typing.is_due(chat_id, is_active, trio.current_time()):
            session.tell(Op.TYPING, wire.Typing(chat_id, session.welcome.user_id, is_active))

    async def set_active(self, is_active: bool) -> None:
        """Whether a person looks. Inactive: no typing comes, receipts come later. Kept over reconnects."""
        self._lifecycle.is_active = is_active
        session = self._lifecycle.session
        if session is not None:
            try:
                await upkeep.tell_state(session, is_active)
            except SessionLost:
                return  # the next session begins with it

    def reconnect(self) -> None:
        """Connect now instead of later: the network changed, or the user wants it, also after StayedAway."""
        self._lifecycle.reconnect()

    # Reading back

    def history(
        self, chat_id: int, *, before: int | None = None, after: int | None = None, page: int = 100
    ) -> Pages[Message]:
        """``async for message in client.history(...)``: what you may see of a chat, straight from the log.

        Newest first; with ``after``, oldest first. Both bounds are exclusive. ``page``: how many to ask for at once,
        1..200.
        """

        async def next_page() -> tuple[Sequence[Message], bool]:
            nonlocal before, after
            answer = await self._ask(Op.HISTORY, wire.History(chat_id, before, after, page), wire.Page)
            messages = [Message.from_wire(msg) for msg in answer.messages]
            if not messages:
                return (), False
            if after is None:
                before = messages[-1].seq
            else:
                after = messages[-1].seq
            return messages, not answer.complete

        return Pages(next_page)

    def chats(self) -> Pages[ChatSummary]:
        """``async for chat in client.chats()``: this user's chats, the one with the newest message first."""
        cursor: bytes | None = None

        async def next_page() -> tuple[list[ChatSummary], bool]:
            nonlocal cursor
            answer = await self._ask(Op.CHAT_LIST, wire.ChatList(cursor, MAX_PAGE), wire.ChatListOk)
            cursor = answer.next_cursor
            return [ChatSummary.from_wire(entry) for entry in answer.chats], cursor is not None

        return Pages(next_page)

    async def chat(self, chat_id: int) -> Chat:
        """A chat with its members, and how far each of them received and read it."""
        answer = await self._ask(Op.CHAT_INFO, wire.ChatInfo(chat_id), wire.ChatInfoOk)
        members = tuple(Member(one.user_id, one.role, one.delivered_seq, one.read_seq) for one in answer.members)
        return Chat(answer.chat_id, answer.kind, answer.title, answer.version, members, answer.head_seq)

    # Making and changing chats

    async def open_chat(self, peer_user_id: int) -> int:
        """The chat_id of the one direct chat with a user, made if it was not there."""
        return (await self._ask(Op.CHAT_OPEN, wire.ChatOpen(peer_user_id), wire.ChatOpenOk)).chat_id

    async def create_group(
        self, title: str, user_ids: Iterable[int], *, client_chat_id: bytes | None = None
    ) -> tuple[int, int]:
        """A new group of these users and you, its admin: (chat_id, version). The same 16-byte id is the same group."""
        question = wire.ChatCreate(client_chat_id or secrets.token_bytes(ID_BYTES), title, list(user_ids))
        answer = await self._ask(Op.CHAT_CREATE, question, wire.ChatCreateOk)
        return answer.chat_id, answer.version

    async def change_chat(self, change: ChatChange) -> int:
        """Change members, admins or title; gives the new version. What is in force already is no error.

        With ``version``, Refused (302 conflict) if the chat has changed since. After a lost connection that may have
        been this very change.
        """
        return (await self._ask(Op.CHAT_CHANGE, change, wire.ChatChangeOk)).version

    async def leave_chat(self, chat_id: int) -> None:
        """Leave a group. No error when not in it."""
        await self._ask(Op.CHAT_LEAVE, wire.ChatLeave(chat_id), wire.Empty)

    # Inside

    @property
    def _welcome(self) -> wire.Welcome:
        return self._lifecycle.latest_welcome

    async def _ask(self, op: Op, question: msgspec.Struct, answer_type: type[T]) -> T:
        return await ask(self._lifecycle, op, question, answer_type)
