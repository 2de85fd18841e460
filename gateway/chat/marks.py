"""Cursors, watermarks and receipts: folded in memory, told and written behind in bulk.

Owns what has been said but is not durable yet. A crash loses at most the last second of it, which costs a few messages
sent again and a mark that is late, never a message. Invariant: marks only rise; each dictionary is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Protocol

import structlog
import trio

from gateway.protocol.frames import encode
from gateway.protocol.identifiers import ChatId, DeviceId, Seq, UserId
from gateway.protocol.messages import Op, Receipt, ReceiptKind
from storage.api import CursorStore, StoreError, Watermark

RECEIPT_PERIOD_S = 0.1
WRITES_PER_RECEIPTS = 10
RECEIPTS_PER_STEP = 32
MAX_DIRTY = 200_000

log = structlog.get_logger(__name__)


class ReceiptPush(Protocol):
    """Take a receipt's frame to those who are to see it. ``mark`` moved by this user's device."""

    def __call__(self, chat_id: int, user_id: int, device_id: int, frame: bytes, kind: ReceiptKind) -> None: ...


class WriteBehind:
    """See the module. ``run`` must be running."""

    def __init__(self, store: CursorStore, push: ReceiptPush, flush_soon: Callable[[], None]) -> None:
        self._store = store
        self._push = push
        self._flush_soon = flush_soon
        self._cursors: dict[tuple[int, int, int], int] = {}
        self._watermarks: dict[tuple[int, int], Watermark] = {}
        self._writing: dict[tuple[int, int, int], int] = {}
        """Cursors that the store is being given; what is forgotten meanwhile does not come back if it refuses."""
        self._receipts: dict[tuple[int, int, ReceiptKind], tuple[int, int]] = {}
        self.dropped = 0

    def cursor(self, device: tuple[int, int], chat_id: int, seq: int) -> None:
        key = (*device, chat_id)
        if seq > self._cursors.get(key, 0) and self._has_room(self._cursors, key):
            self._cursors[key] = seq

    def pending_cursor(self, device: tuple[int, int], chat_id: int) -> int:
        """What the store does not know yet of a device's record; 0: nothing."""
        return self._cursors.get((*device, chat_id), 0)

    def forget_cursor(self, device: tuple[int, int], chat_id: int) -> None:
        """The device has set its record itself: what it said before does not count."""
        self._cursors.pop((*device, chat_id), None)
        self._writing.pop((*device, chat_id), None)

    def watermark(self, chat_id: int, mark: Watermark) -> None:
        key = (chat_id, mark.user_id)
        if self._has_room(self._watermarks, key):
            self._watermarks[key] = _folded(mark, self._watermarks.get(key, mark))

    def pending_watermark(self, chat_id: int, user_id: int) -> Watermark | None:
        return self._watermarks.get((chat_id, user_id))

    def receipt(self, chat_id: int, user_id: int, mark: Watermark, device_id: int) -> None:
        """These marks of a member rose (0: did not). Cumulative: the latest says all."""
        for kind, seq in ((ReceiptKind.DELIVERED, mark.delivered_seq), (ReceiptKind.READ, mark.read_seq)):
            if seq and self._has_room(self._receipts, (chat_id, user_id, kind)):
                self._receipts[chat_id, user_id, kind] = (seq, device_id)

    async def run(self) -> None:
        while True:
            for _ in range(WRITES_PER_RECEIPTS):
                await trio.sleep(RECEIPT_PERIOD_S)
                while self._receipts:
                    self._tell_receipts()
                    await trio.lowlevel.checkpoint()
            await self.write()

    async def write(self) -> None:
        """Write what is dirty. What the store does not take stays for the next time."""
        writing = self._writing = self._cursors
        self._cursors = {}
        marks, self._watermarks = self._watermarks, {}
        try:
            if marks:
                await self._store.raise_watermarks([(ChatId(chat), mark) for (chat, _), mark in marks.items()])
            if writing:
                await self._store.raise_cursors(
                    [(UserId(u), DeviceId(d), ChatId(c), Seq(seq)) for (u, d, c), seq in writing.items()]
                )
        except StoreError as error:
            log.warning("marks_not_written", error=str(error), marks=len(marks), cursors=len(writing))
            for (chat_id, _), mark in marks.items():
                self.watermark(chat_id, mark)
            for (user_id, device_id, chat_id), seq in writing.items():
                self.cursor((user_id, device_id), chat_id, seq)

    def _tell_receipts(self) -> None:
        """A few at once: each costs some 50 us, and messages wait meanwhile."""
        for key in list(islice(self._receipts, RECEIPTS_PER_STEP)):
            chat_id, user_id, kind = key
            seq, device_id = self._receipts.pop(key)
            frame = encode(Op.RECEIPT, Receipt(chat_id, kind, seq, user_id))
            self._push(chat_id, user_id, device_id, frame, kind)
        self._flush_soon()

    def _has_room(self, dirty: Mapping[Any, object], key: object) -> bool:
        if len(dirty) < MAX_DIRTY or key in dirty:
            return True
        self.dropped += 1
        return False


def _folded(one: Watermark, other: Watermark) -> Watermark:
    delivered_seq, read_seq = max(one.delivered_seq, other.delivered_seq), max(one.read_seq, other.read_seq)
    return Watermark(one.user_id, delivered_seq, read_seq)
