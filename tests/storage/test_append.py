"""Appending: what the end of a batch says, and what is stored after it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from gateway.protocol.identifiers import ChatId
from storage.api import MAX_BATCH_ROWS, Appended, Batch, Chat, Member, MembershipChange, Store, StoreConflict
from tests.storage.backends import Stores
from tests.storage.logs import CHAT, HIGH, LOW, append, batch, id_of, in_conflict, log_of, own, row, rows_of


async def test_an_acknowledged_batch_is_read_back_as_it_was(stores: Stores) -> None:
    await own(stores.one)
    rows = [
        row(1, body=bytes(range(256))),
        row(2, kind=3, target_seq=row(1).seq, client_msg_id=b"\xff" * 16, digest=b"\0" * 16),
        row(3, kind=70, sender_id=(1 << 63) - 1, sender_device=(1 << 63) - 1, time_ms=(1 << 63) - 1),
    ]
    assert await append(stores.one, batch(rows)) == [None]
    assert await log_of(stores.other) == rows


@pytest.mark.parametrize("size", [0, 1, 60_000, 1_000_000])
async def test_a_body_of_any_size_is_read_back(store: Store, size: int) -> None:
    await own(store)
    message = row(1)._replace(body=b"\xf0" * size)
    assert await append(store, batch([message])) == [None]
    assert await log_of(store) == [message]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 16, 17, 63, MAX_BATCH_ROWS])
async def test_a_batch_of_any_number_of_rows_is_stored_whole(store: Store, count: int) -> None:
    await own(store)
    assert await append(store, batch(rows_of(1, count))) == [None]
    assert await log_of(store) == rows_of(1, count)


@pytest.mark.parametrize("count", [2, 40, 100])
async def test_batches_of_many_chats_that_are_appended_at_once_are_all_stored(stores: Stores, count: int) -> None:
    chat_ids = [ChatId(CHAT + (number << 20)) for number in range(count)]  # one slot
    await own(stores.one)
    ends = await append(stores.one, *(batch(rows_of(1, 16, chat_id=chat_id)) for chat_id in chat_ids))
    assert ends == [None] * count
    for chat_id in chat_ids:
        assert await log_of(stores.other, chat_id) == rows_of(1, 16, chat_id=chat_id)


async def test_the_end_comes_in_a_later_cycle_and_once_for_all_batches_that_ended_together(store: Store) -> None:
    await own(store)
    calls: list[Sequence[Appended]] = []
    ended = trio.Event()

    def done(appended: Sequence[Appended]) -> None:
        calls.append(appended)
        if sum(map(len, calls)) == 3:
            ended.set()

    batches = [batch(rows_of(1, 2, chat_id=CHAT + (number << 20))) for number in range(3)]
    for each in batches:
        store.append(each, done)
        assert not calls
    await ended.wait()
    assert [end.batch for call in calls for end in call] == batches
    assert all(end.error is None for call in calls for end in call)


async def test_each_done_gets_its_own_batches_only(store: Store) -> None:
    await own(store)
    ends: dict[int, list[Batch]] = {0: [], 1: []}
    ended = [trio.Event(), trio.Event()]

    def done_of(number: int, count: int) -> object:
        def done(appended: Sequence[Appended]) -> None:
            ends[number] += [end.batch for end in appended]
            if len(ends[number]) == count:
                ended[number].set()

        return done

    dones = done_of(0, 2), done_of(1, 1)
    batches = [batch(rows_of(1, 2, chat_id=CHAT + (number << 20))) for number in range(3)]
    for number, each in enumerate(batches):
        store.append(each, dones[number % 2])  # type: ignore[arg-type]
    for event in ended:
        await event.wait()
    assert ends == {0: [batches[0], batches[2]], 1: [batches[1]]}


async def test_the_same_batch_again_is_acknowledged_and_stored_once(stores: Stores) -> None:
    await own(stores.one)
    for store in (stores.one, stores.one, stores.other):
        assert await append(store, batch(rows_of(1, 5))) == [None]
    assert await log_of(stores.one) == rows_of(1, 5)


async def test_a_batch_of_which_a_part_is_stored_is_completed(store: Store) -> None:
    await own(store)
    await append(store, batch(rows_of(2, 3)))
    assert await append(store, batch(rows_of(1, 5))) == [None]
    assert await log_of(store) == rows_of(1, 5)


@pytest.mark.parametrize(
    "change", [{"body": b"other"}, {"sender_id": 5}, {"client_msg_id": id_of(9)}, {"time_ms": 1}, {"target_seq": 4}]
)
async def test_a_stored_seq_with_other_content_is_a_conflict_or_one_of_the_two(
    store: Store, change: dict[str, object]
) -> None:
    """Where it is noticed, nothing of its batch is stored. Under ``terms`` it is not: there is still one row of that seq."""
    await own(store)
    await append(store, batch(rows_of(1, 2)))
    (end,) = await append(store, batch([row(2)._replace(**change), row(3)]))  # type: ignore[arg-type]
    if store.terms is None:
        assert isinstance(end, StoreConflict)
        assert not end.is_unknown
        assert await log_of(store) == rows_of(1, 2)
    else:
        assert end is None
        assert [message.seq for message in await log_of(store)] == [message.seq for message in rows_of(1, 3)]


async def test_a_batch_at_fault_does_not_touch_those_appended_with_it(store: Store) -> None:
    good = [ChatId(CHAT + (number << 20)) for number in range(1, 4)]
    await own(store)
    await append(store, batch(rows_of(1, 1)))
    batches = [batch(rows_of(1, 3, chat_id=chat_id)) for chat_id in good]
    ends = await append(store, batches[0], in_conflict(store), *batches[1:])
    assert isinstance(ends[1], StoreConflict)
    assert ends[:1] + ends[2:] == [None, None, None]
    assert await log_of(store) == rows_of(1, 1)
    for chat_id in good:
        assert await log_of(store, chat_id) == rows_of(1, 3, chat_id=chat_id)


async def test_a_batch_is_visible_whole_or_not_at_all(stores: Stores) -> None:
    await own(stores.one)
    lengths: set[int] = set()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            while True:
                lengths.add(len(await log_of(stores.other)))

        nursery.start_soon(read)
        for first in range(1, 20 * 50, 50):
            assert await append(stores.one, batch(rows_of(first, first + 49))) == [None]
        nursery.cancel_scope.cancel()
    assert {length % 50 for length in lengths} == {0}


async def test_changes_are_in_force_when_their_batch_is_acknowledged(stores: Stores) -> None:
    await own(stores.one)
    chat = Chat(CHAT, 1, "before", 1, 0)
    await stores.one.create_group(LOW, id_of(1), chat, [Member(LOW, 1, 0, 0, 0)])
    change = MembershipChange(chat._replace(title="after", version=2, changed_counter=1), [Member(HIGH, 0, 1, 0, 1)])
    for _ in range(2):  # and again is harmless
        assert await append(stores.one, batch([row(1, kind=4)], [change])) == [None]
        assert await stores.other.read_chat(CHAT) == (change.chat, [Member(LOW, 1, 0, 0, 0), Member(HIGH, 0, 1, 0, 1)])
    (membership,) = await stores.other.chats_of(HIGH)
    assert membership == (change.chat, Member(HIGH, 0, 1, 0, 1))


async def test_an_older_change_does_not_undo_a_newer_one(store: Store) -> None:
    await own(store)
    newer = MembershipChange(Chat(CHAT, 1, "newer", 3, 2), [Member(LOW, 0, 0, 9, 2)])
    older = MembershipChange(Chat(CHAT, 1, "older", 2, 1), [Member(LOW, 1, 0, 0, 1), Member(HIGH, 0, 1, 0, 1)])
    await append(store, batch([row(2, kind=4)], [newer]))
    await append(store, batch([row(1, kind=4)], [older]))
    assert await store.read_chat(CHAT) == (newer.chat, [newer.members[0], older.members[1]])


async def test_the_changes_of_a_batch_in_conflict_are_not_applied(store: Store) -> None:
    await own(store)
    await append(store, batch(rows_of(1, 1)))
    change = MembershipChange(Chat(CHAT, 1, "title", 2, 1), [Member(LOW, 1, 0, 0, 1)])
    (end,) = await append(store, in_conflict(store, [change]))
    assert isinstance(end, StoreConflict)
    assert await store.read_chat(CHAT) is None


@pytest.mark.parametrize(
    "malformed",
    [
        Batch(CHAT, 1, 0, []),
        Batch(CHAT, 1, 0, rows_of(1, 65)),
        Batch(CHAT, 2, 0, rows_of(1, 2)),
        Batch(CHAT, 1, 0, [row(1), row(2, epoch=2)]),
        Batch(CHAT, 1, 0, [row(2), row(1)]),
        Batch(CHAT, 1, 0, [row(1), row(1)]),
        Batch(CHAT, 1, 0, [row(1), row(2, chat_id=CHAT + (1 << 20))]),
    ],
    ids=["empty", "65 rows", "another epoch", "two epochs", "falling seqs", "a seq twice", "two chats"],
)
async def test_a_batch_that_is_none_ends_in_a_conflict(store: Store, malformed: Batch) -> None:
    await own(store)
    (end,) = await append(store, malformed)
    assert isinstance(end, StoreConflict)
    assert await log_of(store) == []
