"""Requests that read the log or the store: HISTORY, CHAT_LIST, and those that open a chat.

Owns tasks that may wait: each is one coroutine for one request, started by the gate and bounded by it. Invariant: nothing
beyond the committed head that the chat's owner named is ever shown.
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable, Sequence

import msgspec
import trio

from gateway.chat.request import Found, InternalOp, Request, View, ViewOk
from gateway.net.ports import ChatHeads, ChatRequests
from gateway.net.sessions import Session
from gateway.net.syncing import visible_bounds
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.frames import BODY_MARGIN, decode, encode_body
from gateway.protocol.identifiers import ID_LIMIT, ChatId, UserId
from gateway.protocol.messages import (
    ChatCreate,
    ChatCreateOk,
    ChatEntry,
    ChatKind,
    ChatList,
    ChatListOk,
    ChatOpen,
    ChatOpenOk,
    Error,
    History,
    Msg,
    Op,
    Page,
    Role,
)
from storage.api import Chat, Member, Message, Store

_CURSOR = struct.Struct(">QQ")
OWNER_TIMEOUT_S = 10.0


class _Answer:
    """The ``Origin`` of a request that a task of ours waits for."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._op = 0
        self._payload = b""

    def answer(self, rid: int, op: int, payload: bytes) -> None:
        self._op, self._payload = op, payload
        self._event.set()

    async def wait(self) -> bytes:
        """The fields of OK. Raises the ProtocolError that was answered."""
        await self._event.wait()
        if self._op == Op.ERROR:
            error = decode(Error, self._payload)
            raise ProtocolError(
                Code(error.code), error.message, retry_after_ms=error.retry_after_ms, detail=error.detail
            )
        return self._payload


class Reading:
    def __init__(
        self,
        store: Store,
        requests: ChatRequests,
        heads: ChatHeads,
        max_members: int,
        finish_cycle: Callable[[], None],
    ) -> None:
        """``finish_cycle``: what a dispatch does at its end; a task's requests have to ask for it."""
        self._store = store
        self._requests = requests
        self._heads = heads
        self._max_members = max_members
        self._finish_cycle = finish_cycle

    async def _ask_owner(self, session: Session, op: int, message: View | Found) -> bytes:
        answer = _Answer()
        asker = (session.user_id, session.device_id)
        self._requests.request(ChatId(message.chat_id), Request(op, message, asker, answer, 1, time.monotonic()))
        self._finish_cycle()
        with trio.move_on_after(OWNER_TIMEOUT_S):
            return await answer.wait()
        raise ProtocolError(Code.TIMED_OUT, "the chat's owner did not answer")

    # ---------------------------------------------------------------------------------------------- history

    async def history(self, session: Session, wish: History, max_frame: int) -> tuple[Op, msgspec.Struct]:
        view = decode(ViewOk, await self._ask_owner(session, InternalOp.VIEW, View(wish.chat_id)))
        is_newest_first = wish.after_seq is None
        after = max(wish.after_seq or 0, view.first_seq - 1)
        before = min(wish.before_seq if wish.before_seq is not None else ID_LIMIT, view.last_seq + 1)
        rows: list[Message] = []
        if after + 1 < before:
            rows = await self._store.read_messages(
                ChatId(wish.chat_id),
                after_seq=after,
                before_seq=before,
                limit=wish.limit + 1,
                is_newest_first=is_newest_first,
            )
        fitting = _fitting(rows[: wish.limit], max_frame - BODY_MARGIN)
        messages = [Msg(*row[:10]) for row in rows[:fitting]]
        return Op.PAGE, Page(wish.chat_id, fitting == len(rows), messages)

    # ---------------------------------------------------------------------------------------------- opening

    async def open_direct(self, session: Session, wish: ChatOpen) -> tuple[Op, msgspec.Struct]:
        peer, me = wish.peer_user_id, session.user_id
        if peer == me:
            raise ProtocolError(Code.INVALID, "a direct chat has two people")
        low, high = sorted((UserId(peer), me))
        return Op.OK, ChatOpenOk(await self._store.create_direct(low, high, new_chat_id()))

    async def create_group(self, session: Session, wish: ChatCreate) -> tuple[Op, msgspec.Struct]:
        """The group's rows, then its first row in the log: a repeated request finds both and changes nothing."""
        creator = session.user_id
        user_ids = list(dict.fromkeys((creator, *wish.user_ids)))
        if len(user_ids) > self._max_members:
            message = f"a chat has at most {self._max_members} members"
            raise ProtocolError(Code.TOO_MANY_MEMBERS, message, detail=self._max_members)
        members = [Member(u, Role.ADMIN if u == creator else Role.MEMBER, 0, 0, 0) for u in user_ids]
        chat = Chat(new_chat_id(), ChatKind.GROUP, wish.title, 1, 0)
        made = await self._store.create_group(creator, wish.client_chat_id, chat, members)
        found = Found(made.chat_id, user_ids)
        await self._ask_owner(session, InternalOp.FOUND, found)
        return Op.OK, ChatCreateOk(made.chat_id, made.version)

    # ---------------------------------------------------------------------------------------------- the list

    async def list_chats(self, session: Session, wish: ChatList) -> tuple[Op, msgspec.Struct]:
        """Newest first by the time of the head; the cursor names the last entry of the page before."""
        memberships = [m for m in await self._store.chats_of(session.user_id) if not m.member.left_seq]
        chat_ids = [ChatId(m.chat.chat_id) for m in memberships]
        device = (session.user_id, session.device_id)
        heads = await self._heads.heads(device, session.session_id, [(chat_id, False) for chat_id in chat_ids])
        marks = await self._store.read_watermarks(session.user_id, chat_ids)
        entries = []
        for membership in memberships:
            chat = membership.chat
            head = heads[chat.chat_id]
            read = max(marks[ChatId(chat.chat_id)].read_seq if chat.chat_id in marks else 0, head.read_seq)
            _, last = visible_bounds(membership, head.head_seq)
            entry = ChatEntry(chat.chat_id, chat.kind, chat.title, chat.version, last, read)
            entries.append(((head.time_ms, chat.chat_id), entry))
        entries.sort(key=lambda pair: pair[0], reverse=True)
        if wish.cursor is not None:
            below = _unpack_cursor(wish.cursor)
            entries = [pair for pair in entries if pair[0] < below]
        page = entries[: wish.limit]
        cursor = _CURSOR.pack(*page[-1][0]) if len(entries) > len(page) else None
        return Op.OK, ChatListOk([entry for _, entry in page], cursor)


def new_chat_id() -> ChatId:
    """Random, never 0: its low bits are its slot."""
    return ChatId(1 + secrets.randbelow(ID_LIMIT - 1))


def _unpack_cursor(cursor: bytes) -> tuple[int, ...]:
    if len(cursor) != _CURSOR.size:
        raise ProtocolError(Code.INVALID, "not a cursor of this server")
    return _CURSOR.unpack(cursor)


def _fitting(rows: Sequence[Message], room_bytes: int) -> int:
    """How many of these rows fit into one PAGE; a single one always does."""
    size = 0
    for count, row in enumerate(rows):
        size += len(encode_body(Msg(*row[:10])))
        if size > room_bytes and count:
            return count
    return len(rows)
