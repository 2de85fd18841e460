"""Pages of a log, from partition to partition.

Owns the search for the partition in which a page begins, and the walk from there. A page's bounds may be any numbers (a client
asks "before 1 << 62", or names a seq that is no row), so a bucket follows from nothing but the counter of a row that was read,
or from the chat's row.

What makes that possible: in the log's order both seqs and counters rise, the counters by one. Hence a bucket below the newest
is full (retention may have emptied the oldest ones, whole), a row that is not the last of its full bucket has its successor in
the same bucket, and ``prev_seq`` names the row before.

A first guess takes a bound for the neighbour of a row, which it is for the pages that clients turn; the rows read show
whether it was, and then the page took one read. Else the chat's row names the newest bucket, and the page begins there or is
found by halving: at most 28 reads one after the other for the 2^28 buckets that there can be, 12 for a log of 16 million rows,
each of one row. Then one read for each bucket that the page touches (limit / 4,096, and two).

No row is read that may not be committed, since reading repairs: in the newest bucket none beyond the bounds. The others are full,
and committed as a whole before the chat's row named the next one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.protocol.identifiers import ID_LIMIT, counter_of
from storage.api import BUCKET_BITS, Message
from storage.scylla.ports import Executor, Statement
from storage.scylla.rows import bucket_of, message_of
from storage.scylla.statements import READ_CHAT, READ_NEWEST, READ_OLDEST

_LAST_OF_BUCKET = (1 << BUCKET_BITS) - 1


class Span(NamedTuple):
    """Rows with after_seq < seq < before_seq."""

    chat_id: int
    after_seq: int
    before_seq: int


def _ends_bucket(row: Message) -> bool:
    return counter_of(row.seq) & _LAST_OF_BUCKET == _LAST_OF_BUCKET


class Pages:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def read(self, span: Span, limit: int, is_newest_first: bool) -> list[Message]:
        span = span._replace(after_seq=max(span.after_seq, 0), before_seq=min(span.before_seq, ID_LIMIT - 1))
        if limit <= 0 or span.before_seq - span.after_seq < 2:
            return []
        if is_newest_first:
            return await self._newest_first(span, limit)
        return await self._oldest_first(span, limit)

    async def _page(self, statement: Statement, span: Span, bucket: int, limit: int) -> list[Message]:
        rows: list[Any] = await self._executor.read(
            statement, span.chat_id, bucket, span.after_seq, span.before_seq, limit
        )
        return [message_of(row) for row in rows]

    async def _newest_bucket(self, chat_id: int) -> int:
        rows: list[Any] = await self._executor.read(READ_CHAT, chat_id)
        return (rows[0][5] or 0) if rows else 0

    # ------------------------------------------------------------------------------------------- newest first

    async def _newest_first(self, span: Span, limit: int) -> list[Message]:
        bucket = bucket_of(span.before_seq - 1)
        rows = await self._page(READ_NEWEST, span, bucket, limit)
        if not rows or (_ends_bucket(rows[0]) and rows[0].seq != span.before_seq - 1):
            bucket, rows = await self._find_newest(span, limit)
        while rows and len(rows) < limit and rows[-1].prev_seq > span.after_seq and bucket > 0:
            bucket -= 1
            older = await self._page(READ_NEWEST, span, bucket, limit - len(rows))
            if not older:
                break
            rows += older
        return rows

    async def _find_newest(self, span: Span, limit: int) -> tuple[int, list[Message]]:
        """The newest bucket with a row in the span, and what it has of the page."""
        newest = await self._newest_bucket(span.chat_id)
        for bucket in (newest, newest - 1):  # the newest may have been announced and not begun
            rows = await self._page(READ_NEWEST, span, bucket, limit) if bucket >= 0 else []
            if rows:
                return bucket, rows
        bucket = await self._last_beginning_below(span.before_seq, span.chat_id, newest - 2)
        return bucket, await self._page(READ_NEWEST, span, bucket, limit) if bucket >= 0 else []

    # ------------------------------------------------------------------------------------------- oldest first

    async def _oldest_first(self, span: Span, limit: int) -> list[Message]:
        bucket = bucket_of(span.after_seq + 1) if span.after_seq else 0
        rows = await self._page(READ_OLDEST, span, bucket, limit)
        if not rows or (bucket > 0 and rows[0].prev_seq > span.after_seq):
            bucket, rows = await self._find_oldest(span, limit)
        while rows and len(rows) < limit and _ends_bucket(rows[-1]) and rows[-1].seq + 1 < span.before_seq:
            bucket += 1
            newer = await self._page(READ_OLDEST, span, bucket, limit - len(rows))
            if not newer:
                break
            rows += newer
        return rows

    async def _find_oldest(self, span: Span, limit: int) -> tuple[int, list[Message]]:
        """The oldest bucket with a row in the span, and what it has of the page."""
        newest = await self._newest_bucket(span.chat_id)
        first = await self._last_beginning_below(span.after_seq + 1, span.chat_id, newest - 1)
        rows = await self._page(READ_OLDEST, span, first, limit) if first >= 0 else []
        if rows:
            return first, rows
        return first + 1, await self._page(READ_OLDEST, span, first + 1, limit)

    async def _last_beginning_below(self, seq: int, chat_id: int, highest: int) -> int:
        """The last of the buckets 0 … highest, all full, whose first row is below ``seq``; -1: there is none. One that
        retention emptied counts as below: so are the rows that it had."""
        whole = Span(chat_id, 0, ID_LIMIT - 1)
        low, high = -1, highest
        while low < high:
            middle = (low + high + 1) // 2
            rows = await self._page(READ_OLDEST, whole, middle, 1)
            if not rows or rows[0].seq < seq:
                low = middle
            else:
                high = middle - 1
        return low
