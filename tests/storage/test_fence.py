"""The fence: what is appended under an epoch that is no longer the slot's does not count, whatever the moment.

A backend without ``terms`` checks the epoch when it appends: such a batch ends in SlotLost and stores nothing. Under ``terms`` it
may be acknowledged, and the fence is the next owner's ``open_chat``: what that finds counts for good, and of what comes
after it nothing is ever read.
"""

from __future__ import annotations

import pytest
import trio

from gateway.protocol.identifiers import ChatId, Epoch
from storage.api import Chat, Member, MembershipChange, Message, SlotLost, Store, StoreError
from tests.storage.backends import Stores
from tests.storage.logs import CHAT, HIGH, LOW, append, batch, log_of, own, row, rows_of

End = StoreError | SlotLost | None


def is_refused(store: Store, end: End) -> bool:
    """An append that must not count has ended as this backend ends it."""
    return isinstance(end, SlotLost) if store.terms is None else end is None


async def take_over(store: Store) -> Epoch:
    """As the next owner does it: acquire, and look at the chat."""
    epoch = await own(store)
    assert await store.open_chat(CHAT, epoch) is not None
    return epoch


async def test_an_append_to_a_slot_that_nobody_acquired_is_lost_or_is_for_the_first_owner_to_adopt(
    store: Store,
) -> None:
    await store.create_direct(LOW, HIGH, CHAT)
    (end,) = await append(store, batch(rows_of(1, 2)))
    assert is_refused(store, end)
    await own(store)
    opened = await store.open_chat(CHAT, await own(store))
    counted: list[Message] = [] if store.terms is None else rows_of(1, 2)
    assert opened is not None
    assert sorted(opened.adopted) == counted
    assert await log_of(store) == counted


async def test_an_append_under_an_earlier_epoch_leaves_nothing(stores: Stores) -> None:
    await own(stores.one)
    await stores.one.create_direct(LOW, HIGH, CHAT)
    await append(stores.one, batch(rows_of(1, 2)))
    await take_over(stores.other)
    (end,) = await append(stores.one, batch(rows_of(3, 4)))
    assert is_refused(stores.one, end)
    assert await log_of(stores.other) == rows_of(1, 2)
    assert await append(stores.other, batch([row(3, epoch=2, prev_seq=row(2).seq)])) == [None]
    assert [message.seq for message in await log_of(stores.one)] == [row(1).seq, row(2).seq, row(3, epoch=2).seq]


async def test_the_changes_of_an_append_under_an_earlier_epoch_are_not_applied(store: Store) -> None:
    await own(store)
    await store.create_group(LOW, bytes(16), Chat(CHAT, 1, "title", 1, 0), [Member(LOW, 1, 0, 0, 0)])
    await take_over(store)
    change = MembershipChange(Chat(CHAT, 1, "late", 2, 1), [Member(LOW, 0, 0, 0, 1), Member(HIGH, 0, 1, 0, 1)])
    (end,) = await append(store, batch([row(1, kind=4)], [change]))
    assert end is not None
    assert await store.read_chat(CHAT) == (Chat(CHAT, 1, "title", 1, 0), [Member(LOW, 1, 0, 0, 0)])
    assert await store.chats_of(HIGH) == []


async def test_an_epoch_that_was_not_given_out_yet_is_no_epoch(store: Store) -> None:
    """Its rows are refused; or whoever opens the chat under the epoch that was given out is told that it is too late."""
    await store.create_direct(LOW, HIGH, CHAT)
    epoch = await own(store)
    (end,) = await append(store, batch(rows_of(1, 2, epoch=2)))
    assert is_refused(store, end)
    if store.terms is None:
        assert await log_of(store) == []
    else:
        with pytest.raises(SlotLost):
            await store.open_chat(CHAT, epoch)


async def test_a_lost_batch_does_not_touch_those_appended_with_it(stores: Stores) -> None:
    held = ChatId(CHAT + 1)
    await own(stores.one, CHAT, held)
    await stores.one.create_direct(LOW, HIGH, CHAT)
    await take_over(stores.other)
    ends = await append(
        stores.one,
        batch(rows_of(1, 3, chat_id=held)),
        batch(rows_of(1, 3)),
        batch(rows_of(1, 3, chat_id=held + (1 << 20))),
    )
    assert ends[0] is None
    assert is_refused(stores.one, ends[1])
    assert ends[2] is None
    assert await log_of(stores.one, held) == rows_of(1, 3, chat_id=held)
    assert await log_of(stores.one, held + (1 << 20)) == rows_of(1, 3, chat_id=held + (1 << 20))
    assert await log_of(stores.one) == []


async def test_a_released_slot_is_still_its_holders_to_the_store(store: Store) -> None:
    """That a holder stops before it releases is its own promise; the epoch alone fences."""
    epoch = await own(store)
    await store.release_slots({CHAT & 0x3FFF: epoch}, *(1, 7))  # type: ignore[arg-type]
    assert await append(store, batch(rows_of(1, 1))) == [None]


async def test_open_chat_under_another_epoch_is_refused(stores: Stores) -> None:
    """At once, or as soon as a row shows that there is a later owner."""
    await stores.one.create_direct(LOW, HIGH, CHAT)
    first = await own(stores.one)
    second = await take_over(stores.other)
    if stores.one.terms is not None:
        await append(stores.other, batch(rows_of(1, 1, epoch=second)))
    with pytest.raises(SlotLost):
        await stores.one.open_chat(CHAT, first)
    assert await stores.other.open_chat(CHAT, second) is not None


async def test_after_open_chat_nothing_of_an_earlier_owner_appears_any_more(stores: Stores) -> None:
    """The old owner appends as fast as it can while the slot is taken: all that it was acknowledged before that is in what
    the new owner read, and what it appends after that never shows."""
    await own(stores.one)
    await stores.one.create_direct(LOW, HIGH, CHAT)
    acknowledged = 0
    is_stopped = False
    overtaken, ended = trio.Event(), trio.Event()

    async def keep_appending() -> None:
        nonlocal acknowledged
        while not is_stopped:
            (end,) = await append(stores.one, batch(rows_of(acknowledged + 1, acknowledged + 1)))
            if isinstance(end, SlotLost):
                break
            assert end is None
            acknowledged += 1
            if acknowledged == 10:
                overtaken.set()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_appending)
        await overtaken.wait()
        epoch = await own(stores.other)
        before = acknowledged
        opened = await stores.other.open_chat(CHAT, epoch)
        assert opened is not None
        (end,) = await append(stores.one, batch(rows_of(9_000, 9_000, chat_id=CHAT + (1 << 20))))
        assert is_refused(stores.one, end)
        is_stopped = True
        await ended.wait()
    assert len(opened.tail) >= min(before, 65)
    count = opened.tail[0].seq - row(1).seq + 1
    assert [*reversed(opened.tail)] == rows_of(1, count)[-65:]
    assert await log_of(stores.other) == rows_of(1, count)
