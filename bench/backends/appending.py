"""Rows into ScyllaDB or Cassandra at a given rate, as a worker's chats append them, without the worker.

Owns the schedule and the batches: every chat has one batch under way, and what becomes due meanwhile is its next one. The
slots are acquired and confirmed twice a second, as whoever appends must. It measures this process: the rules of the store,
the driver and its threads.
"""

from __future__ import annotations

import secrets
import time
from array import array
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import trio

from gateway.protocol.identifiers import ChatId, Epoch, UserId, WorkerId, seq_of
from storage.api import MAX_BATCH_ROWS, Appended, Batch, Message, StoreError, StoreTimedOut, slot_of
from storage.scylla.executor import ScyllaExecutor
from storage.scylla.ports import ExecutorStatistics
from storage.scylla.settings import ScyllaSettings
from storage.scylla.statements import STATEMENTS
from storage.scylla.store import ScyllaStore

__all__ = ["RowsPlan", "StoreError", "Stored", "append_rows"]

ME, INCARNATION = WorkerId(1 << 10 | 1), 1
TICK_S = 0.001
CONFIRM_S = 0.5
DRAIN_TIMEOUT_S = 30.0
MAX_DUE = 64
"""Rows that wait in one chat; a store that is so far behind is not measured at this rate."""


class RowsPlan(NamedTuple):
    contact_points: tuple[str, ...]
    port: int
    keyspace: str
    chats: int
    rate: float
    body_bytes: int
    warmup_s: float
    seconds: float


class Stored(NamedTuple):
    """``latencies_ns``: from the moment a row was due to its acknowledgement. ``skipped``: due, and the chat was full."""

    rows: int
    skipped: int
    seconds: float
    cpu_s: float
    requests: int
    statements: int
    latencies_ns: array[int]


class _Chat:
    __slots__ = ("chat_id", "counter", "due_ns", "epoch", "is_busy", "last_seq", "user_id")

    def __init__(self, chat_id: ChatId, user_id: UserId, epoch: Epoch) -> None:
        self.chat_id = chat_id
        self.user_id = user_id
        self.epoch = epoch
        self.counter = 0
        self.last_seq = 0
        self.due_ns: deque[int] = deque()
        self.is_busy = False


class _Run:
    def __init__(self, store: ScyllaStore, chats: Sequence[_Chat], body: bytes) -> None:
        self._store = store
        self._chats = {chat.chat_id: chat for chat in chats}
        self._order = list(chats)
        self._body = body
        self._under_way: dict[int, list[int]] = {}
        self.failed: StoreError | None = None
        self.skipped = 0
        self.latencies_ns = array("q")

    @property
    def is_quiet(self) -> bool:
        return not self._under_way

    async def keep_time(self, rate: float, seconds: float) -> None:
        """Every row is due at its moment, chat after chat."""
        began_ns, sent = time.perf_counter_ns(), 0
        while (passed_s := (time.perf_counter_ns() - began_ns) / 1e9) < seconds:
            for number in range(sent, int(passed_s * rate)):
                self._due(self._order[number % len(self._order)], began_ns + int(number / rate * 1e9))
            sent = int(passed_s * rate)
            if self.failed is not None:
                raise self.failed
            await trio.sleep(TICK_S)

    async def drain(self) -> None:
        with trio.fail_after(DRAIN_TIMEOUT_S):
            while not self.is_quiet:
                await trio.sleep(TICK_S)

    def measure_from_now(self) -> None:
        self.latencies_ns = array("q")
        self.skipped = 0

    def _due(self, chat: _Chat, due_ns: int) -> None:
        if len(chat.due_ns) >= MAX_DUE:
            self.skipped += 1
            return
        chat.due_ns.append(due_ns)
        if not chat.is_busy:
            self._append(chat)

    def _append(self, chat: _Chat) -> None:
        base_seq = chat.last_seq
        due_ns: list[int] = []
        rows: list[Message] = []
        while chat.due_ns and len(rows) < MAX_BATCH_ROWS:
            due_ns.append(chat.due_ns.popleft())
            chat.counter += 1
            seq = seq_of(chat.epoch, chat.counter)
            id_ = chat.chat_id.to_bytes(8, "big") + chat.counter.to_bytes(8, "big")
            place, sender = (chat.chat_id, seq, chat.last_seq), (chat.user_id, chat.user_id)
            rows.append(Message(*place, *sender, 1_700_000_000_000, 0, self._body, id_, None, id_))
            chat.last_seq = seq
        chat.is_busy = True
        self._under_way[chat.chat_id] = due_ns
        self._store.append(Batch(chat.chat_id, chat.epoch, base_seq, rows), self._appended)

    def _appended(self, ends: Sequence[Appended]) -> None:
        now_ns = time.perf_counter_ns()
        for batch, error in ends:
            chat = self._chats[ChatId(batch.chat_id)]
            if isinstance(error, StoreTimedOut):
                self._store.append(batch, self._appended)
                continue
            due_ns = self._under_way.pop(chat.chat_id)
            if error is not None:
                self.failed = error if isinstance(error, StoreError) else StoreError(str(error))
                continue
            self.latencies_ns.extend([now_ns - at_ns for at_ns in due_ns])
            chat.is_busy = False
            if chat.due_ns:
                self._append(chat)


