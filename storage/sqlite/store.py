"""``SqliteStore``: the store's ports over one SQLite file, shared by the workers of a node.

Owns the threads (one that writes, a few that read, one that checkpoints) and the way from a port's method to the function
with the SQL. Invariant: nothing here blocks the Trio thread; opening and closing files happens in a thread too.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple, TypeVar

import trio

from gateway.protocol.identifiers import ChatId, DeviceId, Epoch, Seq, UserId, WorkerId
from storage.api import (
    RESEND_DAYS,
    AppendDone,
    Batch,
    Chat,
    Head,
    Member,
    Membership,
    Message,
    OpenedChat,
    SlotRow,
    SlotTerms,
    StoreStatistics,
    StoreUnavailable,
    Watermark,
)
from storage.clocks import DAY_MS, wall_clock_ms
from storage.completions import Refusals
from storage.sqlite import chats as chats_sql
from storage.sqlite import cursors as cursors_sql
from storage.sqlite import messages as messages_sql
from storage.sqlite import slots as slots_sql
from storage.sqlite.calls import Call
from storage.sqlite.checkpointer import Checkpointer
from storage.sqlite.connection import ENGINE_ERRORS, connect, sync_directory, translate
from storage.sqlite.filelock import FileLock
from storage.sqlite.migrations import load_migrations, migrate
from storage.sqlite.readers import Readers
from storage.sqlite.writer import QueueBounds, Writer
from storage.statistics import CommitStatistics

T = TypeVar("T")


class _Files(NamedTuple):
    """What ``open`` opens and the threads own from then on."""

    writer: sqlite3.Connection
    checkpointer: sqlite3.Connection
    readers: list[sqlite3.Connection]
    writer_lock: FileLock
    checkpointer_lock: FileLock


class _Threads(NamedTuple):
    writer: Writer
    readers: Readers
    checkpointer: Checkpointer
    refusals: Refusals
    files: _Files


class SqliteStore:
    """One worker's use of the file at ``path``.

    ``queue_rows_max`` and ``queue_bytes_max`` bound what waits for a commit; beyond them a write ends in StoreUnavailable.
    ``readers``: threads that read. ``now_ms``: the clock against which RESEND_DAYS is counted (ms since the Unix epoch).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        queue_rows_max: int = 65_536,
        queue_bytes_max: int = 64 << 20,
        readers: int = 2,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._path = os.path.abspath(path)
        self._bounds = QueueBounds(queue_rows_max, queue_bytes_max)
        self._reader_count = readers
        self._now_ms = now_ms
        self._statistics = CommitStatistics()
        self._threads: _Threads | None = None

    async def open(self) -> None:
        """Raises SchemaTooNew, and StoreUnavailable where the file cannot be opened; each says why in one line."""
        if self._threads is not None:
            raise RuntimeError("a store is opened once")
        opened = await trio.to_thread.run_sync(_open_files, self._path, self._reader_count)
        writer = Writer(opened.writer, opened.writer_lock, self._bounds, self._statistics)
        readers = Readers(opened.readers)
        checkpointer = Checkpointer(opened.checkpointer, opened.checkpointer_lock, writer.has_written)
        self._threads = _Threads(writer, readers, checkpointer, Refusals(trio.lowlevel.current_trio_token()), opened)
        for thread in (writer, readers, checkpointer):
            thread.start()

    async def close(self) -> None:
        if self._threads is None:
            await trio.lowlevel.checkpoint()
            return
        writer, readers, checkpointer, _, opened = self._threads
        with trio.CancelScope(shield=True):
            await writer.close()
            await readers.close()
            await trio.to_thread.run_sync(checkpointer.close)
        opened.writer_lock.close()
        opened.checkpointer_lock.close()

    def statistics(self) -> StoreStatistics:
        return self._statistics.snapshot(self._threads.writer.queued_rows if self._threads else 0)

    @property
    def _opened(self) -> _Threads:
        if self._threads is None:
            raise RuntimeError("the store is used before open")
        return self._threads

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        return await self._opened.readers.read(function)

    async def _write(self, function: Callable[[sqlite3.Connection], T], weight: int = 1) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        call = Call(function, weight)
        self._opened.writer.submit_call(call)  # type: ignore[arg-type]
        return await call.wait()

    # ------------------------------------------------------------------------------------------------- slots

    @property
    def terms(self) -> SlotTerms | None:
        return None

    async def acquire_slots(
        self, slots: Sequence[int], worker: WorkerId, incarnation: int, seen: Mapping[int, SlotRow]
    ) -> dict[int, Epoch]:
        return await self._write(lambda db: slots_sql.acquire_slots(db, slots, (worker, incarnation), seen), len(slots))

    async def read_slots(self, slots: Sequence[int]) -> dict[int, SlotRow]:
        return await self._read(lambda db: slots_sql.select_slots(db, slots))

    async def still_held(self, epochs: Mapping[int, Epoch], worker: WorkerId, incarnation: int) -> set[int]:
        rows = await self.read_slots(list(epochs))
        return {slot for slot, epoch in epochs.items() if rows.get(slot) == (epoch, worker, incarnation, False)}

    async def release_slots(self, epochs: Mapping[int, Epoch], worker: WorkerId, incarnation: int) -> None:
        await self._write(lambda db: slots_sql.release_slots(db, epochs, (worker, incarnation)), len(epochs))

    # ---------------------------------------------------------------------------------------------- messages

    def append(self, batch: Batch, done: AppendDone) -> None:
        refusal = self._opened.writer.submit_append(batch, done)
        if refusal is not None:
            self._opened.refusals.add(batch, done, refusal)

    async def open_chat(self, chat_id: ChatId, epoch: Epoch) -> OpenedChat | None:
        return await self._read(lambda db: messages_sql.select_opened_chat(db, chat_id, epoch))

    async def read_messages(
        self, chat_id: ChatId, *, after_seq: int, before_seq: int, limit: int, is_newest_first: bool
    ) -> list[Message]:
        bounds = (after_seq, before_seq)
        return await self._read(lambda db: messages_sql.select_messages(db, chat_id, bounds, limit, is_newest_first))

    async def find_sent(self, chat_id: ChatId, sender_id: UserId, client_msg_ids: Sequence[bytes]) -> list[Message]:
        oldest_ms = self._now_ms() - RESEND_DAYS * DAY_MS
        return await self._read(lambda db: messages_sql.select_sent(db, chat_id, sender_id, client_msg_ids, oldest_ms))

    async def heads(self, chats: Mapping[ChatId, Epoch]) -> dict[ChatId, Head]:
        return await self._read(lambda db: messages_sql.select_heads(db, list(chats)))

    # ------------------------------------------------------------------------------------------------- chats

    async def create_direct(self, low: UserId, high: UserId, chat_id: ChatId) -> ChatId:
        return await self._write(lambda db: ChatId(chats_sql.create_direct(db, low, high, chat_id)))

    async def create_group(self, creator: UserId, client_chat_id: bytes, chat: Chat, members: Sequence[Member]) -> Chat:
        return await self._write(
            lambda db: chats_sql.create_group(db, creator, client_chat_id, chat, members), len(members) or 1
        )

    async def read_chat(self, chat_id: ChatId) -> tuple[Chat, list[Member]] | None:
        return await self._read(lambda db: chats_sql.select_chat(db, chat_id))

    async def chats_of(self, user_id: UserId) -> list[Membership]:
        return await self._read(lambda db: chats_sql.select_chats_of(db, user_id))

    # ----------------------------------------------------------------------------------------------- cursors

    async def raise_watermarks(self, chat_id_watermarks: Sequence[tuple[ChatId, Watermark]]) -> None:
        marks = list(chat_id_watermarks)
        await self._write(lambda db: cursors_sql.raise_watermarks(db, marks), len(marks))

    async def read_watermarks(self, user_id: UserId, chat_ids: Sequence[ChatId]) -> dict[ChatId, Watermark]:
        return await self._read(lambda db: cursors_sql.select_watermarks(db, user_id, chat_ids))

    async def raise_cursors(self, cursors: Sequence[tuple[UserId, DeviceId, ChatId, Seq]]) -> None:
        rows = list(cursors)
        await self._write(lambda db: cursors_sql.raise_cursors(db, rows), len(rows))

    async def set_cursors(
        self, user_id: UserId, device_id: DeviceId, cursors: Mapping[ChatId, Seq], is_complete: bool
    ) -> None:
        record = dict(cursors)
        await self._write(
            lambda db: cursors_sql.set_cursors(db, (user_id, device_id), record, is_complete), len(record)
        )

    async def read_cursors(self, user_id: UserId, device_id: DeviceId) -> dict[ChatId, Seq]:
        return await self._read(lambda db: cursors_sql.select_cursors(db, user_id, device_id))


def _open_files(path: str, reader_count: int) -> _Files:
    folder = os.path.dirname(path)
    try:
        with ExitStack() as undo:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            locks = [undo.enter_context(closing(FileLock(f"{path}-writing"))) for _ in range(2)]
            writer = undo.enter_context(closing(connect(path, is_reader=False)))
            with locks[0]:
                writer.execute("PRAGMA journal_mode = WAL")
                migrate(writer, load_migrations())
            sync_directory(folder)
            sync_directory(os.path.dirname(folder))
            checkpointer = undo.enter_context(closing(connect(path, is_reader=False)))
            readers = [undo.enter_context(closing(connect(path, is_reader=True))) for _ in range(reader_count)]
            undo.pop_all()
            return _Files(writer, checkpointer, readers, *locks)
    except ENGINE_ERRORS as error:
        raise StoreUnavailable(f"cannot open {path}: {translate(error)}") from error
