"""How far people are: cursors, delivered and read marks, receipts, and their way to the store."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.chat.marks import WriteBehind
from gateway.protocol.frames import FrameReader, decode
from gateway.protocol.identifiers import ChatId, DeviceId, Seq, UserId
from gateway.protocol.messages import ChatChange, ChatInfo, ChatInfoOk, Op, Receipt, ReceiptKind
from storage.api import ChatKind, StoreTimedOut, StoreUnavailable, Watermark
from storage.memory import MemoryDatabase, MemoryStore
from tests.chat.conftest import Restart, StartWorker
from tests.chat.world import (
    A1,
    A2,
    ALICE,
    B1,
    BOB,
    C1,
    CAROL,
    CHAT,
    ROOM,
    Worker,
    add_chat,
    database_with,
    log_of,
    sent,
)

DELIVERED, READ = ReceiptKind.DELIVERED, ReceiptKind.READ


async def marks_of(worker: Worker, user_id: int) -> tuple[int, int]:
    """(delivered, read), as CHAT_INFO tells."""
    info = worker.ask(Op.CHAT_INFO, ChatInfo(CHAT), A1)
    await worker.settle()
    (entry,) = [member for member in info.fields(ChatInfoOk).members if member.user_id == user_id]
    return entry.delivered_seq, entry.read_seq


async def written(worker: Worker) -> None:
    await trio.sleep(2.5)


async def cursor_of(worker: Worker, user_id: int, device_id: int) -> int:
    return (await worker.store.read_cursors(UserId(user_id), DeviceId(device_id))).get(CHAT, Seq(0))


# -------------------------------------------------------------------------------------------------- marking


async def test_a_mark_is_folded_and_never_falls(worker: Worker) -> None:
    one, two, three = await sent(worker, "a", "b", "c")
    for delivered, read in ((two, 0), (one, 0), (0, one), (three, 0), (two, 0)):
        worker.mark(B1, delivered=delivered, read=read)
    assert await marks_of(worker, BOB) == (three, one)


async def test_a_mark_beyond_the_head_is_the_head(worker: Worker) -> None:
    (head,) = await sent(worker, "a")
    worker.mark(B1, delivered=head + 5, read=1 << 60)
    assert await marks_of(worker, BOB) == (head, head)


async def test_read_implies_delivered(worker: Worker, autojump_clock: MockClock) -> None:
    one, _ = await sent(worker, "a", "b")
    worker.mark(B1, read=one)
    assert await marks_of(worker, BOB) == (one, one)
    await written(worker)
    assert await cursor_of(worker, *B1) == one


async def test_a_stranger_marks_nothing(worker: Worker, autojump_clock: MockClock) -> None:
    (head,) = await sent(worker, "a")
    worker.mark(C1, delivered=head, read=head)
    await written(worker)
    assert await cursor_of(worker, *C1) == 0
    assert await worker.store.read_watermarks(UserId(CAROL), [CHAT]) == {}


async def test_who_left_marks_up_to_leaving(worker: Worker, autojump_clock: MockClock) -> None:
    await sent(worker, "a")
    worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, remove=[BOB]), A1)
    await worker.settle()
    left = worker.database.logs[CHAT][-1].seq
    (head,) = await sent(worker, "b")
    worker.mark(B1, read=head)
    await written(worker)
    assert await worker.store.read_watermarks(UserId(BOB), [CHAT]) == {CHAT: Watermark(BOB, left, left)}
    assert await cursor_of(worker, *B1) == left


async def test_each_device_has_its_cursor_and_the_user_the_highest_mark(
    worker: Worker, autojump_clock: MockClock
) -> None:
    one, two = await sent(worker, "a", "b")
    worker.mark(A1, delivered=one)
    worker.mark(A2, delivered=two)
    await written(worker)
    assert [await cursor_of(worker, *device) for device in (A1, A2)] == [one, two]
    assert await worker.store.read_watermarks(UserId(ALICE), [CHAT]) == {CHAT: Watermark(ALICE, two, 0)}


async def test_the_next_owner_knows_the_marks(worker: Worker, restart: Restart, autojump_clock: MockClock) -> None:
    (head,) = await sent(worker, "a")
    worker.mark(B1, read=head)
    await written(worker)
    later = await restart()
    assert await marks_of(later, BOB) == (head, head)


async def test_a_chat_that_was_forgotten_and_read_again_does_not_lower_what_is_not_written_yet(
    start_worker: StartWorker, autojump_clock: MockClock
) -> None:
    worker = await start_worker(1, ROOM._replace(max_actors=1))
    add_chat(worker.database, 8)
    await worker.acquire(8)
    one, two = await sent(worker, "a", "b")
    worker.mark(B1, read=two)
    worker.send("x", chat_id=8)
    await worker.settle()
    worker.mark(B1, delivered=one)
    await worker.settle()
    assert worker.actors.evictions == 2
    await written(worker)
    assert await worker.store.read_watermarks(UserId(BOB), [CHAT]) == {CHAT: Watermark(BOB, two, two)}
    assert await cursor_of(worker, *B1) == two


# ------------------------------------------------------------------------------------------------- receipts


@pytest.fixture
def database(request: pytest.FixtureRequest) -> MemoryDatabase:
    return database_with(getattr(request, "param", ChatKind.GROUP))


@pytest.mark.parametrize("database", [ChatKind.DIRECT], indirect=True)
async def test_in_a_direct_chat_delivered_goes_to_the_other_and_read_to_ones_own_devices_too(
    worker: Worker, autojump_clock: MockClock
) -> None:
    one, two = await sent(worker, "a", "b")
    worker.mark(A1, delivered=two)
    await trio.sleep(0.3)
    assert worker.out.receipts() == [(B1, DELIVERED, two, ALICE)]
    worker.out.left.clear()
    worker.mark(A1, read=one)
    await trio.sleep(0.3)
    assert sorted(worker.out.receipts()) == [(A2, READ, one, ALICE), (B1, READ, one, ALICE)]


@pytest.mark.parametrize("database", [ChatKind.DIRECT], indirect=True)
async def test_both_marks_that_rise_at_once_are_told(worker: Worker, autojump_clock: MockClock) -> None:
    (head,) = await sent(worker, "a")
    worker.mark(B1, read=head)
    await trio.sleep(0.3)
    told = [(to, kind) for to, kind, seq, user_id in worker.out.receipts() if (seq, user_id) == (head, BOB)]
    assert sorted(told) == [(A1, DELIVERED), (A1, READ), (A2, DELIVERED), (A2, READ)]


async def test_in_a_group_only_ones_own_other_devices_hear_that_one_has_read(
    worker: Worker, autojump_clock: MockClock
) -> None:
    (head,) = await sent(worker, "a")
    worker.mark(A1, delivered=head)
    worker.mark(B1, read=head)
    await trio.sleep(0.3)
    assert worker.out.receipts() == []
    worker.mark(A1, read=head)
    await trio.sleep(0.3)
    assert worker.out.receipts() == [(A2, READ, head, ALICE)]


@pytest.mark.parametrize("database", [ChatKind.DIRECT], indirect=True)
async def test_many_marks_are_one_receipt_and_a_mark_again_is_none(worker: Worker, autojump_clock: MockClock) -> None:
    seqs = await sent(worker, "a", "b", "c")
    for seq in seqs:
        worker.mark(B1, delivered=seq)
    await trio.sleep(0.3)
    told = [(to, seq) for to, _, seq, _ in worker.out.receipts()]
    assert told == [(A1, seqs[-1]), (A2, seqs[-1])]
    worker.mark(B1, delivered=seqs[-1])
    await trio.sleep(0.3)
    assert len(worker.out.receipts()) == 2


# ---------------------------------------------------------------------------------------------- write-behind


class Told:
    """What a WriteBehind pushes."""

    def __init__(self) -> None:
        self.receipts: list[tuple[int, int, int, Receipt, ReceiptKind]] = []
        self.flushes = 0

    def push(self, chat_id: int, user_id: int, device_id: int, frame: bytes, kind: ReceiptKind) -> None:
        reader = FrameReader(4096)
        reader.feed(frame)
        one = reader.next_frame()
        assert one is not None
        self.receipts.append((chat_id, user_id, device_id, decode(Receipt, one.body), kind))

    def flush(self) -> None:
        self.flushes += 1


class BlockingStore(MemoryStore):
    """Writes of cursors wait for ``go``, and then end by ``error``, if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.go = trio.Event()
        self.error: StoreTimedOut | None = None

    async def raise_cursors(self, cursors: object) -> None:
        await self.go.wait()
        if self.error is not None:
            raise self.error
        await super().raise_cursors(cursors)  # type: ignore[arg-type]


