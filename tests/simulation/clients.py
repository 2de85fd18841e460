"""Devices that keep to the protocol: they send, send again, connect again, SYNC, page, and fill holes.

Owns a client's side of the promises. What a device is told goes to the judge: every row that it is shown, every SENT, and
every span that it is told is complete. ``Device`` is the connection and the view; ``clients_life`` in ``world.py`` decides
what it does when.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import trio

from bench.delivery import Acknowledgement, Via, digest_of
from bench.delivery import Message as SeenMessage
from gateway.cluster.promise import Promise
from gateway.protocol.errors import Code
from gateway.protocol.frames import FrameReader, decode
from gateway.protocol.identifiers import ID_LIMIT
from gateway.protocol.messages import Cursor, Error, Gap, History, Msg, Op, Page, Send, Sent, Sync, SyncDone
from tests.simulation.agenda import Agenda
from tests.simulation.dice import Dice
from tests.simulation.judge import Claim, Judge, show
from tests.simulation.worker import SimulatedWorker

Say = Callable[[str], None]
GREETING_S = 2.0
PAGE_ROWS = 3
MAX_PAGES = 40


class Uplink:
    """The way of clients' frames to workers: those of one connection arrive in order, now and then late, even after its end."""

    def __init__(self, agenda: Agenda, rng: Dice, say: Say) -> None:
        self.say = say
        self.late = rng.setting(0.0, 0.005, 0.02)
        self._agenda = agenda
        self._random = rng
        self._arrives_s: dict[int, float] = {}

    def carry(self, conn: int, step: Callable[[], None]) -> None:
        now_s = self._agenda.now_s
        if self.late and self._random.random() < self.late:
            self._arrives_s[conn] = max(self._arrives_s.get(conn, 0.0), now_s + self._random.uniform(0.3, 6))
        when_s = self._arrives_s.get(conn, 0.0)
        if when_s > now_s:
            self._agenda.at(when_s, step)
        else:
            step()


