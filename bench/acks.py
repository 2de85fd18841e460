"""The ACKs of a bench's devices: what a client owes the server while it receives.

Every device acknowledges what is new every 200 ms, the most that the protocol asks of a client. A tenth of the devices
does so every 20 ms: all at once would be a burst that no real crowd of clients makes.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.chain import Chain
from bench.generator import Generator
from gateway.protocol.frames import encode
from gateway.protocol.messages import Ack, Cursor, Op

SLICES = 10
SLICE_NS = 20_000_000


class Acks:
    def __init__(self, chains: Sequence[tuple[int, Chain]]) -> None:
        """``chains``: each with the connection that it was seen on."""
        self._slices = [chains[first::SLICES] for first in range(SLICES)]
        self._next_slice = 0
        self._due_ns = 0
        self._acknowledged = {conn: chain.start for conn, chain in chains}
        self.sent = 0

    def send_due(self, generator: Generator) -> None:
        if generator.now_ns < self._due_ns:
            return
        self._due_ns = generator.now_ns + SLICE_NS
        for conn, chain in self._slices[self._next_slice]:
            if chain.last > self._acknowledged[conn]:
                self._acknowledged[conn] = chain.last
                self.sent += 1
                generator.kernel.send(conn, encode(Op.ACK, Ack([Cursor(chain.chat_id, chain.last)])))
        self._next_slice = (self._next_slice + 1) % SLICES
