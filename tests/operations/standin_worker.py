"""A worker that serves nobody: the supervisor's side of a worker's life, and nothing else. Run as a program.

Arguments: the path of a Unix datagram socket that it reports to (one line of JSON a step), then what it does:
``serve``: ready, answers METRICS, ends when drained; ``fail``: ends with status 3 before it is ready; ``wait``: ends as one
that cannot reach its servers; ``mute``: ready, then never answers METRICS; ``babble``: answers METRICS with no such text;
``stay``: does not end when it is drained.
"""

from __future__ import annotations

import json
import os
import socket
import sys

import trio

from gateway.cluster.links import SUPERVISOR, Links, Peer, Reply
from gateway.cluster.wire import LinkOp
from gateway.metrics import WorkerCollector, WorkerMetrics, exposition
from gateway.node.process import WAITING_STATUS
from gateway.node.spec import WorkerSpec, decode_spec
from gateway.protocol.identifiers import WorkerId
from gateway.pump import Event, Kernel, Pump


class StandIn:
    def __init__(self, spec: WorkerSpec, reports: socket.socket, behaviour: str) -> None:
        self.spec = spec
        self.reports = reports
        self.behaviour = behaviour
        self.metrics = WorkerMetrics()
        self.metrics.sends = 100 * spec.worker_id
        self.kernel = Kernel(64)
        self.pump = Pump(self.kernel, self.dispatch)
        self.links = Links(self.kernel, WorkerId(spec.worker_id), spec.incarnation, flush_soon=self.pump.flush_soon)
        self.drained = trio.Event()

    def report(self, step: str) -> None:
        line = {"step": step, "worker": self.spec.worker_id, "pid": os.getpid(), "incarnation": self.spec.incarnation}
        self.reports.send(json.dumps(line).encode())

    def dispatch(self, events: list[Event]) -> None:
        for event in events:
            self.links.on_event(*event)
        self.links.run_pending()

    async def run(self) -> None:
        self.links.register(LinkOp.METRICS, self.on_metrics)
        self.links.register(LinkOp.DRAIN, self.on_drain)
        self.links.listen(self.spec.link_address)
        self.links.set_peers({SUPERVISOR: Peer(self.spec.supervisor_incarnation, self.spec.supervisor_address)})
        async with trio.open_nursery() as nursery:
            await nursery.start(self.pump.run)
            await nursery.start(self.links.run)
            nursery.start_soon(self.end_with_the_lifeline)
            self.links.send(SUPERVISOR, LinkOp.READY, b"")
            await self.drained.wait()
            nursery.cancel_scope.cancel()
        self.report("drained")

    def on_metrics(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        if reply is not None and self.behaviour == "babble":
            reply.reply(b"a { b = nonsense")
        elif reply is not None and self.behaviour != "mute":
            reply.reply(exposition(WorkerCollector(self.metrics)))

    def on_drain(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        self.report("asked to drain")
        if self.behaviour != "stay":
            self.drained.set()

    async def end_with_the_lifeline(self) -> None:
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as lifeline:
            while await lifeline.receive_some():
                pass
        self.report("lifeline cut")
        os._exit(0)


def main() -> int:
    path, behaviour = sys.argv[1:]
    with (
        open(0, "rb", buffering=0, closefd=False) as stdin,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reports,
    ):
        spec = decode_spec(stdin.readline())
        reports.connect(path)
        stand_in = StandIn(spec, reports, behaviour)
        stand_in.report("started")
        if behaviour in ("fail", "wait"):
            return WAITING_STATUS if behaviour == "wait" else 3
        trio.run(stand_in.run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
