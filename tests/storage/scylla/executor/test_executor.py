"""What the port promises, on a real server."""

from __future__ import annotations

import gc
import secrets
import threading
from functools import partial

import pytest
import trio
import trio.testing

from storage.api import StoreConflict, StoreError, StoreTimedOut, StoreUnavailable
from storage.scylla.executor import ScyllaExecutor
from storage.scylla.grouping import MAX_GROUP_UNITS
from storage.scylla.ports import Statement, Write
from storage.scylla.settings import ScyllaSettings
from tests.storage.scylla.executor.conftest import OpenExecutor
from tests.storage.scylla.executor.notes import (
    CLAIM_TURN,
    PASS_TURN,
    PUT_NOTE,
    READ_PAGE,
    READ_PAGE_TOGETHER,
    READ_TURNS,
    STATEMENTS,
    erase,
    put,
)


async def texts(executor: ScyllaExecutor, book: int, page: int = 0) -> list[object]:
    return [text for _, text, _ in await executor.read(READ_PAGE, book, page)]


class Ends:
    """How calls of ``write_then`` ended, and a wait for all of them."""

    def __init__(self, expected: int) -> None:
        self.ended: dict[int, StoreError | None] = {}
        self._expected = expected
        self._all = trio.Event()

    def of(self, number: int, error: StoreError | None) -> None:
        assert number not in self.ended
        self.ended[number] = error
        if len(self.ended) == self._expected:
            self._all.set()

    async def wait(self) -> dict[int, StoreError | None]:
        await self._all.wait()
        return self.ended


# ------------------------------------------------------------------------------------------------------- memory


async def test_what_was_written_and_read_is_gone_with_its_request(executor: ScyllaExecutor, book: int) -> None:
    """Else the collector finds it, some 400 ms at a time on a busy worker."""
    await executor.write([put(book, number) for number in range(10)])
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await executor.write([put(book, number) for number in range(50)])
            await executor.read(READ_PAGE, book, 0)
        assert gc.collect() < 100
    finally:
        gc.enable()


# -------------------------------------------------------------------------------------------------------- reads


async def test_a_read_returns_all_pages(open_executor: OpenExecutor, book: int) -> None:
    executor = await open_executor(page_rows=100)
    await executor.write([put(book, number, str(number)) for number in range(1_234)])
    assert await texts(executor, book) == [str(number) for number in range(1_234)]


async def test_a_read_of_nothing_is_empty(executor: ScyllaExecutor, book: int) -> None:
    assert await executor.read(READ_PAGE, book, 0) == []
    assert await executor.read_serially(READ_PAGE, book, 0) == []


async def test_a_cancelled_read_gives_nobody_anothers_answer(executor: ScyllaExecutor, book: int) -> None:
    pages = range(60)
    await executor.write([put(book, 0, str(page), page=page) for page in pages])
    answers: dict[int, list[object]] = {}

    async def ask(page: int) -> None:
        answers[page] = await texts(executor, book, page)

    for round_number in range(5):
        async with trio.open_nursery() as kept, trio.open_nursery() as cancelled:
            for page in pages:
                (kept if page % 3 == 0 else cancelled).start_soon(ask, page)
            for _ in range(round_number):
                await trio.lowlevel.checkpoint()
            cancelled.cancel_scope.cancel()
    assert set(answers) >= set(pages[::3])
    assert answers == {page: [str(page)] for page in answers}


async def test_a_shared_question_is_asked_once_and_answers_all(executor: ScyllaExecutor, book: int) -> None:
    await executor.write([put(book, 1, "one")])
    before = executor.statistics()
    answers: list[object] = []

    async def ask() -> None:
        answers.append(await executor.read(READ_PAGE_TOGETHER, book, 0))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    after = executor.statistics()
    assert answers == [[(1, "one")]] * 10
    assert after.requests - before.requests == 1
    assert after.shared_reads - before.shared_reads == 9


async def test_who_asked_first_may_leave_and_the_others_get_the_answer(executor: ScyllaExecutor, book: int) -> None:
    await executor.write([put(book, 1, "one")])
    answers: list[object] = []

    async def ask() -> None:
        answers.append(await executor.read(READ_PAGE_TOGETHER, book, 0))

    async with trio.open_nursery() as nursery, trio.open_nursery() as first:
        first.start_soon(ask)
        await trio.lowlevel.checkpoint()
        nursery.start_soon(ask)
        await trio.lowlevel.checkpoint()
        first.cancel_scope.cancel()
    assert answers[-1] == [(1, "one")]


