"""Watermarks and cursors: the highest wins, but where a record is set."""

from __future__ import annotations

from gateway.protocol.identifiers import ChatId, DeviceId, Seq
from storage.api import Store, Watermark
from tests.storage.backends import Stores
from tests.storage.logs import CHAT, HIGH, LOW

PHONE, TABLET = DeviceId(11), DeviceId(12)
OTHER_CHAT = ChatId(CHAT + 1)


async def test_of_watermarks_the_highest_of_each_kind_wins_in_any_order(stores: Stores) -> None:
    await stores.one.raise_watermarks([(CHAT, Watermark(LOW, 5, 3)), (CHAT, Watermark(HIGH, 1, 1))])
    await stores.other.raise_watermarks([(CHAT, Watermark(LOW, 4, 4))])
    await stores.one.raise_watermarks([(CHAT, Watermark(LOW, 5, 3))])
    assert await stores.other.read_watermarks(LOW, [CHAT]) == {CHAT: Watermark(LOW, 5, 4)}
    assert await stores.other.read_watermarks(HIGH, [CHAT]) == {CHAT: Watermark(HIGH, 1, 1)}


async def test_one_call_may_name_a_watermark_twice(store: Store) -> None:
    await store.raise_watermarks([(CHAT, Watermark(LOW, 5, 3)), (CHAT, Watermark(LOW, 4, 4))])
    assert await store.read_watermarks(LOW, [CHAT]) == {CHAT: Watermark(LOW, 5, 4)}


async def test_watermarks_are_read_for_the_chats_that_are_named(store: Store) -> None:
    await store.raise_watermarks([(CHAT, Watermark(LOW, 5, 3)), (OTHER_CHAT, Watermark(LOW, 8, 8))])
    assert await store.read_watermarks(LOW, [OTHER_CHAT, ChatId(404)]) == {OTHER_CHAT: Watermark(LOW, 8, 8)}
    assert await store.read_watermarks(LOW, []) == {}


async def test_thousands_of_watermarks_are_raised_at_once(store: Store) -> None:
    chat_ids = [ChatId(number) for number in range(1, 5001)]
    await store.raise_watermarks([(chat_id, Watermark(LOW, 5, 3)) for chat_id in chat_ids])
    assert len(await store.read_watermarks(LOW, chat_ids)) == 5000


async def test_of_cursors_the_highest_wins(stores: Stores) -> None:
    await stores.one.raise_cursors([(LOW, PHONE, CHAT, Seq(5)), (LOW, PHONE, OTHER_CHAT, Seq(1))])
    await stores.other.raise_cursors([(LOW, PHONE, CHAT, Seq(4)), (LOW, PHONE, OTHER_CHAT, Seq(2))])
    assert await stores.one.read_cursors(LOW, PHONE) == {CHAT: 5, OTHER_CHAT: 2}


async def test_each_device_has_a_record_of_its_own(store: Store) -> None:
    await store.raise_cursors([(LOW, PHONE, CHAT, Seq(5)), (LOW, TABLET, CHAT, Seq(3)), (HIGH, PHONE, CHAT, Seq(9))])
    assert await store.read_cursors(LOW, PHONE) == {CHAT: 5}
    assert await store.read_cursors(LOW, TABLET) == {CHAT: 3}
    assert await store.read_cursors(LOW, DeviceId(404)) == {}


async def test_a_record_that_is_set_goes_downward_too_and_keeps_what_is_not_named(stores: Stores) -> None:
    await stores.one.raise_cursors([(LOW, PHONE, CHAT, Seq(5)), (LOW, PHONE, OTHER_CHAT, Seq(7))])
    await stores.other.set_cursors(LOW, PHONE, {CHAT: Seq(2)}, False)
    assert await stores.one.read_cursors(LOW, PHONE) == {CHAT: 2, OTHER_CHAT: 7}


async def test_a_complete_record_forgets_what_is_not_named(stores: Stores) -> None:
    await stores.one.raise_cursors(
        [(LOW, PHONE, CHAT, Seq(5)), (LOW, PHONE, OTHER_CHAT, Seq(7)), (LOW, TABLET, CHAT, Seq(1))]
    )
    await stores.other.set_cursors(LOW, PHONE, {OTHER_CHAT: Seq(3)}, True)
    assert await stores.one.read_cursors(LOW, PHONE) == {OTHER_CHAT: 3}
    await stores.other.set_cursors(LOW, PHONE, {}, True)
    assert await stores.one.read_cursors(LOW, PHONE) == {}
    assert await stores.one.read_cursors(LOW, TABLET) == {CHAT: 1}


async def test_after_a_record_was_set_downward_what_is_acknowledged_again_counts_again(stores: Stores) -> None:
    await stores.one.raise_cursors([(LOW, PHONE, CHAT, Seq(9)), (LOW, PHONE, OTHER_CHAT, Seq(7))])
    await stores.other.set_cursors(LOW, PHONE, {CHAT: Seq(2)}, True)
    await stores.one.raise_cursors([(LOW, PHONE, CHAT, Seq(4)), (LOW, PHONE, OTHER_CHAT, Seq(7))])
    assert await stores.other.read_cursors(LOW, PHONE) == {CHAT: 4, OTHER_CHAT: 7}
    await stores.other.raise_cursors([(LOW, PHONE, CHAT, Seq(12))])
    await stores.one.raise_cursors([(LOW, PHONE, CHAT, Seq(11))])
    assert await stores.other.read_cursors(LOW, PHONE) == {CHAT: 12, OTHER_CHAT: 7}


async def test_a_record_that_was_set_upward_is_not_lowered_by_less(stores: Stores) -> None:
    await stores.one.raise_cursors([(LOW, PHONE, CHAT, Seq(3))])
    await stores.one.set_cursors(LOW, PHONE, {CHAT: Seq(50)}, False)
    await stores.other.raise_cursors([(LOW, PHONE, CHAT, Seq(8))])
    assert await stores.one.read_cursors(LOW, PHONE) == {CHAT: 50}