async def append_rows(plan: RowsPlan) -> Stored:
    """New chats each time. Raises StoreError."""
    settings = ScyllaSettings(plan.contact_points, plan.port, plan.keyspace, replication_factor=1)
    executor = ScyllaExecutor(settings, STATEMENTS)
    store = ScyllaStore(executor)
    await store.open()
    try:
        async with trio.open_nursery() as nursery:
            chats = await _open_chats(store, plan.chats, nursery)
            run = _Run(store, chats, b"." * plan.body_bytes)
            await run.keep_time(plan.rate, plan.warmup_s)
            await run.drain()
            run.measure_from_now()
            before, began_s, used_s = executor.statistics(), time.perf_counter(), time.process_time()
            await run.keep_time(plan.rate, plan.seconds)
            await run.drain()
            stored = _account(run, (before, executor.statistics()), began_s, used_s)
            nursery.cancel_scope.cancel()
    finally:
        await store.close()
    return stored


def _account(
    run: _Run, statistics: tuple[ExecutorStatistics, ExecutorStatistics], began_s: float, used_s: float
) -> Stored:
    before, after = statistics
    return Stored(
        rows=len(run.latencies_ns),
        skipped=run.skipped,
        seconds=time.perf_counter() - began_s,
        cpu_s=time.process_time() - used_s,
        requests=after.requests - before.requests,
        statements=after.statements - before.statements,
        latencies_ns=run.latencies_ns,
    )


async def _open_chats(store: ScyllaStore, count: int, nursery: trio.Nursery) -> list[_Chat]:
    """Direct chats of people whom nobody knows, each in a slot that is ours from now on."""
    made = {}
    for _ in range(count):
        low, high = sorted(secrets.randbits(62) + 1 for _ in range(2))
        made[await store.create_direct(UserId(low), UserId(high), ChatId(secrets.randbits(62) + 1))] = UserId(low)
    slots = sorted({slot_of(chat_id) for chat_id in made})
    epochs = await store.acquire_slots(slots, ME, INCARNATION, await store.read_slots(slots))
    if len(epochs) < len(slots):
        raise StoreError("the slots are being taken by somebody else: choose another keyspace")
    nursery.start_soon(_confirm, store, epochs)
    chats = [_Chat(chat_id, user_id, epochs[slot_of(chat_id)]) for chat_id, user_id in made.items()]
    for chat in chats:
        await store.open_chat(chat.chat_id, chat.epoch)
    return chats


async def _confirm(store: ScyllaStore, epochs: dict[int, Epoch]) -> None:
    while True:
        await store.still_held(epochs, ME, INCARNATION)
        await trio.sleep(CONFIRM_S)
