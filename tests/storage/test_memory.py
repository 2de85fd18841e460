"""What the memory store has beside the ports: a clock that is a test's, outages, pauses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from storage.api import Appended, StoreUnavailable
from storage.memory import MemoryDatabase, MemoryStore
from tests.storage.logs import CHAT, HIGH, LOW, append, batch, log_of, own, rows_of


async def opened(database: MemoryDatabase) -> MemoryStore:
    store = MemoryStore(database)
    await store.open()
    return store


async def test_it_runs_under_a_clock_that_jumps(autojump_clock: MockClock) -> None:
    store = await opened(MemoryDatabase())
    await own(store)
    with trio.fail_after(1):
        assert await append(store, batch(rows_of(1, 9))) == [None]
    await trio.sleep(3_600)
    assert await log_of(store) == rows_of(1, 9)


async def test_in_an_outage_writes_end_with_its_error_and_store_nothing() -> None:
    database = MemoryDatabase()
    store = await opened(database)
    await own(store)
    database.outage = StoreUnavailable("full")
    assert await append(store, batch(rows_of(1, 9))) == [database.outage]
    with pytest.raises(StoreUnavailable):
        await store.create_direct(LOW, HIGH, CHAT)
    assert await log_of(store) == []
    database.outage = None
    assert await append(store, batch(rows_of(1, 9))) == [None]


async def test_a_pause_holds_appends_back_until_it_ends() -> None:
    database = MemoryDatabase()
    store = await opened(database)
    await own(store)
    database.is_paused = True
    ends: list[Sequence[Appended]] = []
    store.append(batch(rows_of(1, 9)), ends.append)
    await trio.testing.wait_all_tasks_blocked()
    assert not ends
    store.resume()
    assert len(ends) == 1
    assert await log_of(store) == rows_of(1, 9)
