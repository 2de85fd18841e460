"""Opening chats, reading logs, finding resends, heads."""

from __future__ import annotations

import pytest

from gateway.protocol.identifiers import ChatId, Epoch, UserId, seq_of
from storage.api import RESEND_DAYS, TAIL_ROWS, Chat, Head, Member, OpenedChat, Store, Watermark
from tests.storage.backends import Stores
from tests.storage.conftest import OpenStore
from tests.storage.logs import CHAT, HIGH, LOW, TIME_MS, append, batch, id_of, own, row, rows_of

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
DIRECT = Chat(CHAT, 0, "", 1, 0)
BOTH = [Member(LOW, 0, 0, 0, 0), Member(HIGH, 0, 0, 0, 0)]


async def test_a_chat_that_does_not_exist_opens_as_none(store: Store) -> None:
    epoch = await own(store)
    assert await store.open_chat(CHAT, epoch) is None


async def test_an_empty_chat_opens_with_its_members(stores: Stores) -> None:
    await stores.one.create_direct(LOW, HIGH, CHAT)
    epoch = await own(stores.other)
    assert await stores.other.open_chat(CHAT, epoch) == OpenedChat(DIRECT, BOTH, [], [], ())


async def test_a_chat_opens_with_all_members_all_marks_and_its_newest_rows_first(stores: Stores) -> None:
    members = [Member(LOW, 1, 0, 0, 0), Member(HIGH, 0, 3, 9, 9)]  # one of them left
    chat = Chat(CHAT, 1, "title", 4, 9)
    await stores.one.create_group(LOW, id_of(1), chat, members)
    epoch = await own(stores.one)
    await append(stores.one, batch(rows_of(1, 60)))
    await append(stores.one, batch(rows_of(61, 100)))
    marks = [Watermark(LOW, seq_of(1, 50), seq_of(1, 40)), Watermark(HIGH, seq_of(1, 9), 0)]
    await stores.one.raise_watermarks([(CHAT, mark) for mark in marks])
    for _ in range(2):  # idempotent under one epoch
        opened = await stores.other.open_chat(CHAT, epoch)
        assert opened == OpenedChat(chat, members, marks, rows_of(1, 100)[: -TAIL_ROWS - 1 : -1], ())


async def test_a_tail_spans_epochs(store: Store) -> None:
    await store.create_direct(LOW, HIGH, CHAT)
    await own(store)
    await append(store, batch(rows_of(1, 2)))
    epoch = await own(store)
    await append(store, batch(rows_of(3, 4, epoch=2)))
    opened = await store.open_chat(CHAT, epoch)
    assert opened is not None
    assert [*reversed(opened.tail)] == rows_of(1, 2) + rows_of(3, 4, epoch=2)


@pytest.mark.parametrize(
    ("after", "before", "limit", "is_newest_first", "counters"),
    [
        (0, 11, 100, False, range(1, 11)),
        (0, 11, 100, True, range(10, 0, -1)),
        (0, 11, 3, False, [1, 2, 3]),
        (0, 11, 3, True, [10, 9, 8]),
        (3, 7, 100, False, [4, 5, 6]),
        (3, 7, 2, False, [4, 5]),
        (3, 7, 2, True, [6, 5]),
        (3, 4, 100, True, []),
        (7, 3, 100, True, []),
        (7, 3, 100, False, []),
        (10, 99, 100, False, []),
        (0, 1, 100, True, []),
        (2, 9, 0, True, []),
    ],
)
async def test_read_messages_keeps_both_bounds_out_and_counts_from_the_end_it_names(
    store: Store, after: int, before: int, limit: int, is_newest_first: bool, counters: list[int]
) -> None:
    await own(store)
    await append(store, batch(rows_of(1, 10)))
    found = await store.read_messages(
        CHAT,
        after_seq=seq_of(1, after),
        before_seq=seq_of(1, before),
        limit=limit,
        is_newest_first=is_newest_first,
    )
    assert found == [row(counter) for counter in counters]


@pytest.mark.parametrize("before_seq", [(1 << 63) - 1, 1 << 63])
async def test_the_highest_bounds_read_everything(store: Store, before_seq: int) -> None:
    await own(store)
    await append(store, batch(rows_of(1, 3)))
    found = await store.read_messages(CHAT, after_seq=0, before_seq=before_seq, limit=9, is_newest_first=True)
    assert found == rows_of(1, 3)[::-1]


