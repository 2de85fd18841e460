"""The store in memory: every guarantee of ``storage.api`` but durability, for tests and for trying things out.

Owns plain dicts. ``MemoryDatabase`` is what several handles share, as several workers share one SQLite file; a
``MemoryStore`` is one worker's handle on it. No thread, no clock but the one given: it runs under Trio's MockClock.

Invariant: an append is checked and applied whole in one synchronous step, in the cycle in which its ``done`` is called,
never inside ``append``; so a slot that is acquired in between fences it, exactly as with an engine.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence

import trio

from gateway.protocol.identifiers import ChatId, DeviceId, Epoch, Seq, UserId, WorkerId
from gateway.protocol.messages import Kind
from storage.api import (
    RESEND_DAYS,
    TAIL_ROWS,
    AppendDone,
    Appended,
    Batch,
    Chat,
    ChatKind,
    Head,
    Member,
    Membership,
    MembershipChange,
    Message,
    OpenedChat,
    SlotLost,
    SlotRow,
    SlotTerms,
    StoreConflict,
    StoreError,
    StoreStatistics,
    StoreUnavailable,
    Watermark,
    slot_of,
)
from storage.batches import conflict_in
from storage.clocks import DAY_MS, wall_clock_ms
from storage.completions import Ending, Refusals, deliver
from storage.slot_rows import NEVER, is_as_seen
from storage.statistics import CommitStatistics


def _seq(row: Message) -> int:
    return row.seq


class MemoryDatabase:
    """The tables. ``outage`` and ``is_paused`` are for tests: a store that refuses, and one that takes its time."""

    def __init__(self) -> None:
        self.slots: dict[int, SlotRow] = {}
        self.chats: dict[int, Chat] = {}
        self.members: dict[int, dict[int, Member]] = {}
        self.chats_by_user: dict[int, set[int]] = {}
        self.direct: dict[tuple[int, int], int] = {}
        self.created: dict[tuple[int, bytes], int] = {}
        self.logs: dict[int, list[Message]] = {}
        self.sent: dict[tuple[int, int, bytes], Message] = {}
        self.watermarks: dict[int, dict[int, Watermark]] = {}
        self.cursors: dict[tuple[int, int], dict[ChatId, Seq]] = {}
        self.outage: StoreError | None = None
        self.is_paused = False

    def end(self, batch: Batch) -> StoreError | SlotLost | None:
        """Apply a batch whole or not at all, and say how it ended."""
        if self.outage is not None:
            return self.outage
        log = self.logs.setdefault(batch.chat_id, [])
        missing = [row for row in batch.rows if self._find(log, row.seq) is None]
        if len(missing) < len(batch.rows) and any(self._find(log, row.seq) not in (None, row) for row in batch.rows):
            return StoreConflict(f"chat {batch.chat_id}: a stored seq was appended again with other content")
        if missing and self.slots.get(slot_of(batch.chat_id), NEVER).epoch != batch.epoch:
            return SlotLost(f"slot {slot_of(batch.chat_id)} is not held under epoch {batch.epoch}")
        for row in missing:
            self._insert(log, row)
        for change in batch.changes:
            self._apply(change)
        return None

    def _find(self, log: list[Message], seq: int) -> Message | None:
        index = bisect_left(log, seq, key=_seq)
        return log[index] if index < len(log) and log[index].seq == seq else None

    def _insert(self, log: list[Message], row: Message) -> None:
        insort(log, row, key=_seq)
        if row.kind != Kind.SYSTEM:
            key = (row.chat_id, row.sender_id, row.client_msg_id)
            self.sent[key] = max(row, self.sent.get(key, row), key=_seq)

    def _apply(self, change: MembershipChange) -> None:
        chat = self.chats.get(change.chat.chat_id)
        if chat is None or chat.changed_counter <= change.chat.changed_counter:
            self.chats[change.chat.chat_id] = change.chat
        for member in change.members:
            self.put_member(change.chat.chat_id, member)

    def put_member(self, chat_id: int, member: Member) -> None:
        members = self.members.setdefault(chat_id, {})
        stored = members.get(member.user_id)
        if stored is None or stored.changed_counter <= member.changed_counter:
            members[member.user_id] = member
        self.chats_by_user.setdefault(member.user_id, set()).add(chat_id)

    def create_chat(self, chat: Chat, members: Sequence[Member]) -> None:
        if chat.chat_id in self.chats:
            raise StoreConflict(f"chat id {chat.chat_id} is taken")
        self.chats[chat.chat_id] = chat
        for member in members:
            self.put_member(chat.chat_id, member)


class MemoryStore:
    """One worker's handle. ``now_ms`` is the clock against which RESEND_DAYS is counted."""

    def __init__(
        self,
        database: MemoryDatabase | None = None,
        *,
        queue_rows_max: int = 65_536,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.database = database if database is not None else MemoryDatabase()
        self._queue_rows_max = queue_rows_max
        self._now_ms = now_ms
        self._queue: list[tuple[Batch, AppendDone]] = []
        self._queued_rows = 0
        self._statistics = CommitStatistics()
        self._token: trio.lowlevel.TrioToken | None = None
        self._refusals: Refusals | None = None

    async def open(self) -> None:
        await trio.lowlevel.checkpoint()
        self._token = trio.lowlevel.current_trio_token()
        self._refusals = Refusals(self._token)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self._token = None
        self._commit()
        if self._refusals is not None:
            self._refusals.flush()

    def statistics(self) -> StoreStatistics:
        return self._statistics.snapshot(self._queued_rows)

    def append(self, batch: Batch, done: AppendDone) -> None:
        if self._refusals is None:
            raise RuntimeError("append before open")
        conflict = conflict_in(batch)
        if conflict is not None:
            self._statistics.refusals += 1
            self._refusals.add(batch, done, conflict)
        elif self._token is None:
            self._refusals.add(batch, done, StoreUnavailable("the store is closed"))
        elif self._queued_rows + len(batch.rows) > self._queue_rows_max:
            self._statistics.refusals += 1
            self._refusals.add(batch, done, StoreUnavailable("the append queue is full"))
        else:
            if not self._queue:
                self._token.run_sync_soon(self._commit_soon)
            self._queue.append((batch, done))
            self._queued_rows += len(batch.rows)

    def resume(self) -> None:
        """End what a pause of the database held back."""
        self.database.is_paused = False
        self._commit()

    def _commit_soon(self) -> None:
        if not self.database.is_paused:
            self._commit()

    def _commit(self) -> None:
        queue, self._queue = self._queue, []
        rows, self._queued_rows = self._queued_rows, 0
        endings: list[Ending] = [(done, Appended(batch, self.database.end(batch))) for batch, done in queue]
        if endings:
            self._statistics.count_commit(rows, 0.0)
            self._statistics.errors += sum(isinstance(appended.error, StoreError) for _, appended in endings)
        deliver(endings)

    async def _write(self) -> MemoryDatabase:
        """The checkpoint of a write: what follows it in the same step is atomic."""
        await trio.lowlevel.checkpoint()
        if self._token is None:
            raise StoreUnavailable("the store is closed")
        if self.database.outage is not None:
            raise self.database.outage
        return self.database

    async def _read(self) -> MemoryDatabase:
        await trio.lowlevel.checkpoint()
        if self._token is None:
            raise StoreUnavailable("the store is closed")
        return self.database

    # ------------------------------------------------------------------------------------------------- slots

    @property
    def terms(self) -> SlotTerms | None:
        return None

    async def acquire_slots(
        self, slots: Sequence[int], worker: WorkerId, incarnation: int, seen: Mapping[int, SlotRow]
    ) -> dict[int, Epoch]:
        database = await self._write()
        won: dict[int, Epoch] = {}
        for slot in slots:
            if is_as_seen(database.slots.get(slot), seen.get(slot)):
                won[slot] = Epoch(database.slots.get(slot, NEVER).epoch + 1)
                database.slots[slot] = SlotRow(won[slot], worker, incarnation, False)
        return won

    async def read_slots(self, slots: Sequence[int]) -> dict[int, SlotRow]:
        database = await self._read()
        return {slot: database.slots[slot] for slot in slots if slot in database.slots}

    async def still_held(self, epochs: Mapping[int, Epoch], worker: WorkerId, incarnation: int) -> set[int]:
        database = await self._read()
        return {
            slot for slot, epoch in epochs.items() if database.slots.get(slot) == (epoch, worker, incarnation, False)
        }

    async def release_slots(self, epochs: Mapping[int, Epoch], worker: WorkerId, incarnation: int) -> None:
        database = await self._write()
        for slot, epoch in epochs.items():
            if database.slots.get(slot) == SlotRow(epoch, worker, incarnation, False):
                database.slots[slot] = SlotRow(epoch, worker, incarnation, True)

    # ---------------------------------------------------------------------------------------------- messages

    async def open_chat(self, chat_id: ChatId, epoch: Epoch) -> OpenedChat | None:
        database = await self._read()
        if database.slots.get(slot_of(chat_id), NEVER).epoch != epoch:
            raise SlotLost(f"slot {slot_of(chat_id)} is not held under epoch {epoch}")
        chat = database.chats.get(chat_id)
        if chat is None:
            return None
        return OpenedChat(
            chat,
            _by_user(database.members[chat_id]),
            [mark for _, mark in sorted(database.watermarks.get(chat_id, {}).items())],
            database.logs.get(chat_id, [])[: -TAIL_ROWS - 1 : -1],
            (),
        )

    async def read_messages(
        self, chat_id: ChatId, *, after_seq: int, before_seq: int, limit: int, is_newest_first: bool
    ) -> list[Message]:
        database = await self._read()
        log = database.logs.get(chat_id, [])
        first, end = bisect_left(log, after_seq + 1, key=_seq), bisect_left(log, before_seq, key=_seq)
        if is_newest_first:
            return log[max(first, end - limit) : max(first, end)][::-1]
        return log[first : min(end, first + limit)]

    async def find_sent(self, chat_id: ChatId, sender_id: UserId, client_msg_ids: Sequence[bytes]) -> list[Message]:
        database = await self._read()
        oldest_ms = self._now_ms() - RESEND_DAYS * DAY_MS
        found = (database.sent.get((chat_id, sender_id, id_)) for id_ in dict.fromkeys(client_msg_ids))
        return [row for row in found if row is not None and row.time_ms >= oldest_ms]

    async def heads(self, chats: Mapping[ChatId, Epoch]) -> dict[ChatId, Head]:
        database = await self._read()
        newest = ((chat_id, database.logs[chat_id][-1]) for chat_id in chats if database.logs.get(chat_id))
        return {chat_id: Head(Seq(row.seq), row.time_ms) for chat_id, row in newest}

    # ------------------------------------------------------------------------------------------------- chats

    async def create_direct(self, low: UserId, high: UserId, chat_id: ChatId) -> ChatId:
        database = await self._write()
        stored = database.direct.get((low, high))
        if stored is not None:
            return ChatId(stored)
        chat = Chat(chat_id, ChatKind.DIRECT, "", 1, 0)
        database.create_chat(chat, [Member(low, 0, 0, 0, 0), Member(high, 0, 0, 0, 0)])
        database.direct[low, high] = chat_id
        return chat_id

    async def create_group(self, creator: UserId, client_chat_id: bytes, chat: Chat, members: Sequence[Member]) -> Chat:
        database = await self._write()
        stored = database.created.get((creator, client_chat_id))
        if stored is not None:
            return database.chats[stored]
        database.create_chat(chat, members)
        database.created[creator, client_chat_id] = chat.chat_id
        return chat

    async def read_chat(self, chat_id: ChatId) -> tuple[Chat, list[Member]] | None:
        database = await self._read()
        chat = database.chats.get(chat_id)
        return None if chat is None else (chat, _by_user(database.members[chat_id]))

    async def chats_of(self, user_id: UserId) -> list[Membership]:
        database = await self._read()
        chat_ids = sorted(database.chats_by_user.get(user_id, ()))
        return [Membership(database.chats[chat_id], database.members[chat_id][user_id]) for chat_id in chat_ids]

    # ----------------------------------------------------------------------------------------------- cursors

    async def raise_watermarks(self, chat_id_watermarks: Sequence[tuple[ChatId, Watermark]]) -> None:
        database = await self._write()
        for chat_id, mark in chat_id_watermarks:
            marks = database.watermarks.setdefault(chat_id, {})
            stored = marks.get(mark.user_id, mark)
            marks[mark.user_id] = Watermark(
                mark.user_id,
                max(stored.delivered_seq, mark.delivered_seq),
                max(stored.read_seq, mark.read_seq),
            )

    async def read_watermarks(self, user_id: UserId, chat_ids: Sequence[ChatId]) -> dict[ChatId, Watermark]:
        database = await self._read()
        found = ((chat_id, database.watermarks.get(chat_id, {}).get(user_id)) for chat_id in chat_ids)
        return {chat_id: mark for chat_id, mark in found if mark is not None}

    async def raise_cursors(self, cursors: Sequence[tuple[UserId, DeviceId, ChatId, Seq]]) -> None:
        database = await self._write()
        for user_id, device_id, chat_id, seq in cursors:
            record = database.cursors.setdefault((user_id, device_id), {})
            record[chat_id] = max(record.get(chat_id, seq), seq)

    async def set_cursors(
        self, user_id: UserId, device_id: DeviceId, cursors: Mapping[ChatId, Seq], is_complete: bool
    ) -> None:
        database = await self._write()
        record = database.cursors.setdefault((user_id, device_id), {})
        if is_complete:
            record.clear()
        record.update(cursors)

    async def read_cursors(self, user_id: UserId, device_id: DeviceId) -> dict[ChatId, Seq]:
        database = await self._read()
        return dict(database.cursors.get((user_id, device_id), {}))


def _by_user(members: Mapping[int, Member]) -> list[Member]:
    return [member for _, member in sorted(members.items())]
