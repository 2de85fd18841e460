"""What happens at the bounds: a full queue, a closed store, a caller that gives up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from storage.api import Appended, Store, StoreUnavailable
from tests.storage.conftest import OpenStore
from tests.storage.logs import CHAT, HIGH, LOW, append, batch, in_conflict, log_of, own, rows_of


async def test_beyond_the_queue_bound_a_batch_ends_unavailable_and_the_queued_ones_are_stored(
    open_store: OpenStore,
) -> None:
    store = await open_store(queue_rows_max=10)
    await own(store)
    batches = [batch(rows_of(1, 4, chat_id=CHAT + (number << 20))) for number in range(4)]
    ends = await append(store, *batches)
    assert ends[:2] == [None, None]
    for end in ends[2:]:
        assert isinstance(end, StoreUnavailable)
        assert not end.is_unknown
    assert await log_of(store, batches[1].chat_id) == list(batches[1].rows)
    assert await log_of(store, batches[2].chat_id) == []
    assert await append(store, *batches[2:]) == [None, None], "the queue has room again"


async def test_a_refusal_is_never_told_from_inside_append(open_store: OpenStore) -> None:
    store = await open_store(queue_rows_max=1)
    ends: list[Appended] = []
    told = trio.Event()

    def done(appended: Sequence[Appended]) -> None:
        ends.extend(appended)
        told.set()

    store.append(batch(rows_of(1, 2)), done)
    assert not ends
    await told.wait()
    assert len(ends) == 1


async def test_close_ends_every_append_in_flight(open_store: OpenStore) -> None:
    store = await open_store()
    await own(store)
    ends: list[Appended] = []
    batches = [batch(rows_of(1, 16, chat_id=CHAT + (number << 20))) for number in range(100)]
    for each in batches:
        store.append(each, ends.extend)
    await store.close()
    assert sorted(end.batch.chat_id for end in ends) == sorted(each.chat_id for each in batches)
    reopened = await open_store()
    for end in ends:
        expected = list(end.batch.rows) if end.error is None else []
        assert await log_of(reopened, end.batch.chat_id) == expected


async def test_a_closed_store_refuses_and_closing_it_again_is_harmless(open_store: OpenStore) -> None:
    store = await open_store()
    await own(store)
    await store.close()
    await store.close()
    (end,) = await append(store, batch(rows_of(1, 1)))
    assert isinstance(end, StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        await store.create_direct(LOW, HIGH, CHAT)
    with pytest.raises(StoreUnavailable):
        await store.read_chat(CHAT)
    assert store.statistics().queued_rows == 0


async def test_what_was_written_is_there_for_the_next_handle(open_store: OpenStore) -> None:
    store = await open_store()
    await own(store)
    await store.create_direct(LOW, HIGH, CHAT)
    await append(store, batch(rows_of(1, 9)))
    await store.close()
    reopened = await open_store()
    assert await log_of(reopened) == rows_of(1, 9)
    assert await reopened.create_direct(LOW, HIGH, CHAT) == CHAT
    assert await own(reopened) == 2


async def test_a_caller_that_is_cancelled_leaves_a_store_that_works(store: Store) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.create_direct(LOW, HIGH, CHAT)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.read_chat(CHAT)
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.chats_of, LOW)
        nursery.cancel_scope.cancel()
    assert await store.create_direct(LOW, HIGH, CHAT) == CHAT
    assert await store.create_direct(LOW, HIGH, CHAT) == CHAT


async def test_statistics_count_commits_rows_and_what_waits(store: Store) -> None:
    await own(store)
    before = store.statistics()
    ended = trio.Event()
    store.append(batch(rows_of(1, 20)), lambda _: ended.set())
    assert store.statistics().queued_rows == 20
    await ended.wait()
    after = store.statistics()
    assert after.queued_rows == 0
    assert after.rows - before.rows == 20
    assert after.commits - before.commits == 1
    assert after.batch_size_buckets[float("inf")] == after.commits
    assert after.batch_size_buckets[16.0] == after.commits - 1
    assert after.commit_seconds_buckets[float("inf")] == after.commits


async def test_a_conflict_is_counted_as_an_error(store: Store) -> None:
    await own(store)
    await append(store, batch(rows_of(1, 1)))
    before = store.statistics().errors
    await append(store, in_conflict(store))
    assert store.statistics().errors == before + 1