async def test_other_questions_are_asked_by_each(executor: ScyllaExecutor, book: int) -> None:
    before = executor.statistics().requests
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(executor.read, READ_PAGE, book, 0)
    assert executor.statistics().requests - before == 10


async def test_a_statement_that_nobody_named_is_prepared_when_it_is_used(executor: ScyllaExecutor, book: int) -> None:
    await executor.write([put(book, 7)])
    late = Statement("read_numbers", "SELECT number FROM notes WHERE book = ? AND page = ?", key=(0, 1))
    assert await executor.read(late, book, 0) == [(7,)]


async def test_a_list_of_keys_is_one_value(executor: ScyllaExecutor, book: int) -> None:
    await executor.write([put(book, number) for number in range(5)])
    some = Statement("some", "SELECT number FROM notes WHERE book = ? AND page = ? AND number IN ?", key=(0, 1))
    assert await executor.read(some, book, 0, [1, 3, 9]) == [(1,), (3,)]


async def test_reads_beyond_the_bound_are_refused(open_executor: OpenExecutor, book: int) -> None:
    executor = await open_executor(max_in_flight_reads=1, max_waiting_reads=2)
    ends: list[type] = []

    async def ask() -> None:
        try:
            await executor.read(READ_PAGE, book, 0)
            ends.append(list)
        except StoreUnavailable:
            ends.append(StoreUnavailable)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert sorted(end.__name__ for end in ends) == ["StoreUnavailable"] * 2 + ["list"] * 3
    assert executor.statistics().refusals == 2
    assert await executor.read(READ_PAGE, book, 0) == []


# ------------------------------------------------------------------------------------------------------- writes


@pytest.mark.parametrize("order", [(1, 5), (5, 1)])
async def test_the_later_timestamp_wins_whenever_it_comes(
    executor: ScyllaExecutor, book: int, order: tuple[int, int]
) -> None:
    for timestamp in order:
        await executor.write([put(book, 1, f"of {timestamp}", timestamp=timestamp)])
    assert await texts(executor, book) == ["of 5"]


async def test_a_range_delete_kills_what_is_written_later_with_an_earlier_timestamp(
    executor: ScyllaExecutor, book: int
) -> None:
    await executor.write([put(book, 1, "adopted", timestamp=7), erase(book, 0, 100, timestamp=6)])
    for timestamp in (5, 6):
        await executor.write([put(book, 2, "late", timestamp=timestamp)])
    await executor.write([put(book, 3, "of the new owner", timestamp=7)])
    assert await texts(executor, book) == ["adopted", "of the new owner"]


async def test_none_leaves_a_column_as_it_is(executor: ScyllaExecutor, book: int) -> None:
    await executor.write([put(book, 1, "first", timestamp=1)])
    await executor.write([put(book, 1, None, timestamp=2)])
    assert await texts(executor, book) == ["first"]


async def test_many_rows_share_few_requests(executor: ScyllaExecutor, book: int) -> None:
    before = executor.statistics()
    await executor.write([put(book, 0, str(page), page=page) for page in range(2_000)])
    after = executor.statistics()
    assert after.statements - before.statements == 2_000
    assert after.requests - before.requests == 2_000 / MAX_GROUP_UNITS
    assert await texts(executor, book, 1_999) == ["1999"]


async def test_more_than_the_queue_holds_is_written_bit_by_bit(open_executor: OpenExecutor, book: int) -> None:
    executor = await open_executor(max_waiting_rows=100, max_in_flight_writes=2)
    async with trio.open_nursery() as nursery:
        for page in range(3):
            rows = [put(book, number, page=page) for number in range(1_000)]
            nursery.start_soon(executor.write, rows)
    for page in range(3):
        assert len(await texts(executor, book, page)) == 1_000


