"""The directory over links: the supervisor's side.

Owns the translation between link frames and ``DirectoryTable``, and when the set of workers is told for the first time.
It must not know what a worker does with the answers. The supervisor says which workers it started (``Links.set_peers``)
and which have ended (``remove_worker``).

Invariant: a worker that may have missed an event is told so, and joins again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain

import trio

from gateway.cluster.directory import Registration, WorkerRecord
from gateway.cluster.directory_table import DirectoryTable
from gateway.cluster.links import Links, Reply
from gateway.cluster.wire import (
    DeviceList,
    LinkOp,
    LocationLists,
    RegisteredList,
    RegistrationList,
    ReplacedList,
    UserList,
    WorkerEntry,
    WorkerSet,
    decode,
    encode,
)
from gateway.protocol.errors import Code
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId

SETTLE_S = 5.0
"""How long those who have joined wait for the others that start with them: a slot taken before is a slot moved after."""

TICK_S = 0.25
EXPIRE_S = 60.0

MAX_MOVED = 65_536
"""Users per notice, at most 9 bytes each: the end of a worker moves all of its users at once."""

NO_GENERATION = 0
"""A set of this generation says: you may have missed something, join again."""


class DirectoryServer:
    def __init__(self, links: Links, table: DirectoryTable, *, now_s: Callable[[], float] = time.time) -> None:
        self._links = links
        self._table = table
        self._now_s = now_s
        self._joining: list[Reply] = []
        self._uninformed: set[WorkerId] = set()
        links.register(LinkOp.DIRECTORY_JOIN, self._on_join)
        links.register(LinkOp.DIRECTORY_LEAVE, self._on_leave)
        links.register(LinkOp.DIRECTORY_DRAIN, self._on_drain)
        links.register(LinkOp.DIRECTORY_REGISTER, self._on_register)
        links.register(LinkOp.DIRECTORY_UNREGISTER, self._on_unregister)
        links.register(LinkOp.DIRECTORY_LOCATE, self._on_locate)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The timers: settling, expiry, news that could not be sent. Until cancelled."""
        task_status.started()
        settle_at = trio.current_time() + SETTLE_S
        expire_at = trio.current_time() + EXPIRE_S
        while True:
            await trio.sleep(TICK_S)
            if not self._table.is_settled and trio.current_time() >= settle_at:
                self.settle()
            if trio.current_time() >= expire_at:
                expire_at += EXPIRE_S
                self._table.expire(int(self._now_s()))
            self.tell_uninformed()

    def settle(self) -> None:
        """Stop waiting for workers that have not joined yet."""
        self._table.settle()
        self._publish()

    def remove_worker(self, worker: WorkerId, incarnation: int) -> None:
        """The supervisor saw this process end."""
        self._table.remove(worker, incarnation)
        self._publish()

    def tell_uninformed(self) -> None:
        """Ask the workers that an event did not reach to join again."""
        for worker in list(self._uninformed):
            notice = encode(WorkerSet(NO_GENERATION, []))
            if worker not in self._table.workers or self._links.send(worker, LinkOp.DIRECTORY_WORKERS, notice):
                self._uninformed.discard(worker)

    # ------------------------------------------------------------------------------------------ requests

    def _on_join(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        entry = decode(WorkerEntry, payload)
        if not self._table.join(
            WorkerRecord(worker, entry.incarnation, entry.address, entry.is_draining, entry.host_address)
        ):
            _refuse(reply, Code.CONFLICT, "a later incarnation of this worker has joined")
            return
        self._uninformed.discard(worker)
        if reply is not None:
            self._joining.append(reply)
        self._publish()

    def _on_leave(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        known = self._table.workers.get(worker)
        if known is not None:
            self._table.remove(worker, known.incarnation)
        _reply(reply, b"")
        self._publish()

    def _on_drain(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        self._table.drain(worker)
        _reply(reply, b"")
        self._publish()

    def _on_register(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        if worker not in self._table.workers:
            _refuse(reply, Code.NOT_READY, "this worker has not joined")
            return
        wanted = [
            Registration(
                UserId(entry.user_id),
                DeviceId(entry.device_id),
                SessionId(entry.session_id),
                SessionId(entry.resumed_from),
                entry.token_expires_s,
            )
            for entry in decode(RegistrationList, payload).entries
        ]
        results = self._table.register(worker, wanted, int(self._now_s()))
        _reply(reply, encode(RegisteredList([(result.outcome, result.session_id) for result in results])))
        self._publish()

    def _on_unregister(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        for user_id, device_id, session_id in decode(DeviceList, payload).entries:
            self._table.unregister(worker, UserId(user_id), DeviceId(device_id), SessionId(session_id))
        self._publish()

    def _on_locate(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        if worker not in self._table.workers:
            _refuse(reply, Code.NOT_READY, "this worker has not joined")
            return
        located = self._table.locate(worker, map(UserId, decode(UserList, payload).user_ids))
        _reply(reply, encode(LocationLists([list(chain.from_iterable(locations)) for locations in located])))
        self._publish()

    # -------------------------------------------------------------------------------------------- events

    def _publish(self) -> None:
        """Tell the workers what has changed, each of them in one frame of a kind.

        After the answer that caused it: a worker that is told that a user moved has the location that it is about.
        """
        effects = self._table.take_effects()
        if self._table.is_settled and (effects.are_workers_changed or self._joining):
            self._tell_workers(is_changed=effects.are_workers_changed)
        for worker, user_ids in effects.moved.items():
            for start in range(0, len(user_ids), MAX_MOVED):
                self._tell(worker, LinkOp.DIRECTORY_MOVED, encode(UserList(list(user_ids[start : start + MAX_MOVED]))))
        for worker, replaced in effects.replaced.items():
            self._tell(worker, LinkOp.DIRECTORY_REPLACED, encode(ReplacedList([*replaced])))

    def _tell_workers(self, *, is_changed: bool) -> None:
        entries = [WorkerEntry(*record) for record in self._table.workers.values()]
        payload = encode(WorkerSet(self._table.generation, entries))
        joining, self._joining = self._joining, []
        for reply in joining:
            reply.reply(payload)
        if is_changed:
            for worker in self._table.workers:
                self._tell(worker, LinkOp.DIRECTORY_WORKERS, payload)

    def _tell(self, worker: WorkerId, op: int, payload: bytes) -> None:
        if worker in self._table.workers and not self._links.send(worker, op, payload):
            self._uninformed.add(worker)


def _reply(reply: Reply | None, payload: bytes) -> None:
    if reply is not None:
        reply.reply(payload)


def _refuse(reply: Reply | None, code: Code, message: str) -> None:
    if reply is not None:
        reply.refuse(code, message)
