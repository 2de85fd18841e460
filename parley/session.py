"""One live session, from WELCOME to its ending: what may be asked on it, and how it ends.

It must not know how connections are made, nor what follows the ending (``lifecycle.py``), nor what pushes mean
(``dispatch.py``). Invariant: the first reason to end wins; when ``run`` returns, everything that was unanswered knows
that it will not be.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import msgspec
import trio

from gateway.protocol import messages as wire
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.events import Ended, Received
from gateway.protocol.messages import Op
from parley.addresses import Address
from parley.connection import Connection
from parley.ending import Ending
from parley.errors import Refused
from parley.requests import OnReply, Question, Requests, SessionLost

CLOSE_S = 2.0
"""For the last words to go out."""

T = TypeVar("T", bound=msgspec.Struct)


class Session:
    """``welcome`` and ``keepalive_s``: what the server granted. ``moves_at``, ``next_addresses``: what GOAWAY asked
    for.
    """

    def __init__(self, connection: Connection, welcome: wire.Welcome) -> None:
        self.connection = connection
        self.welcome = welcome
        self.keepalive_s = welcome.keepalive_s
        self.requests = Requests(welcome.window)
        self.moves_at: float | None = None
        self.next_addresses: list[Address] = []
        self._moving = trio.Event()
        self._scope = trio.CancelScope()
        self._ending: Ending | None = None
        self._not_before: dict[str, float] = {}
        self._started_at = trio.current_time()

    @property
    def lasted_s(self) -> float:
        return trio.current_time() - self._started_at

    # Life

    async def run(self, dispatch: Callable[[Received], None], tasks: list[SessionTask]) -> Ending:
        """Serve until the session ends. ``tasks`` run beside it and are cancelled with it."""
        ending = Ending(None, "cancelled")
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self.connection.run_writer)
                nursery.start_soon(self._guard, lambda session: session._read(dispatch))
                for task in tasks:
                    nursery.start_soon(self._guard, task)
        finally:
            self.requests.lose_all()
        return self._ending or ending

    def end(self, ending: Ending) -> None:
        """End the session; the first ending counts."""
        if self._ending is None:
            self._ending = ending
            self._scope.cancel()

    def move(self, at: float, addresses: list[Address]) -> None:
        """GOAWAY: serve until ``at``, then leave for one of ``addresses``. Said twice, the first counts."""
        if self.moves_at is None:
            self.moves_at = at
            self.next_addresses = addresses
            self._moving.set()

    async def wait_move(self) -> None:
        """Until the moment has come at which GOAWAY wants this client to leave."""
        await self._moving.wait()
        await trio.sleep_until(self.moves_at or 0.0)

    async def leave(self, reason: str) -> None:
        """Say CLOSE, after what was posted before, and end. Waits CLOSE_S at most for the bytes to go out."""
        if self._ending is None:
            self._ending = Ending(Code.NORMAL, reason)
            self.connection.post(Op.CLOSE, wire.Close(Code.NORMAL, reason))
            with trio.move_on_after(CLOSE_S):
                await self.connection.wait_written()
        self._scope.cancel()

    async def _read(self, dispatch: Callable[[Received], None]) -> None:
        while self._ending is None:
            event = await self.connection.receive()
            if event is None:
                self.end(Ending(None, "the connection was lost"))
            elif isinstance(event, Ended):
                self.end(Ending.told(event))
            else:
                dispatch(event)

    async def _guard(self, task: SessionTask) -> None:
        """Tasks end with the session, and the session with the server's first frame that is none."""
        try:
            await task(self)
        except SessionLost:
            return
        except ProtocolError as error:
            self.end(Ending(None, f"the server broke the protocol: {error}"))

    # Asking

    async def ask(self, op: Op, body: msgspec.Struct, answer_type: type[T]) -> T:
        """One request, one reply. Raises Refused for ERROR, and SessionLost."""
        await self.requests.wait_room()
        return answer_in(await self.ask_nowait(op, body).reply(), answer_type)

    def ask_nowait(self, op: Op, body: msgspec.Struct, on_reply: OnReply | None = None) -> Question:
        """Put a request on the wire; see first that there is room. Raises SessionLost."""
        if self._ending is not None:
            raise SessionLost
        rid, question = self.requests.open(trio.current_time(), on_reply)
        self.connection.post(op, body, rid)
        return question

    def tell(self, op: Op, body: msgspec.Struct | None = None, rid: int = 0) -> None:
        """A frame that wants no reply. Dropped when the session is over."""
        if self._ending is None:
            self.connection.post(op, body, rid)

    def throttle(self, scope: str, until: float) -> None:
        """The server asks to hear nothing of a scope of THROTTLE before ``until``."""
        self._not_before[scope] = max(until, self._not_before.get(scope, 0.0))

    async def wait_patience(self, scope: str) -> None:
        """Until the server wants to hear of ``scope`` again. What it says meanwhile is heeded next time."""
        await trio.sleep_until(max(self._not_before.get(scope, 0.0), self._not_before.get("session", 0.0)))


SessionTask: TypeAlias = Callable[[Session], Awaitable[object]]


def answer_in(reply: Received, answer_type: type[T]) -> T:
    """The reply as what it should be. Raises Refused for ERROR, ProtocolError for what does not answer the question."""
    message = reply.message
    if isinstance(message, answer_type):
        return message
    if isinstance(message, wire.Error):
        raise Refused(message.code, message.message, retry_after_ms=message.retry_after_ms, detail=message.detail)
    raise ProtocolError(Code.NOT_READY, f"{reply.op.name} does not answer that request")
