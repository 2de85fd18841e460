"""The supervisor: makes workers one node, and serves no client.

Owns the data directory's lock, the clients' port (reserved, never listened on), the workers' lives, the directory of a
node that has no cluster, and the operations endpoint. It must not know what a worker does: it starts a program, hears
READY, asks for METRICS, says DRAIN, and ends who answers nothing.

Invariants: a worker that ended is out of the embedded directory before it is started again; nothing of a node outlives
``run``, and the workers do not outlive a supervisor that was killed; ready is said once, when every worker is.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog
import trio

from gateway.cluster.link_requests import Answer, LinkLost
from gateway.cluster.links import SUPERVISOR, Links, Peer, Reply
from gateway.cluster.wire import LinkOp
from gateway.config import Config
from gateway.keyfiles import link_secrets, resume_key, verification_keys
from gateway.node import ports
from gateway.node.banner import Ready
from gateway.node.errors import CannotServe
from gateway.node.lock import DirectoryLock
from gateway.node.process import WorkerProcess
from gateway.node.rundir import RunDirectory
from gateway.node.sizing import Sizing, raise_file_limit, size_node
from gateway.node.spec import WorkerSpec
from gateway.node.watchdog import PERIOD_S, Watchdog
from gateway.node_directory import DirectorySizes, EmbeddedDirectory, MakeDirectory
from gateway.ops import http
from gateway.ops.figures import Pages, WorkerState
from gateway.protocol.identifiers import WorkerId, worker_of
from gateway.pump import Event, Kernel, Pump

MAX_LINKS = 4096
"""Two connections to each worker, of which there are at most 1,024, and room for those that are being replaced."""

SWEEP_S = 1.0
DRAIN_GRACE_S = 8.0
"""After ``drain_timeout_s``: for releasing slots, finishing commits, saying goodbye. Then the lifeline is cut."""
LIFELINE_GRACE_S = 3.0

LIFE_BITS = 20
"""An incarnation is the directory's generation and the count of lives within it."""

log = structlog.get_logger(__name__)


class WorkersFailed(CannotServe):
    """A worker cannot be started, again and again."""


async def supervise(
    config: Config,
    command: Sequence[str],
    announce: Callable[[Ready], None],
    make_directory: MakeDirectory = EmbeddedDirectory,
) -> None:
    """Run a node until it is told to end (SIGTERM, SIGINT; twice: at once).

    ``command`` is the worker's program; it reads a WorkerSpec from its stdin. Raises ConfigError, CannotServe, OSError.
    """
    data = Path(config.serve.data)
    lock = DirectoryLock(data)
    await lock.acquire()
    try:
        verification_keys(config.auth, data)
        resume_key(config.auth, data)
        link_secrets(config.cluster)
        with (
            ports.reserve(config.serve.host, config.serve.port, "port") as reserved,
            ports.listen_alone(config.serve.ops_host, config.serve.ops_port, "ops_port") as operations,
        ):
            node = Supervisor(config, command, lock, reserved.getsockname()[1], make_directory=make_directory)
            ready = Ready(
                *(config.serve.host, node.port, config.serve.ops_host, operations.getsockname()[1]),
                *(node.sizing.workers, config.serve.data, config.cluster.node),
            )
            await node.run(operations, lambda: announce(ready))
    finally:
        lock.release()


