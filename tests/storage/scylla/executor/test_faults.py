"""A server that hangs, and one that goes away and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from storage.api import StoreError, StoreTimedOut, StoreUnavailable
from storage.scylla.executor import ScyllaExecutor
from storage.scylla.ports import Write
from tests.servers.cassandra import CassandraNode
from tests.storage.scylla.executor.conftest import OpenExecutor
from tests.storage.scylla.executor.notes import CLAIM_TURN, READ_PAGE, put

IMPATIENT_S = 0.4


@asynccontextmanager
async def paused(node: CassandraNode) -> AsyncIterator[None]:
    node.pause()
    try:
        yield
    finally:
        node.resume()


async def write_until_it_works(executor: ScyllaExecutor, book: int) -> list[StoreError]:
    """A node that was away is found again by the driver, in its own time."""
    errors: list[StoreError] = []
    with trio.fail_after(60):
        while True:
            try:
                await executor.write([put(book, 1, "again")])
            except StoreError as error:
                errors.append(error)
                await trio.sleep(0.05)
            else:
                return errors


async def test_requests_to_a_server_that_hangs_are_unknown_and_later_ones_work(
    open_executor: OpenExecutor, cassandra: CassandraNode, book: int
) -> None:
    executor = await open_executor(request_timeout_s=IMPATIENT_S)
    ends: list[StoreError | None] = []
    async with paused(cassandra):
        executor.write_then([put(book, 0)], ends.append)
        for ask in (
            executor.read(READ_PAGE, book, 0),
            executor.read_serially(READ_PAGE, book, 0),
            executor.write([put(book, 2, "late")]),
            executor.decide([Write(CLAIM_TURN, (1, 1, "ann"))]),
        ):
            with pytest.raises(StoreTimedOut):
                await ask
    await write_until_it_works(executor, book)
    assert [type(end) for end in ends] == [StoreTimedOut]
    assert executor.statistics().timeouts >= 5
    with trio.fail_after(60):
        while True:
            try:
                rows = await executor.read(READ_PAGE, book, 0)
                break
            except StoreError:
                await trio.sleep(0.05)
    assert (1, "again", b"") in rows


async def test_what_comes_while_nothing_ends_is_refused_in_time(
    open_executor: OpenExecutor, cassandra: CassandraNode, book: int
) -> None:
    executor = await open_executor(
        request_timeout_s=IMPATIENT_S,
        max_in_flight_writes=1,
        max_waiting_rows=3,
        max_in_flight_reads=1,
        max_waiting_reads=1,
    )
    ends: list[str] = []

    async def read(page: int) -> None:
        try:
            await executor.read(READ_PAGE, book, page)
        except StoreError as error:
            ends.append(f"read {type(error).__name__}")

    def written(error: StoreError | None) -> None:
        ends.append(f"write {type(error).__name__}")

    async with paused(cassandra):
        executor.write_then([put(book, 0)], written)
        with trio.fail_after(30):
            while not executor.statistics().in_flight:
                await trio.sleep(0.001)
        for number in range(5):
            executor.write_then([put(book, number, page=number)], written)
        async with trio.open_nursery() as nursery:
            for page in range(3):
                nursery.start_soon(read, page)
        with trio.fail_after(30):
            while len(ends) < 9:
                await trio.sleep(0.01)
    assert set(ends) == {"read StoreTimedOut", "read StoreUnavailable", "write StoreTimedOut", "write StoreUnavailable"}
    assert executor.statistics().waiting == 0


async def test_a_server_that_died_is_unavailable_until_it_is_back(
    open_executor: OpenExecutor, cassandra: CassandraNode, book: int
) -> None:
    executor = await open_executor(request_timeout_s=2.0)
    await executor.write([put(book, 1)])
    await trio.to_thread.run_sync(cassandra.kill)
    with trio.fail_after(60):
        while True:
            try:
                await executor.read(READ_PAGE, book, 0)
            except StoreUnavailable:
                break
            except StoreTimedOut:
                await trio.sleep(0.01)
    await trio.to_thread.run_sync(cassandra.start)
    await write_until_it_works(executor, book)


async def test_close_ends_in_time_though_the_server_hangs(
    open_executor: OpenExecutor, cassandra: CassandraNode, book: int
) -> None:
    executor = await open_executor(request_timeout_s=IMPATIENT_S)
    ends: list[StoreError | None] = []
    async with paused(cassandra):
        executor.write_then([put(book, 1)], ends.append)
        with trio.fail_after(60):
            await executor.close()
    assert len(ends) == 1