async def test_what_the_store_does_not_take_is_written_later_and_newer_marks_count() -> None:
    store, told = MemoryStore(), Told()
    await store.open()
    marks = WriteBehind(store, told.push, told.flush)
    marks.cursor(B1, CHAT, 5)
    marks.watermark(CHAT, Watermark(BOB, 5, 3))
    store.database.outage = StoreUnavailable("full")
    await marks.write()
    marks.cursor(B1, CHAT, 4)
    marks.watermark(CHAT, Watermark(BOB, 6, 2))
    await marks.write()
    assert marks.pending_cursor(B1, CHAT) == 5
    assert marks.pending_watermark(CHAT, BOB) == Watermark(BOB, 6, 3)
    store.database.outage = None
    await marks.write()
    assert await store.read_cursors(UserId(BOB), DeviceId(21)) == {CHAT: 5}
    assert await store.read_watermarks(UserId(BOB), [CHAT]) == {CHAT: Watermark(BOB, 6, 3)}
    assert (marks.pending_cursor(B1, CHAT), marks.pending_watermark(CHAT, BOB)) == (0, None)


async def test_a_cursor_that_is_forgotten_while_the_store_refuses_it_stays_forgotten(nursery: trio.Nursery) -> None:
    store, told = BlockingStore(), Told()
    await store.open()
    marks = WriteBehind(store, told.push, told.flush)
    marks.cursor(B1, CHAT, 5)
    marks.cursor(C1, CHAT, 6)
    nursery.start_soon(marks.write)
    await wait_all_tasks_blocked()
    marks.forget_cursor(B1, CHAT)
    store.error = StoreTimedOut("late")
    store.go.set()
    await wait_all_tasks_blocked()
    assert (marks.pending_cursor(B1, CHAT), marks.pending_cursor(C1, CHAT)) == (0, 6)


async def test_what_is_marked_during_a_write_is_written_by_the_next(nursery: trio.Nursery) -> None:
    store, told = BlockingStore(), Told()
    await store.open()
    marks = WriteBehind(store, told.push, told.flush)
    marks.cursor(B1, CHAT, 5)
    nursery.start_soon(marks.write)
    await wait_all_tasks_blocked()
    marks.cursor(B1, CHAT, 7)
    store.go.set()
    await wait_all_tasks_blocked()
    assert (await store.read_cursors(UserId(BOB), DeviceId(21)))[ChatId(CHAT)] == 5
    await marks.write()
    assert (await store.read_cursors(UserId(BOB), DeviceId(21)))[ChatId(CHAT)] == 7


async def test_marks_survive_an_outage_of_the_store(worker: Worker, autojump_clock: MockClock) -> None:
    (head,) = await sent(worker, "a")
    worker.database.outage = StoreUnavailable("full")
    worker.mark(B1, delivered=head)
    await trio.sleep(5)
    assert await cursor_of(worker, *B1) == 0
    worker.database.outage = None
    await written(worker)
    assert await cursor_of(worker, *B1) == head
    assert log_of(worker) == ["a"]
