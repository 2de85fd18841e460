"""A worker's chats on a real in-memory store, with everything that leaves them written down in order.

Owns the fakes of this folder, which are small real objects: places that can be slow to be found, a postman that keeps
what it was given, a store that ends an append as it is told to.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
import trio
from trio.testing import wait_all_tasks_blocked

from gateway.chat.actors import Actors, Surroundings
from gateway.chat.ports import Recipient, Room
from gateway.chat.request import InternalOp, Mark, Request
from gateway.cluster.tenure import Tenure
from gateway.protocol.errors import Code
from gateway.protocol.frames import FrameReader, decode
from gateway.protocol.identifiers import ChatId, UserId, WorkerId
from gateway.protocol.messages import SERVER_OPS, Error, Kind, Msg, Op, Receipt, Role, Send, Sent
from storage.api import (
    AppendDone,
    Appended,
    Batch,
    Chat,
    ChatKind,
    Member,
    Message,
    StoreConflict,
    StoreError,
    StoreTimedOut,
    StoreUnavailable,
    slot_of,
)
from storage.memory import MemoryDatabase, MemoryStore

CHAT = ChatId(7)
ALICE, BOB, CAROL, DAVE = 1, 2, 3, 4
A1, A2, B1, C1, D1 = (ALICE, 11), (ALICE, 12), (BOB, 21), (CAROL, 31), (DAVE, 41)
ROOM = Room(max_members=8, max_actors=100, max_queued=100, max_remembered=10_000)

T = TypeVar("T")


class Place(NamedTuple):
    device_id: int
    worker_id: WorkerId


class Places:
    """A Locator over a dict. ``is_slow``: questions wait for ``answer``; ``is_silent``: their answers say nothing."""

    def __init__(self, places: dict[int, tuple[Place, ...]]) -> None:
        self.version = 0
        self.places = places
        self.located: set[int] = set()
        self.is_slow = False
        self.is_silent = False
        self.questions: list[list[int]] = []
        self._waiting: list[tuple[Sequence[UserId], Callable[[], None]]] = []

    def known(self, user_id: UserId) -> tuple[Place, ...] | None:
        return self.places.get(user_id, ()) if user_id in self.located else None

    def hint(self, user_id: UserId) -> tuple[Place, ...]:
        return ()

    def locate_then(self, user_ids: Sequence[UserId], done: Callable[[], None]) -> None:
        self.questions.append([*user_ids])
        self._waiting.append((user_ids, done))
        if not self.is_slow:
            trio.lowlevel.current_trio_token().run_sync_soon(self.answer)

    def answer(self) -> None:
        """Answer the oldest question, if there is one."""
        if not self._waiting:
            return
        user_ids, done = self._waiting.pop(0)
        if not self.is_silent:
            self.located.update(user_ids)
        self.version += 1
        done()

    @property
    def is_asked(self) -> bool:
        return bool(self._waiting)

    def forget(self, *user_ids: int) -> None:
        self.located.difference_update(user_ids)
        self.version += 1


class Left(NamedTuple):
    """Something that left for a device. ``rid`` 0: a push."""

    to: Recipient
    op: int
    body: msgspec.Struct | bytes
    rid: int


class Exit:
    """The Postman, and the origin of requests: everything that leaves, in order."""

    def __init__(self) -> None:
        self.left: list[Left] = []
        self.pushes: list[tuple[WorkerId, list[Recipient]]] = []
        self.on_left: Callable[[Left], None] = self.left.append

    def push(
        self, worker_id: WorkerId, recipients: Sequence[Recipient], frame: bytes, *, is_droppable: bool = False
    ) -> None:
        self.pushes.append((worker_id, [*recipients]))
        reader = FrameReader(1 << 20)
        reader.feed(frame)
        while (one := reader.next_frame()) is not None:
            body = decode(SERVER_OPS[Op(one.op)], one.body)
            for recipient in recipients:
                self.on_left(Left(recipient, one.op, body, 0))

    def seen_by(self, user_id: int, device_id: int) -> list[Left]:
        return [left for left in self.left if left.to == (user_id, device_id)]

    def messages_to(self, user_id: int, device_id: int) -> list[Msg]:
        return [left.body for left in self.seen_by(user_id, device_id) if isinstance(left.body, Msg)]

    def receipts(self) -> list[tuple[Recipient, int, int, int | None]]:
        """(to, kind, seq, whose)."""
        return [(left.to, b.kind, b.seq, b.user_id) for left in self.left if isinstance(b := left.body, Receipt)]


class Answer:
    """The origin of one request; ``op`` is None until it was answered."""

    def __init__(self, out: Exit, asker: Recipient) -> None:
        self._out = out
        self._asker = asker
        self.op: int | None = None
        self.payload = b""

    def answer(self, rid: int, op: int, payload: bytes) -> None:
        assert self.op is None, "answered twice"
        self.op, self.payload = op, payload
        body = decode(SERVER_OPS[Op(op)], payload) if op in (Op.SENT, Op.ERROR) else payload
        self._out.on_left(Left(self._asker, op, body, rid))

    def fields(self, kind: type[T]) -> T:
        assert self.op in (Op.SENT, Op.OK), f"answered {self.op}: {self.payload!r}"
        return decode(kind, self.payload)

    @property
    def sent(self) -> Sent:
        return self.fields(Sent)

    @property
    def seq(self) -> int:
        return self.sent.seq

    @property
    def code(self) -> Code | None:
        """What it was refused with."""
        return Code(decode(Error, self.payload).code) if self.op == Op.ERROR else None


class Fault(enum.Enum):
    """How one append ends."""

    STORED_BUT_TIMED_OUT = enum.auto()
    LOST_AND_TIMED_OUT = enum.auto()
    LATE = enum.auto()
    """Timed out; it happens when ``happen_late`` is called."""
    UNAVAILABLE = enum.auto()
    CONFLICT = enum.auto()


_ERRORS: dict[Fault, type[StoreError]] = {Fault.UNAVAILABLE: StoreUnavailable, Fault.CONFLICT: StoreConflict}


class FaultyStore(MemoryStore):
    """Ends appends by ``faults``, first in first out, and well when there is none. Counts what it was asked.

    ``is_dead``: its worker is no more. What was queued still happens, and nobody is told.
    """

    def __init__(self, database: MemoryDatabase, now_ms: Callable[[], int]) -> None:
        super().__init__(database, now_ms=now_ms)
        self.faults: deque[Fault | None] = deque()
        self.batches: list[Batch] = []
        self.lookups: list[list[bytes]] = []
        self.lookup_error: StoreError | None = None
        self.is_dead = False
        self._late: list[Batch] = []

    def append(self, batch: Batch, done: AppendDone) -> None:
        self.batches.append(batch)
        fault = self.faults.popleft() if self.faults else None
        if fault is None:
            super().append(batch, partial(self._tell, done))
            return
        error = _ERRORS.get(fault, StoreTimedOut)(fault.name)
        if fault is Fault.STORED_BUT_TIMED_OUT:
            super().append(batch, lambda ended: self._tell(done, [Appended(batch, ended[0].error or error)]))
            return
        if fault is Fault.LATE:
            self._late.append(batch)
        trio.lowlevel.current_trio_token().run_sync_soon(self._tell, done, [Appended(batch, error)])

    def _tell(self, done: AppendDone, ended: Sequence[Appended]) -> None:
        if not self.is_dead:
            done(ended)

    def happen_late(self) -> None:
        late, self._late = self._late, []
        for batch in late:
            self.database.end(batch)

    async def find_sent(self, chat_id: ChatId, sender_id: UserId, client_msg_ids: Sequence[bytes]) -> list[Message]:
        self.lookups.append([*client_msg_ids])
        if self.lookup_error is not None:
            raise self.lookup_error
        return await super().find_sent(chat_id, sender_id, client_msg_ids)


class ClockedActors(Actors):
    """Actors under a wall clock that a test moves."""

    clock_ms = 1_000_000_000

    def now_ms(self) -> int:
        return self.clock_ms


class Worker:
    """One worker's chats. ``kill`` ends it as SIGKILL would."""

    actors_type = ClockedActors

    def __init__(self, database: MemoryDatabase, places: Places, number: int = 1, room: Room = ROOM) -> None:
        self.number = WorkerId(number)
        self.database = database
        self.store = FaultyStore(database, lambda: self.actors.now_ms())
        self.places = places
        self.out = Exit()
        self.lost_slots: list[tuple[int, int]] = []
        self.tenures: dict[int, Tenure] = {}
        self.latencies = 0
        self.on_moved: Callable[[ChatId, Request], None] = lambda _, request: request.refuse(Code.MOVED, "moved")
        self.actors = self.actors_type(
            Surroundings(
                store=self.store,
                locator=places,
                postman=self.out,
                room=room,
                flush=lambda: None,
                on_sent=self._on_sent,
                on_slot_lost=self._on_lost,
                on_moved=lambda chat_id, request: self.on_moved(chat_id, request),
            )
        )
        self.scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self.store.open()
        with self.scope:
            await self.actors.run(task_status=task_status)
            await trio.sleep_forever()

    def kill(self) -> None:
        self.store.is_dead = True
        self.out.on_left = lambda left: None
        self.scope.cancel()

    def _on_sent(self, received_s: Sequence[float], rows: int) -> None:
        self.latencies += len(received_s)

    def _on_lost(self, slot: int, epoch: int) -> None:
        self.lost_slots.append((slot, epoch))
        tenure = self.tenures.get(slot)
        if tenure is not None and tenure.epoch == epoch:
            tenure.is_lost = True
            del self.tenures[slot]

    async def acquire(self, chat_id: int = CHAT) -> Tenure:
        """Hold the chat's slot under a new epoch."""
        slot = slot_of(chat_id)
        seen = await self.store.read_slots([slot])
        epochs = await self.store.acquire_slots([slot], self.number, 1, seen)
        tenure = self.tenures[slot] = Tenure(slot, epochs[slot])
        return tenure

    # ---------------------------------------------------------------------------------------------- asking

    def ask(self, op: int, message: msgspec.Struct, asker: Recipient, *, rid: int = 1) -> Answer:
        """Hand a request over, without advancing: the cycle goes on."""
        answer = Answer(self.out, asker)
        chat_id = message.chat_id  # type: ignore[attr-defined]
        request = Request(op, message, asker, answer, rid, 0.0)
        self.actors.submit(ChatId(chat_id), self.tenures[slot_of(chat_id)], request)
        return answer

    def send(
        self,
        text: str,
        asker: Recipient = (ALICE, 11),
        *,
        chat_id: int = CHAT,
        body: str | None = None,
        retry: bool = False,
        rid: int = 1,
    ) -> Answer:
        """A SEND whose id is made of ``text``; its body too, unless another is given."""
        content = (text if body is None else body).encode()
        send = Send(chat_id, id_of(text), 0, content, retry or None)
        return self.ask(Op.SEND, send, asker, rid=rid)

    def mark(self, asker: Recipient, *, delivered: int = 0, read: int = 0, chat_id: int = CHAT) -> None:
        self.ask(InternalOp.MARK, Mark(chat_id, delivered, read), asker, rid=0)

    async def settle(self) -> None:
        """End the cycle, and wait until nothing happens any more."""
        self.actors.finish_cycle()
        await wait_all_tasks_blocked()


