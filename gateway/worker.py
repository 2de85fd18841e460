"""One worker: every part of it made once, wired once, and run in one Trio loop.

Owns the wiring and the order of beginning and ending. It must not know a concrete backend (``app.py`` hands it the store)
nor a rule of any part.

Beginning: store, links, directory (joined: the set of workers is known), then the client port. Ending (a drain): no new
connections, GOAWAY with a spread, slots handed over while the connections stay; when they have gone or time is up, the
rest is told and the worker ends. The end of the supervisor's lifeline ends a worker at once.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog
import trio

from gateway.chat.actors import Actors, Surroundings
from gateway.chat.ports import Room
from gateway.cluster.directory import DirectoryUnavailable, Registration, Replaced, WorkerRecord, Workers
from gateway.cluster.directory_client import DirectoryClient
from gateway.cluster.heads import Heads
from gateway.cluster.links import LINK_LISTENER, Links, Peer
from gateway.cluster.locations import Locations
from gateway.cluster.routing import Router
from gateway.cluster.slots import Slots
from gateway.config import Config
from gateway.metrics import WorkerCollector, WorkerMetrics, exposition
from gateway.net.credentials import ResumeTokens, TokenVerifier
from gateway.net.folding import Folding
from gateway.net.gate import Gate, Parts, RateLimits
from gateway.net.greeting import Gatehouse, Greeter
from gateway.net.keeping import Keeping
from gateway.net.limits import Buckets, Rate
from gateway.net.ports import RegistryUnavailable
from gateway.net.pushes import Pushes
from gateway.net.reading import Reading
from gateway.net.replies import Replies
from gateway.net.sessions import Session, SessionTable
from gateway.net.syncing import Syncing
from gateway.protocol.errors import Code
from gateway.protocol.frames import encode
from gateway.protocol.identifiers import SessionId, WorkerId
from gateway.protocol.messages import Close, Op
from gateway.pump import ACCEPTED, Event, Kernel, Pump, measure_loop_lag
from gateway.registry import DirectoryRegistry
from storage.api import Store, StoreError

CLIENT_LISTENER = 0
SPARE_CONNECTIONS = 1024
"""Of the kernel's slots, for links."""
REGISTER_SPREAD_S = 10.0
REGISTER_CHUNK = 500

log = structlog.get_logger(__name__)


class Identity(NamedTuple):
    """Which worker this is, and where its neighbours are."""

    worker_id: WorkerId
    incarnation: int
    link_path: str
    supervisor: Peer


class Secrets(NamedTuple):
    verifier: TokenVerifier
    resume_tokens: ResumeTokens


