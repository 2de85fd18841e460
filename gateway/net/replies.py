"""What the server says to one connection: answers, errors, endings.

Owns the last step before the kernel, and what happens when the kernel refuses: a connection that cannot take an answer is
a slow consumer, and is told so. Invariant: whoever ends a connection says why first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.metrics import WorkerMetrics
from gateway.net.sessions import Session
from gateway.protocol.errors import Code, ProtocolError, ends_connection
from gateway.protocol.frames import encode, encode_payload
from gateway.protocol.messages import Close, Error, Op

if TYPE_CHECKING:
    from gateway._framing import Kernel


class Replies:
    def __init__(self, kernel: Kernel, metrics: WorkerMetrics, forget: Callable[[Session], bool]) -> None:
        """``forget``: the session's end, for everybody who knows of it; False: it had ended."""
        self._kernel = kernel
        self._metrics = metrics
        self._forget = forget

    def answer(self, session: Session, rid: int, op: int, payload: bytes) -> None:
        if op == Op.ERROR:
            self._metrics.errors[_code_of(payload)] += 1
        if not self._kernel.send(session.conn, encode_payload(op, payload, rid=rid)):
            self._not_taken(session)

    def _not_taken(self, session: Session) -> None:
        """The connection has gone, and its session is about to; or its outbox is at the bound that even answers have."""
        if self._kernel.outbox_bytes(session.conn) and self._forget(session):
            self._metrics.slow_consumers += 1
            self.end(session.conn, Code.SLOW_CONSUMER, "you read too slowly")

    def refuse(self, conn: int, rid: int, error: ProtocolError, *, is_hello: bool = False) -> bool:
        """ERROR for a request. Returns True if it ended the connection. With rid 0 only such an end is told, and a
        HELLO's refusal, for which the client waits whatever its rid."""
        code = error.code
        self._metrics.errors[code] += 1
        is_end = ends_connection(code)
        if rid or is_end or is_hello:
            body = Error(code, error.message, error.retry_after_ms, error.detail)
            self._kernel.send(conn, encode(Op.ERROR, body, rid=rid))
        if is_end:
            self._kernel.close(conn)
        return is_end

    def end(self, conn: int, code: Code, message: str, *, retry_after_ms: int | None = None) -> None:
        """CLOSE, then the end of the connection."""
        self._metrics.errors[code] += 1
        self._end(conn, encode(Op.CLOSE, Close(code, message, retry_after_ms)))

    def end_with_error(self, conn: int, code: Code, message: str, detail: object = None) -> None:
        """ERROR with a code that ends, where the protocol wants a ``detail`` that CLOSE has no room for."""
        self._metrics.errors[code] += 1
        self._end(conn, encode(Op.ERROR, Error(code, message, None, detail)))

    def _end(self, conn: int, frame: bytes) -> None:
        self._kernel.send(conn, frame)
        self._kernel.close(conn)


def _code_of(payload: bytes) -> int:
    """The code of an encoded Error: an array whose first element is a small number."""
    first = payload[1]
    return int.from_bytes(payload[2:4], "big") if first == 0xCD else payload[2] if first == 0xCC else first
