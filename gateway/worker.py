"""One worker: every part of it made once, wired once, and run in one Trio loop.

Owns the wiring and the order of beginning and ending. It must not know a concrete backend (``app.py`` hands it the store
and the directory) nor a rule of any part.

Beginning: store, links, directory (joined: the set of workers is known), then the client port. Ending (a drain): no new
connections, GOAWAY with a spread, slots handed over while the connections stay; when they have gone or time is up, what
is under way is answered, the rest is told, and the worker ends. The end of the supervisor's lifeline ends a worker at once.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import structlog
import trio

from gateway.chat.actors import Actors, Surroundings
from gateway.chat.ports import Room
from gateway.cluster.directory import (
    Directory,
    DirectoryUnavailable,
    Registration,
    Replaced,
    WorkerRecord,
    Workers,
    superseded,
)
from gateway.cluster.heads import Heads
from gateway.cluster.links import LINK_LISTENERS, SUPERVISOR, Links, LinkSettings, Peer
from gateway.cluster.locations import Locations
from gateway.cluster.routing import Router
from gateway.cluster.slots import Slots
from gateway.config import Config
from gateway.departures import Departures, TellEnded
from gateway.metrics import DirectoryFigures, Sources, StoreFigures, WorkerCollector, WorkerMetrics, exposition
from gateway.net.credentials import ResumeTokens, TokenVerifier
from gateway.net.folding import Folding
from gateway.net.gate import Gate, Parts, RateLimits
from gateway.net.greeting import Gatehouse, Greeter
from gateway.net.keeping import Keeping
from gateway.net.limits import Buckets, Rate, SharedLimits
from gateway.net.ports import RegistryUnavailable
from gateway.net.pushes import Pushes
from gateway.net.reading import Reading
from gateway.net.replies import Replies
from gateway.net.sessions import Session, SessionTable
from gateway.net.shared_limits import Settlement, SharedBuckets, name_number
from gateway.net.syncing import Syncing
from gateway.protocol.errors import Code
from gateway.protocol.frames import encode
from gateway.protocol.identifiers import SessionId, WorkerId, node_of
from gateway.protocol.messages import Close, Op
from gateway.pump import ACCEPTED, Event, Kernel, Pump, measure_loop_lag
from gateway.registry import DirectoryRegistry
from storage.api import Store, StoreError

CLIENT_LISTENER = 0
SPARE_CONNECTIONS = 1024
"""Of the kernel's slots, for links within a node: two to each of its other workers, and to the supervisor."""
SPARE_IN_A_CLUSTER = 8192
"""Two to each worker of a region: 100 nodes of 16 have 3,198 at each (docs/capacity.md)."""
REGISTER_SPREAD_S = 10.0
REGISTER_CHUNK = 500
JOIN_TIMEOUT_S = 20.0
"""Longer than a directory waits for those that start together, and for its own settling."""
FINISH_S = 5.0
"""For each step at the end that waits for others."""
DRAIN_TICK_S = 0.05
GOAWAY_TICKS = 20
"""Between two looks for sessions that began after GOAWAY was said: their HELLO was under way."""

log = structlog.get_logger(__name__)


class LinkPlace(NamedTuple):
    """Where a worker listens for other nodes. Hosts are numeric; port 0: any free one."""

    host: str
    port: int
    advertised: str
    """Where they reach it."""


class Identity(NamedTuple):
    """Which worker this is, and where its neighbours are."""

    worker_id: WorkerId
    incarnation: int
    link_path: str
    supervisor: Peer
    link_place: LinkPlace | None = None
    """None: there are no other nodes."""


class RunningDirectory(Directory, Protocol):
    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """In the background, until cancelled; before ``join``."""
        ...


class Backends(NamedTuple):
    """What stands behind the ports, as the composition root chose it."""

    store: Store
    make_directory: Callable[[Links, Callable[[], Iterable[Registration]]], RunningDirectory]
    """From the links, and who is connected, for a directory that has to be told now and then."""
    links: LinkSettings
    limits: SharedLimits | None = None
    """None: each worker counts for itself."""
    tell_ended: TellEnded | None = None
    """None: the supervisor sees every worker that there is."""
    store_figures: Callable[[], StoreFigures] | None = None
    directory_figures: Callable[[], DirectoryFigures] | None = None


class CannotListen(Exception):
    """The operator's mistake, or another program's port: other nodes could not reach this worker. One line."""


