"""Slot ownership: the truth about who may append."""

from __future__ import annotations

import trio

from gateway.protocol.identifiers import Epoch, WorkerId
from storage.api import SLOTS, SlotRow, Store
from tests.storage.backends import Stores

ONE, TWO = WorkerId(1), WorkerId(2)


async def test_a_slot_never_acquired_has_no_row(store: Store) -> None:
    assert await store.read_slots([0, SLOTS - 1]) == {}


async def test_the_first_owner_of_a_slot_gets_epoch_1(stores: Stores) -> None:
    assert await stores.one.acquire_slots([3, SLOTS - 1], ONE, 5, {}) == {3: 1, SLOTS - 1: 1}
    assert await stores.other.read_slots([3, 4]) == {3: SlotRow(1, ONE, 5, False)}


async def test_every_acquisition_raises_the_epoch_also_by_the_same_worker(store: Store) -> None:
    for epoch in (1, 2, 3):
        assert await store.acquire_slots([9], ONE, 5, await store.read_slots([9])) == {9: epoch}


async def test_a_slot_that_changed_since_it_was_seen_is_not_won(stores: Stores) -> None:
    await stores.one.acquire_slots([1], ONE, 5, {})
    seen = await stores.one.read_slots([1])
    await stores.other.acquire_slots([1], TWO, 6, seen)
    assert await stores.one.acquire_slots([1, 2], ONE, 5, seen) == {2: 1}
    assert await stores.one.read_slots([1]) == {1: SlotRow(2, TWO, 6, False)}


async def test_a_slot_that_was_seen_held_but_is_released_now_is_not_won(store: Store) -> None:
    await store.acquire_slots([1], ONE, 5, {})
    seen = await store.read_slots([1])
    await store.release_slots({1: Epoch(1)}, ONE, 5)
    assert await store.acquire_slots([1], TWO, 6, seen) == {}


async def test_a_row_of_epoch_0_stands_for_a_slot_that_nobody_had(store: Store) -> None:
    assert await store.acquire_slots([1], ONE, 5, {1: SlotRow(0, WorkerId(0), 0, False)}) == {1: 1}


async def test_of_many_who_acquire_at_once_each_slot_goes_to_one(stores: Stores) -> None:
    slots = list(range(100))
    wins: list[int] = []

    async def compete(store: Store, worker: int) -> None:
        wins.extend(await store.acquire_slots(slots, WorkerId(worker), 1, {}))

    async with trio.open_nursery() as nursery:
        for worker in range(1, 9):
            nursery.start_soon(compete, stores[worker % 2], worker)
    assert sorted(wins) == slots
    assert {row.epoch for row in (await stores.one.read_slots(slots)).values()} == {1}


async def test_a_release_is_seen_and_keeps_epoch_and_owner(stores: Stores) -> None:
    await stores.one.acquire_slots([1, 2], ONE, 5, {})
    for _ in range(2):  # idempotent
        await stores.one.release_slots({1: Epoch(1)}, ONE, 5)
    assert await stores.other.read_slots([1, 2]) == {1: SlotRow(1, ONE, 5, True), 2: SlotRow(1, ONE, 5, False)}


async def test_a_release_leaves_alone_what_the_caller_has_lost(stores: Stores) -> None:
    await stores.one.acquire_slots([1], ONE, 5, {})
    await stores.other.acquire_slots([1], TWO, 6, await stores.other.read_slots([1]))
    await stores.one.release_slots({1: Epoch(1)}, ONE, 5)
    await stores.one.release_slots({1: Epoch(2)}, ONE, 5)
    await stores.one.release_slots({1: Epoch(2)}, TWO, 5)
    assert await stores.one.read_slots([1]) == {1: SlotRow(2, TWO, 6, False)}


async def test_all_slots_can_be_taken_read_and_released_at_once(store: Store) -> None:
    slots = list(range(SLOTS))
    won = await store.acquire_slots(slots, ONE, 5, {})
    assert len(won) == SLOTS
    await store.release_slots(won, ONE, 5)
    assert {row.is_released for row in (await store.read_slots(slots)).values()} == {True}
