"""Links: how a worker speaks with the other workers of its node, and with the supervisor (worker 0).

Owns the connections between processes and the order of what travels on them. It knows ops and payloads by number only:
what they mean is their handler's business. Routing by chat or by user happens above.

A link is up to two connections of the kernel, one opened by each end, on demand. An end sends everything on the one that
it opened, answers included, so what one worker sends another arrives in the order of the calls: a head that follows a
push on the wire follows it in truth. Rejected: one shared connection (two ends opening at once would need a decision
about which survives, with frames already on both), and answers on the connection of the request (they could overtake).

Invariants: ``done`` of a request is called exactly once, never from inside ``request``; a handler is never called from
inside ``send``; an incarnation of a peer that was replaced is never heard again; a broken connection ends every request
to that peer at once as unknown, because its answer may have been on it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from gateway.cluster.deferred import Deferred
from gateway.cluster.link_requests import Answer, Done, LinkLost, LinkRefused, PendingRequests, Reply
from gateway.cluster.promise import Promise
from gateway.cluster.remote import Peer, Remote
from gateway.cluster.wire import (
    LINK_VERSION,
    MAX_LINK_FRAME,
    LinkHello,
    LinkOp,
    LinkProtocolError,
    LinkRefusal,
    Recipients,
    acked_frame,
    decode,
    encode,
    link_frame,
    push_frame,
    split_body,
    unpack_acked,
    unpack_push,
)
from gateway.protocol.errors import Code
from gateway.protocol.identifiers import WorkerId
from gateway.pump import ACCEPTED, CLOSED, DRAINED, KernelFull

if TYPE_CHECKING:
    from gateway._framing import Kernel

__all__ = ["LINK_LISTENER", "SUPERVISOR", "LinkLost", "LinkRefused", "LinkStatistics", "Links", "Peer", "Reply"]

SUPERVISOR = WorkerId(0)
LINK_LISTENER = 1
"""The kernel's listener tag of the link socket."""

OUTBOX_BYTES = 64 << 20
TICK_S = 0.25
GREETING_TIMEOUT_S = 10.0
RECONNECT_S = 0.1
"""A peer that refused is left alone so long: a burst of sends to a dead peer must not be a burst of connects."""
BACKLOG = 1024

Handler = Callable[[WorkerId, bytes, "Reply | None"], None]