def id_of(text: str) -> bytes:
    return text.encode().ljust(16, b".")[:16]


def database_with(kind: ChatKind = ChatKind.GROUP, members: Sequence[int] = (ALICE, BOB)) -> MemoryDatabase:
    """One chat; the first member of a group is its admin."""
    database = MemoryDatabase()
    add_chat(database, CHAT, kind, members)
    return database


def add_chat(
    database: MemoryDatabase, chat_id: int, kind: ChatKind = ChatKind.GROUP, members: Sequence[int] = (ALICE, BOB)
) -> None:
    admin = members[0] if kind == ChatKind.GROUP else 0
    rows = [Member(u, Role.ADMIN if u == admin else Role.MEMBER, 0, 0, 0) for u in members]
    database.create_chat(Chat(chat_id, kind, "", 1, 0), rows)


def everybody_at_home() -> Places:
    """Users 1 … 4: Alice has two devices on two workers, the others one."""
    one, two = WorkerId(1), WorkerId(2)
    return Places(
        {
            ALICE: (Place(11, one), Place(12, two)),
            BOB: (Place(21, two),),
            CAROL: (Place(31, one),),
            DAVE: (Place(41, two),),
        }
    )


def log_of(worker: Worker, chat_id: int = CHAT) -> list[str]:
    """The bodies in the log's order; system rows as "*"."""
    rows = worker.database.logs.get(chat_id, [])
    return ["*" if row.kind == Kind.SYSTEM else row.body.decode() for row in rows]


async def sent(worker: Worker, *texts: str) -> list[int]:
    """Send these one after the other, each settled: their seqs."""
    seqs = []
    for text in texts:
        answer = worker.send(text)
        await worker.settle()
        seqs.append(answer.seq)
    return seqs


async def answered(worker: Worker, *answers: Answer) -> None:
    """Let time pass until these were answered."""
    worker.actors.finish_cycle()
    with trio.fail_after(60):
        while any(answer.op is None for answer in answers):
            await trio.sleep(0.05)
