"""The fence: under an epoch that is no longer the slot's nothing is stored, whatever the moment."""

from __future__ import annotations

import pytest
import trio

from gateway.protocol.identifiers import ChatId
from storage.api import Chat, Member, MembershipChange, SlotLost, Store
from tests.storage.backends import Stores
from tests.storage.logs import CHAT, HIGH, LOW, append, batch, log_of, own, rows_of


async def test_an_append_to_a_slot_that_nobody_acquired_is_lost(store: Store) -> None:
    (end,) = await append(store, batch(rows_of(1, 2)))
    assert isinstance(end, SlotLost)
    assert await log_of(store) == []


async def test_an_append_under_an_earlier_epoch_is_lost_and_leaves_nothing(stores: Stores) -> None:
    await own(stores.one)
    await append(stores.one, batch(rows_of(1, 2)))
    await own(stores.other)
    change = MembershipChange(Chat(CHAT, 1, "late", 2, 3), [Member(LOW, 1, 0, 0, 3)])
    (end,) = await append(stores.one, batch(rows_of(3, 4), [change]))
    assert isinstance(end, SlotLost)
    assert await log_of(stores.other) == rows_of(1, 2)
    assert await stores.other.read_chat(CHAT) is None


async def test_an_append_under_an_epoch_that_was_not_given_out_yet_is_lost(store: Store) -> None:
    await own(store)
    (end,) = await append(store, batch(rows_of(1, 2, epoch=2)))
    assert isinstance(end, SlotLost)
    assert await log_of(store) == []


async def test_a_lost_batch_does_not_touch_those_appended_with_it(stores: Stores) -> None:
    held = ChatId(CHAT + 1)
    await own(stores.one, CHAT, held)
    await own(stores.other, CHAT)
    ends = await append(
        stores.one,
        batch(rows_of(1, 3, chat_id=held)),
        batch(rows_of(1, 3)),
        batch(rows_of(1, 3, chat_id=held + (1 << 20))),
    )
    assert ends[0] is None
    assert isinstance(ends[1], SlotLost)
    assert ends[2] is None
    assert await log_of(stores.one, held) == rows_of(1, 3, chat_id=held)


async def test_a_released_slot_is_still_its_holders_to_the_store(store: Store) -> None:
    """That a holder stops before it releases is its own promise; the epoch alone fences."""
    epoch = await own(store)
    await store.release_slots({CHAT & 0x3FFF: epoch}, *(1, 7))  # type: ignore[arg-type]
    assert await append(store, batch(rows_of(1, 1))) == [None]


async def test_open_chat_under_another_epoch_is_refused(stores: Stores) -> None:
    await stores.one.create_direct(LOW, HIGH, CHAT)
    with pytest.raises(SlotLost):
        await stores.one.open_chat(CHAT, 1)  # type: ignore[arg-type]
    first = await own(stores.one)
    second = await own(stores.other)
    with pytest.raises(SlotLost):
        await stores.one.open_chat(CHAT, first)
    assert await stores.other.open_chat(CHAT, second) is not None


async def test_after_open_chat_nothing_of_an_earlier_owner_appears_any_more(stores: Stores) -> None:
    """The old owner appends as fast as it can while the slot is taken: all that it was acknowledged is in what the new
    owner read, and what it lost never shows."""
    await own(stores.one)
    await stores.one.create_direct(LOW, HIGH, CHAT)
    acknowledged = 0
    overtaken = trio.Event()

    async def keep_appending() -> None:
        nonlocal acknowledged
        while True:
            (end,) = await append(stores.one, batch(rows_of(acknowledged + 1, acknowledged + 1)))
            if isinstance(end, SlotLost):
                return
            acknowledged += 1
            if acknowledged == 10:
                overtaken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_appending)
        await overtaken.wait()
        epoch = await own(stores.other)
        opened = await stores.other.open_chat(CHAT, epoch)
    assert opened is not None
    assert [*reversed(opened.tail)] == rows_of(1, acknowledged)[-65:]
    assert await log_of(stores.other) == rows_of(1, acknowledged)