class Secrets(NamedTuple):
    verifier: TokenVerifier
    resume_tokens: ResumeTokens


class Worker:
    """See the module. ``run`` returns when the drain is over."""

    def __init__(
        self, config: Config, identity: Identity, backends: Backends, secrets: Secrets, max_clients: int
    ) -> None:
        self.config = config
        self.identity = identity
        self.store = store = backends.store
        self._backends = backends
        self._shared_buckets: list[SharedBuckets[int]] = []
        self.metrics = WorkerMetrics()
        self.sessions = SessionTable()
        self._secrets = secrets
        self.kernel = _make_kernel(config, max_clients)
        self.pump = Pump(self.kernel, self._dispatch)
        me = identity.worker_id, identity.incarnation
        self.links = Links(self.kernel, *me, flush_soon=self.pump.flush_soon, settings=backends.links)
        self.directory = backends.make_directory(self.links, lambda: map(_registration, self.sessions))
        self.registry = DirectoryRegistry(self.directory)
        self.locations = Locations(self.directory, self.finish_cycle)
        self.slots = Slots(store, me, self.directory, self.links)
        tell_ended = backends.tell_ended
        self._departures = Departures(me[0], lambda: self.directory.workers, tell_ended) if tell_ended else None
        self._make_chats()
        self._make_gate(max_clients)
        self._wire()
        self._drain = trio.Event()
        self._alternatives: Sequence[str] = ()

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
                limits=self._rate_limits(),
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
            user_connects=self._user_buckets("connect", limits.user_connects),
            leeway_s=self.config.auth.leeway_s,
            max_clients=max_clients,
            handle=lambda conn, op, tag, body: self.gate.on_event(conn, op, tag, body),
            finish_cycle=self.finish_cycle,
            end_session=lambda session, code, message, detail: self.gate.end_session(session, code, message, detail),
        )

    def _rate_limits(self) -> RateLimits:
        limits = self.config.limits
        return RateLimits(
            Buckets(_rate(limits.device_sends), limits.max_tracked),
            self._user_buckets("send", limits.user_sends),
            Buckets(_rate(limits.device_requests), limits.max_tracked),
            self._user_buckets("request", limits.user_requests),
        )

    def _user_buckets(self, scope: str, rate: object) -> Buckets[int]:
        """A user may be with several workers; a device is with one."""
        if self._backends.limits is None:
            return Buckets(_rate(rate), self.config.limits.max_tracked)
        shared = SharedBuckets(scope, _rate(rate), self.config.limits.max_tracked, name_number)
        self._shared_buckets.append(shared)
        return shared

    def _wire(self) -> None:
        self.slots.on_stop = self.actors.stop
        self.slots.on_lost = self.actors.slot_lost
        if self._departures is not None:
            self.slots.on_gone = self._departures.take
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
                if self._departures is not None:
                    await nursery.start(self._departures.run)
                if self._backends.limits is not None:
                    await nursery.start(Settlement(self._backends.limits, self._shared_buckets).run)
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
        """Raises CannotListen, DirectoryUnavailable."""
        me = self.identity
        self.links.set_peers({SUPERVISOR: me.supervisor})
        self.links.listen(me.link_path)
        if me.link_place is not None:
            self._listen_to_nodes(me.link_place)
        record = WorkerRecord(me.worker_id, me.incarnation, me.link_path, False, self.links.host_address)
        try:
            with trio.fail_after(JOIN_TIMEOUT_S):
                await self.directory.join(record)
        except trio.TooSlowError as error:
            raise DirectoryUnavailable(f"the directory did not answer within {JOIN_TIMEOUT_S:g} s") from error

    def _listen_to_nodes(self, place: LinkPlace) -> None:
        try:
            self.links.listen_tcp(place.host, place.port, advertised=place.advertised)
        except OSError as error:
            where = f"cluster.link_host, link_port: cannot listen on {place.host} port {place.port}"
            raise CannotListen(f"{where}: {error.strerror}") from error

    def drain(self, *, is_node: bool = False) -> None:
        """Begin to end: from a signal (this worker alone) or the supervisor (the whole node)."""
        if is_node:
            self._alternatives = self.config.cluster.advertise
        self._drain.set()

    async def _drain_out(self, listener: socket.socket) -> None:
        self.kernel.unlisten(listener.fileno())
        listener.close()
        self._say_goaway()
        with trio.move_on_after(self.config.serve.drain_timeout_s):
            await self._finish("drain_not_told", self.directory.drain)
            ticks = 0
            while len(self.sessions):
                await trio.sleep(DRAIN_TICK_S)
                ticks += 1
                if ticks % GOAWAY_TICKS == 0:
                    self._say_goaway()
        # What is under way is answered before anybody is told to go; clients send again what is left.
        await self._finish("slots_not_released", self.slots.release_all)
        self.keeping.end_all()
        await self._finish("marks_not_written", self.actors.marks.write)
        await self._finish("leave_not_told", self.directory.leave)
        self.kernel.flush()

    def _say_goaway(self) -> None:
        self.keeping.say_goaway(self.config.session.drain_spread_ms, self._alternatives)

    async def _finish(self, failure: str, step: Callable[[], Awaitable[None]]) -> None:
        """A step of the end, which must not keep the others from being taken."""
        with trio.move_on_after(FINISH_S) as scope:
            try:
                await step()
            except (DirectoryUnavailable, StoreError) as error:
                log.warning(failure, error=str(error))
        if scope.cancelled_caught:
            log.warning(failure, error=f"no answer within {FINISH_S:g} s")

    # ---------------------------------------------------------------------------------------------- the cycle

    def _dispatch(self, events: list[Event]) -> None:
        gate, links = self.gate, self.links
        gate.start_cycle()
        for conn, op, tag, body in events:
            if links.owns(conn) or (op == ACCEPTED and tag in LINK_LISTENERS):
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
        self.links.set_peers({SUPERVISOR: self.identity.supervisor, **_peers(workers, node_of(self.links.me))})
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
                registrations = list(map(_registration, chunk))
                results = await self.registry.register_again(registrations)
            except RegistryUnavailable as error:
                log.warning("sessions_not_registered", sessions=len(sessions) - start, error=str(error))
                return  # the next generation registers all of them
            self._on_replaced(superseded(registrations, results))
            self.pushes.lost([(session.user_id, session.device_id) for session in chunk])
            self.pump.flush_soon()
            await trio.sleep(pause_s)

    def scrape(self) -> bytes:
        """This worker's figures as Prometheus' text."""
        metrics = self.metrics
        metrics.actors, metrics.actor_loads = len(self.actors), self.actors.loads
        metrics.actor_evictions, metrics.forwarded = self.actors.evictions, self.router.forwarded
        metrics.duplicates = self.actors.duplicates
        metrics.slots, metrics.belief_lapses = len(self.slots.held), self.slots.lapses
        node = node_of(self.links.me)
        metrics.node_links = sum(
            node_of(worker) != node and self.links.version_of(worker) > 0 for worker in self.directory.workers
        )
        return exposition(WorkerCollector(metrics, self._sources()))

    def _sources(self) -> Sources:
        return Sources(
            kernel=self.kernel.statistics,
            store=self.store.statistics,
            links=self.links.statistics,
            store_requests=self._backends.store_figures,
            directory=self._backends.directory_figures,
        )


