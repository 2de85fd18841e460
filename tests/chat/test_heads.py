"""Heads of many chats for one device: what SYNC rests on."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gateway.chat.heads import HeadEntry, HeadsWish, read_heads
from gateway.protocol.identifiers import ChatId, Epoch
from storage.api import Head, StoreError, StoreTimedOut
from storage.memory import MemoryDatabase, MemoryStore
from tests.chat.conftest import Restart
from tests.chat.world import A1, B1, CHAT, Worker, add_chat, sent

NOBODYS = ChatId(CHAT + (1 << 20))
"""In the same slot."""


async def heads(worker: Worker, *chats: tuple[int, int], device: tuple[int, int] = B1) -> list[HeadEntry]:
    return (await read_heads(worker.actors, worker.store, worker.tenures, HeadsWish(*device, [*chats]))).entries


async def test_a_chat_in_memory_names_its_committed_head_and_not_what_is_in_flight(worker: Worker) -> None:
    (head,) = await sent(worker, "a")
    worker.database.is_paused = True
    worker.send("b")
    await worker.settle()
    assert await heads(worker, (CHAT, 0)) == [HeadEntry(CHAT, head, worker.actors.clock_ms, 0, 0)]


async def test_a_chat_that_is_not_in_memory_is_read_and_not_loaded(worker: Worker, restart: Restart) -> None:
    (head,) = await sent(worker, "a")
    later = await restart()
    assert await heads(later, (CHAT, 0)) == [HeadEntry(CHAT, head, worker.actors.clock_ms, 0, 0)]
    assert (len(later.actors), later.actors.loads) == (0, 0)


async def test_an_empty_chat_and_one_that_nobody_made_have_head_zero(worker: Worker) -> None:
    assert await heads(worker, (CHAT, 0), (NOBODYS, 0)) == [HeadEntry(CHAT, 0, 0, 0, 0), HeadEntry(NOBODYS, 0, 0, 0, 0)]


async def test_many_chats_are_answered_in_the_order_asked(worker: Worker) -> None:
    for chat_id in (20, 21, 22):
        add_chat(worker.database, chat_id)
        await worker.acquire(chat_id)
        worker.send("a", chat_id=chat_id)
    await worker.settle()
    entries = await heads(worker, (22, 0), (CHAT, 0), (20, 0), (21, 0))
    assert [entry.chat_id for entry in entries] == [22, CHAT, 20, 21]
    assert [entry.head_seq > 0 for entry in entries] == [True, False, True, True]


async def test_what_the_device_has_acknowledged_and_the_store_does_not_know_is_told(worker: Worker) -> None:
    one, two = await sent(worker, "a", "b")
    worker.mark(B1, delivered=two, read=one)
    (entry,) = await heads(worker, (CHAT, 0))
    assert (entry.cursor_seq, entry.read_seq) == (two, one)
    (other,) = await heads(worker, (CHAT, 0), device=A1)
    assert (other.cursor_seq, other.read_seq) == (0, 0)


async def test_a_record_that_the_device_has_set_makes_what_it_acknowledged_before_void(worker: Worker) -> None:
    one, two = await sent(worker, "a", "b")
    worker.mark(B1, delivered=two)
    (entry,) = await heads(worker, (CHAT, 1))
    assert entry.cursor_seq == 0
    worker.mark(B1, delivered=one)
    (entry,) = await heads(worker, (CHAT, 0))
    assert entry.cursor_seq == one


class SlowStore(MemoryStore):
    """Heads are read at once and told when ``go`` is set; ``error`` is told instead."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(database)
        self.go = trio.Event()
        self.error: StoreError | None = None

    async def heads(self, chats: Mapping[ChatId, Epoch]) -> dict[ChatId, Head]:
        found = await super().heads(chats)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return found


async def test_a_chat_that_moves_on_while_the_store_is_read_tells_what_it_knows_by_then(
    worker: Worker, nursery: trio.Nursery
) -> None:
    store = SlowStore(worker.database)
    await store.open()
    told: list[HeadEntry] = []

    async def ask() -> None:
        told.extend((await read_heads(worker.actors, store, worker.tenures, HeadsWish(*B1, [(CHAT, 0)]))).entries)

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    (head,) = await sent(worker, "a")
    store.go.set()
    await wait_all_tasks_blocked()
    assert [entry.head_seq for entry in told] == [head]


async def test_a_store_that_does_not_answer_is_told_to_who_asks(worker: Worker) -> None:
    store = SlowStore(worker.database)
    await store.open()
    store.go.set()
    store.error = StoreTimedOut("away")
    with pytest.raises(StoreTimedOut):
        await read_heads(worker.actors, store, worker.tenures, HeadsWish(*B1, [(CHAT, 0)]))
