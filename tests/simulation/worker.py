"""One simulated worker: the project's own store, slots, chats, router, heads and reading, behind one edge.

Owns the wiring of a worker without sockets, as ``gateway/worker.py`` does it with them. What is real: ``ScyllaStore``,
``Slots``, ``Actors``, ``Router``, ``Heads``, ``Locations``, ``Pushes``, ``Syncing``, ``Reading``. What stands in: the
executor, the links, the directory, and a kernel that is a dictionary of connections.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import msgspec
import trio

from gateway.chat.actors import Actors, Surroundings
from gateway.chat.ports import Room
from gateway.chat.request import Request
from gateway.cluster.directory import DirectoryUnavailable, Outcome, Registration, WorkerRecord
from gateway.cluster.heads import Heads
from gateway.cluster.locations import Locations
from gateway.cluster.routing import Router
from gateway.cluster.slots import Slots
from gateway.net.pushes import Pushes
from gateway.net.reading import Reading
from gateway.net.sessions import Session, SessionTable
from gateway.net.syncing import Syncing
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.frames import encode, encode_payload
from gateway.protocol.identifiers import ChatId, DeviceId, SessionId, UserId, WorkerId
from gateway.protocol.messages import Error, Op
from storage.api import StoreError
from storage.scylla.store import ScyllaStore
from storage.scylla.store import Surroundings as StoreSurroundings
from tests.simulation.agenda import Agenda
from tests.simulation.boundary import Boundary
from tests.simulation.dice import Dice
from tests.simulation.directory import Registry, SimulatedDirectory
from tests.simulation.executor import Plans, SimulatedExecutor
from tests.simulation.links import Network, SimulatedLinks
from tests.simulation.replicas import Cluster

EPOCH_MS = 1_700_000_000_000
ROOM = Room(max_members=8, max_actors=4, max_queued=30, max_remembered=8)
MAX_FRAME = 1 << 20


def clock_of(agenda: Agenda, boundary: Boundary) -> Callable[[], float]:
    """What a worker's belief is measured on."""
    return agenda.current_time


class Surrounding(NamedTuple):
    """What all workers share."""

    agenda: Agenda
    rng: Dice
    cluster: Cluster
    plans: Plans
    network: Network
    registry: Registry


class Connection(Protocol):
    """A client's end."""

    def take(self, frames: bytes) -> None: ...
    def ended(self) -> None: ...


class Wire:
    """The kernel, as far as the clients' side uses it: every outbox has room, and every frame leaves across the edge."""

    has_backlog = False

    def __init__(self, boundary: Boundary, agenda: Agenda) -> None:
        self.connections: dict[int, Connection] = {}
        self._boundary = boundary
        self._agenda = agenda

    def send(self, conn: int, frame: bytes, is_more: bool = False) -> bool:
        connection = self.connections.get(conn)
        if connection is None:
            return False
        self._boundary.cross(partial(self._agenda.after, 0.001, partial(connection.take, frame)))
        return True

    def fanout(self, conns: Iterable[int], frames: bytes, is_droppable: bool = False) -> list[int]:
        for conn in conns:
            self.send(conn, frames)
        return []

    def outbox_bytes(self, conn: int) -> int:
        return 0

    def notify_drained(self, conn: int) -> bool:
        return False

    def unmute(self, conn: int) -> None: ...
    def flush(self) -> None: ...


class _Replies:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def answer(self, session: Session, rid: int, op: int, payload: bytes) -> None:
        self._wire.send(session.conn, encode_payload(op, payload, rid=rid))