def _make_kernel(config: Config, max_clients: int) -> Kernel:
    session, outbox = config.session, config.outbox
    return Kernel(
        max_clients + (SPARE_IN_A_CLUSTER if config.cluster.node else SPARE_CONNECTIONS),
        auto_replies={Op.PING: Op.PONG},
        greeting_timeout_s=session.hello_timeout_s,
        linger_s=session.linger_s,
        stall_timeout_s=session.stall_timeout_s,
        max_outbox_bytes=outbox.session_bytes,
        max_total_outbox_bytes=outbox.total_bytes,
        refusal=encode(Op.CLOSE, Close(Code.OVERLOADED, "the node is full", 5000)),
    )


def _rate(rate: object) -> Rate:
    return Rate(rate.per_s, rate.burst)  # type: ignore[attr-defined]


def _registration(session: Session) -> Registration:
    ids = (session.user_id, session.device_id, session.session_id)
    return Registration(*ids, SessionId(0), int(session.expires_s))


def _peers(workers: Workers, node: int) -> dict[WorkerId, Peer]:
    """Everybody who can be reached: by path within the node, by address elsewhere."""
    places = {
        worker: Peer(record.incarnation, record.address if node_of(worker) == node else record.host_address)
        for worker, record in workers.items()
    }
    return {worker: peer for worker, peer in places.items() if peer.address}