async def test_a_log_does_not_show_another_chats_rows(store: Store) -> None:
    neighbour = ChatId(CHAT + (1 << 20))
    await own(store)
    await append(store, batch(rows_of(1, 3)), batch(rows_of(1, 5, chat_id=neighbour)))
    found = await store.read_messages(CHAT, after_seq=0, before_seq=1 << 62, limit=100, is_newest_first=True)
    assert found == rows_of(1, 3)[::-1]


async def test_heads_are_the_newest_rows_and_empty_logs_are_absent(stores: Stores) -> None:
    one, two, empty = (ChatId(CHAT + (number << 20)) for number in range(3))
    await own(stores.one)
    await append(stores.one, batch(rows_of(1, 7, chat_id=one)), batch(rows_of(1, 2, chat_id=two)))
    await own(stores.one)
    await append(stores.one, batch(rows_of(8, 8, chat_id=one, epoch=2)))
    assert await stores.other.heads(dict.fromkeys([one, two, empty], Epoch(2))) == {
        one: Head(seq_of(2, 8), TIME_MS + 8),
        two: Head(seq_of(1, 2), TIME_MS + 2),
    }


async def test_find_sent_finds_what_this_sender_sent_in_this_chat(open_store: OpenStore) -> None:
    store = await open_store(now_ms=lambda: TIME_MS + HOUR_MS)
    neighbour = ChatId(CHAT + (1 << 20))
    await own(store)
    await append(store, batch(rows_of(1, 9)), batch(rows_of(10, 12, chat_id=neighbour)))
    await append(store, batch([row(20, sender_id=HIGH)]))
    ids = [id_of(number) for number in (3, 5, 11, 20, 77)]
    assert sorted(await store.find_sent(CHAT, LOW, ids)) == [row(3), row(5)]
    assert await store.find_sent(CHAT, HIGH, ids) == [row(20, sender_id=HIGH)]
    assert await store.find_sent(CHAT, UserId(5), ids) == []
    assert await store.find_sent(CHAT, LOW, []) == []


@pytest.mark.parametrize("count", [1, 2, 4, 5, 64, 65, 256, 257, 600])
async def test_find_sent_takes_any_number_of_ids(open_store: OpenStore, count: int) -> None:
    store = await open_store(now_ms=lambda: TIME_MS)
    await own(store)
    for first in range(1, count + 1, 64):
        await append(store, batch(rows_of(first, min(first + 63, count))))
    ids = [id_of(number) for number in range(1, count + 1)]
    assert sorted(await store.find_sent(CHAT, LOW, ids + ids[:1])) == rows_of(1, count)


async def test_find_sent_looks_back_for_the_days_it_promises_and_no_further(open_store: OpenStore) -> None:
    now_ms = TIME_MS + 100 * DAY_MS
    store = await open_store(now_ms=lambda: now_ms)
    await own(store)
    oldest = row(2, time_ms=now_ms - RESEND_DAYS * DAY_MS)
    await append(store, batch([row(1, time_ms=oldest.time_ms - 1), oldest, row(3, time_ms=now_ms)]))
    found = await store.find_sent(CHAT, LOW, [id_of(number) for number in (1, 2, 3)])
    assert [message.client_msg_id for message in sorted(found)] == [id_of(2), id_of(3)]


async def test_an_id_that_was_used_again_is_found_as_its_newest_row(open_store: OpenStore) -> None:
    store = await open_store(now_ms=lambda: TIME_MS)
    await own(store)
    await append(store, batch([row(1), row(2, client_msg_id=id_of(1))]))
    assert await store.find_sent(CHAT, LOW, [id_of(1)]) == [row(2, client_msg_id=id_of(1))]


async def test_system_rows_are_never_found_as_sent(open_store: OpenStore) -> None:
    store = await open_store(now_ms=lambda: TIME_MS)
    await own(store)
    await append(store, batch([row(1, kind=4, client_msg_id=bytes(16))]))
    assert await store.find_sent(CHAT, LOW, [bytes(16)]) == []
