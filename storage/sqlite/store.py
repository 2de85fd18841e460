"""The embedded store: one SQLite file, shared by all workers of a node.

Owns the port's methods: what runs in the writer's transactions and what on reading connections. Reads never wait for
writes (WAL), and neither ever blocks the Trio thread.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import outcome
import trio

from gateway.protocol.identifiers import ChatId, DeviceId, Epoch, Seq, UserId, WorkerId
from storage.api import (
    RESEND_DAYS,
    TAIL_ROWS,
    AppendDone,
    Batch,
    Chat,
    ChatKind,
    Head,
    Member,
    Membership,
    Message,
    OpenedChat,
    SlotLost,
    SlotRow,
    StoreConflict,
    StoreError,
    StoreStatistics,
    StoreUnavailable,
    Watermark,
    slot_of,
)
from storage.completions import Refusals
from storage.sqlite import statements
from storage.sqlite.checkpointing import Checkpointer
from storage.sqlite.schema import migrate
from storage.sqlite.writer import Call, Writer
from storage.statistics import CommitStatistics

READERS = 4
BUSY_TIMEOUT_S = 10.0
DAY_MS = 86_400_000
SEQ_LIMIT = 1 << 63

T = TypeVar("T")


class SqliteStore:
    """A ``Store``. Several, of any number of processes, may share one file. Needs a local disk: WAL works on no network."""

    def __init__(self, path: Path, *, queue_rows_max: int = 65_536, readers: int = READERS) -> None:
        self._path = path
        self._queue_rows_max = queue_rows_max
        self._limiter = trio.CapacityLimiter(readers)
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._reader_count = readers
        self._writer: Writer | None = None
        self._write_connection: sqlite3.Connection | None = None
        self._checkpointer: Checkpointer | None = None
        self._refusals: Refusals | None = None
        self._last_statistics = CommitStatistics()

    async def open(self) -> None:
        if self._writer is not None:
            return
        self._refusals = Refusals(trio.lowlevel.current_trio_token())
        with _translated():
            await trio.to_thread.run_sync(self._connect)
        assert self._write_connection is not None
        lock_path = self._path.with_name(self._path.name + "-writing")
        self._writer = Writer(self._write_connection, lock_path, self._queue_rows_max)
        self._checkpointer = Checkpointer(self._path, _connect)
        with self._writer.locked(), _translated():
            migrate(self._write_connection)
        for _ in range(self._reader_count):
            self._readers.put(_connect(self._path))

    def _connect(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write_connection = _connect(self._path)

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        assert self._write_connection is not None and self._checkpointer is not None
        self._last_statistics = writer.statistics
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(writer.close)
            await trio.to_thread.run_sync(self._checkpointer.close)
            await trio.lowlevel.checkpoint()  # the last endings are delivered in this turn of the loop
        self._write_connection.close()
        for _ in range(self._reader_count):
            self._readers.get().close()

    def statistics(self) -> StoreStatistics:
        if self._writer is None:
            return self._last_statistics.snapshot(0)
        return self._writer.statistics.snapshot(self._writer.queued_rows)

    # ---------------------------------------------------------------------------------------------- threads

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """``work`` on a reading connection, in one snapshot."""
        if self._writer is None:
            raise StoreUnavailable("the store is closed")
        return await trio.to_thread.run_sync(self._read_in_thread, work, limiter=self._limiter)

    def _read_in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._readers.get()
        try:
            with _translated():
                connection.execute("BEGIN")
                try:
                    return work(connection)
                finally:
                    connection.execute("COMMIT")
        finally:
            self._readers.put(connection)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """``work`` in the writer's next transaction; durable when this returns. Cancelled, it may still happen."""
        task = trio.lowlevel.current_task()
        is_waiting = True

        def finish(result: T, error: StoreError | None) -> None:
            if is_waiting:
                trio.lowlevel.reschedule(task, outcome.Error(error) if error else outcome.Value(result))

        def give_up(_raise_cancel: object) -> trio.lowlevel.Abort:
            nonlocal is_waiting
            is_waiting = False
            return trio.lowlevel.Abort.SUCCEEDED

        if self._writer is None or not self._writer.call(Call(work, finish)):
            raise StoreUnavailable("the store is closed, or too much waits for it")
        written: T = await trio.lowlevel.wait_task_rescheduled(give_up)
        return written

    # ---------------------------------------------------------------------------------------------- messages

    def append(self, batch: Batch, done: AppendDone) -> None:
        if self._writer is None or not self._writer.append(batch, done):
            assert self._refusals is not None, "open the store first"
            self._refusals.add(batch, done, StoreUnavailable("too many messages wait to be written"))

    async def open_chat(self, chat_id: ChatId, epoch: Epoch) -> OpenedChat | None:
        def work(connection: sqlite3.Connection) -> OpenedChat | None:
            slot = slot_of(chat_id)
            row = statements.read_slots(connection, [slot]).get(slot)
            if row is None or row.epoch != epoch:
                raise SlotLost(f"slot {slot} is not held under epoch {epoch}")
            chat = statements.read_chat(connection, chat_id)
            if chat is None:
                return None
            tail = statements.read_messages(connection, chat_id, (0, SEQ_LIMIT - 1), TAIL_ROWS, is_newest_first=True)
            members = statements.read_members(connection, chat_id)
            return OpenedChat(chat, members, statements.read_watermarks(connection, chat_id), tail, ())

        return await self._read(work)

    async def read_messages(
        self, chat_id: ChatId, *, after_seq: int, before_seq: int, limit: int, is_newest_first: bool
    ) -> list[Message]:
        bounds = (after_seq, min(before_seq, SEQ_LIMIT - 1))
        return await self._read(
            lambda connection: statements.read_messages(
                connection, chat_id, bounds, limit, is_newest_first=is_newest_first
            )
        )

    async def find_sent(self, chat_id: ChatId, sender_id: UserId, client_msg_ids: Sequence[bytes]) -> list[Message]:
        since_ms = time.time_ns() // 1_000_000 - RESEND_DAYS * DAY_MS

        def work(connection: sqlite3.Connection) -> list[Message]:
            found: list[Message] = []
            for start in range(0, len(client_msg_ids), statements.MAX_VARIABLES):
                piece = client_msg_ids[start : start + statements.MAX_VARIABLES]
                found += statements.find_sent(connection, chat_id, sender_id, piece, since_ms)
            return found

        return await self._read(work)

    async def heads(self, chat_ids: Sequence[ChatId]) -> dict[ChatId, Head]:
        def work(connection: sqlite3.Connection) -> dict[ChatId, Head]:
            found = ((chat_id, statements.head(connection, chat_id)) for chat_id in chat_ids)
            return {chat_id: Head(Seq(row[0]), row[1]) for chat_id, row in found if row is not None}

        return await self._read(work)

    # ---------------------------------------------------------------------------------------------- chats

    async def create_direct(self, low: UserId, high: UserId, chat_id: ChatId) -> ChatId:
        def work(connection: sqlite3.Connection) -> ChatId:
            query = "SELECT chat_id FROM direct WHERE low = ? AND high = ?"
            row = connection.execute(query, (low, high)).fetchone()
            if row is not None:
                return ChatId(row[0])
            chat = Chat(chat_id, ChatKind.DIRECT, "", 1, 0)
            _create(connection, chat, [Member(low, 0, 0, 0, 0), Member(high, 0, 0, 0, 0)])
            connection.execute("INSERT INTO direct (low, high, chat_id) VALUES (?, ?, ?)", (low, high, chat_id))
            return chat_id

        return await self._write(work)

    async def create_group(self, creator: UserId, client_chat_id: bytes, chat: Chat, members: Sequence[Member]) -> Chat:
        def work(connection: sqlite3.Connection) -> Chat:
            key = (creator, client_chat_id)
            query = "SELECT chat_id FROM created WHERE creator = ? AND client_chat_id = ?"
            row = connection.execute(query, key).fetchone()
            if row is not None:
                made = statements.read_chat(connection, row[0])
                assert made is not None, "a created row is written with its chat"
                return made
            _create(connection, chat, members)
            query = "INSERT INTO created (creator, client_chat_id, chat_id) VALUES (?, ?, ?)"
            connection.execute(query, (*key, chat.chat_id))
            return chat

        return await self._write(work)

    async def read_chat(self, chat_id: ChatId) -> tuple[Chat, list[Member]] | None:
        def work(connection: sqlite3.Connection) -> tuple[Chat, list[Member]] | None:
            chat = statements.read_chat(connection, chat_id)
            return (chat, statements.read_members(connection, chat_id)) if chat is not None else None

        return await self._read(work)

    async def chats_of(self, user_id: UserId) -> list[Membership]:
        return await self._read(
            lambda connection: [Membership(*pair) for pair in statements.read_memberships(connection, user_id)]
        )

    # ---------------------------------------------------------------------------------------------- marks

    async def raise_watermarks(self, chat_id_watermarks: Sequence[tuple[ChatId, Watermark]]) -> None:
        await self._write(lambda connection: statements.raise_watermarks(connection, chat_id_watermarks))

    async def read_watermarks(self, user_id: UserId, chat_ids: Sequence[ChatId]) -> dict[ChatId, Watermark]:
        found = await self._read(lambda connection: statements.read_watermarks_of(connection, user_id, chat_ids))
        return {ChatId(chat_id): mark for chat_id, mark in found.items()}

    async def raise_cursors(self, cursors: Sequence[tuple[UserId, DeviceId, ChatId, Seq]]) -> None:
        await self._write(lambda connection: statements.raise_cursors(connection, cursors))

    async def set_cursors(
        self, user_id: UserId, device_id: DeviceId, cursors: Mapping[ChatId, Seq], is_complete: bool
    ) -> None:
        plain = {int(chat_id): int(seq) for chat_id, seq in cursors.items()}
        await self._write(
            lambda connection: statements.set_cursors(connection, (user_id, device_id), plain, is_complete=is_complete)
        )

    async def read_cursors(self, user_id: UserId, device_id: DeviceId) -> dict[ChatId, Seq]:
        found = await self._read(lambda connection: statements.read_cursors(connection, user_id, device_id))
        return {ChatId(chat_id): Seq(seq) for chat_id, seq in found.items()}

    # ---------------------------------------------------------------------------------------------- slots

    async def acquire_slots(
        self, slots: Sequence[int], worker: WorkerId, incarnation: int, seen: Mapping[int, SlotRow]
    ) -> dict[int, Epoch]:
        def work(connection: sqlite3.Connection) -> dict[int, Epoch]:
            current = statements.read_slots(connection, slots)
            won = {}
            for slot in slots:
                if current.get(slot) == seen.get(slot):
                    epoch = current[slot].epoch + 1 if slot in current else 1
                    statements.put_slot(connection, slot, SlotRow(epoch, worker, incarnation, is_released=False))
                    won[slot] = Epoch(epoch)
            return won

        return await self._write(work)

    async def read_slots(self, slots: Sequence[int]) -> dict[int, SlotRow]:
        return await self._read(lambda connection: statements.read_slots(connection, slots))

    async def release_slots(self, epochs: Mapping[int, Epoch], worker: WorkerId, incarnation: int) -> None:
        def work(connection: sqlite3.Connection) -> None:
            for slot, row in statements.read_slots(connection, list(epochs)).items():
                if row[:3] == (epochs[slot], worker, incarnation):
                    statements.put_slot(connection, slot, row._replace(is_released=True))

        await self._write(work)


def _create(connection: sqlite3.Connection, chat: Chat, members: Sequence[Member]) -> None:
    if statements.read_chat(connection, chat.chat_id) is not None:
        raise StoreConflict(f"chat {chat.chat_id} exists already")
    statements.put_chat(connection, chat)
    statements.put_members(connection, chat.chat_id, members)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S, cached_statements=256
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # checkpointing.py: not in a commit that somebody waits for
    connection.execute("PRAGMA cache_size = -4096")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """No exception of the driver leaves the backend."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the database cannot be read: {error}") from error