class Link:
    """One connection of a device: what comes on an older one is not heard."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._reader = FrameReader(1 << 20)

    def take(self, frames: bytes) -> None:
        if self._device.link is self:
            self._reader.feed(frames)
            while (frame := self._reader.next_frame()) is not None:
                self._device.take(frame.op, frame.rid, frame.body)

    def ended(self) -> None:
        if self._device.link is self:
            self._device.hang_up()


class Device:
    """``is_whole``: the user is in every chat from the beginning, so that what it is told can be called complete."""

    def __init__(
        self, ids: tuple[int, int], chats: Sequence[int], judge: Judge, uplink: Uplink, *, is_whole: bool
    ) -> None:
        self.user_id, self.device_id = ids
        self.is_whole = is_whole
        self.link: Link | None = None
        self.worker: SimulatedWorker | None = None
        self.is_connected = False
        self.cursor = dict.fromkeys(chats, 0)
        """Up to where it holds everything."""
        self.holes: dict[int, int] = {}
        """Chats with a hole after the cursor, and the seq above it."""
        self.is_lagged = False
        self._judge = judge
        self._uplink = uplink
        self._say = uplink.say
        self._conn = 0
        self._rids = itertools.count(1)
        self._asked: dict[int, Promise[tuple[int, bytes]]] = {}
        self._greeted: Promise[None] | None = None
        self._is_syncing = False
        self._synced_from: dict[int, int] = {}
        self._synced_rows: dict[int, set[int]] = {}
        self._gaps: dict[int, int] = {}

    # ---------------------------------------------------------------------------------------------- connecting

    async def connect(self, worker: SimulatedWorker, number: int) -> bool:
        """``number``: of the connection and of the session; it grows."""
        self.hang_up()
        self.link, self.worker, self._conn = Link(self), worker, number
        self._greeted = greeted = Promise()
        worker.connect(number, self.link, (self.user_id, self.device_id, number))
        with trio.move_on_after(GREETING_S):
            await greeted.wait()
        return self.is_connected

    def hang_up(self) -> None:
        """Leave, or be left."""
        if self.worker is not None and self.link is not None:
            self._uplink.carry(self._conn, partial(self.worker.disconnect, self._conn))
        self.link = self.worker = None
        self.is_connected = self._is_syncing = False
        asked, self._asked = self._asked, {}
        for promise in asked.values():
            promise.set((0, b""))

    async def ask(self, op: Op, message: msgspec.Struct, timeout_s: float) -> tuple[int, bytes]:
        """(op, body) of the reply; (0, …): none."""
        if self.worker is None or not self.is_connected:
            await trio.lowlevel.checkpoint()
            return 0, b""
        rid = next(self._rids)
        promise = self._asked[rid] = Promise()
        self._uplink.carry(self._conn, partial(self.worker.receive, self._conn, op, message, rid))
        with trio.move_on_after(timeout_s):
            return await promise.wait()
        self._asked.pop(rid, None)
        return 0, b""

    # -------------------------------------------------------------------------------------------------- frames

    def take(self, op: int, rid: int, body: bytes) -> None:
        handlers: dict[int, Callable[[bytes], None]] = {
            Op.MSG: self._on_msg,
            Op.GAP: self._on_gap,
            Op.LAGGED: self._on_lagged,
            Op.SYNC_DONE: self._on_synced,
        }
        if op == Op.OK and rid == 0 and self._greeted is not None and not self.is_connected:
            self.is_connected, self.is_lagged = True, False
            self._judge.checker.connected(self.device_id, self.user_id)
            self._greeted.set(None)
        if op in handlers:
            handlers[op](body)
        promise = self._asked.pop(rid, None) if rid else None
        if promise is not None:
            promise.set((op, body))

    def _on_msg(self, body: bytes) -> None:
        msg = decode(Msg, body)
        via = Via.SYNC if self._is_syncing else Via.LIVE
        self._shown(msg, via)
        if self._is_syncing:
            self._synced_rows.setdefault(msg.chat_id, set()).add(msg.seq)
        self._follow(msg.chat_id, msg.seq, msg.prev_seq, "MSG")

    def _follow(self, chat_id: int, seq: int, prev_seq: int, how: str) -> None:
        at = self.cursor[chat_id]
        if not self.is_whole:  # what lies before it may be from outside of the user's time in the chat
            self.cursor[chat_id] = max(at, seq)
        elif prev_seq <= at < seq:
            self._complete(chat_id, at, seq, {seq}, how)
        elif at < prev_seq:
            self.holes[chat_id] = max(seq, self.holes.get(chat_id, 0))

    def _shown(self, msg: Msg, via: Via) -> None:
        digest = digest_of(msg.kind, msg.body)
        seen = SeenMessage(msg.chat_id, msg.seq, msg.prev_seq, msg.sender_id, msg.client_msg_id, digest)
        self._judge.checker.received(self.device_id, seen, via)

    def _complete(self, chat_id: int, low: int, high: int, seqs: set[int], how: str) -> None:
        if self.is_whole:
            self._judge.claims.append(Claim(chat_id, low, high, frozenset(seqs), f"{how} to device {self.device_id}"))
        self._reached(chat_id, high)

    def _reached(self, chat_id: int, seq: int) -> None:
        self.cursor[chat_id] = max(self.cursor[chat_id], seq)
        if self.holes.get(chat_id, 0) <= self.cursor[chat_id]:
            self.holes.pop(chat_id, None)

    def _on_lagged(self, body: bytes) -> None:
        """One that crosses a SYNC on its way may be older than it: then the session is not muted."""
        self.is_lagged = True
        if not self._is_syncing:
            self._judge.checker.lagged(self.device_id)

    # ---------------------------------------------------------------------------------------------------- SYNC

    async def sync(self, per_chat: int) -> bool:
        """From the cursors, or from the beginning."""
        if self._is_syncing:
            await trio.lowlevel.checkpoint()
            return False
        self._is_syncing, self.is_lagged = True, False
        self._synced_from, self._synced_rows, self._gaps = dict(self.cursor), {}, {}
        self._judge.checker.syncing(self.device_id)
        pairs = [Cursor(chat_id, seq) for chat_id, seq in self.cursor.items()]
        op, _ = await self.ask(Op.SYNC, Sync(pairs, None, per_chat), 8.0)
        self._is_syncing = False
        if op != Op.SYNC_DONE and self.link is not None:
            self.hang_up()  # the rest of it may still come, and would be taken for live
        return op == Op.SYNC_DONE

    def _on_gap(self, body: bytes) -> None:
        gap = decode(Gap, body)
        self._judge.checker.gap(self.device_id, gap.chat_id, gap.after_seq, gap.before_seq)
        self._gaps[gap.chat_id] = gap.before_seq

    def _on_synced(self, body: bytes) -> None:
        self._is_syncing = False
        for news in decode(SyncDone, body).chats:
            chat_id, head = news.chat_id, news.head_seq
            if not self.is_whole:
                continue
            self._judge.checker.synced(self.device_id, chat_id, head)
            rows = self._synced_rows.get(chat_id, set())
            low = self._gaps[chat_id] - 1 if chat_id in self._gaps else self._synced_from[chat_id]
            self._say(f"device {self.device_id}: SYNC of chat {chat_id} to {show(head)}")
            if head > low:
                live = {seq for seq in rows if seq > head}
                self._judge.claims.append(Claim(chat_id, low, head, frozenset(rows - live), "SYNC"))
            if chat_id in self._gaps and self._gaps[chat_id] > self.cursor[chat_id] + 1:
                self.holes[chat_id] = max(self.holes.get(chat_id, 0), min(self._gaps[chat_id], head + 1))
            else:
                self._reached(chat_id, head)

    # ------------------------------------------------------------------------------------------------- HISTORY

    async def fill(self, chat_id: int) -> None:
        """Read the hole after the cursor."""
        high = self.holes.get(chat_id, ID_LIMIT)
        for _ in range(MAX_PAGES):
            low = self.cursor[chat_id]
            if low >= high or not await self.page(chat_id, low, high, PAGE_ROWS):
                return
            if self.cursor[chat_id] == low:
                return

    async def page(self, chat_id: int, low: int, high: int, limit: int) -> bool:
        """One page upwards from ``low``. False: no answer, or it was the last."""
        op, body = await self.ask(Op.HISTORY, History(chat_id, high, low, limit), 4.0)
        if op != Op.PAGE:
            return False
        page = decode(Page, body)
        for msg in page.messages:
            self._shown(msg, Via.HISTORY)
        seqs = {msg.seq for msg in page.messages}
        if page.complete and high < ID_LIMIT - 1:
            self._complete(chat_id, low, high - 1, seqs, "HISTORY")
        elif seqs:
            self._complete(chat_id, low, max(seqs), seqs, "HISTORY")
        return not page.complete

    # ------------------------------------------------------------------------------------------------- sending

    async def send(self, send: Send, timeout_s: float) -> int:
        """The op of the reply, or the code of its ERROR; 0: none."""
        self._judge.checker.sent(self.device_id, send.chat_id, send.client_msg_id, digest_of(send.kind, send.body))
        op, body = await self.ask(Op.SEND, send, timeout_s)
        if op == Op.ERROR:
            return decode(Error, body).code
        if op == Op.SENT:
            sent = decode(Sent, body)
            seen = Acknowledgement(
                sent.chat_id, send.client_msg_id, sent.seq, sent.prev_seq, sent.time_ms, sent.duplicate
            )
            self._say(f"device {self.device_id}: SENT {send.body!r} {show(sent.seq)}{' again' * sent.duplicate}")
            self._judge.checker.acknowledged(self.device_id, seen)
            self._follow(sent.chat_id, sent.seq, sent.prev_seq, "SENT")
        return op


def is_final(code: int) -> bool:
    return code in (Op.SENT, Code.FORBIDDEN, Code.ID_REUSED)
