"""The load generator's loop: thousands of client connections in one process, over the same kernel as the node's.

Owns the sockets, the clock of a cycle, and the account of how busy the generator itself is. It must not know what a
frame says (``session.py``), nor what is measured. Invariant: nothing is sent but by ``turn``, which flushes what the
last turn's events caused, waits, and returns the next events; so whatever a cycle sends leaves in one write a socket.

Plain select() and no event loop: node and generator share the machine, and every microsecond spent here is missing
there. The kernel's C does the framing; without the extension its twin does, and the figures are the twin's.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import select
import socket
import time
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from bench.faults import BenchError
from bench.figures import Histogram
from gateway.protocol.messages import Op

try:
    from gateway._framing import CLOSED, Kernel

    IS_COMPILED = True
except ImportError:  # no extension was built
    from gateway._framing_py import CLOSED, Kernel  # type: ignore[assignment]

    IS_COMPILED = False

__all__ = ["CLOSED", "IS_COMPILED", "MAX_EVENTS", "Event", "Generator", "Kernel", "generator", "wait_readable"]

Event: TypeAlias = "tuple[int, int, int, bytes]"
"""(conn, op, tag, body), as ``Kernel.poll`` returns it; the low 16 bits of tag are the rid."""

MAX_EVENTS = 8192
CONNECT_TIMEOUT_S = 10.0
CONNECTIONS_A_SOURCE = 10_000
"""One source address has 28,232 ports by default, and TIME_WAIT keeps each for a minute after use."""

EVEN_AFTER = 16
"""Of so many connections a node, each node has its share exactly."""

LARGEST_FRAME = 1 << 24
OUTBOX_BYTES = 1 << 22
_IP_BIND_ADDRESS_NO_PORT = 24
_SELECT_LIMIT = 1024


def wait_readable(fd: int, timeout_s: float) -> None:
    """select() keeps microseconds; poll() rounds up to milliseconds, which at 2,000 messages/s would be lateness."""
    if fd < _SELECT_LIMIT:
        select.select((fd,), (), (), timeout_s)
    else:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.poll(timeout_s * 1000)


class Generator:
    def __init__(self, addresses: Sequence[tuple[str, int]], max_connections: int) -> None:
        """``addresses``: of the nodes; connections are spread over them evenly, see ``shuffled``."""
        self.kernel = Kernel(
            max_connections,
            auto_replies={Op.PING: Op.PONG},
            max_outbox_bytes=OUTBOX_BYTES,
        )
        self.busy = Histogram()
        """How long each cycle was at work, from the events to the next wait: what it adds to every latency."""
        self.now_ns = time.perf_counter_ns()
        """When the events of this turn were taken from the sockets."""
        self._addresses = shuffled(addresses)
        self._sources = _sources(addresses[0][0])

    def connect(self) -> int:
        """A new connection, in TCP's sense; frames of any size are taken from it, without a window or a time limit."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        address = next(self._addresses)
        try:
            sock.settimeout(CONNECT_TIMEOUT_S)
            source = next(self._sources)
            if source:
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            sock.connect(address)
            sock.setblocking(False)
            conn = self.kernel.adopt(sock.detach())
        except OSError as error:
            sock.close()
            raise BenchError(f"cannot connect to {address[0]}:{address[1]}: {error}") from error
        self.kernel.admit(conn, max_frame=LARGEST_FRAME, window=0, timeout_s=0)
        return conn

    def turn(self, timeout_s: float) -> Sequence[Event]:
        """Flush, wait for input (``timeout_s`` at most; 0: not at all), and return the events."""
        self.kernel.flush()
        if not self.kernel.has_backlog:
            self.busy.record((time.perf_counter_ns() - self.now_ns) // 1000)
            wait_readable(self.kernel.fileno(), timeout_s)
        self.now_ns = time.perf_counter_ns()
        return self.kernel.poll(MAX_EVENTS, int(time.monotonic()))

    def forget_busy(self) -> None:
        """Begin the account of the cycles anew: the warm-up is over."""
        self.busy = Histogram()

    def close(self) -> None:
        self.kernel.shutdown()


def shuffled(addresses: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Each address equally often, in an order that is no pattern and always the same.

    Taken in turns, the two of every pair would be on different nodes (or never), whereas of people who write to each
    other one in N is on the same of N nodes.
    """
    order = random.Random(len(addresses))
    while True:
        block = [*addresses] * EVEN_AFTER
        order.shuffle(block)
        yield from block


def _sources(host: str) -> Iterator[str]:
    """Source addresses for connections to ``host``: on loopback many, for their ports; elsewhere the system's."""
    if not host.startswith("127."):
        yield from itertools.repeat("")
    for number in itertools.count():
        block = number // CONNECTIONS_A_SOURCE % 250
        yield f"127.0.0.{1 + block}"


@contextlib.contextmanager
def generator(addresses: Sequence[tuple[str, int]], max_connections: int) -> Iterator[Generator]:
    made = Generator(addresses, max_connections)
    try:
        yield made
    finally:
        made.close()
