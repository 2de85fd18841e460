"""The composition root: with ``backends.py``, the only file that names concrete backends.

Owns the two main functions: ``serve`` (the supervisor's process) and ``python -m gateway.app worker`` (one worker's).
What is chosen by the configuration is chosen here; everything below sees ports.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from functools import partial
from pathlib import Path

import structlog
import trio
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gateway import checkup, host, keyfiles, logs
from gateway.backends import NameUnknown, link_addresses, node_directory, open_backends
from gateway.cluster.directory import DirectoryUnavailable
from gateway.cluster.links import SUPERVISOR, Links, Peer, Reply
from gateway.cluster.wire import LinkOp
from gateway.config import Config, ConfigError
from gateway.net.credentials import ResumeTokens, TokenKey, TokenVerifier
from gateway.node.banner import announce
from gateway.node.errors import CannotServe
from gateway.node.ports import bind
from gateway.node.process import WAITING_STATUS
from gateway.node.spec import MAX_SPEC_BYTES, WorkerSpec, decode_spec
from gateway.ops.findings import Finding
from gateway.protocol.identifiers import WorkerId
from gateway.supervisor import supervise
from gateway.worker import CannotListen, Identity, LinkPlace, Secrets, Worker
from storage.api import StoreError, StoreTimedOut, StoreUnavailable

WORKER_COMMAND = (sys.executable, "-m", "gateway.app", "worker")
YOUNG_OBJECTS = 50_000
"""Before a collection: a worker's objects are few and long-lived, and a collection looks at all of them in the end."""

SWITCH_INTERVAL_S = 0.0005
"""How long the Trio thread may keep the interpreter from the store's writer, which wants it a few times per commit: at
CPython's 5 ms, direct pairs were 13 % slower (two paired runs of ``bench pairs``)."""

log = structlog.get_logger(__name__)


def serve(config: Config) -> int:
    """Run a node until it is told to end. Returns the process's exit status; an expected fault is one line on stderr."""
    logs.configure(config.serve.log_level, sys.stderr)
    status = 0
    try:
        trio.run(supervise, config, WORKER_COMMAND, announce, node_directory(config))
    except* (CannotServe, ConfigError, OSError) as group:
        print(f"parley: {_first(group)}", file=sys.stderr)
        status = 1
    return status


def doctor(config: Config) -> int:
    """Say what this host can hold, and what the servers that the node needs lack. Exit status 1: it would not serve."""
    try:
        elsewhere = trio.run(checkup.examine, config) if config.cluster.node else []
    except ConfigError as error:
        elsewhere = [Finding("configuration", False, str(error), "mend it")]
    return host.doctor(config, elsewhere)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first leaf of a group: what a person is told."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def read_secrets(config: Config) -> Secrets:
    """Raises ConfigError."""
    data = Path(config.serve.data)
    keys = {}
    for key in keyfiles.verification_keys(config.auth, data):
        material = load_pem_public_key(key.material) if key.algorithm == "EdDSA" else key.material
        keys[key.kid] = TokenKey(key.algorithm, material)
    return Secrets(TokenVerifier(keys, config.auth.algorithms), ResumeTokens(keyfiles.resume_key(config.auth, data)))


# ------------------------------------------------------------------------------------------------- a worker


def run_worker() -> int:
    """The main function of a worker: its spec comes on stdin, whose end is the end of the supervisor."""
    spec = decode_spec(_read_line(sys.stdin.fileno()))
    config = spec.config
    logs.configure(config.serve.log_level, sys.stderr, worker=spec.worker_id)
    gc.set_threshold(YOUNG_OBJECTS, 20, 100)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    status = 0
    try:
        trio.run(partial(_serve_clients, spec))
    except* (StoreError, DirectoryUnavailable, ConfigError, CannotServe, CannotListen, NameUnknown) as group:
        error = _first(group)
        is_elsewhere = config.cluster.node > 0 and isinstance(error, WAITED_FOR)
        log.error("worker_waits" if is_elsewhere else "worker_cannot_serve", error=str(error))
        status = WAITING_STATUS if is_elsewhere else 1
    return status


WAITED_FOR = (StoreUnavailable, StoreTimedOut, DirectoryUnavailable, NameUnknown)
"""What others serve may come back: the worker is started again until it does."""


def _read_line(fd: int) -> bytes:
    """One line, and not a byte beyond it: what follows is the lifeline's."""
    with os.fdopen(os.dup(fd), "rb", buffering=0) as stream:
        return stream.readline(MAX_SPEC_BYTES)


async def _serve_clients(spec: WorkerSpec) -> None:
    identity = Identity(
        WorkerId(spec.worker_id),
        spec.incarnation,
        spec.link_address,
        Peer(spec.supervisor_incarnation, spec.supervisor_address),
        await _link_place(spec),
    )
    config = spec.config
    backends = open_backends(config, identity.supervisor, spec.workers)
    worker = Worker(config, identity, backends, read_secrets(config), spec.max_clients)
    worker.links.register(LinkOp.METRICS, partial(_answer_metrics, worker))
    worker.links.register(LinkOp.HEARTBEAT, _answer_heartbeat)
    worker.links.register(LinkOp.DRAIN, lambda peer, payload, reply: worker.drain(is_node=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_with_the_supervisor)
        nursery.start_soon(_drain_on_signal, worker)
        on_ready = partial(_say_ready, worker.links)
        await worker.run(partial(bind, spec.host, spec.port), on_ready)
        nursery.cancel_scope.cancel()


async def _link_place(spec: WorkerSpec) -> LinkPlace | None:
    """Names are looked up once, here: what workers tell each other are numbers. Raises NameUnknown."""
    cluster = spec.config.cluster
    if not cluster.node:
        return None
    advertised, bound = await link_addresses(cluster)
    return LinkPlace(bound, cluster.link_port and cluster.link_port + spec.number - 1, advertised)


def _answer_heartbeat(peer: WorkerId, payload: bytes, reply: Reply | None) -> None:
    if reply is not None:
        reply.reply(b"")


def _answer_metrics(worker: Worker, peer: WorkerId, payload: bytes, reply: Reply | None) -> None:
    if reply is not None:
        reply.reply(worker.scrape())


def _say_ready(links: Links) -> None:
    gc.collect()
    gc.freeze()
    links.send(SUPERVISOR, LinkOp.READY, b"")


async def _end_with_the_supervisor() -> None:
    """Nobody restarts or drains an orphan, and the next start wants its data: it ends at once."""
    os.set_blocking(sys.stdin.fileno(), False)
    stream = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    while await stream.receive_some(4096):
        pass
    log.warning("supervisor_gone")
    os._exit(1)


async def _drain_on_signal(worker: Worker) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if number == signal.SIGTERM:
                worker.drain()


if __name__ == "__main__":
    sys.exit(run_worker())
