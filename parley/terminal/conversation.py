"""One person's talk with a node: the client's events into the view, the person's commands to the client.

Owns the open chat, the list of chats and the connection's line. Knows no screen: whoever shows it is a ``Display``.
Invariant: every event of the client is taken at once (views are memory, pages are read by tasks of their own), so
that typing and marks are never late behind a slow request.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from parley import ChatChange, ChatKind, Client, Message, OutboxFull, ParleyError, PendingSend, ReceiptKind, events
from parley.faults import CommandError, UsageError
from parley.terminal.commands import (
    HELP,
    AddMembers,
    Bare,
    Command,
    MakeGroup,
    OpenListed,
    OpenUser,
    Say,
)
from parley.terminal.connection import ConnectionLine
from parley.terminal.roster import UNKNOWN, Roster
from parley.terminal.rows import Names
from parley.terminal.view import ChatView

PAGE = 60
MAX_PEERS_ASKED = 100
"""Direct chats whose other side is asked for at the start; the list of the rest shows their ids until opened."""


class Display(Protocol):
    """Whoever shows a conversation. All are called inside the Trio run and return at once."""

    def attach(self, conversation: Conversation) -> None:
        """The connection is there; called once, before anything else."""
        ...

    def changed(self) -> None:
        """Something that is shown may have changed."""
        ...

    def said(self, message: Message) -> None:
        """A message entered the open chat, live or as part of the history on entry; oldest first."""
        ...

    def note(self, text: str) -> None:
        """An answer or a failure, for the person alone. May have several lines."""
        ...


class Conversation:
    """``run`` serves the client's events until it signs out; everything else is called beside it."""

    def __init__(
        self, client: Client, display: Display, names: Names, nursery: trio.Nursery, has_quit: trio.Event
    ) -> None:
        self.client = client
        self.display = display
        self.names = names
        self.roster = Roster(client.user_id)
        self.connection = ConnectionLine()
        self.view: ChatView | None = None
        self.has_quit = has_quit
        self.is_looking = True
        """Whether the newest message is on show: then it counts as read."""
        self._nursery = nursery
        self._is_paging = False

    async def run(self) -> None:
        """Take events. Raises CommandError when the server signs this device out."""
        async for event in self.client.events():
            self._take(event)
            self.display.changed()
        raise CommandError(f"signed out: {self.connection.reason}; make a new token with `parley token`")

    async def refresh_roster(self) -> None:
        self.roster.load([summary async for summary in self.client.chats()])
        self.display.changed()

    async def name_direct_chats(self) -> None:
        """Ask who the other side of each direct chat is: the list itself does not say."""
        unknown = [entry for entry in self.roster.entries() if entry.is_direct and entry.peer is None]
        for entry in unknown[:MAX_PEERS_ASKED]:
            chat = await self.client.chat(entry.chat_id)
            others = [member.user_id for member in chat.members if member.user_id != self.client.user_id]
            entry.peer = others[0] if others else None
            self.display.changed()

    # The person's side

    async def attempt(self, command: Command) -> None:
        """Do it; a refusal is a note, not an error."""
        try:
            await self.execute(command)
        except (ParleyError, CommandError) as error:
            self.display.note(str(error))

    async def execute(self, command: Command) -> None:
        """Do it, and say so where nothing shows it. Raises ParleyError, and CommandError where it makes no sense."""
        match command:
            case Say(text):
                self.say(text)
            case OpenUser(user_id):
                await self.open(await self.client.open_chat(user_id))
            case OpenListed(number):
                await self.open(self._listed(number))
            case MakeGroup(title, user_ids):
                chat_id, _ = await self.client.create_group(title, user_ids)
                await self.open(chat_id)
            case AddMembers(user_ids):
                await self.client.change_chat(ChatChange(self._group().chat_id, add=list(user_ids)))
            case Bare(word):
                await self._execute_bare(word)

    async def _execute_bare(self, word: str) -> None:
        match word:
            case "help":
                self.display.note(HELP)
            case "chats":
                self.display.note(self._list_of_chats())
            case "who":
                view = self._open_view()
                self.display.note(", ".join(self.names[user_id] for user_id in view.members) or "nobody")
            case "leave":
                view = self._group()
                await self.client.leave_chat(view.chat_id)
                self.display.note("you left; what was said until then stays here")
            case "quit":
                self.has_quit.set()

    async def open(self, chat_id: int) -> None:
        """Show a chat, its newest page first."""
        chat = await self.client.chat(chat_id)
        view = ChatView(chat, self.client.user_id)
        page, is_complete = await self._read_page(chat_id, None)
        said_up_to = 0
        if self.view is not None and self.view.chat_id == chat_id:
            # Opened again, after a gap: what was said is not said again, and what waits goes on waiting.
            said_up_to = self.view.newest_seq
            view.pending = self.view.pending
        self.view, self.is_looking = view, True
        if self.roster.get(chat_id) is None:
            await self.refresh_roster()
        self.roster.open(chat_id)
        entry = self.roster.get(chat_id)
        if entry is not None and chat.kind == ChatKind.DIRECT:
            entry.peer = view.peer
        view.add_page(page, is_complete=is_complete)
        for message in reversed(page):
            if message.seq > said_up_to:
                self.display.said(message)
        self.look()
        self.display.changed()

    def say(self, text: str) -> PendingSend:
        """Send to the open chat; the view shows it at once."""
        view = self._open_view()
        try:
            pending = self.client.send_nowait(view.chat_id, text)
        except OutboxFull as error:
            raise CommandError("too many messages wait for the server: try again when it is back") from error
        view.queue(pending.client_msg_id, text, time.time_ns() // 1_000_000)
        self._nursery.start_soon(self._watch, pending, view)
        self.display.changed()
        return pending

    def type_in(self, is_active: bool) -> None:
        """A key was pressed, or the line is empty again."""
        if self.view is not None:
            self.client.typing(self.view.chat_id, is_active)

    def look(self) -> None:
        """The newest message is on show."""
        self.is_looking = True
        if self.view is not None and self.view.newest_seq:
            self.client.mark_read(self.view.chat_id, self.view.newest_seq)

    def page_back(self) -> None:
        """Read older messages into the view, in the background; does nothing while it does so already."""
        if self.view is None or self.view.is_complete or self.view.is_full or self._is_paging:
            return
        self._is_paging = True
        self._nursery.start_soon(self._page_back, self.view)

    async def _page_back(self, view: ChatView) -> None:
        try:
            page, is_complete = await self._read_page(view.chat_id, view.oldest_seq)
            view.add_page(page, is_complete=is_complete)
        except ParleyError as error:
            self.display.note(f"cannot read further back: {error}")
        finally:
            self._is_paging = False
        self.display.changed()

    async def _read_page(self, chat_id: int, before: int | None) -> tuple[list[Message], bool]:
        """The PAGE messages before a seq, newest first, and whether nothing is left before them."""
        page: list[Message] = []
        async for message in self.client.history(chat_id, before=before, page=PAGE + 1):
            page.append(message)
            if len(page) > PAGE:
                return page[:PAGE], False
        return page, True

    async def _watch(self, pending: PendingSend, view: ChatView) -> None:
        try:
            await pending.sent()
        except ParleyError as error:
            view.fail(pending.client_msg_id, str(error))
            self.display.note(f"not sent: {error}")
            self.display.changed()

    # The client's side

    def _take(self, event: events.ClientEvent) -> None:
        match event:
            case events.MessageReceived(message) | events.MessageSent(message):
                self._take_message(message)
            case events.GapSkipped(chat_id):
                if self.view is not None and self.view.chat_id == chat_id:
                    self._background(lambda: self.open(chat_id))
            case events.ReceiptChanged(chat_id, kind, seq, user_id):
                self._take_receipt(chat_id, kind, seq, user_id)
            case events.TypingChanged(chat_id, user_id, is_active):
                if self.view is not None and self.view.chat_id == chat_id:
                    self.view.set_typing(user_id, is_active, time.monotonic())
            case events.Synced(_, gone):
                for chat_id in gone:
                    self.roster.drop(chat_id)
                self.connection.take(event, time.monotonic())
            case _:
                self.connection.take(event, time.monotonic())

    def _take_message(self, message: Message) -> None:
        if not self.roster.receive(message):
            self._background(self._meet_new_chat)
        if self.view is None or self.view.chat_id != message.chat_id:
            return
        is_new = message.seq > self.view.newest_seq
        self.view.add(message)
        if is_new:
            self.display.said(message)
        if self.is_looking:
            self.look()

    async def _meet_new_chat(self) -> None:
        await self.refresh_roster()
        await self.name_direct_chats()

    def _take_receipt(self, chat_id: int, kind: int, seq: int, user_id: int | None) -> None:
        if user_id == self.client.user_id and kind == ReceiptKind.READ:
            self.roster.read_up_to(chat_id, seq)
        elif user_id is not None and self.view is not None and self.view.chat_id == chat_id:
            self.view.receive_receipt(user_id, kind, seq)

    def _background(self, work: Callable[[], Awaitable[None]]) -> None:
        async def noted() -> None:
            try:
                await work()
            except ParleyError as error:
                self.display.note(str(error))

        self._nursery.start_soon(noted)

    # Looking things up

    def _open_view(self) -> ChatView:
        if self.view is None:
            raise UsageError("no chat is open: /open USER, or /chats for the list")
        return self.view

    def _group(self) -> ChatView:
        view = self._open_view()
        if view.is_direct:
            raise UsageError("this is a chat of two: make a group with /group TITLE: A, B")
        return view

    def _listed(self, number: int) -> int:
        entries = self.roster.entries()
        if not 1 <= number <= len(entries):
            raise UsageError(f"there are {len(entries)} chats: see /chats")
        return entries[number - 1].chat_id

    def _list_of_chats(self) -> str:
        lines = [
            f"#{number} {entry.name}"
            + ("" if not entry.unread else " •" if entry.unread == UNKNOWN else f" ({entry.unread})")
            for number, entry in enumerate(self.roster.entries(), 1)
        ]
        return "\n".join(lines) or "no chats yet: /open USER begins one"


def group_key(creator: int, group: MakeGroup) -> bytes:
    """The client_chat_id of ``parley chat --group``: the same title and members name the same group at every start."""
    parts = [str(creator), group.title, *map(str, sorted(group.user_ids))]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16, person=b"parley chat").digest()
