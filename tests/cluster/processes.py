"""Several processes' worth of links in one Trio run: each with its own kernel, its own pump, real sockets.

Every process listens on a Unix socket; in a cluster whose transport is "tcp", or with settings of its own that hold a key, on
TCP as well, and is named by that address to the others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from gateway.cluster.links import LINK_LISTENERS, LinkKey, Links, LinkSettings, Peer, Reply
from gateway.protocol.identifiers import WorkerId
from gateway.pump import ACCEPTED, Event, Pump

try:
    from gateway._framing import Kernel
except ImportError:
    from gateway._framing_py import Kernel  # type: ignore[assignment]

KEY = LinkKey("today", b"a secret that all nodes share")
UNIX, TCP = LinkSettings(), LinkSettings(keys=(KEY,))


class Process:
    """What a worker has of the cluster. ``stop`` ends it as SIGKILL would: no goodbye, its sockets close."""

    def __init__(
        self,
        worker: WorkerId,
        incarnation: int,
        address: str,
        now_s: Callable[[], float],
        settings: LinkSettings = UNIX,
    ) -> None:
        self.kernel = Kernel(128, max_outbox_bytes=1 << 20)
        self.pump = Pump(self.kernel, self.dispatch)
        self.links = Links(
            self.kernel, worker, incarnation, flush_soon=self.pump.flush_soon, now_s=now_s, settings=settings
        )
        self.links.listen(address)
        self.port = self.links.listen_tcp("127.0.0.1", 0) if settings.keys else 0
        self.worker = worker
        self.incarnation = incarnation
        self.address = address
        self.conns: list[int] = []
        """Accepted link connections."""
        self.scope = trio.CancelScope()

    @property
    def peer(self) -> Peer:
        return Peer(self.incarnation, self.links.host_address or self.address)

    def dispatch(self, events: list[Event]) -> None:
        for conn, op, tag, body in events:
            if op == ACCEPTED and tag in LINK_LISTENERS:
                self.conns.append(conn)
            self.links.on_event(conn, op, tag, body)
        self.links.run_pending()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.pump.run)
                await nursery.start(self.links.run)
                task_status.started()
        self.links.close()
        self.kernel.shutdown()

    def stop(self) -> None:
        self.scope.cancel()


class Clock:
    """The links' clock, as far as a test moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Cluster:
    def __init__(self, directory: Path, nursery: trio.Nursery, settings: LinkSettings = UNIX) -> None:
        self.directory = directory
        self.settings = settings
        self.nursery = nursery
        self.clock = Clock()
        self.processes: list[Process] = []

    async def start(self, worker: int, incarnation: int = 1, settings: LinkSettings | None = None) -> Process:
        address = str(self.directory / f"{worker}-{incarnation}.sock")
        process = Process(WorkerId(worker), incarnation, address, self.clock, settings or self.settings)
        self.processes.append(process)
        await self.nursery.start(process.run)
        return process

    async def start_all(self, *workers: int) -> list[Process]:
        processes = [await self.start(worker) for worker in workers]
        self.introduce(*processes)
        return processes

    @staticmethod
    def introduce(*processes: Process) -> None:
        for process in processes:
            process.links.set_peers({other.worker: other.peer for other in processes})


class Inbox:
    """Collects what callbacks are called with; ``await inbox.get()`` is the next one."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[tuple[object, ...]](100_000)
        self.seen: list[tuple[object, ...]] = []

    def __call__(self, *arguments: object) -> None:
        self.seen.append(arguments)
        self._send.send_nowait(arguments)

    async def get(self) -> tuple[object, ...]:
        with trio.fail_after(10):
            return await self._receive.receive()

    async def take(self, count: int) -> list[tuple[object, ...]]:
        return [await self.get() for _ in range(count)]


def echo(worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
    """A handler: what was asked."""
    assert reply is not None
    reply.reply(payload)


def answer_nothing(worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
    """A handler: the empty answer."""
    assert reply is not None
    reply.reply(b"")
