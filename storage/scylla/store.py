"""``ScyllaStore``: the store's ports over an ``Executor``.

Owns the parts and the way from a port's method to the part that fulfils it: ``slots`` (who owns what, and until when it may be
believed), ``messages`` (appending), ``adoption`` (the first look at a chat under an epoch: read its essay first), ``committed``
(what this worker knows of the logs it writes), ``pages`` and ``resends`` (reading), ``chats``, ``cursors``. It knows no driver:
whoever composes it gives it an executor, the real one or a simulated one.

Invariant: everything that the parts promise rests on this handle being the only one through which its worker writes: the
epochs that it acquired are appended under here and nowhere else.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import trio

from gateway.protocol.identifiers import ChatId, DeviceId, Epoch, Seq, UserId, WorkerId
from storage.api import (
    RESEND_DAYS,
    AppendDone,
    Appended,
    Batch,
    Chat,
    Head,
    Member,
    Membership,
    MembershipChange,
    Message,
    OpenedChat,
    SlotRow,
    SlotTerms,
    StoreStatistics,
    Watermark,
)
from storage.clocks import DAY_MS, boottime_s, wall_clock_ms
from storage.scylla.adoption import Adoptions, Loaded
from storage.scylla.chats import Chats
from storage.scylla.committed import NO_HEAD, CommittedHeads
from storage.scylla.cursors import Cursors
from storage.scylla.messages import Appends
from storage.scylla.pages import Pages, Span
from storage.scylla.parallel import for_each
from storage.scylla.ports import Executor
from storage.scylla.resends import find_sent
from storage.scylla.runs import SharedRuns
from storage.scylla.slots import TERMS, Slots
from storage.statistics import CommitStatistics


def wall_clock_us() -> int:
    return time.time_ns() // 1_000


def random_mark() -> int:
    return secrets.randbits(62)


class Surroundings(NamedTuple):
    """What the rules ask of the machine; a simulation gives its own."""

    boottime_s: Callable[[], float] = boottime_s
    """What belief is measured on (s): must not stand still while the process does."""
    now_us: Callable[[], int] = wall_clock_us
    """What cursors are timed by (microseconds since the Unix epoch)."""
    draw_mark: Callable[[], int] = random_mark
    """A number below 2^62 that no other acquisition draws."""


OF_THE_MACHINE = Surroundings()


class ScyllaStore:
    """One worker's use of a cluster. The executor is opened and closed with it.

    ``queue_rows_max`` bounds what waits for its end; beyond it a batch ends in StoreUnavailable. ``now_ms``: the clock against
    which RESEND_DAYS is counted (ms since the Unix epoch).
    """

    def __init__(
        self,
        executor: Executor,
        *,
        queue_rows_max: int = 65_536,
        now_ms: Callable[[], int] = wall_clock_ms,
        surroundings: Surroundings = OF_THE_MACHINE,
    ) -> None:
        self._executor = executor
        self._now_ms = now_ms
        self._statistics = CommitStatistics()
        self._committed = CommittedHeads()
        self._slots = Slots(executor, surroundings.boottime_s, surroundings.draw_mark)
        is_doubtful = self._slots.is_doubtful
        self._appends = Appends(executor, self._committed, is_doubtful, self._statistics, queue_rows_max)
        self._adoptions = Adoptions(executor, self._committed, is_doubtful)
        self._loads: SharedRuns[tuple[int, int], Loaded] = SharedRuns(self._load)
        self._pages = Pages(executor)
        self._chats = Chats(executor)
        self._cursors = Cursors(executor, surroundings.now_us)

    async def open(self) -> None:
        """Raises SchemaTooNew, and StoreUnavailable where the cluster cannot be reached; each says why in one line."""
        await self._executor.open()
        self._appends.open()

    async def close(self) -> None:
        self._appends.close()
        with trio.CancelScope(shield=True):
            await self._loads.close()
            await self._executor.close()
        self._appends.flush()

    def statistics(self) -> StoreStatistics:
        return self._statistics.snapshot(self._appends.queued_rows)

    # ------------------------------------------------------------------------------------------------- slots

    @property
    def terms(self) -> SlotTerms | None:
        return TERMS

    async def acquire_slots(
        self, slots: Sequence[int], worker: WorkerId, incarnation: int, seen: Mapping[int, SlotRow]
    ) -> dict[int, Epoch]:
        return await self._slots.acquire(slots, (worker, incarnation), seen)

    async def read_slots(self, slots: Sequence[int]) -> dict[int, SlotRow]:
        return await self._slots.read(slots)

    async def still_held(self, epochs: Mapping[int, Epoch], worker: WorkerId, incarnation: int) -> set[int]:
        held = await self._slots.still_held(epochs, (worker, incarnation))
        if len(held) < len(epochs):
            self._forget({slot: epoch for slot, epoch in epochs.items() if slot not in held})
        return held

    async def release_slots(self, epochs: Mapping[int, Epoch], worker: WorkerId, incarnation: int) -> None:
        self._forget(epochs)
        await self._slots.release(epochs, (worker, incarnation))

    def _forget(self, epochs: Mapping[int, Epoch]) -> None:
        """Of slots that this worker does not own any more."""
        self._committed.forget_slots(epochs)
        self._adoptions.forget_slots(epochs)

    # ---------------------------------------------------------------------------------------------- messages

    def append(self, batch: Batch, done: AppendDone) -> None:
        self._appends.append(batch, done)

    async def open_chat(self, chat_id: ChatId, epoch: Epoch) -> OpenedChat | None:
        await self._finish(chat_id, epoch)
        loaded = await self._loads.run((chat_id, epoch))
        chat = await self._chats.chat(chat_id) if loaded.has_changes else loaded.chat
        if chat is None:
            return None
        members = await self._chats.members(chat_id)
        watermarks = await self._cursors.watermarks_of_chat(chat_id)
        known = self._committed.known(chat_id, epoch)
        base_seq, last_seq = known.untold if known is not None else (0, 0)
        adopted = [row for row in loaded.tail if base_seq < row.seq <= last_seq]
        self._committed.told(chat_id, epoch)
        return OpenedChat(chat, members, watermarks, loaded.tail, adopted or ())

    async def _finish(self, chat_id: ChatId, epoch: Epoch) -> None:
        """A batch of this worker whose end is unknown: its seqs are given out, so it is written before the log is read."""
        batch = self._committed.unfinished(chat_id, epoch)
        if batch is None:
            await trio.lowlevel.checkpoint()
            return
        ended = trio.Event()
        ends: list[Appended] = []

        def done(appended: Sequence[Appended]) -> None:
            ends.extend(appended)
            ended.set()

        self._appends.append(batch, done)
        await ended.wait()
        if ends[0].error is not None:
            raise ends[0].error

    async def _load(self, chat: tuple[int, int]) -> Loaded:
        return await self._adoptions.load(*chat)

    async def read_messages(
        self, chat_id: ChatId, *, after_seq: int, before_seq: int, limit: int, is_newest_first: bool
    ) -> list[Message]:
        return await self._pages.read(Span(chat_id, after_seq, before_seq), limit, is_newest_first)

    async def find_sent(self, chat_id: ChatId, sender_id: UserId, client_msg_ids: Sequence[bytes]) -> list[Message]:
        oldest_ms = self._now_ms() - RESEND_DAYS * DAY_MS
        return await find_sent(self._executor, (chat_id, sender_id), client_msg_ids, oldest_ms)

    async def heads(self, chats: Mapping[ChatId, Epoch]) -> dict[ChatId, Head]:
        heads = await for_each(self._head, list(chats.items()))
        return {chat_id: head for chat_id, head in zip(chats, heads, strict=True) if head != NO_HEAD}

    async def _head(self, chat: tuple[ChatId, Epoch]) -> Head:
        known = self._committed.known(*chat)
        return known.head if known is not None else (await self._loads.run(chat)).head

    # ------------------------------------------------------------------------------------------------- chats

    async def create_direct(self, low: UserId, high: UserId, chat_id: ChatId) -> ChatId:
        return ChatId(await self._chats.create_direct(low, high, chat_id))

    async def create_group(self, creator: UserId, client_chat_id: bytes, chat: Chat, members: Sequence[Member]) -> Chat:
        return await self._chats.create_group(creator, client_chat_id, MembershipChange(chat, members))

    async def read_chat(self, chat_id: ChatId) -> tuple[Chat, list[Member]] | None:
        chat = await self._chats.chat(chat_id)
        return None if chat is None else (chat, await self._chats.members(chat_id))

    async def chats_of(self, user_id: UserId) -> list[Membership]:
        return await self._chats.chats_of(user_id)

    # ----------------------------------------------------------------------------------------------- cursors

    async def raise_watermarks(self, chat_id_watermarks: Sequence[tuple[ChatId, Watermark]]) -> None:
        await self._cursors.raise_watermarks(chat_id_watermarks)

    async def read_watermarks(self, user_id: UserId, chat_ids: Sequence[ChatId]) -> dict[ChatId, Watermark]:
        return await self._cursors.watermarks_of_user(user_id, chat_ids)

    async def raise_cursors(self, cursors: Sequence[tuple[UserId, DeviceId, ChatId, Seq]]) -> None:
        await self._cursors.raise_all(cursors)

    async def set_cursors(
        self, user_id: UserId, device_id: DeviceId, cursors: Mapping[ChatId, Seq], is_complete: bool
    ) -> None:
        await self._cursors.set_all((user_id, device_id), cursors, is_complete)

    async def read_cursors(self, user_id: UserId, device_id: DeviceId) -> dict[ChatId, Seq]:
        return await self._cursors.record((user_id, device_id))