class Supervisor:
    """One node. ``run`` once. It is its workers' ``Watcher`` and the pages' ``NodeView``."""

    def __init__(
        self,
        config: Config,
        command: Sequence[str],
        lock: DirectoryLock,
        port: int,
        *,
        make_directory: MakeDirectory = EmbeddedDirectory,
        drain_grace_s: float = DRAIN_GRACE_S,
    ) -> None:
        self.config = config
        self.port = port
        self.sizing = _size(config)
        self.is_draining = False
        self._drain_grace_s = drain_grace_s
        self._sockets = RunDirectory(Path(config.serve.data))
        self._lives = lock.generation << LIFE_BITS
        self._incarnation = self._lives
        self._peers: dict[WorkerId, Peer] = {}
        self._failed: WorkerId | None = None
        self._all_ready = trio.Event()
        self._ending = trio.Event()
        self._kernel = Kernel(MAX_LINKS)
        self._pump = Pump(self._kernel, self._dispatch)
        self._links = Links(self._kernel, SUPERVISOR, self._incarnation, flush_soon=self._pump.flush_soon)
        self._directory = make_directory(self._links, self.sizing.workers)
        self._watchdog = Watchdog(config.serve.hung_timeout_s)
        ids = [worker_of(config.cluster.node, number) for number in range(1, self.sizing.workers + 1)]
        self._numbers = {worker_id: number for number, worker_id in enumerate(ids, 1)}
        self._workers = [WorkerProcess(worker_id, command, self._spec_of, self, lock.descriptor) for worker_id in ids]

    # ------------------------------------------------------------------------------------------ running

    async def run(self, operations: socket.socket, on_ready: Callable[[], None]) -> None:
        """Until drained. ``operations``: the listening socket of the operations endpoint. Raises WorkersFailed."""
        self._sockets.open()
        self._links.register(LinkOp.READY, self._on_ready)
        self._links.listen(self._sockets.socket_of(SUPERVISOR, self._incarnation))
        try:
            async with trio.open_nursery() as nursery:
                for service in (self._pump.run, self._links.run, self._directory.run):
                    await nursery.start(service)
                await nursery.start(http.serve, operations, Pages(self._links, self).routes())
                for task in (self._sweep, self._heed_signals, self._end_on_request, self._watch):
                    nursery.start_soon(task)
                nursery.start_soon(self._announce, on_ready)
                async with trio.open_nursery() as lives:
                    for worker in self._workers:
                        lives.start_soon(worker.run)
                nursery.cancel_scope.cancel()
        finally:
            self._links.close()
            self._kernel.shutdown()
        if self._failed is not None:
            raise WorkersFailed(f"worker {self._failed} ended again and again before it was ready: its log says why")

    async def _announce(self, on_ready: Callable[[], None]) -> None:
        await self._all_ready.wait()
        on_ready()

    async def _heed_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for number in received:
                log.info("signal", name=signal.Signals(number).name)
                if self.is_draining:
                    self.kill()
                self.drain()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            for conn, _ in self._kernel.sweep(int(time.monotonic())):
                self._links.on_swept(conn)
            self._pump.flush_soon()

    async def _watch(self) -> None:
        """End the workers that hang: by SIGKILL, since one that was stopped hears nothing else."""
        while self.config.serve.hung_timeout_s:
            await trio.sleep(PERIOD_S)
            serving = {self._peers[w.worker_id].incarnation: w for w in self._workers if w.is_ready}
            for incarnation in self._watchdog.tick(serving, time.monotonic()):
                hung = serving.pop(incarnation)
                log.error("worker_hung", worker=hung.worker_id, silent_s=self.config.serve.hung_timeout_s)
                hung.kill()
            for incarnation, worker in serving.items():
                self._links.request(worker.worker_id, LinkOp.HEARTBEAT, b"", partial(self._on_heartbeat, incarnation))
            self._pump.flush_soon()

    def _on_heartbeat(self, incarnation: int, answer: Answer) -> None:
        """Any answer is a sign of life, also that it is too busy for one."""
        if not isinstance(answer, LinkLost):
            self._watchdog.heard(incarnation)

    def _dispatch(self, events: list[Event]) -> None:
        for conn, op, tag, body in events:
            self._links.on_event(conn, op, tag, body)
        self._links.run_pending()

    # ------------------------------------------------------------------------------------------- ending

    def drain(self) -> None:
        """Ask the workers to let their clients go, and to end. Idempotent."""
        self.is_draining = True
        self._ending.set()

    def kill(self) -> None:
        """End the workers now. What was acknowledged is durable."""
        self.drain()
        for worker in self._workers:
            worker.kill()

    async def _end_on_request(self) -> None:
        await self._ending.wait()
        for worker in self._workers:
            worker.stop()
            # A worker that does not serve yet has nobody to let go; one that cannot be told must end all the same.
            if not (worker.is_ready and self._links.send(worker.worker_id, LinkOp.DRAIN, b"")):
                await worker.cut_lifeline()
        await trio.sleep(self.config.serve.drain_timeout_s + self._drain_grace_s)
        log.warning("drain_overdue", workers=[worker.worker_id for worker in self._workers if worker.is_running])
        for worker in self._workers:
            await worker.cut_lifeline()
        await trio.sleep(LIFELINE_GRACE_S)
        self.kill()

    # ------------------------------------------------------------------------------ what workers are told of

    def _spec_of(self, worker_id: WorkerId) -> WorkerSpec:
        """Of the worker's next life."""
        self._lives += 1
        return WorkerSpec(
            config=self.config,
            worker_id=worker_id,
            number=self._numbers[worker_id],
            incarnation=self._lives,
            link_address=self._sockets.socket_of(worker_id, self._lives),
            supervisor_address=self._links.address,
            supervisor_incarnation=self._incarnation,
            host=self.config.serve.host,
            port=self.port,
            workers=self.sizing.workers,
            max_clients=self.sizing.max_clients,
        )

    def started(self, spec: WorkerSpec) -> None:
        self._peers[WorkerId(spec.worker_id)] = Peer(spec.incarnation, spec.link_address)
        self._links.set_peers(self._peers)

    def ended(self, spec: WorkerSpec) -> None:
        worker_id = WorkerId(spec.worker_id)
        self._peers.pop(worker_id, None)
        self._links.set_peers(self._peers)
        self._directory.remove_worker(worker_id, spec.incarnation)
        Path(spec.link_address).unlink(missing_ok=True)

    def gave_up(self, worker_id: WorkerId) -> None:
        self._failed = worker_id
        self.drain()

    def _on_ready(self, worker_id: WorkerId, _payload: bytes, reply: Reply | None) -> None:
        self._workers[self._numbers[worker_id] - 1].became_ready()
        if reply is not None:
            reply.reply(b"")
        if not self.is_draining and all(worker.is_ready for worker in self._workers):
            self._all_ready.set()

    # --------------------------------------------------------------------------------- what pages show of us

    def worker_states(self) -> list[WorkerState]:
        return [WorkerState(worker.worker_id, worker.is_ready, worker.restarts) for worker in self._workers]

    def directory_sizes(self) -> DirectorySizes | None:
        return self._directory.sizes()


def _size(config: Config) -> Sizing:
    serve = config.serve
    sizing = size_node(serve.max_connections, serve.workers, len(os.sched_getaffinity(0)), raise_file_limit())
    if sizing.missing:
        log.warning(
            "file_limit_too_low",
            max_connections=serve.max_connections,
            missing=sizing.missing,
            mend="parley doctor says how to raise it, or give more workers",
        )
    return sizing