class Worker:
    """See the module. ``run`` returns when the drain is over."""

    def __init__(self, config: Config, identity: Identity, store: Store, secrets: Secrets, max_clients: int) -> None:
        self.config = config
        self.identity = identity
        self.store = store
        self.metrics = WorkerMetrics()
        self.sessions = SessionTable()
        self._secrets = secrets
        self.kernel = _make_kernel(config, max_clients)
        self.pump = Pump(self.kernel, self._dispatch)
        self.links = Links(self.kernel, identity.worker_id, identity.incarnation, flush_soon=self.pump.flush_soon)
        self.directory = DirectoryClient(self.links, identity.supervisor)
        self.registry = DirectoryRegistry(self.directory)
        self.locations = Locations(self.directory, self.finish_cycle)
        self.slots = Slots(store, identity.worker_id, identity.incarnation, self.directory, self.links)
        self._make_chats()
        self._make_gate(max_clients)
        self._wire()
        self._drain = trio.Event()

    # ---------------------------------------------------------------------------------------------- making

    def _make_chats(self) -> None:
        chat = self.config.chat
        room = Room(chat.max_members, chat.max_actors, chat.max_queued_requests, chat.max_remembered_ids)
        around = Surroundings(
            store=self.store,
            locator=self.locations,
            postman=self,
            room=room,
            flush=self.flush,
            on_sent=self._on_sent,
            on_slot_lost=lambda slot, epoch: self.slots.lost(slot, epoch),
            on_moved=lambda chat_id, request: self.router.take_back(chat_id, request),
        )
        self.actors = Actors(around)
        self.router = Router(self.links, self.slots, self.actors)
        self.heads = Heads(self.links, self.router, self.actors, self.locations, self.store)

    def _make_gate(self, max_clients: int) -> None:
        config, kernel = self.config, self.kernel
        self.replies = Replies(kernel, self.metrics, lambda session: self.gate.forget(session))
        self.pushes = Pushes(
            kernel, self.sessions, self.metrics, self.heads.tell_gone, config.outbox.session_bytes // 2
        )
        self.folding = Folding(self.router, self.finish_cycle)
        self.greeter = Greeter(self._gatehouse(max_clients))
        self.gate = Gate(
            Parts(
                kernel=kernel,
                config=config,
                metrics=self.metrics,
                sessions=self.sessions,
                greeter=self.greeter,
                replies=self.replies,
                requests=self.router,
                folding=self.folding,
                pushes=self.pushes,
                syncing=Syncing(kernel, self.store, self.heads, self.flush),
                reading=Reading(self.store, self.router, self.heads, config.chat.max_members, self.finish_cycle),
                registry=self.registry,
                verifier=self._secrets.verifier,
                limits=_rate_limits(config),
                finish_cycle=self.finish_cycle,
            )
        )
        self.keeping = Keeping(kernel, self.gate, self.greeter, self.sessions, self.replies)

    def _gatehouse(self, max_clients: int) -> Gatehouse:
        limits = self.config.limits
        return Gatehouse(
            kernel=self.kernel,
            config=self.config.session,
            verifier=self._secrets.verifier,
            resume_tokens=self._secrets.resume_tokens,
            registry=self.registry,
            sessions=self.sessions,
            replies=self.replies,
            metrics=self.metrics,
            address_connects=Buckets(_rate(limits.address_connects), limits.max_tracked),
            user_connects=Buckets(_rate(limits.user_connects), limits.max_tracked),
            leeway_s=self.config.auth.leeway_s,
            max_clients=max_clients,
            handle=lambda conn, op, tag, body: self.gate.on_event(conn, op, tag, body),
            finish_cycle=self.finish_cycle,
            end_session=lambda session, code, message, detail: self.gate.end_session(session, code, message, detail),
        )

    def _wire(self) -> None:
        self.slots.on_stop = self.actors.stop
        self.links.on_push = self.pushes.deliver
        self.links.on_lost_pushes = self.pushes.lost
        self.links.on_lost = self.locations.worker_gone
        events = self.directory.events
        events.on_workers = self._on_workers
        events.on_moved = self.locations.moved
        events.on_replaced = self._on_replaced
        events.on_generation = self._on_generation

    # ---------------------------------------------------------------------------------------------- running

    async def run(self, bind: Callable[[], socket.socket], on_ready: Callable[[], None]) -> None:
        """Serve until drained. ``bind``: the listening client socket, made when everything else is ready."""
        await self.store.open()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for part in (self.pump, self.links, self.locations, self.slots, self.directory):
                    await nursery.start(part.run)
                for task in (self.actors, self.router, self.heads, self.greeter, self.gate):
                    await nursery.start(task.run)
                await self._join()
                nursery.start_soon(self.folding.run)
                nursery.start_soon(self.keeping.run, self.metrics, self._swept_link, self.pump.flush_soon)
                nursery.start_soon(measure_loop_lag, self.metrics.loop_lag_seconds.observe)
                listener = bind()
                self.kernel.listen(listener.fileno(), CLIENT_LISTENER)
                on_ready()
                await self._drain.wait()
                await self._drain_out(listener)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await self.store.close()
            self.kernel.shutdown()

    async def _join(self) -> None:
        self.links.listen(self.identity.link_path)
        record = WorkerRecord(self.identity.worker_id, self.identity.incarnation, self.identity.link_path, False)
        await self.directory.join(record)

    def drain(self) -> None:
        """Begin to end: from a signal or the supervisor."""
        self._drain.set()

    async def _drain_out(self, listener: socket.socket) -> None:
        self.kernel.unlisten(listener.fileno())
        listener.close()
        self.keeping.say_goaway(self.config.session.drain_spread_ms)
        with trio.move_on_after(self.config.serve.drain_timeout_s):
            try:
                await self.directory.drain()
            except DirectoryUnavailable as error:
                log.warning("drain_not_told", error=str(error))
            while len(self.sessions):
                await trio.sleep(0.05)
        self.keeping.end_all()
        with trio.move_on_after(5):
            try:
                await self.slots.release_all()
                await self.actors.marks.write()
                await self.directory.leave()
            except (DirectoryUnavailable, StoreError) as error:
                log.warning("drain_incomplete", error=str(error))
        self.kernel.flush()

    # ---------------------------------------------------------------------------------------------- the cycle

    def _dispatch(self, events: list[Event]) -> None:
        gate, links = self.gate, self.links
        gate.start_cycle()
        for conn, op, tag, body in events:
            if links.owns(conn) or (op == ACCEPTED and tag == LINK_LISTENER):
                links.on_event(conn, op, tag, body)
            else:
                gate.on_event(conn, op, tag, body)
        self._advance()

    def _advance(self) -> None:
        self.greeter.finish_cycle()
        self.actors.advance_dirty()
        self.links.run_pending()

    def finish_cycle(self) -> None:
        """For tasks: what a dispatch does at its end, and the flush."""
        self._advance()
        self.pump.flush_soon()

    def flush(self) -> None:
        self.links.run_pending()
        self.kernel.flush()
        if self.kernel.has_backlog:
            self.pump.flush_soon()

    def push(
        self, worker_id: WorkerId, recipients: Sequence[tuple[int, int]], frame: bytes, *, is_droppable: bool = False
    ) -> None:
        """The chats' ``Postman``: straight to the outboxes of this worker's connections, or over a link."""
        if worker_id == self.identity.worker_id:
            self.pushes.deliver(worker_id, recipients, frame)
        else:
            self.links.push(worker_id, frame, recipients, is_droppable=is_droppable)

    def _on_sent(self, received_s: Sequence[float], rows: int) -> None:
        now_s = time.monotonic()
        observe = self.metrics.delivery_seconds.observe
        for at in received_s:
            observe(now_s - at)
        self.metrics.sends += rows

    def _swept_link(self, conn: int) -> bool:
        if self.links.owns(conn):
            self.links.on_swept(conn)
            return True
        return False

    # ---------------------------------------------------------------------------------------------- news

    def _on_workers(self, workers: Workers) -> None:
        self.slots.on_workers()

    def _on_replaced(self, replaced: Sequence[Replaced]) -> None:
        for user_id, device_id, old_session_id, new_session_id in replaced:
            session = self.sessions.of_device(user_id, device_id)
            if session is not None and session.session_id == old_session_id:
                self.gate.end_session(session, Code.REPLACED, "a newer session of this device", new_session_id)
        self.pump.flush_soon()

    def _on_generation(self) -> None:
        """The directory may have forgotten us: what is known are hints, our sessions register again and are told LAGGED."""
        self.locations.generation_changed()
        self._nursery.start_soon(self._register_again)

    async def _register_again(self) -> None:
        sessions = list(self.sessions)
        pause_s = REGISTER_SPREAD_S / max(1, len(sessions) // REGISTER_CHUNK + 1)
        for start in range(0, len(sessions), REGISTER_CHUNK):
            chunk = sessions[start : start + REGISTER_CHUNK]
            try:
                await self.registry.register_again(map(_registration, chunk))
            except RegistryUnavailable as error:
                log.warning("sessions_not_registered", sessions=len(sessions) - start, error=str(error))
                return  # the next generation registers all of them
            self.pushes.lost([(session.user_id, session.device_id) for session in chunk])
            self.pump.flush_soon()
            await trio.sleep(pause_s)

    def scrape(self) -> bytes:
        """This worker's figures as Prometheus' text."""
        metrics = self.metrics
        metrics.actors, metrics.actor_loads = len(self.actors), self.actors.loads
        metrics.actor_evictions, metrics.forwarded = self.actors.evictions, self.router.forwarded
        metrics.duplicates = self.actors.duplicates
        collector = WorkerCollector(
            metrics, kernel=self.kernel.statistics, store=self.store.statistics, links=self.links.statistics
        )
        return exposition(collector)


def _make_kernel(config: Config, max_clients: int) -> Kernel:
    session, outbox = config.session, config.outbox
    return Kernel(
        max_clients + SPARE_CONNECTIONS,
        auto_replies={Op.PING: Op.PONG},
        greeting_timeout_s=session.hello_timeout_s,
        linger_s=session.linger_s,
        stall_timeout_s=session.stall_timeout_s,
        max_outbox_bytes=outbox.session_bytes,
        max_total_outbox_bytes=outbox.total_bytes,
        refusal=encode(Op.CLOSE, Close(Code.OVERLOADED, "the node is full", 5000)),
    )


def _rate_limits(config: Config) -> RateLimits:
    limits = config.limits
    return RateLimits(
        Buckets(_rate(limits.device_sends), limits.max_tracked),
        Buckets(_rate(limits.user_sends), limits.max_tracked),
        Buckets(_rate(limits.device_requests), limits.max_tracked),
        Buckets(_rate(limits.user_requests), limits.max_tracked),
    )


def _rate(rate: object) -> Rate:
    return Rate(rate.per_s, rate.burst)  # type: ignore[attr-defined]


def _registration(session: Session) -> Registration:
    ids = (session.user_id, session.device_id, session.session_id)
    return Registration(*ids, SessionId(0), int(session.expires_s))
