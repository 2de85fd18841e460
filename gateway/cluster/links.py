"""Links: how a worker speaks with the other workers, and with its node's supervisor (worker 0).

Owns the connections between processes and the order of what travels on them. It knows ops and payloads by number only:
what they mean is their handler's business. Routing by chat or by user happens above; who may speak at all is settled below
(``handshake.py``), before a connection carries anything.

A link is up to two connections of the kernel, one opened by each end, on demand: Unix sockets within a node, TCP between
nodes. An end sends everything on the one that it opened, answers included, so what one worker sends another arrives in the
order of the calls: a head that follows a push on the wire follows it in truth. Rejected: one shared connection (two ends
opening at once would need a decision about which survives, with frames already on both), and answers on the connection of
the request (they could overtake). What is sent while a connection is being opened waits for it, within a bound.

Invariants: ``done`` of a request is called exactly once, never from inside ``request``; a handler is never called from
inside ``send``; an incarnation of a peer that was replaced is never heard again; a broken connection ends every request
to that peer at once as unknown, because its answer may have been on it; one that never opened ends them as not sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from gateway.cluster.deferred import Deferred
from gateway.cluster.handshake import HandshakeFailed, LinkKey, Party, Reason
from gateway.cluster.link_address import is_path
from gateway.cluster.link_dialer import Dialer
from gateway.cluster.link_pushes import LinkPushes
from gateway.cluster.link_reception import LINK_LISTENER, LINK_LISTENERS, LINK_TCP_LISTENER, Reception
from gateway.cluster.link_requests import Answer, Done, LinkLost, LinkRefused, PendingRequests, Reply
from gateway.cluster.link_values import LinkSettings, LinkStatistics
from gateway.cluster.promise import Promise
from gateway.cluster.refusals import Refusals
from gateway.cluster.remote import OUTBOX_BYTES, Peer, Remote
from gateway.cluster.wire import (
    MAX_LINK_FRAME,
    LinkHello,
    LinkOp,
    LinkProtocolError,
    LinkRefusal,
    Recipients,
    decode,
    encode,
    link_frame,
    split_body,
    unpack_acked,
    unpack_push,
)
from gateway.protocol.errors import Code
from gateway.protocol.identifiers import WorkerId
from gateway.pump import ACCEPTED, CLOSED, DRAINED

if TYPE_CHECKING:
    from gateway._framing import Kernel

__all__ = [
    "LINK_LISTENER", "LINK_LISTENERS", "LINK_TCP_LISTENER", "SUPERVISOR", "LinkKey", "LinkLost", "LinkRefused",
    "LinkSettings", "LinkStatistics", "Links", "Peer", "Reply",
]  # fmt: skip

SUPERVISOR = WorkerId(0)

TICK_S = 0.25
ASKED_S = 1.0
"""Who was asked about (``is_refused``) so recently is tried at every tick."""

Handler = Callable[[WorkerId, bytes, "Reply | None"], None]


DEFAULT_SETTINGS = LinkSettings()


class Links:
    """See the module. Everything but ``call`` and ``run`` is synchronous and called on the Trio thread."""

    def __init__(
        self,
        kernel: Kernel,
        me: WorkerId,
        incarnation: int,
        *,
        flush_soon: Callable[[], None],
        now_s: Callable[[], float] = time.monotonic,
        settings: LinkSettings = DEFAULT_SETTINGS,
    ) -> None:
        self.me = me
        self.incarnation = incarnation
        self.on_lost: Callable[[WorkerId], None] = lambda worker: None
        """A link broke or its peer is gone; its requests have ended. May be called again for the same peer."""
        self.on_push: Callable[[WorkerId, Sequence[tuple[int, int]], bytes], None] = lambda worker, recipients, frame: (
            None
        )
        """Client frames for some (user, device) of this worker."""
        self.on_lost_pushes: Callable[[Sequence[tuple[int, int]] | None], None] = lambda recipients: None
        """These (None: all) may have missed a push: they are to be told LAGGED."""
        self._kernel = kernel
        self._flush_soon = flush_soon
        self._now_s = now_s
        self._handlers: dict[int, Handler] = {}
        self._remotes: dict[WorkerId, Remote] = {}
        self._conns: dict[int, Remote | None] = {}
        self._lost_listeners: list[Callable[[WorkerId], None]] = []
        self._refusals = Refusals(now_s)
        self._timeout_s = settings.peer_timeout_s
        party = Party(me, incarnation, settings.versions, settings.keys)
        self._reception = Reception(kernel, party, self._refusals, settings.peer_timeout_s)
        self._dialer = Dialer(kernel, party, self._refusals, settings.peer_timeout_s)
        self._pushes = LinkPushes(self._transmit, self._connect, kernel.notify_drained)
        self._mine = PendingRequests(me)
        self._last_request = 0
        self._deferred = Deferred()
        self.call_soon = self._deferred.call_soon
        """Run a step after the current one: in ``run_pending``, or by ``run`` in the loop's next turn."""
        self.run_pending = self._deferred.run_pending
        """For the end of a pump's dispatch: run the collected steps at once, which saves a turn of the loop."""
        self._sent = self._refused = self._broken = self._handshakes = 0

    # ---------------------------------------------------------------------------------------- setting up

    def register(self, op: int, handler: Handler) -> None:
        """``handler(worker, payload, reply)``, ``reply`` None for a one-way frame. It may raise LinkProtocolError."""
        if op in self._handlers:
            raise ValueError(f"op {op:#x} has a handler already")
        self._handlers[op] = handler

    def add_lost_listener(self, listener: Callable[[WorkerId], None]) -> None:
        """Called as ``on_lost`` is, before it: for the cluster's own parts."""
        self._lost_listeners.append(listener)

    @property
    def address(self) -> str:
        """Path of our Unix socket, for the processes of this node."""
        return self._reception.address

    @property
    def host_address(self) -> str:
        """``host:port`` of our TCP listener, for other nodes."""
        return self._reception.host_address

    def listen(self, path: str) -> None:
        """Listen on a Unix socket, replacing a stale file. Only this user may connect: whoever can is trusted."""
        self._reception.listen(path)

    def listen_tcp(self, host: str, port: int, *, advertised: str = "") -> int:
        """Listen for other nodes as well; the port. ``host`` and ``advertised`` (where others reach us, if elsewhere) are
        numeric; port 0: any free one. OSError; AddressInvalid; ValueError: there is no key to know anybody by."""
        return self._reception.listen_tcp(host, port, advertised)

    def set_peers(self, addresses: Mapping[WorkerId, Peer]) -> None:
        """Who lives. A peer not named is gone, one named with a later incarnation is new: what the old one owed is lost.

        A peer that introduced itself before it was ever named stays: this set is older than its HELLO.
        """
        for worker, remote in list(self._remotes.items()):
            if worker not in addresses and (remote.is_listed or not remote.incoming):
                self._forget(remote)
        for worker, peer in addresses.items():
            if worker == self.me:
                continue
            known = self._remotes.get(worker)
            if known is not None and known.incarnation >= peer.incarnation:
                if known.incarnation == peer.incarnation:
                    known.is_listed, known.address = True, peer.address
                continue
            if known is not None:
                self._forget(known)
            self._remotes[worker] = Remote(worker, peer, is_listed=True)

    def close(self) -> None:
        """Cut every connection; pending requests end. Idempotent."""
        for remote in list(self._remotes.values()):
            self._forget(remote)
        for conn in list(self._conns):
            self._kernel.abort(conn)
        self._conns.clear()
        self._reception.close()

    def statistics(self) -> LinkStatistics:
        outstanding = len(self._mine) + sum(len(remote.pending) for remote in self._remotes.values())
        counts = self._sent, self._refused, self._pushes.lost, self._broken, self._handshakes
        failures = dict(self._refusals.counts)
        return LinkStatistics(len(self._remotes), len(self._conns), outstanding, *counts, failures)

    def version_of(self, worker: WorkerId) -> int:
        """The version that is spoken with it; 0: not known yet."""
        remote = self._remotes.get(worker)
        return remote.version if remote is not None else 0

    def is_refused(self, worker: WorkerId) -> bool:
        """Is there evidence that its process is gone? See ``reachability.py``. Asking makes us look: ask again soon."""
        remote = self._remotes.get(worker)
        if remote is None or worker == self.me:
            return False
        remote.asked_s = self._now_s()
        if not remote.outgoing:
            self._connect(remote)
        return remote.reachability.is_gone and not remote.incoming

    # ------------------------------------------------------------------------------------------- sending

    def send(self, worker: WorkerId, op: int, payload: bytes) -> bool:
        """One-way, in order. False: no such peer, it cannot be reached, or the link is at its bound. True promises nothing."""
        if worker == self.me:
            self.call_soon(partial(self._handlers[op], worker, payload, None))
            return True
        remote = self._remotes.get(worker)
        return remote is not None and self._transmit(remote, link_frame(op, 0, payload))

    def request(self, worker: WorkerId, op: int, payload: bytes, done: Done) -> None:
        """``done`` gets the answer, LinkRefused, or LinkLost; in a later step of the loop, within 10 s or so."""
        remote = None if worker == self.me else self._remotes.get(worker)
        pending = self._mine if worker == self.me else remote.pending if remote is not None else None
        if pending is None:
            self.call_soon(partial(done, LinkLost(worker, is_unknown=False)))
            return
        if pending.is_full:
            self.call_soon(partial(done, LinkRefused(Code.OVERLOADED, f"too many requests to worker {worker}")))
            return
        request_id = self._last_request = self._last_request % 0xFFFFFFFF + 1
        pending.add(request_id, done, self._now_s())
        if remote is None:
            reply = Reply(lambda answer: self.call_soon(partial(pending.end, request_id, answer)))
            self.call_soon(partial(self._handlers[op], worker, payload, reply))
        elif not self._transmit(remote, link_frame(op, request_id, payload)):
            pending.discard(request_id)
            self.call_soon(partial(done, self._refusal(remote)))

    async def call(self, worker: WorkerId, op: int, payload: bytes) -> bytes:
        """``request`` for a task. Raises LinkLost or LinkRefused. Cancelled, the answer is ignored."""
        promise: Promise[Answer] = Promise()
        self.request(worker, op, payload, promise.set)
        answer = await promise.wait()
        if isinstance(answer, bytes):
            return answer
        raise answer

    def push(self, worker: WorkerId, frame: bytes, recipients: Recipients, *, is_droppable: bool = False) -> None:
        """Client frames (one, or several glued) for some (user, device) of a worker: one copy, whoever is many.

        What the link cannot take is not silent: its recipients hear LAGGED from their own worker, unless ``is_droppable``.
        """
        if worker == self.me:
            self.call_soon(partial(self.on_push, worker, recipients, frame))
            return
        remote = self._remotes.get(worker)
        if remote is None:
            return  # the peer is gone, and its sessions with it
        self._pushes.push(remote, frame, recipients, is_droppable=is_droppable)

    # ------------------------------------------------------------------------------------------- running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The background of the links, until cancelled: deferred steps, time-outs, reconnections."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deferred.run)
            task_status.started()
            while True:
                await trio.sleep(TICK_S)
                self.tick()

    def tick(self) -> None:
        """End late requests and handshakes, acknowledge pushes, connect where something is owed. ``run`` calls it."""
        now_s = self._now_s()
        self._end_lost(self.me, self._mine.overdue(now_s))
        for conn in self._reception.overdue(now_s):
            self._cut(conn)
        for remote in list(self._remotes.values()):
            self._end_lost(remote.worker, remote.pending.overdue(now_s))
            if remote.is_opening and now_s - remote.opened_s > self._timeout_s:
                self._fail(remote.outgoing, HandshakeFailed(Reason.TIMEOUT, f"no answer within {self._timeout_s} s"))
            if remote.receiver.owes_ack:
                self._pushes.acknowledge(remote)
            if not remote.outgoing and (remote.sender.owes_something or now_s - remote.asked_s < ASKED_S):
                self._connect(remote)
            self._pushes.tell_losses(remote)

    def owns(self, conn: int) -> bool:
        """Is it a connection of a link?"""
        return conn in self._conns

    def on_swept(self, conn: int) -> None:
        """``Kernel.sweep`` named one of our connections: it is as good as broken (a peer that hangs stalls its outbox)."""
        self._cut(conn)

    # -------------------------------------------------------------------------------------------- events

    def on_event(self, conn: int, op: int, tag: int, body: bytes) -> None:
        """An event of the kernel: of a connection that we own, or ACCEPTED with one of LINK_LISTENERS' tags."""
        if op == ACCEPTED:
            self._conns[conn] = None
            crowded_out = self._reception.accepted(conn, tag, body, self._now_s())
            if crowded_out:
                self._cut(crowded_out)
            return
        if conn not in self._conns:
            return
        remote = self._conns[conn]
        try:
            if op == CLOSED:
                self._forget_conn(conn, tag)
            elif op == DRAINED:
                self._pushes.tell_losses(remote)
            elif op > 0xFF:
                raise LinkProtocolError(f"a frame of {tag} bytes")
            elif remote is None:
                self._on_stranger(conn, op, split_body(body)[1])
            elif conn == remote.outgoing:
                if self._dialer.receive(remote, op, split_body(body)[1]):
                    self._opened(remote)
            else:
                self._on_frame(remote, op, *split_body(body))
        except HandshakeFailed as failed:
            self._fail(conn, failed)
        except LinkProtocolError as error:
            self._fail(conn, HandshakeFailed(Reason.PROTOCOL, str(error)))

    def _on_frame(self, remote: Remote, op: int, request_id: int, payload: bytes) -> None:
        if op == LinkOp.REPLY:
            remote.pending.end(request_id, payload)
        elif op == LinkOp.DELIVER or op == LinkOp.LOST:
            self._on_push_frame(remote, op, payload)
        elif op == LinkOp.REFUSAL:
            refusal = decode(LinkRefusal, payload)
            remote.pending.end(request_id, LinkRefused(refusal.code, refusal.message))
        elif op == LinkOp.ACKED:
            remote.sender.acknowledged(*unpack_acked(payload))
        elif op in self._handlers:
            reply = Reply(partial(self._answer, remote, request_id)) if request_id else None
            self._handlers[op](remote.worker, payload, reply)
        elif request_id:
            self._answer(remote, request_id, LinkRefused(Code.UNKNOWN_OP, f"link op {op:#x}"))

    def _on_push_frame(self, remote: Remote, op: int, payload: bytes) -> None:
        number, recipients, frame = unpack_push(payload)
        is_new, has_hole = remote.receiver.receive(number, len(payload))
        if has_hole:
            self.on_lost_pushes(None)
        if is_new and op == LinkOp.LOST:
            self.on_lost_pushes(recipients)
        elif is_new:
            self.on_push(remote.worker, recipients or (), frame)
        if remote.receiver.is_ack_due:
            self._pushes.acknowledge(remote)

    def _on_stranger(self, conn: int, op: int, payload: bytes) -> None:
        """A frame of an accepted connection whose end is not known yet."""
        known = self._reception.receive(conn, op, payload)
        if known is None or known.hello is None:
            return
        remote = self._introduced(known.hello)
        self._reception.forget(conn)
        if remote.incoming:
            self._break(remote, remote.incoming)
        remote.incoming, self._conns[conn], remote.version = conn, remote, known.version
        if remote.receiver.start(known.hello.stream):
            self.on_lost_pushes(None)
        self._admit(conn)

    def _introduced(self, hello: LinkHello) -> Remote:
        worker = WorkerId(hello.worker_id)
        remote = self._remotes.get(worker)
        if remote is not None and hello.incarnation < remote.incarnation:
            raise HandshakeFailed(Reason.IDENTITY, f"worker {worker} was replaced by a later incarnation")
        if remote is None or hello.incarnation > remote.incarnation:
            if remote is not None:
                self._forget(remote)
            remote = self._remotes[worker] = Remote(worker, Peer(hello.incarnation, hello.address), is_listed=False)
        return remote

    # --------------------------------------------------------------------------------------- connections

    def _connect(self, remote: Remote) -> bool:
        """Begin to open our connection. What is sent from now on waits for it, behind the pushes that are owed."""
        own_address = self.address if is_path(remote.address) else self.host_address
        if not self._dialer.dial(remote, own_address, self._now_s()):
            return False
        self._conns[remote.outgoing] = remote
        for frame in remote.sender.unacknowledged:
            remote.waiting.add(frame)
        self._flush_soon()
        self._pushes.tell_losses(remote)
        return True

    def _opened(self, remote: Remote) -> None:
        """The peer is who we meant: what waited goes."""
        self._admit(remote.outgoing)
        if not all(self._kernel.send(remote.outgoing, frame) for frame in remote.waiting.take()):
            self._cut(remote.outgoing)  # at the process's bound: end what was lost now, not by its time-out
        self._pushes.tell_losses(remote)

    def _admit(self, conn: int) -> None:
        self._handshakes += 1
        self._kernel.admit(conn, max_frame=MAX_LINK_FRAME, window=0, timeout_s=0, max_outbox_bytes=OUTBOX_BYTES)
        self._flush_soon()

    def _transmit(self, remote: Remote, frame: bytes) -> bool:
        if remote.outgoing or self._connect(remote):
            is_taken = remote.waiting.add(frame) if remote.is_opening else self._kernel.send(remote.outgoing, frame)
            if is_taken:
                self._sent += 1
                self._flush_soon()
                return True
        self._refused += 1
        return False

    def _refusal(self, remote: Remote) -> LinkLost | LinkRefused:
        # Nothing waits on a connection that has just failed.
        if remote.waiting or (remote.outgoing and self._kernel.outbox_bytes(remote.outgoing)):
            return LinkRefused(Code.OVERLOADED, f"the link to worker {remote.worker} is at its bound")
        return LinkLost(remote.worker, is_unknown=False)

    def _answer(self, remote: Remote, request_id: int, answer: bytes | LinkRefused) -> None:
        """An answer that the link does not take is lost; the requester's time-out ends the request as unknown."""
        if self._remotes.get(remote.worker) is not remote:
            return
        if isinstance(answer, bytes):
            self._transmit(remote, link_frame(LinkOp.REPLY, request_id, answer))
        else:
            refusal = encode(LinkRefusal(answer.code, answer.message))
            self._transmit(remote, link_frame(LinkOp.REFUSAL, request_id, refusal))

    # -------------------------------------------------------------------------------------------- endings

    def _fail(self, conn: int, failed: HandshakeFailed) -> None:
        """What came on a connection, or did not come, ends it."""
        remote = self._conns[conn]
        if remote is None:
            self._reception.refuse(conn, failed)
            del self._conns[conn]
            self._flush_soon()
        elif conn == remote.outgoing and remote.is_opening:
            self._dialer.failed(remote, failed, self._now_s())
            self._not_opened(remote)
        else:
            self._refusals.note(failed.reason, str(remote), str(failed))
            self._break(remote, conn)

    def _cut(self, conn: int) -> None:
        self._kernel.abort(conn)
        self._forget_conn(conn, 0)

    def _forget_conn(self, conn: int, number: int) -> None:
        """It is no more; ``number``: the errno, or 0."""
        remote = self._conns.pop(conn, None)
        if remote is None:
            self._reception.forget(conn)
        elif conn == remote.outgoing and remote.is_opening:
            self._dialer.ended(remote, number, os.strerror(number) if number else "it hung up", self._now_s())
            self._not_opened(remote)
        else:
            self._break(remote, conn)

    def _not_opened(self, remote: Remote) -> None:
        """Nothing of what waited has left. Requests hear so; whoever sent anything else hears that the link is lost."""
        conn = remote.outgoing
        self._kernel.abort(conn)
        self._conns.pop(conn, None)
        remote.drop_conn(conn)
        self._end_lost(remote.worker, remote.pending.take_all(), is_unknown=False)
        if remote.waiting.take():
            self._announce_lost(remote.worker)

    def _break(self, remote: Remote, conn: int) -> None:
        """One of the link's connections is no more: what was on it is unknown."""
        self._broken += 1
        self._kernel.abort(conn)
        self._conns.pop(conn, None)
        remote.drop_conn(conn)
        if not remote.is_opening:  # else requests have not left yet, and wait on
            self._end_lost(remote.worker, remote.pending.take_all())
        self._announce_lost(remote.worker)

    def _forget(self, remote: Remote) -> None:
        del self._remotes[remote.worker]
        is_unknown = not remote.is_opening
        for conn in remote.take_conns():
            self._kernel.abort(conn)
            self._conns.pop(conn, None)
        self._end_lost(remote.worker, remote.pending.take_all(), is_unknown=is_unknown)
        self._announce_lost(remote.worker)

    def _end_lost(self, worker: WorkerId, dones: Sequence[Done], *, is_unknown: bool = True) -> None:
        for done in dones:
            self.call_soon(partial(done, LinkLost(worker, is_unknown=is_unknown)))

    def _announce_lost(self, worker: WorkerId) -> None:
        for listener in (*self._lost_listeners, self.on_lost):
            self.call_soon(partial(listener, worker))
