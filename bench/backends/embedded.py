"""The directory of an embedded node: a supervisor's in a process of its own, and a worker's view of it here.

``python -m bench.backends.embedded SOCKET`` is the supervisor. It ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from gateway.cluster.directory import Directory
from gateway.cluster.directory_client import DirectoryClient
from gateway.cluster.directory_server import DirectoryServer
from gateway.cluster.directory_table import DirectoryTable
from gateway.cluster.links import SUPERVISOR, Links, Peer
from gateway.protocol.identifiers import WorkerId
from gateway.pump import Event, Kernel, Pump

INCARNATION = 1
MAX_LINKS = 64
OUTBOX_BYTES = 64 << 20
START_TIMEOUT_S = 20.0
READY = b"ready\n"


class _Process:
    """What a process has of the links: a kernel, its pump, and who listens where."""

    def __init__(self, worker: WorkerId, address: str) -> None:
        self.kernel = Kernel(MAX_LINKS, max_outbox_bytes=OUTBOX_BYTES)
        self.pump = Pump(self.kernel, self._dispatch)
        self.links = Links(self.kernel, worker, INCARNATION, flush_soon=self.pump.flush_soon)
        self.links.listen(address)

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            self.links.on_event(*event)
        self.links.run_pending()

    async def start(self, nursery: trio.Nursery) -> None:
        await nursery.start(self.pump.run)
        await nursery.start(self.links.run)

    def close(self) -> None:
        self.links.close()
        self.kernel.shutdown()


@contextlib.asynccontextmanager
async def embedded_directory() -> AsyncIterator[tuple[Directory, int]]:
    """A worker's view, before ``join``; and the supervisor's process id."""
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        address = str(Path(folder) / "supervisor.sock")
        async with trio.open_nursery() as nursery, _supervisor(address) as pid:
            process = _Process(WorkerId(1 << 10 | 1), str(Path(folder) / "worker.sock"))
            await process.start(nursery)
            client = DirectoryClient(process.links, Peer(INCARNATION, address))
            await nursery.start(client.run)
            yield client, pid
            nursery.cancel_scope.cancel()
        process.close()


@contextlib.asynccontextmanager
async def _supervisor(address: str) -> AsyncIterator[int]:
    """Ended by the end of its input, whatever happens here."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "bench.backends.embedded", address],
        stdin=-1,
        stdout=-1,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with trio.fail_after(START_TIMEOUT_S):
            said = b""
            while READY not in said:
                said += await process.stdout.receive_some(1024) or READY
        yield process.pid
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            await process.wait()


async def _serve(address: str) -> None:
    process = _Process(SUPERVISOR, address)
    try:
        async with trio.open_nursery() as nursery:
            await process.start(nursery)
            await nursery.start(DirectoryServer(process.links, DirectoryTable()).run)
            os.write(sys.stdout.fileno(), READY)
            async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as ends:
                while await ends.receive_some(64):
                    pass
            nursery.cancel_scope.cancel()
    finally:
        process.close()


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1])
