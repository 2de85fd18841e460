"""SYNC: bring a session up to date from the log, whatever it missed and however much.

Owns one SYNC at a time for each session. What it sends is paced by the connection's outbox (it stays below half of the
bound, so that live messages have the other half): a SYNC never makes a session lag.

Invariant: when SYNC_DONE is sent, everything visible up to each named head was sent on this session or lies in a GAP.
That rests on the order: live messages flow again, then ask for heads (which adds this worker to the owner's places), then read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import structlog
import trio

from gateway.chat.actor import encode_row
from gateway.chat.heads import HeadEntry
from gateway.net.ports import ChatHeads
from gateway.net.sessions import Session
from gateway.protocol.frames import encode, encode_payload
from gateway.protocol.identifiers import ChatId, Seq
from gateway.protocol.messages import ChatNews, Gap, Op, Sync, SyncDone
from storage.api import Membership, Message, Store, StoreUnavailable

if TYPE_CHECKING:
    from gateway._framing import Kernel

PER_CHAT = 100
TOTAL = 2_000
NEWS_PER_FRAME = 1_000
"""At most 31 bytes an entry: half of the smallest max_frame."""

GLUED_BYTES = 32_768
PAGE_ROWS = 100

log = structlog.get_logger(__name__)


class SyncRun:
    """The SYNC under way of one session."""

    __slots__ = ("cancel_scope", "drained")

    def __init__(self) -> None:
        self.cancel_scope = trio.CancelScope()
        self.drained = trio.Event()


class News(NamedTuple):
    """A chat with something new: what to send lies in (after_seq, head_seq]."""

    chat_id: ChatId
    after_seq: int
    head_seq: int
    read_seq: int
    time_ms: int


class Syncing:
    def __init__(self, kernel: Kernel, store: Store, heads: ChatHeads, flush: Callable[[], None]) -> None:
        """``flush``: write what was queued. A run is no part of a dispatch, at whose end that happens by itself."""
        self._kernel = kernel
        self._store = store
        self._heads = heads
        self._flush = flush

    async def run(self, session: Session, rid: int, wish: Sync) -> None:
        """Send MSG and GAP frames, then SYNC_DONE. Raises ProtocolError, StoreError."""
        memberships = await self._store.chats_of(session.user_id)
        named = {cursor.chat_id: cursor.seq for cursor in wish.pairs or ()}
        cursors = await self._take_record(session, wish, named)
        chats = [
            (m.chat.chat_id, wish.pairs is not None and (not wish.rest or m.chat.chat_id in named)) for m in memberships
        ]
        heads = await self._heads.heads((session.user_id, session.device_id), session.session_id, chats)
        reads = await self._store.read_watermarks(session.user_id, [ChatId(chat_id) for chat_id, _ in chats])
        news = []
        for membership in memberships:
            chat_id = ChatId(membership.chat.chat_id)
            read_seq = reads[chat_id].read_seq if chat_id in reads else 0
            found = _news_of(membership, heads[chat_id], cursors.get(chat_id, 0), read_seq)
            if found is not None:
                news.append(found)
        news.sort(key=lambda entry: entry.time_ms, reverse=True)
        await self._send_all(session, wish, news)
        visible = {m.chat.chat_id for m in memberships}
        gone = [chat_id for chat_id in named if chat_id not in visible]
        self._finish(session, rid, news, gone)

    async def _take_record(self, session: Session, wish: Sync, named: dict[int, int]) -> dict[int, int]:
        """The cursors to start from; what the client named becomes the device's record."""
        user_id, device_id = session.user_id, session.device_id
        recorded: dict[int, int] = {}
        if wish.pairs is None or wish.rest:
            recorded = {
                int(chat): int(seq) for chat, seq in (await self._store.read_cursors(user_id, device_id)).items()
            }
        if wish.pairs is not None:
            record = {ChatId(chat_id): Seq(seq) for chat_id, seq in named.items()}
            try:
                await self._store.set_cursors(user_id, device_id, record, is_complete=not wish.rest)
            except StoreUnavailable as error:
                await self._do_without(session, wish, named, error)
        return {**recorded, **named}

    async def _do_without(self, session: Session, wish: Sync, named: dict[int, int], error: StoreUnavailable) -> None:
        """A full disk must not keep anybody from reading: a record that stays too low costs a repetition, no more. One that
        stays too high would hide messages from a later SYNC without cursors: then the SYNC fails as the store did."""
        recorded = await self._store.read_cursors(session.user_id, session.device_id)
        for chat_id, seq in recorded.items():
            if seq > named.get(chat_id, seq if wish.rest else 0):
                raise error
        log.warning("cursors_not_set", user_id=session.user_id, error=str(error))

    # ---------------------------------------------------------------------------------------------- sending

    async def _send_all(self, session: Session, wish: Sync, news: Sequence[News]) -> None:
        per_chat = PER_CHAT if wish.per_chat is None else min(wish.per_chat, TOTAL)
        left = TOTAL if wish.total is None else min(wish.total, TOTAL)
        for entry in news:
            limit = min(per_chat, left)
            rows = await self._newest(entry, limit)
            left -= len(rows)
            await self._send_chat(session, entry, rows)

    async def _newest(self, entry: News, limit: int) -> list[Message]:
        """The newest rows of a chat's news, oldest first, at most ``limit``."""
        rows: list[Message] = []
        before = entry.head_seq + 1
        while len(rows) < limit:
            page = await self._store.read_messages(
                entry.chat_id,
                after_seq=entry.after_seq,
                before_seq=before,
                limit=min(PAGE_ROWS, limit - len(rows)),
                is_newest_first=True,
            )
            rows += page
            if len(page) < PAGE_ROWS:
                break
            before = page[-1].seq
        rows.reverse()
        return rows

    async def _send_chat(self, session: Session, entry: News, rows: Sequence[Message]) -> None:
        first = rows[0] if rows else None
        if first is None or (first.prev_seq > entry.after_seq):
            before = entry.head_seq + 1 if first is None else first.seq
            self._kernel.send(session.conn, encode(Op.GAP, Gap(entry.chat_id, entry.after_seq, before)))
        for glued in _glue(encode_payload(Op.MSG, encode_row(row)) for row in rows):
            await self._has_room(session)
            self._kernel.send(session.conn, glued)
        await self._has_room(session)

    async def _has_room(self, session: Session) -> None:
        """Wait until the outbox is low. A connection that ends cancels the run."""
        run = session.sync
        while run is not None and self._kernel.outbox_bytes(session.conn) > GLUED_BYTES * 2:
            run.drained = trio.Event()
            if not self._kernel.notify_drained(session.conn):
                break
            self._flush()
            await run.drained.wait()
        await trio.lowlevel.checkpoint()

    def _finish(self, session: Session, rid: int, news: Sequence[News], gone: Sequence[int]) -> None:
        if not rid:
            return
        entries = [ChatNews(entry.chat_id, entry.head_seq, entry.read_seq) for entry in news]
        while len(entries) > NEWS_PER_FRAME:
            part, entries = entries[:NEWS_PER_FRAME], entries[NEWS_PER_FRAME:]
            self._kernel.send(session.conn, encode(Op.SYNC_DONE, SyncDone(part, True), rid=rid), True)
        self._kernel.send(session.conn, encode(Op.SYNC_DONE, SyncDone(entries, False, list(gone)), rid=rid))


def visible_bounds(membership: Membership, head_seq: int) -> tuple[int, int]:
    """(first, last) seq that the member may see, both inclusive."""
    member = membership.member
    return member.joined_seq, min(member.left_seq, head_seq) if member.left_seq else head_seq


def _news_of(membership: Membership, head: HeadEntry, cursor: int, read_seq: int) -> News | None:
    first, last = visible_bounds(membership, head.head_seq)
    after = max(cursor, head.cursor_seq, first - 1)
    if last <= after:
        return None
    return News(ChatId(membership.chat.chat_id), after, last, max(read_seq, head.read_seq), head.time_ms)


def _glue(frames: Iterable[bytes]) -> Iterable[bytes]:
    glued: list[bytes] = []
    size = 0
    for frame in frames:
        if glued and size + len(frame) > GLUED_BYTES:
            yield b"".join(glued)
            glued, size = [], 0
        glued.append(frame)
        size += len(frame)
    if glued:
        yield b"".join(glued)
