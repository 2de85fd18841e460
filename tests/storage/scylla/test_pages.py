"""Pages of a log of several partitions, by bounds that are rows and by bounds that are any numbers."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from typing import Any

import pytest
import trio

from gateway.protocol.identifiers import seq_of
from storage.api import Message
from storage.scylla.pages import Pages, Span
from storage.scylla.ports import Row, Statement
from storage.scylla.rows import row_writes
from storage.scylla.statements import READ_CHAT, READ_OLDEST
from tests.storage.logs import CHAT, row

COUNTERS = (1 << 40) - 1
BUCKET = 4096
LAST = 5 * BUCKET + 100
EPOCHS = {1: 1, 3: 2_000, 4: 9_000, 9: 20_000}
"""Each epoch, and the counter of its first row."""
READS_MAX = 12
"""A guess, the chat's row, two newest buckets, three halvings of six buckets, and the page's own."""


def the_log(first: int = 1) -> list[Message]:
    rows: list[Message] = []
    prev_seq, epoch = 0, 1
    for counter in range(1, LAST + 1):
        epoch = next((e for e, begins in EPOCHS.items() if begins == counter), epoch)
        rows.append(row(counter, epoch=epoch, prev_seq=prev_seq, body=b"."))
        prev_seq = rows[-1].seq
    return [message for message in rows if message.seq & COUNTERS >= first]


LOG = the_log()


class OneLog:
    """An executor with one chat's log in it, which counts what is asked. (Twenty thousand rows in the simulated replicas
    take a minute.)"""

    def __init__(self, log: list[Message], pointer: int) -> None:
        self.reads = 0
        self._pointer = pointer
        self._buckets: dict[int, list[Row]] = {}
        for message in log:
            chat_id, _, seq, _, head, body, _ = row_writes([message], 0, 1, {})[0].values
            values: Row = (chat_id, seq, head, body)
            self._buckets.setdefault((message.seq & COUNTERS) // BUCKET, []).append(values)

    async def read(self, statement: Statement, *values: Any) -> list[Row]:
        self.reads += 1
        await trio.lowlevel.checkpoint()
        if statement is READ_CHAT:
            return [(CHAT, 0, "", 1, 0, self._pointer)]
        _, bucket, after_seq, before_seq, limit = values
        rows = self._buckets.get(bucket, [])
        first = bisect_right(rows, after_seq, key=lambda one: one[1])
        end = max(first, bisect_left(rows, before_seq, key=lambda one: one[1]))
        return (
            rows[first : min(end, first + limit)]
            if statement is READ_OLDEST
            else rows[max(first, end - limit) : end][::-1]
        )


def pages_of(log: list[Message], pointer: int = 5) -> tuple[Pages, OneLog]:
    executor = OneLog(log, pointer)
    return Pages(executor), executor  # type: ignore[arg-type]


def expected(log: list[Message], span: Span, limit: int, is_newest_first: bool) -> list[Message]:
    rows = [message for message in log if span.after_seq < message.seq < span.before_seq]
    return rows[::-1][:limit] if is_newest_first else rows[:limit]


def any_bound(rng: random.Random) -> int:
    """A row, a row's neighbour, or no row at all."""
    counter = rng.choice([rng.randrange(LAST + 50), BUCKET * rng.randrange(7) + rng.randrange(-2, 3)])
    seq = rng.choice([LOG[rng.randrange(len(LOG))].seq, seq_of(rng.randrange(11), max(counter, 0))])
    return rng.choice([seq, seq, seq + rng.randrange(-1, 2), rng.getrandbits(62), 0, (1 << 63) - 1, 1 << 63])


@pytest.mark.parametrize("pointer", [5, 6], ids=["the newest bucket is announced", "the next one is too"])
async def test_a_page_between_any_numbers_is_what_lies_between_them_and_takes_few_reads(pointer: int) -> None:
    pages, executor = pages_of(LOG, pointer)
    rng = random.Random(pointer)
    for _ in range(400):
        span = Span(CHAT, any_bound(rng), any_bound(rng))
        limit, is_newest_first = rng.choice([1, 3, 50, 5_000]), rng.random() < 0.5
        executor.reads = 0
        found = await pages.read(span, limit, is_newest_first)
        assert found == expected(LOG, span, limit, is_newest_first), (span, limit, is_newest_first)
        assert executor.reads <= READS_MAX, (span, limit, is_newest_first)


@pytest.mark.parametrize("at", [1, 60, BUCKET - 1, BUCKET, BUCKET + 1, 3 * BUCKET + 7, LAST])
async def test_the_page_before_or_after_a_row_takes_one_read_and_one_more_where_a_bucket_ends(
    at: int,
) -> None:
    pages, executor = pages_of(LOG)
    here = LOG[at - 1].seq
    for span, is_newest_first in (
        (Span(CHAT, 0, here + 1), True),
        (Span(CHAT, here, LOG[-1].seq + 1), False),
    ):
        executor.reads = 0
        assert await pages.read(span, 10, is_newest_first) == expected(LOG, span, 10, is_newest_first)
        assert executor.reads <= 2


async def test_the_end_of_a_log_is_known_without_a_read() -> None:
    pages, executor = pages_of(LOG)
    assert await pages.read(Span(CHAT, LOG[-1].seq, LOG[-1].seq + 1), 10, False) == []
    assert await pages.read(Span(CHAT, 0, 1 << 62), 0, True) == []
    assert executor.reads == 0


async def test_buckets_that_retention_emptied_are_passed_over() -> None:
    kept = the_log(2 * BUCKET)
    pages, _ = pages_of(kept)
    rng = random.Random(3)
    for _ in range(250):
        span = Span(CHAT, any_bound(rng), any_bound(rng))
        limit, is_newest_first = rng.choice([1, 50, 5_000]), rng.random() < 0.5
        found = await pages.read(span, limit, is_newest_first)
        assert found == expected(kept, span, limit, is_newest_first), (span, limit, is_newest_first)


async def test_a_chat_without_rows_has_no_pages() -> None:
    pages, _ = pages_of([], 0)
    for is_newest_first in (True, False):
        assert await pages.read(Span(CHAT, 5, 1 << 62), 10, is_newest_first) == []
