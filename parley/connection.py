"""One byte stream and the protocol on it: typed messages in, frames out, and when either last happened.

It must not know what messages ask of a client. Reading is done by one task, writing by another. Bounds: a frame as
large as was granted; MAX_UNSENT_BYTES waiting to be written, beyond which nothing is read (whoever makes this client
answer must take the answers).
"""

from __future__ import annotations

import msgspec
import trio

from gateway.protocol.events import Ended, Pause, Received
from gateway.protocol.messages import Op
from gateway.protocol.session import Session as Protocol
from gateway.protocol.session import Side, State

RECEIVE_BYTES = 65_536
MAX_UNSENT_BYTES = 1 << 20

_OVER = frozenset({State.CLOSING, State.CLOSED})


class Connection:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._protocol = Protocol(Side.CLIENT)
        self._unsent = bytearray()
        self._unsent_some = trio.Event()
        self._unsent_room = trio.Event()
        self._written = trio.Event()
        self._is_torn = False
        self.last_received_at = self.last_sent_at = trio.current_time()

    @property
    def is_over(self) -> bool:
        """One side has said its last: nothing may be posted any more."""
        return self._protocol.state in _OVER

    @property
    def max_body(self) -> int:
        return self._protocol.max_body

    async def receive(self) -> Received | Ended | None:
        """The next message, or the server's last word, or None when the stream ended without one.

        Raises ProtocolError when the server breaks the protocol.
        """
        while True:
            event = self._protocol.next_event()
            if isinstance(event, Received | Ended):
                return event
            if event is Pause.NEED_DATA and not await self._read():
                self._protocol.receive_end()
                return None

    async def _read(self) -> bool:
        while len(self._unsent) > MAX_UNSENT_BYTES:
            self._unsent_room = trio.Event()
            await self._unsent_room.wait()
        try:
            piece = await self._stream.receive_some(RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        self.last_received_at = trio.current_time()
        self._protocol.receive_bytes(piece)
        return bool(piece)

    def post(self, op: Op, body: msgspec.Struct | None = None, rid: int = 0) -> None:
        """Queue a frame; ``run_writer`` sends it with whatever else was queued meanwhile."""
        self._unsent += self._protocol.send(op, body, rid=rid)
        self._unsent_some.set()

    async def run_writer(self) -> None:
        """Send what is posted, until the connection breaks: the reader then hears of it, after the server's last
        words.
        """
        while await self.flush():
            self._unsent_some = trio.Event()
            await self._unsent_some.wait()

    async def flush(self) -> bool:
        """Send what is posted now; False if that is no longer possible. Not beside ``run_writer``."""
        while self._unsent and not self._is_torn:
            data, self._unsent = self._unsent, bytearray()
            self._unsent_room.set()
            self._is_torn = True  # until it is all sent: a cancelled send leaves an unknown part of a frame behind
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                break
            self._is_torn = False
            self.last_sent_at = trio.current_time()
        self._written.set()
        return not self._is_torn

    async def wait_written(self) -> None:
        """Until what is posted now was sent, or cannot be."""
        self._written = trio.Event()
        self._unsent_some.set()
        await self._written.wait()