async def test_writes_given_one_after_the_other_share_requests_and_end_together(
    executor: ScyllaExecutor, book: int
) -> None:
    calls = MAX_GROUP_UNITS // 2
    ends, rounds = Ends(calls), []
    executor.after_writes = lambda: rounds.append(len(ends.ended))
    before = executor.statistics().requests
    for number in range(calls):
        executor.write_then([put(book, number, page=number), put(book, number, page=100)], partial(ends.of, number))
        assert not ends.ended
    assert await ends.wait() == dict.fromkeys(range(calls))
    await trio.lowlevel.checkpoint()
    assert executor.statistics().requests - before == 1
    assert rounds == [calls]


async def test_rows_of_one_partition_stay_in_one_request(executor: ScyllaExecutor, book: int) -> None:
    """Ninety rows do not fit beside ninety others: two requests, and not the first one filled up."""
    ends = Ends(2)
    before = executor.statistics().requests
    for page in range(2):
        executor.write_then([put(book, number, page=page) for number in range(90)], partial(ends.of, page))
    await ends.wait()
    assert executor.statistics().requests - before == 2


@pytest.mark.parametrize("size", [1_000, 60_000, 2_000_000])
async def test_a_row_may_be_larger_than_a_batch(executor: ScyllaExecutor, book: int, size: int) -> None:
    rows = [Write(PUT_NOTE, (book, 0, number, "", secrets.token_bytes(size), 1)) for number in range(4)]
    await executor.write(rows)
    assert [mark for _, _, mark in await executor.read(READ_PAGE, book, 0)] == [row.values[4] for row in rows]


async def test_large_rows_of_many_partitions_are_spread_over_requests(executor: ScyllaExecutor, book: int) -> None:
    rows = [Write(PUT_NOTE, (book, page, 0, "", bytes(9_000), 1)) for page in range(40)]
    await executor.write(rows)
    assert len(await texts(executor, book, 39)) == 1


async def test_a_row_that_is_refused_takes_no_other_with_it(executor: ScyllaExecutor, book: int) -> None:
    ends = Ends(10)
    for number in range(10):
        row = put(book, number, page=number)
        if number == 4:
            row = Write(PUT_NOTE, (book, 4, None, "no clustering key", b"", 1))
        executor.write_then([row], partial(ends.of, number))
    ended = await ends.wait()
    assert isinstance(ended.pop(4), StoreConflict)
    assert set(ended.values()) == {None}


@pytest.mark.parametrize(
    "values", [(1, 0, 1, "t", b""), (1, 0, "x", "t", b"", 1), (1, 1 << 40, 1, "t", b"", 1), (None, 0, 1, "t", b"", 1)]
)
async def test_values_that_are_not_the_statements_are_our_bug(
    executor: ScyllaExecutor, values: tuple[object, ...]
) -> None:
    with pytest.raises(StoreConflict):
        await executor.write([Write(PUT_NOTE, values)])
    ends = Ends(1)
    executor.write_then([Write(PUT_NOTE, values)], partial(ends.of, 0))
    assert isinstance((await ends.wait())[0], StoreConflict)


async def test_writes_beyond_the_bound_are_refused_in_a_later_step(open_executor: OpenExecutor, book: int) -> None:
    executor = await open_executor(max_waiting_rows=10, max_in_flight_writes=1, linger_s=0.05)
    ends = Ends(4)
    for number in range(4):
        executor.write_then([put(book, row, page=number) for row in range(4)], partial(ends.of, number))
    assert not ends.ended
    ended = await ends.wait()
    assert [type(ended[number]) for number in range(4)] == [type(None), type(None), StoreUnavailable, StoreUnavailable]
    assert await texts(executor, book, 2) == []


async def test_reads_do_not_wait_behind_a_full_lane_of_writes(open_executor: OpenExecutor, book: int) -> None:
    executor = await open_executor(max_in_flight_writes=1)
    ended: list[str] = []

    async def write() -> None:
        await executor.write([put(book, number, "x" * 200, page=number) for number in range(5_000)])
        ended.append("write")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        await executor.read(READ_PAGE, book, 0)
        ended.append("read")
    assert ended == ["read", "write"]


# -------------------------------------------------------------------------------------- conditional statements


