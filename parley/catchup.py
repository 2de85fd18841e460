"""Making the chats whole on a session: SYNC at its start and whenever messages were let go, HISTORY for holes.

It must not know how entries are ordered (``chatlog.py``). Invariant: one SYNC at a time, and at most one HISTORY of a
repair; both heed the server's patience. Nothing is repaired during a SYNC, which brings most of what seems to be
missing.
"""

from __future__ import annotations

import trio

from gateway.protocol import messages as wire
from gateway.protocol.events import Received
from gateway.protocol.messages import Op
from gateway.protocol.policy import AfterError, after_error, retry_wait_s
from parley.chatlog import Hole
from parley.errors import Refused
from parley.events import Synced
from parley.inbox import Inbox
from parley.model import ChatNews, Message
from parley.session import Session, answer_in

PAGE = 200


class CatchUp:
    """For one session."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._wanted = trio.Event()
        self.sync_again()

    def sync_again(self) -> None:
        """The session begins, or live messages were dropped on the way to it: none come until the next SYNC."""
        self._inbox.sync_began()
        self._wanted.set()

    async def keep_synced(self, session: Session) -> None:
        refusals = 0
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            try:
                await self._sync(session)
                refusals = 0
            except Refused as error:
                self._wanted.set()
                await trio.sleep(retry_wait_s(error.retry_after_ms, refusals))
                refusals += 1

    async def _sync(self, session: Session) -> None:
        await session.wait_patience("sync")
        await session.requests.wait_room()
        self._inbox.sync_began()
        chats: list[wire.ChatNews] = []
        gone: list[int] = []

        def on_reply(reply: Received) -> None:
            if isinstance(done := reply.message, wire.SyncDone):
                chats.extend(done.chats)
                gone.extend(done.gone or ())
                if not done.more:
                    self._synced(chats, gone)

        # An empty list would say that this device holds nothing; nil asks for the server's record of its ACKs.
        pairs = self._inbox.cursors.pairs()
        question = session.ask_nowait(Op.SYNC, wire.Sync(pairs or None, True if pairs else None), on_reply)
        answer_in(await question.reply(), wire.SyncDone)

    def _synced(self, chats: list[wire.ChatNews], gone: list[int]) -> None:
        self._inbox.sync_ended(chats, gone)
        news = tuple(ChatNews(chat.chat_id, chat.head_seq, chat.read_seq) for chat in chats)
        self._inbox.add_hint(Synced(news, tuple(gone)))

    async def repair(self, session: Session) -> None:
        """Read what is missing, hole by hole, whenever the application has room for it."""
        refusals = 0
        while True:
            await session.wait_patience("history")
            chat_id, hole = await self._inbox.wait_hole(PAGE)
            question = wire.History(chat_id, hole.before_seq, hole.after_seq, PAGE)
            try:
                page = await session.ask(Op.HISTORY, question, wire.Page)
            except Refused as error:
                await self._repair_refused(chat_id, hole, error, refusals)
                refusals += 1
                continue
            refusals = 0
            is_over = page.complete or not page.messages
            self._inbox.fill(chat_id, hole, map(Message.from_wire, page.messages), is_over)

    async def _repair_refused(self, chat_id: int, hole: Hole, error: Refused, refusals: int) -> None:
        """Wait and ask again, unless the chat is no longer visible: then nothing will ever come, and the hole is
        closed.
        """
        if after_error(error.code, retry_after_ms=error.retry_after_ms) in (AfterError.WAIT, AfterError.RESEND):
            await trio.sleep(retry_wait_s(error.retry_after_ms, refusals))
        else:
            self._inbox.fill(chat_id, hole, [], True)