class LinkStatistics(NamedTuple):
    """``refused``: frames that no connection took. ``lost_pushes``: pushes among them. The rest as of now."""

    peers: int
    connections: int
    outstanding: int
    sent: int
    refused: int
    lost_pushes: int
    broken: int


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
    ) -> None:
        self.me = me
        self.incarnation = incarnation
        self.address = ""
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
        self._listener: socket.socket | None = None
        self._mine = PendingRequests(me)
        self._last_request = 0
        self._deferred = Deferred()
        self.call_soon = self._deferred.call_soon
        """Run a step after the current one: in ``run_pending``, or by ``run`` in the loop's next turn."""
        self.run_pending = self._deferred.run_pending
        """For the end of a pump's dispatch: run the collected steps at once, which saves a turn of the loop."""
        self._sent = self._refused = self._lost_pushes = self._broken = 0

    # ---------------------------------------------------------------------------------------- setting up

    def register(self, op: int, handler: Handler) -> None:
        """``handler(worker, payload, reply)``, ``reply`` None for a one-way frame. It may raise LinkProtocolError."""
        if op in self._handlers:
            raise ValueError(f"op {op:#x} has a handler already")
        self._handlers[op] = handler

    def add_lost_listener(self, listener: Callable[[WorkerId], None]) -> None:
        """Called as ``on_lost`` is, before it: for the cluster's own parts."""
        self._lost_listeners.append(listener)

    def listen(self, path: str) -> None:
        """Listen on a Unix socket, replacing a stale file. Only this user may connect: whoever can is trusted."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if os.path.exists(path):
                os.unlink(path)
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(BACKLOG)
            self._kernel.listen(listener.fileno(), LINK_LISTENER)
        except BaseException:
            listener.close()
            raise
        self._listener, self.address = listener, path

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
                known.is_listed = known.is_listed or known.incarnation == peer.incarnation
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
        if self._listener is not None:
            self._kernel.unlisten(self._listener.fileno())
            self._listener.close()
            self._listener = None
            if os.path.exists(self.address):
                os.unlink(self.address)

    def statistics(self) -> LinkStatistics:
        outstanding = len(self._mine) + sum(len(remote.pending) for remote in self._remotes.values())
        counts = self._sent, self._refused, self._lost_pushes, self._broken
        return LinkStatistics(len(self._remotes), len(self._conns), outstanding, *counts)

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
        if is_droppable:
            self._transmit(remote, push_frame(0, recipients, frame))
            return
        if remote.outgoing or self._connect(remote):
            numbered = remote.sender.push(recipients, frame)
            if self._transmit(remote, numbered):
                remote.sender.sent(numbered)
                return
        self._lost_pushes += 1
        remote.sender.lose(recipients)
        if remote.outgoing:
            self._kernel.notify_drained(remote.outgoing)

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
        """End late requests and greetings, acknowledge pushes, reconnect where something is owed. ``run`` calls it."""
        now_s = self._now_s()
        self._end_lost(self.me, self._mine.overdue(now_s))
        for remote in list(self._remotes.values()):
            self._end_lost(remote.worker, remote.pending.overdue(now_s))
            if remote.outgoing and not remote.is_greeted and now_s - remote.opened_s > GREETING_TIMEOUT_S:
                self._break(remote, remote.outgoing)
            if remote.receiver.owes_ack:
                self._acknowledge(remote)
            if remote.sender.owes_something and not remote.outgoing:
                self._connect(remote)
            self._tell_losses(remote)

    def owns(self, conn: int) -> bool:
        """Is it a connection of a link?"""
        return conn in self._conns

    def on_swept(self, conn: int) -> None:
        """``Kernel.sweep`` named one of our connections: it is as good as broken (a peer that hangs stalls its outbox)."""
        self._cut(conn)

    # -------------------------------------------------------------------------------------------- events

    def on_event(self, conn: int, op: int, tag: int, body: bytes) -> None:
        """An event of the kernel: of a connection that we own, or ACCEPTED with LINK_LISTENER's tag."""
        if op == ACCEPTED:
            self._conns[conn] = None
            return
        if conn not in self._conns:
            return
        remote = self._conns[conn]
        try:
            if op == CLOSED:
                self._forget_conn(conn)
            elif op == DRAINED:
                self._tell_losses(remote)
            elif op > 0xFF:
                raise LinkProtocolError(f"a frame of {tag} bytes")
            elif remote is None:
                self._welcome(conn, op, body)
            elif conn == remote.outgoing:
                self._check_answer(remote, op, body)
            else:
                self._on_frame(remote, op, *split_body(body))
        except LinkProtocolError:
            self._cut(conn)

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
            self._acknowledge(remote)

    def _welcome(self, conn: int, op: int, body: bytes) -> None:
        """The first frame of an accepted connection."""
        if op != LinkOp.HELLO:
            raise LinkProtocolError(f"op {op:#x} before HELLO")
        hello = decode(LinkHello, split_body(body)[1])
        meant = hello.version, hello.to_worker_id, hello.to_incarnation
        if meant != (LINK_VERSION, self.me, self.incarnation):
            raise LinkProtocolError(f"HELLO to {meant}")
        worker = WorkerId(hello.worker_id)
        remote = self._remotes.get(worker)
        if remote is not None and hello.incarnation < remote.incarnation:
            raise LinkProtocolError(f"worker {worker} was replaced by a later incarnation")
        if remote is None or hello.incarnation > remote.incarnation:
            if remote is not None:
                self._forget(remote)
            remote = self._remotes[worker] = Remote(worker, Peer(hello.incarnation, hello.address), is_listed=False)
        if remote.incoming:
            self._break(remote, remote.incoming)
        remote.incoming, self._conns[conn] = conn, remote
        if remote.receiver.start(hello.stream):
            self.on_lost_pushes(None)
        self._greet(remote, conn)

    def _check_answer(self, remote: Remote, op: int, body: bytes) -> None:
        """Nothing but the peer's HELLO comes on a connection that we opened."""
        hello = decode(LinkHello, split_body(body)[1]) if op == LinkOp.HELLO else None
        if hello is None or (hello.worker_id, hello.incarnation) != (remote.worker, remote.incarnation):
            raise LinkProtocolError("another answer than the peer's HELLO")
        remote.is_greeted = True

    # --------------------------------------------------------------------------------------- connections

    def _connect(self, remote: Remote) -> bool:
        """Open our connection. A Unix socket accepts at once, so frames may follow HELLO without waiting for its answer:
        HELLO names the incarnation that it means, and another one cuts the connection before it reads on."""
        now_s = self._now_s()
        if now_s < remote.retry_s:
            return False
        remote.retry_s = now_s + RECONNECT_S
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            opened.connect(remote.address)
            conn = self._kernel.adopt(opened.fileno())
        except (OSError, KernelFull):
            opened.close()
            return False
        opened.detach()
        remote.outgoing, remote.is_greeted, remote.opened_s = conn, False, now_s
        self._conns[conn] = remote
        self._greet(remote, conn)
        for frame in remote.sender.unacknowledged:
            self._transmit(remote, frame)
        self._tell_losses(remote)
        return True

    def _greet(self, remote: Remote, conn: int) -> None:
        hello = LinkHello(
            *(LINK_VERSION, self.me, self.incarnation, remote.worker, remote.incarnation),
            *(remote.sender.stream, self.address),
        )
        self._kernel.send(conn, link_frame(LinkOp.HELLO, 0, encode(hello)))
        self._kernel.admit(conn, max_frame=MAX_LINK_FRAME, window=0, timeout_s=0, max_outbox_bytes=OUTBOX_BYTES)
        self._flush_soon()

    def _transmit(self, remote: Remote, frame: bytes) -> bool:
        if (remote.outgoing or self._connect(remote)) and self._kernel.send(remote.outgoing, frame):
            self._sent += 1
            self._flush_soon()
            return True
        self._refused += 1
        return False

    def _refusal(self, remote: Remote) -> LinkLost | LinkRefused:
        if remote.outgoing and self._kernel.outbox_bytes(remote.outgoing):  # nothing waits on one that has just failed
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

    def _acknowledge(self, remote: Remote) -> None:
        if self._transmit(remote, acked_frame(remote.receiver.stream, remote.receiver.last)):
            remote.receiver.ack_sent()

    def _tell_losses(self, remote: Remote | None) -> None:
        if remote is None or not remote.outgoing or not remote.sender.has_lost:
            return
        notice = remote.sender.loss_notice()
        if self._transmit(remote, notice):
            remote.sender.sent(notice)
            remote.sender.loss_told()

    # -------------------------------------------------------------------------------------------- endings

    def _cut(self, conn: int) -> None:
        self._kernel.abort(conn)
        self._forget_conn(conn)

    def _forget_conn(self, conn: int) -> None:
        remote = self._conns.pop(conn, None)
        if remote is not None:
            self._break(remote, conn)

    def _break(self, remote: Remote, conn: int) -> None:
        """One of the link's connections is no more: what was on it is unknown."""
        self._broken += 1
        self._kernel.abort(conn)
        self._conns.pop(conn, None)
        remote.drop_conn(conn)
        self._end_lost(remote.worker, remote.pending.take_all())
        self._announce_lost(remote.worker)

    def _forget(self, remote: Remote) -> None:
        del self._remotes[remote.worker]
        for conn in remote.take_conns():
            self._kernel.abort(conn)
            self._conns.pop(conn, None)
        self._end_lost(remote.worker, remote.pending.take_all())
        self._announce_lost(remote.worker)

    def _end_lost(self, worker: WorkerId, dones: Sequence[Done]) -> None:
        for done in dones:
            self.call_soon(partial(done, LinkLost(worker, is_unknown=True)))

    def _announce_lost(self, worker: WorkerId) -> None:
        for listener in (*self._lost_listeners, self.on_lost):
            self.call_soon(partial(listener, worker))
