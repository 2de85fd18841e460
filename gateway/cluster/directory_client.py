"""The directory over links: a worker's side.

Owns the view of one worker: the workers as last told, and what has to be sent in this step of the loop. It also tells
``Links`` who its peers are, since the same news says both. The table's rules are the supervisor's.

Invariant: after anything that may have cost an event (a broken link, a refused send, another generation) it joins again
and says ``on_generation``; between two of those it missed nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from gateway.cluster.directory import (
    DirectoryEvents,
    DirectoryUnavailable,
    Location,
    Outcome,
    Registered,
    Registration,
    Replaced,
    WorkerRecord,
    Workers,
)
from gateway.cluster.gathering import Finish, Gatherer
from gateway.cluster.link_requests import Answer, LinkLost, LinkRefused
from gateway.cluster.links import SUPERVISOR, Links, Peer, Reply
from gateway.cluster.wire import (
    DeviceList,
    LinkOp,
    LinkProtocolError,
    LocationLists,
    RegisteredList,
    RegistrationEntry,
    RegistrationList,
    ReplacedList,
    UserList,
    WorkerEntry,
    WorkerSet,
    decode,
    encode,
)
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId

RETRY_BASE_S = 0.05
RETRY_MAX_S = 2.0
MAX_ITEMS = 4096
"""Per frame: far below the frame's bound, and about 10 ms of the other side's time."""
MAX_UNREGISTERED = 4096
"""Per frame. Nothing bounds them in all but the worker's connections, of which each leaves one at most."""

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class DirectoryClient:
    """See ``Directory``. ``run`` must be running before anything may break."""

    def __init__(self, links: Links, supervisor: Peer) -> None:
        self.events = DirectoryEvents()
        self._links = links
        self._supervisor = supervisor
        self._workers: Workers = {}
        self._generation = 0
        self._record: WorkerRecord | None = None
        self._is_suspect = trio.Event()
        self._unregistered: list[tuple[int, int, int]] = []
        asking_to_register = _asking(links, LinkOp.DIRECTORY_REGISTER, _pack_registrations, _unpack_registered)
        self._registrations = Gatherer(links.call_soon, asking_to_register, MAX_ITEMS, DirectoryUnavailable)
        asking_to_locate = _asking(links, LinkOp.DIRECTORY_LOCATE, _pack_users, _unpack_locations)
        self._lookups = Gatherer(links.call_soon, asking_to_locate, MAX_ITEMS, DirectoryUnavailable)
        links.set_peers({SUPERVISOR: supervisor})
        links.add_lost_listener(self._on_lost)
        links.register(LinkOp.DIRECTORY_WORKERS, self._on_workers)
        links.register(LinkOp.DIRECTORY_MOVED, self._on_moved)
        links.register(LinkOp.DIRECTORY_REPLACED, self._on_replaced)

    @property
    def workers(self) -> Workers:
        return self._workers

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Join again whenever something may have been missed. Until cancelled."""
        task_status.started()
        while True:
            await self._is_suspect.wait()
            self._is_suspect = trio.Event()
            await self._join_again()
            self.events.on_generation()

    async def join(self, record: WorkerRecord) -> None:
        answer = await self._call(LinkOp.DIRECTORY_JOIN, encode(WorkerEntry(*record)))
        self._record = record
        self._take_workers(decode(WorkerSet, answer))

    async def drain(self) -> None:
        if self._record is not None:
            self._record = self._record._replace(is_draining=True)
        await self._call(LinkOp.DIRECTORY_DRAIN, b"")

    async def leave(self) -> None:
        self._record = None
        await self._call(LinkOp.DIRECTORY_LEAVE, b"")

    async def register(self, registrations: Sequence[Registration]) -> list[Registered]:
        return await self._registrations.call(registrations)

    def unregister(self, user_id: UserId, device_id: DeviceId, session_id: SessionId) -> None:
        if not self._unregistered:
            self._links.call_soon(self._flush_unregistered)
        self._unregistered.append((user_id, device_id, session_id))

    async def locate(self, user_ids: Sequence[UserId]) -> dict[UserId, tuple[Location, ...]]:
        return dict(zip(user_ids, await self._lookups.call(user_ids), strict=True))

    # -------------------------------------------------------------------------------------------- sending

    async def _call(self, op: int, payload: bytes) -> bytes:
        try:
            return await self._links.call(SUPERVISOR, op, payload)
        except (LinkLost, LinkRefused) as error:
            raise _unavailable(error) from error

    def _flush_unregistered(self) -> None:
        self._registrations.flush()  # a registration and its end, made in one step, must arrive in this order
        gone, self._unregistered = self._unregistered, []
        for start in range(0, len(gone), MAX_UNREGISTERED):
            payload = encode(DeviceList(gone[start : start + MAX_UNREGISTERED]))
            if not self._links.send(SUPERVISOR, LinkOp.DIRECTORY_UNREGISTER, payload):
                self._suspect()  # joining again drops every location of this worker, these among them

    async def _join_again(self) -> None:
        failures = 0
        while self._record is not None:
            try:
                await self.join(self._record)
                return
            except DirectoryUnavailable:
                failures = min(failures + 1, 10)
                await trio.sleep(random.uniform(0, min(RETRY_MAX_S, RETRY_BASE_S * 2**failures)))

    def _suspect(self) -> None:
        if self._record is not None:
            self._is_suspect.set()

    # ------------------------------------------------------------------------------------------ receiving

    def _on_lost(self, worker: WorkerId) -> None:
        if worker == SUPERVISOR:
            self._suspect()

    def _on_workers(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        told = decode(WorkerSet, payload)
        if told.generation == self._generation:
            self._take_workers(told)
        else:
            self._suspect()

    def _take_workers(self, told: WorkerSet) -> None:
        self._generation = told.generation
        workers = {
            WorkerId(entry.worker_id): WorkerRecord(
                *(WorkerId(entry.worker_id), entry.incarnation, entry.address, entry.is_draining, entry.host_address)
            )
            for entry in told.workers
        }
        if workers == self._workers:
            return
        self._workers = workers
        peers = {record.worker_id: Peer(record.incarnation, record.address) for record in workers.values()}
        self._links.set_peers({SUPERVISOR: self._supervisor, **peers})
        self.events.on_workers(workers)

    def _on_moved(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        self.events.on_moved([UserId(user_id) for user_id in decode(UserList, payload).user_ids])

    def _on_replaced(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        self.events.on_replaced(
            [
                Replaced(UserId(user), DeviceId(device), SessionId(old), SessionId(new))
                for user, device, old, new in decode(ReplacedList, payload).entries
            ]
        )


def _asking(
    links: Links, op: int, pack: Callable[[list[ItemT]], bytes], unpack: Callable[[bytes], list[ResultT]]
) -> Callable[[list[ItemT], Finish[ResultT]], None]:
    """One request to the supervisor for many items."""

    def answered(finish: Finish[ResultT], answer: Answer) -> None:
        try:
            if not isinstance(answer, bytes):
                raise answer
            results = unpack(answer)
        except (LinkLost, LinkRefused, LinkProtocolError) as error:
            finish(_unavailable(error))
        else:
            finish(results)

    return lambda items, finish: links.request(SUPERVISOR, op, pack(items), partial(answered, finish))


def _unavailable(reason: Exception) -> DirectoryUnavailable:
    return DirectoryUnavailable(f"the directory did not answer: {reason}")


def _pack_registrations(registrations: list[Registration]) -> bytes:
    return encode(RegistrationList([RegistrationEntry(*registration) for registration in registrations]))


def _unpack_registered(payload: bytes) -> list[Registered]:
    entries = decode(RegisteredList, payload).entries
    try:
        return [Registered(Outcome(outcome), SessionId(session_id)) for outcome, session_id in entries]
    except ValueError as error:
        raise LinkProtocolError(str(error)) from error


def _pack_users(user_ids: list[UserId]) -> bytes:
    return encode(UserList([*user_ids]))


def _unpack_locations(payload: bytes) -> list[tuple[Location, ...]]:
    return [
        tuple(
            Location(DeviceId(device), WorkerId(worker), SessionId(session))
            for device, worker, session in zip(*[iter(fields)] * 3, strict=True)
        )
        for fields in decode(LocationLists, payload).entries
    ]
