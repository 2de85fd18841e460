"""What the rules need of the engine itself: timestamps that decide, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.protocol.identifiers import seq_of
from storage.api import Chat, Member, MembershipChange, Store
from storage.scylla.executor import ScyllaExecutor
from storage.scylla.ports import Write
from storage.scylla.rows import batch_writes
from storage.scylla.settings import ScyllaSettings
from storage.scylla.statements import FENCE, PUT_CHAT, PUT_MESSAGE, PUT_RESEND, RAISE_BUCKET, STATEMENTS
from storage.scylla.store import ScyllaStore
from tests.storage.logs import CHAT, HIGH, LOW, ME, TIME_MS, append, batch, id_of, log_of, own, row, rows_of


@pytest.fixture
async def executor(scylla_settings: ScyllaSettings) -> AsyncIterator[ScyllaExecutor]:
    """Past every rule: what somebody else may write."""
    executor = ScyllaExecutor(scylla_settings, STATEMENTS)
    await executor.open()
    yield executor
    await executor.close()


@pytest.fixture
async def store(scylla_settings: ScyllaSettings) -> AsyncIterator[Store]:
    store = ScyllaStore(ScyllaExecutor(scylla_settings, STATEMENTS), now_ms=lambda: TIME_MS)
    await store.open()
    await store.create_direct(LOW, HIGH, CHAT)
    yield store
    await store.close()


async def test_what_an_old_owner_left_is_adopted_and_what_it_writes_later_is_dead_on_arrival(
    executor: ScyllaExecutor, store: Store
) -> None:
    await executor.write(batch_writes(batch(rows_of(1, 2))))
    await executor.write(batch_writes(batch(rows_of(3, 5))))
    await own(store)
    epoch = await own(store)
    opened = await store.open_chat(CHAT, epoch)
    assert opened is not None
    assert sorted(opened.adopted) == rows_of(3, 5)
    for late in ([row(6)], [row(7), row(8)], [row(4096)]):
        await executor.write(batch_writes(batch(late)))
    assert await log_of(store) == rows_of(1, 5)
    assert sorted(await store.find_sent(CHAT, LOW, [id_of(n) for n in range(1, 9)])) == rows_of(1, 5)


async def test_adopted_rows_survive_a_range_delete_below_their_epoch_and_other_rows_do_not(
    executor: ScyllaExecutor, store: Store
) -> None:
    await executor.write(batch_writes(batch(rows_of(1, 2))))
    await executor.write(batch_writes(batch(rows_of(3, 5))))
    for _ in range(3):
        epoch = await own(store)
    await store.open_chat(CHAT, epoch)
    await executor.write([Write(FENCE, (epoch - 1, CHAT, 0, 0, seq_of(epoch, 0)))])
    assert await log_of(store) == rows_of(3, 5)


async def test_at_one_timestamp_the_range_delete_wins_whichever_came_first(
    executor: ScyllaExecutor, store: Store
) -> None:
    fence = [Write(FENCE, (1, CHAT, 0, seq_of(1, 1), seq_of(2, 0)))]
    await executor.write(batch_writes(batch(rows_of(1, 3))))
    await executor.write(fence)
    await executor.write(batch_writes(batch([row(4)])))
    assert await log_of(store) == rows_of(1, 1)


async def test_a_rewrite_with_a_lower_counter_changes_nothing(executor: ScyllaExecutor, store: Store) -> None:
    await own(store)
    chat = Chat(CHAT, 1, "at 7", 3, 7)
    await append(store, batch([row(7, kind=4)], [MembershipChange(chat, [Member(LOW, 1, 0, 0, 7)])]))
    for counter in (0, 3, 6):
        await executor.write([Write(PUT_CHAT, (CHAT, 0, "older", 9, counter, counter))])
    for bucket in (2, 1, 0):
        await executor.write([Write(RAISE_BUCKET, (CHAT, bucket, bucket))])
    assert await store.read_chat(CHAT) == (chat, [Member(LOW, 1, 0, 0, 7), Member(HIGH, 0, 0, 0, 0)])


async def test_a_resend_row_whose_message_is_another_or_none_finds_nothing(
    executor: ScyllaExecutor, store: Store
) -> None:
    await own(store)
    await append(store, batch(rows_of(1, 2)))
    stray = [
        Write(PUT_RESEND, (CHAT, LOW, id_of(50), row(2).seq, 1)),
        Write(PUT_RESEND, (CHAT, LOW, id_of(51), row(77).seq, 1)),
        Write(PUT_RESEND, (CHAT, HIGH, id_of(1), row(1).seq, 1)),
    ]
    await executor.write(stray)
    assert await store.find_sent(CHAT, LOW, [id_of(50), id_of(51), id_of(2)]) == [row(2)]
    assert await store.find_sent(CHAT, HIGH, [id_of(1)]) == []


async def test_a_body_that_was_deleted_reads_as_none_and_its_row_stays(executor: ScyllaExecutor, store: Store) -> None:
    await own(store)
    await append(store, batch(rows_of(1, 2)))
    (write,) = (w for w in batch_writes(batch([row(3)])) if w.statement is PUT_MESSAGE)
    values = [None if index == 5 else value for index, value in enumerate(write.values)]
    await executor.write([Write(PUT_MESSAGE, tuple(values))])
    assert await log_of(store) == [*rows_of(1, 2), row(3)._replace(body=b"")]


async def test_the_question_who_holds_a_slot_reads_only_what_moved(executor: ScyllaExecutor, store: Store) -> None:
    slots = list(range(0, 4096, 2))
    won = await store.acquire_slots(slots, ME, 7, {})
    assert await store.still_held(won, ME, 7) == set(slots)
    before = executor.statistics().requests
    assert before == 0
    other = ScyllaStore(executor)
    seen = await other.read_slots([0, 2])
    await other.acquire_slots([2], ME, 8, seen)
    assert await store.still_held(won, ME, 7) == set(slots) - {2}
    await store.release_slots({4: won[4]}, ME, 7)
    assert await store.still_held(won, ME, 7) == set(slots) - {2, 4}
    assert await store.still_held({0: won[0], 9: won[0]}, ME, 7) == {0}


async def test_a_log_goes_on_from_bucket_to_bucket(store: Store) -> None:
    epoch = await own(store)
    await store.open_chat(CHAT, epoch)
    rows = rows_of(4000, 4200)
    for first in range(0, 96, 48):
        assert await append(store, batch(rows[first : first + 48])) == [None]
    for first in range(96, len(rows), 48):
        assert await append(store, batch(rows[first : first + 48])) == [None]
    found = await store.read_messages(
        CHAT, after_seq=row(4050).seq, before_seq=1 << 62, limit=300, is_newest_first=False
    )
    assert found == rows_of(4051, 4200)
    found = await store.read_messages(CHAT, after_seq=0, before_seq=row(4121).seq, limit=50, is_newest_first=True)
    assert found == rows_of(4071, 4120)[::-1]
    later = await own(store)
    opened = await store.open_chat(CHAT, later)
    assert opened is not None
    assert [*reversed(opened.tail)] == rows_of(4136, 4200)
