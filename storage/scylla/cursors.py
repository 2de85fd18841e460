"""Watermarks and cursors: the highest wins, without a read.

Owns the tables ``watermarks`` and ``cursors``. What may only rise is written USING TIMESTAMP the counter of its own value: of two
writes the engine keeps the later counter, whichever came first, and of two with one counter the greater value.

A device's record may be set downward too, and what it acknowledged before must not bring it up again. So a cursor's row has three
values, of which a read makes one:
  raised   The highest ever acknowledged; never goes down.
  set      What the record was set to, when, and what ``raised`` was then. -1: it was forgotten.
  recent   What was acknowledged last, and when.
Never set, the record is ``raised``. Else it is the highest of what was set, of ``raised`` if that has grown since, and of
``recent`` if that came after. The last is for a device that has lost what it had and acknowledges the same rows once more.

Its weakness, in return for no read on the way up: after a record was set downward and until it passes what it was before, of
several acknowledgements the latest counts, not the highest, as far as the nodes' clocks agree. A record that is too low costs
a device some rows that it has already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gateway.protocol.identifiers import ChatId, DeviceId, Seq, UserId, counter_of
from storage.api import Watermark
from storage.scylla.parallel import chunks, for_each
from storage.scylla.ports import Executor, Write
from storage.scylla.statements import (
    KEYS_PER_READ,
    PUT_RECENT_CURSOR,
    RAISE_CURSOR,
    RAISE_DELIVERED,
    RAISE_READ,
    READ_CHAT_WATERMARKS,
    READ_CURSORS,
    READ_USER_WATERMARKS,
    SET_CURSOR,
)

FORGOTTEN = -1


class CursorRow(NamedTuple):
    """None: never written."""

    raised_seq: int | None
    recent_seq: int | None
    recent_us: int | None
    set_seq: int | None
    set_over: int | None
    set_us: int | None

    @property
    def record(self) -> int | None:
        """None: there is no record of this chat."""
        if self.set_seq is None or self.set_over is None or self.set_us is None:
            return self.raised_seq
        seqs = [self.set_seq]
        if self.raised_seq is not None and self.raised_seq > self.set_over:
            seqs.append(self.raised_seq)
        if self.recent_seq is not None and self.recent_us is not None and self.recent_us > self.set_us:
            seqs.append(self.recent_seq)
        return max(seqs) if max(seqs) > FORGOTTEN else None

    @property
    def latest_us(self) -> int:
        return max(self.recent_us or 0, self.set_us or 0)


class Cursors:
    """``now_us``: the wall clock (microseconds since the Unix epoch)."""

    def __init__(self, executor: Executor, now_us: Callable[[], int]) -> None:
        self._executor = executor
        self._now_us = now_us
        self._latest_us = 0

    def _time_us(self, above_us: int = 0) -> int:
        """Now, and above all times that were given out or seen: two writes of one time would be decided by their values."""
        self._latest_us = max(self._now_us(), self._latest_us + 1, above_us + 1)
        return self._latest_us

    # --------------------------------------------------------------------------------------------- watermarks

    async def raise_watermarks(self, marks: Sequence[tuple[ChatId, Watermark]]) -> None:
        writes = []
        for chat_id, (user_id, delivered_seq, read_seq) in marks:
            values = chat_id, user_id, delivered_seq, counter_of(delivered_seq)
            writes.append(Write(RAISE_DELIVERED, values))
            if read_seq:
                writes.append(Write(RAISE_READ, (chat_id, user_id, read_seq, counter_of(read_seq))))
        await self._executor.write(writes)

    async def watermarks_of_chat(self, chat_id: int) -> list[Watermark]:
        return [_watermark(row) for row in await self._executor.read(READ_CHAT_WATERMARKS, chat_id)]

    async def watermarks_of_user(self, user_id: int, chat_ids: Sequence[ChatId]) -> dict[ChatId, Watermark]:
        async def read_part(part: Sequence[ChatId]) -> list[Any]:
            return await self._executor.read(READ_USER_WATERMARKS, tuple(part), user_id)

        parts = await for_each(read_part, chunks(list(dict.fromkeys(chat_ids)), KEYS_PER_READ))
        return {row[0]: _watermark(row) for rows in parts for row in rows}

    # ------------------------------------------------------------------------------------------------ cursors

    async def raise_all(self, cursors: Sequence[tuple[UserId, DeviceId, ChatId, Seq]]) -> None:
        highest: dict[tuple[int, int, int], int] = {}
        for user_id, device_id, chat_id, seq in cursors:
            row: tuple[int, int, int] = user_id, device_id, chat_id
            highest[row] = max(seq, highest.get(row, 0))
        now_us = self._time_us()
        writes = []
        for key, highest_seq in highest.items():
            writes.append(Write(RAISE_CURSOR, (*key, highest_seq, counter_of(highest_seq))))
            writes.append(Write(PUT_RECENT_CURSOR, (*key, highest_seq, now_us, now_us)))
        await self._executor.write(writes)

    async def set_all(self, device: tuple[int, int], record: Mapping[ChatId, Seq], is_complete: bool) -> None:
        """``device``: (user, device). One partition: atomic on each replica, up to what one request holds."""
        rows = await self._rows(device)
        wanted: dict[int, int] = dict(record.items())
        if is_complete:
            forgotten = (chat_id for chat_id, row in rows.items() if row.record is not None)
            wanted = {**dict.fromkeys(forgotten, FORGOTTEN), **wanted}
        time_us = self._time_us(max((row.latest_us for row in rows.values()), default=0))
        await self._executor.write(
            [
                Write(SET_CURSOR, (*device, chat_id, seq, _raised(rows.get(chat_id)), time_us, time_us))
                for chat_id, seq in wanted.items()
            ]
        )

    async def record(self, device: tuple[int, int]) -> dict[ChatId, Seq]:
        rows = await self._rows(device)
        found = ((chat_id, row.record) for chat_id, row in rows.items())
        return {ChatId(chat_id): Seq(seq) for chat_id, seq in found if seq is not None}

    async def _rows(self, device: tuple[int, int]) -> dict[int, CursorRow]:
        rows: list[Any] = await self._executor.read(READ_CURSORS, *device)
        return {row[0]: CursorRow._make(row[1:]) for row in rows}


def _raised(row: CursorRow | None) -> int:
    return FORGOTTEN if row is None or row.raised_seq is None else row.raised_seq


def _watermark(row: Sequence[Any]) -> Watermark:
    return Watermark(row[1], row[2] or 0, row[3] or 0)