class SimulatedWorker:
    def __init__(self, around: Surrounding, worker_id: WorkerId, incarnation: int) -> None:
        self.worker_id = worker_id
        self.incarnation = incarnation
        self.is_ready = False
        self.scope = trio.CancelScope()
        agenda = around.agenda
        self._agenda = agenda
        self._skew_ms = around.rng.randint(-4_000, 4_000)
        self.boundary = Boundary(agenda.current_time)
        clock = clock_of(agenda, self.boundary)
        self.executor = SimulatedExecutor(around.cluster, around.plans, self.boundary)
        machine = StoreSurroundings(clock, lambda: self.now_ms() * 1000, partial(around.rng.getrandbits, 62))
        self.store = ScyllaStore(self.executor, now_ms=self.now_ms, surroundings=machine)
        self.links = SimulatedLinks(around.network, worker_id, incarnation, self.boundary)
        self.directory = SimulatedDirectory(around.registry, worker_id, self.boundary)
        self.record = WorkerRecord(worker_id, incarnation, f"/{worker_id}", False)
        self.locations = Locations(self.directory, self.finish_cycle)
        self.slots = Slots(self.store, (worker_id, incarnation), self.directory, self.links, clock=clock)
        self.sessions = SessionTable()
        self.wire = Wire(self.boundary, agenda)
        self._replies = _Replies(self.wire)
        self._make_chats()
        self._wire_up()
        self._nursery: trio.Nursery | None = None

    def _make_chats(self) -> None:
        around = Surroundings(
            store=self.store,
            locator=self.locations,
            postman=self,
            room=ROOM,
            flush=self.links_soon,
            on_sent=lambda received_s, rows: None,
            on_slot_lost=lambda slot, epoch: self.slots.lost(slot, epoch),
            on_moved=lambda chat_id, request: self.router.take_back(chat_id, request),
        )
        self.actors = Actors(around)
        self.actors.now_ms = self.now_ms  # type: ignore[method-assign]
        links: Any = self.links
        self.router = Router(links, self.slots, self.actors)
        self.heads = Heads(links, self.router, self.actors, self.locations, self.store)
        counts: Any = SimpleNamespace(deliveries=0, lagged=0)
        wire: Any = self.wire
        self.pushes = Pushes(wire, self.sessions, counts, self.heads.tell_gone, 1 << 20)
        self.syncing = Syncing(wire, self.store, self.heads, self.links_soon)
        self.reading = Reading(self.store, self.router, self.heads, ROOM.max_members, self.finish_cycle)

    def _wire_up(self) -> None:
        self.slots.on_stop = self.actors.stop
        self.slots.on_lost = self.actors.slot_lost
        self.links.on_push = self.pushes.deliver
        self.links.on_lost_pushes = self.pushes.lost
        self.links.on_lost = self.locations.worker_gone
        self.links.on_frame = self.finish_cycle
        events = self.directory.events
        events.on_workers = lambda workers: self.slots.on_workers()
        events.on_moved = self.locations.moved
        events.on_generation = self._on_generation

    def now_ms(self) -> int:
        """This worker's wall clock: wrong by some seconds."""
        return EPOCH_MS + int(self._agenda.now_s * 1000) + self._skew_ms

    # ------------------------------------------------------------------------------------------------- running

    async def run(self) -> None:
        try:
            with self.scope:
                await self.store.open()
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self.links.run)
                    for part in (self.locations, self.slots, self.actors, self.router, self.heads):
                        await nursery.start(part.run)
                    await self.directory.join(self.record)
                    self.is_ready = True
                    await trio.sleep_forever()
        except* RuntimeError:
            if not self.boundary.is_ended:  # one part may still call another whose tasks have been cancelled before it
                raise
        finally:
            self.is_ready = False

    def end(self) -> None:
        """As SIGKILL would: nothing more comes out; what was under way in the cluster and on links goes on."""
        self.is_ready = False
        self.boundary.end()
        self.directory.forget()
        for connection in list(self.wire.connections.values()):
            self._agenda.after(0.01, connection.ended)
        self.wire.connections.clear()
        self.scope.cancel()

    def finish_cycle(self) -> None:
        self.actors.advance_dirty()
        self.links.run_pending()

    def links_soon(self) -> None:
        self.links.run_pending()

    def push(
        self, worker_id: WorkerId, recipients: Sequence[tuple[int, int]], frame: bytes, *, is_droppable: bool = False
    ) -> None:
        if worker_id == self.worker_id:
            self.pushes.deliver(worker_id, recipients, frame)
        else:
            self.links.push(worker_id, frame, recipients, is_droppable=is_droppable)

    def evict(self) -> None:
        """Forget every chat that may be forgotten."""
        while self.actors._evict():
            pass

    # ------------------------------------------------------------------------------------------------- clients

    def connect(self, conn: int, connection: Connection, ids: tuple[int, int, int]) -> None:
        """A device greets. Its end hears OK once it is registered."""
        self.boundary.cross(partial(self._start, self._greet, conn, connection, ids))

    def _start(self, step: Callable[..., Awaitable[None]], *args: object) -> None:
        if self._nursery is not None and not self.boundary.is_ended:
            self._nursery.start_soon(step, *args)

    async def _greet(self, conn: int, connection: Connection, ids: tuple[int, int, int]) -> None:
        user_id, device_id, session_id = UserId(ids[0]), DeviceId(ids[1]), SessionId(ids[2])
        try:
            (done,) = await self.directory.register([Registration(user_id, device_id, session_id, SessionId(0), 0)])
        except DirectoryUnavailable:
            return
        if done.outcome != Outcome.ACCEPTED:
            return
        old = self.sessions.of_device(user_id, device_id)
        if old is not None:
            self._forget(old)
        replies: Any = self._replies
        self.sessions.add(Session(conn, (user_id, device_id, session_id), 1 << 60, replies))
        self.wire.connections[conn] = connection
        self.wire.send(conn, encode(Op.OK))

    def disconnect(self, conn: int) -> None:
        self.boundary.cross(partial(self._disconnect, conn))

    def _disconnect(self, conn: int) -> None:
        session = self.sessions.of_conn(conn)
        if session is not None:
            self._forget(session)
            self.directory.unregister(session.user_id, session.device_id, session.session_id)

    def _forget(self, session: Session) -> None:
        self.sessions.remove(session)
        self.wire.connections.pop(session.conn, None)

    def receive(self, conn: int, op: Op, message: msgspec.Struct, rid: int) -> None:
        """A client's frame."""
        self.boundary.cross(partial(self._receive, conn, op, message, rid))

    def _receive(self, conn: int, op: Op, message: Any, rid: int) -> None:
        session = self.sessions.of_conn(conn)
        if session is None:
            return
        if op == Op.SYNC:
            self.pushes.caught_up(session)
            self._start(self._task, session, rid, lambda: self.syncing.run(session, rid, message))
        elif op == Op.HISTORY:
            self._start(self._task, session, rid, partial(self._history, session, rid, message))
        else:
            asker = (session.user_id, session.device_id)
            request = Request(op, message, asker, session, rid, time.monotonic())
            self.router.request(ChatId(message.chat_id), request)
        self.finish_cycle()

    async def _history(self, session: Session, rid: int, message: Any) -> None:
        op, page = await self.reading.history(session, message, MAX_FRAME)
        self.wire.send(session.conn, encode(op, page, rid=rid))

    async def _task(self, session: Session, rid: int, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except ProtocolError as error:
            self._refuse(session, rid, error.code)
        except StoreError:
            self._refuse(session, rid, Code.UNAVAILABLE)
        self.finish_cycle()

    def _refuse(self, session: Session, rid: int, code: Code) -> None:
        self.wire.send(session.conn, encode(Op.ERROR, Error(code, ""), rid=rid))

    def _on_generation(self) -> None:
        self.locations.generation_changed()
        self._start(self._register_again)

    async def _register_again(self) -> None:
        sessions = list(self.sessions)
        try:
            await self.directory.register(
                [Registration(s.user_id, s.device_id, s.session_id, SessionId(0), 0) for s in sessions]
            )
        except DirectoryUnavailable:
            return
        self.pushes.lost([(session.user_id, session.device_id) for session in sessions])