async def test_a_decision_is_applied_once_and_shows_what_was_found(executor: ScyllaExecutor) -> None:
    game = secrets.randbits(30)
    first = await executor.decide([Write(CLAIM_TURN, (game, 1, "ann"))])
    second = await executor.decide([Write(CLAIM_TURN, (game, 1, "bob"))])
    assert first == (True, [])
    assert second == (False, [(game, 1, "ann")])
    assert await executor.read_serially(READ_TURNS, game) == [(1, "ann")]


async def test_decisions_on_one_partition_are_applied_all_or_none(executor: ScyllaExecutor) -> None:
    game = secrets.randbits(30)
    await executor.decide([Write(CLAIM_TURN, (game, 2, "ann"))])
    decision = await executor.decide([Write(CLAIM_TURN, (game, turn, "bob")) for turn in (1, 2, 3)])
    assert not decision.is_applied
    assert await executor.read_serially(READ_TURNS, game) == [(2, "ann")]
    assert (await executor.decide([Write(CLAIM_TURN, (game, turn, "bob")) for turn in (1, 3)])).is_applied
    assert await executor.read(READ_TURNS, game) == [(1, "bob"), (2, "ann"), (3, "bob")]


async def test_none_in_a_condition_means_that_there_is_nothing(executor: ScyllaExecutor) -> None:
    game = secrets.randbits(30)
    assert (await executor.decide([Write(PASS_TURN, ("ann", game, 1, None))])).is_applied
    assert not (await executor.decide([Write(PASS_TURN, ("bob", game, 1, None))])).is_applied


async def test_of_many_deciders_at_once_one_wins(executor: ScyllaExecutor) -> None:
    game, winners = secrets.randbits(30), []

    async def claim(player: str) -> None:
        try:
            if (await executor.decide([Write(CLAIM_TURN, (game, 1, player))])).is_applied:
                winners.append(player)
        except StoreTimedOut:  # unknown, under contention: the row tells
            if await executor.read_serially(READ_TURNS, game) == [(1, player)]:
                winners.append(player)

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(claim, f"player {number}")
    assert await executor.read_serially(READ_TURNS, game) == [(1, winners[0])]
    assert len(winners) == 1


# ------------------------------------------------------------------------------------------------ opening, closing


async def test_close_ends_what_was_sent_and_refuses_the_rest(settings: ScyllaSettings, book: int) -> None:
    from tests.storage.scylla.executor.notes import MIGRATIONS

    executor = ScyllaExecutor(settings, STATEMENTS, migrations=MIGRATIONS)
    await executor.open()
    before = {thread.name for thread in threading.enumerate()}
    assert any("heartbeat" in name for name in before)
    ends = Ends(2)
    executor.write_then([put(book, 1)], partial(ends.of, 1))
    await executor.close()
    executor.write_then([put(book, 2)], partial(ends.of, 2))
    ended = await ends.wait()
    assert isinstance(ended[2], StoreUnavailable)
    for ask in (executor.read(READ_PAGE, book, 0), executor.write([put(book, 3)]), executor.decide([])):
        with pytest.raises(StoreUnavailable):
            await ask
    await executor.close()
    assert not any("heartbeat" in thread.name or "Scheduler" in thread.name for thread in threading.enumerate())


async def test_a_cluster_that_cannot_be_reached_is_said_in_one_line(settings: ScyllaSettings) -> None:
    executor = ScyllaExecutor(settings._replace(contact_points=("127.0.0.254",), port=9), STATEMENTS)
    with pytest.raises(StoreUnavailable, match=r"^cannot use the cluster at 127\.0\.0\.254:9: .*refused[^\n]*$"):
        await executor.open()


async def test_a_statement_that_does_not_fit_the_schema_is_our_bug(settings: ScyllaSettings) -> None:
    executor = ScyllaExecutor(settings, [Statement("wrong", "SELECT nothing FROM nowhere")], migrations=[])
    with pytest.raises(StoreConflict, match=r"^[^\n]*nowhere[^\n]*$"):
        await executor.open()


async def test_an_open_that_is_cancelled_leaves_no_thread(settings: ScyllaSettings) -> None:
    executor = ScyllaExecutor(settings, STATEMENTS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.open)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with trio.fail_after(60):
        while any("heartbeat" in thread.name for thread in threading.enumerate()):
            await trio.sleep(0.01)
