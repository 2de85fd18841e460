"""One end of one session, sans-IO: frames in, typed events out, and every step along the one table.

This file owns a session's state and its open requests. It must not know sockets, time, users or chats: whoever drives
it authenticates, waits, stores and closes. What may come when is ``transitions.py``; read its essay first.

Invariant: a frame that the table has no entry for is NOT_READY when the peer sent it and a ``LocalProtocolError``
when we were about to; a message that comes out has been decoded and validated.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gateway.protocol import messages as m
from gateway.protocol.errors import Code, LocalProtocolError, ProtocolError, ends_connection
from gateway.protocol.events import Ended, Event, Pause, Received, Refused, Skipped
from gateway.protocol.frames import (
    BODY_MARGIN,
    LENGTH_BYTES,
    MAX_FRAME_BEFORE_WELCOME,
    MIN_GRANTED_MAX_FRAME,
    Frame,
    FrameReader,
    decode,
    encode,
)
from gateway.protocol.messages import CLIENT_OPS, OK_FIELDS, SERVER_OPS, Op
from gateway.protocol.transitions import TRANSITIONS, OpClass, Side, State, Step, classify_client_op, transition
from gateway.protocol.validation import validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    import msgspec

__all__ = [
    "HELD_FRAMES",
    "TRANSITIONS",
    "Ended",
    "Event",
    "OpClass",
    "Pause",
    "Received",
    "Refused",
    "Session",
    "Side",
    "Skipped",
    "State",
    "Step",
    "classify_client_op",
    "transition",
]

HELD_FRAMES = 64
"""How many frames behind a refused HELLO a server keeps: a default window of them, each at most 4 KiB."""

_SAID_NOTHING = Ended(Code.UNAVAILABLE, "the connection ended without a reason")

_CLIENT_STEPS: Mapping[int, Step] = {Op.HELLO: Step.HELLO, Op.CLOSE: Step.CLIENT_CLOSE}
_SERVER_STEPS: Mapping[int, Step] = {Op.WELCOME: Step.WELCOME, Op.CLOSE: Step.SERVER_END}

_REPLIES = frozenset({Op.WELCOME, Op.PONG, Op.ERROR, Op.OK, Op.SENT, Op.SYNC_DONE, Op.PAGE})
"""The server's ops whose rid, if not 0, is that of a request."""

_NO_REQUESTS = frozenset({Op.PONG, Op.CLOSE})
"""A client's ops that nothing answers: PONG carries the server's rid back."""


def _reply_type(op: Op, request: Op | None) -> type[msgspec.Struct]:
    if op is Op.OK and request is not None:
        return OK_FIELDS.get(request, m.Empty)
    return SERVER_OPS[op]


class Session:
    """One end of one connection. Either feed it bytes (``receive_bytes``, then ``next_event`` until it pauses), or
    frames that something else has cut (``receive_frame``). What ``send`` returns goes to the peer as it is.

    A ProtocolError out of a receiving method ends the connection: a server sends it as ERROR (``send_error``) and
    closes; a client closes. ``max_frame`` follows WELCOME by itself, in both directions.
    """

    __slots__ = ("_held", "_reader", "_requests", "max_frame", "side", "state")

    def __init__(self, side: Side) -> None:
        self.side = side
        self.state = State.GREETING
        self.max_frame = MAX_FRAME_BEFORE_WELCOME
        # All three are made when first needed: a server holds a session for every idle connection.
        self._reader: FrameReader | None = None
        self._held: deque[Frame] | None = None
        self._requests: dict[int, Op] | None = None

    @property
    def max_body(self) -> int:
        """The longest body of a SEND or MSG, in bytes. Before WELCOME that of the smallest max_frame ever granted."""
        return max(self.max_frame, MIN_GRANTED_MAX_FRAME) - BODY_MARGIN

    # -- sending

    def send(self, op: Op, body: msgspec.Struct | None = None, *, rid: int = 0, flags: int = 0) -> bytes:
        """The frame's bytes; the session is where the frame leads to. Raises LocalProtocolError, and nothing has moved.

        A client's requests with a rid are remembered until answered: a rid that is still in use is refused.
        """
        if op not in (CLIENT_OPS if self.side is Side.CLIENT else SERVER_OPS):
            raise LocalProtocolError(f"{op.name} is not sent by a {self.side.name.lower()}")
        code = body.code if isinstance(body, (m.Error, m.Close)) else Code.NORMAL
        next_state = self._next_state_of_ours(self._step_of(op, rid, code, self.side))
        is_request = self.side is Side.CLIENT and rid != 0 and op not in _NO_REQUESTS
        if is_request and rid in (self._requests or ()):
            raise LocalProtocolError(f"rid {rid} is still unanswered")
        frame = encode(op, body, rid=rid, flags=flags)
        length = len(frame) - LENGTH_BYTES
        if length > self.max_frame:
            raise LocalProtocolError(f"{op.name} of {length} bytes; max_frame is {self.max_frame}")
        if is_request:
            self._remember(rid, op)
        elif self.side is Side.SERVER and op in _REPLIES:
            self._forget(rid)
        if isinstance(body, m.Welcome):
            self.max_frame = body.max_frame
        self.state = next_state
        return frame

    def send_error(self, error: ProtocolError, *, rid: int = 0) -> bytes:
        """``error`` as an ERROR frame (a server's)."""
        body = m.Error(error.code, error.message, error.retry_after_ms, error.detail)
        return self.send(Op.ERROR, body, rid=rid)

    def _next_state_of_ours(self, step: Step) -> State:
        next_state = None if self.state is State.CLOSING else transition(self.state, step)
        if next_state is None:
            raise LocalProtocolError(f"{step.name} cannot be sent in {self.state.name}")
        return next_state

    # -- receiving

    def receive_bytes(self, piece: bytes | bytearray | memoryview) -> None:
        """Add what the socket gave. Frames come out of ``next_event``."""
        if self._reader is None:
            self._reader = FrameReader(self.max_frame)
        self._reader.feed(piece)

    def next_event(self) -> Event | Pause:
        """The next event of what was received. Raises ProtocolError as ``receive_frame`` does, and for broken
        framing.
        """
        while True:
            if self.side is Side.SERVER and self.state is State.AUTHENTICATING:
                return Pause.PAUSED
            frame = self._next_frame()
            if frame is None:
                return Pause.NEED_DATA
            event = self.receive_frame(frame)
            if event is not None:
                return event

    def _next_frame(self) -> Frame | None:
        if self._held and self.state is State.LIVE:
            return self._held.popleft()
        if self._reader is None or self.state is State.CLOSED:
            return None
        self._reader.max_frame = self.max_frame
        return self._reader.next_frame()

    def receive_frame(self, frame: Frame) -> Event | None:
        """What a frame means. None, at a server: kept until WELCOME (see REGREETING), then due from ``take_held``.

        Raises ProtocolError where the frame ends the connection: out of turn, malformed, of a version not spoken here.
        LocalProtocolError: the session is CLOSED, or a HELLO is unanswered.
        """
        if self.state is State.CLOSED:
            raise LocalProtocolError("a frame after the end of the stream")
        if self.state is State.CLOSING:
            return Skipped(frame.op)
        if self.side is Side.SERVER:
            return self._receive_from_client(frame)
        return self._receive_from_server(frame)

    def take_held(self) -> list[Frame]:
        """At a server, once: the frames that followed a refused HELLO, in order, to be read as any others."""
        if self.state is not State.LIVE:
            raise LocalProtocolError("held frames are due after WELCOME")
        held, self._held = list(self._held or ()), None
        return held

    def receive_end(self) -> Ended | None:
        """The peer's stream ended. None: it had said why before, or we had."""
        was_open = self.state not in (State.CLOSING, State.CLOSED)
        self.state = TRANSITIONS[self.state][Step.END]
        return _SAID_NOTHING if was_open else None

    def _receive_from_client(self, frame: Frame) -> Event | None:
        if self.state is State.AUTHENTICATING:
            raise LocalProtocolError("a frame while HELLO is unanswered: hold it back")
        step = self._step_of(frame.op, frame.rid, Code.NORMAL, Side.CLIENT)
        next_state = self._next_state_of_peer(step, frame.op)
        if step is Step.REQUEST and self.state is State.REGREETING:
            self._hold(frame)
            return None
        op_class = classify_client_op(frame.op, frame.flags)
        if op_class is OpClass.UNKNOWN:
            return Refused(frame.rid, ProtocolError(Code.UNKNOWN_OP, f"op 0x{frame.op:02X} is not one of a client's"))
        if op_class is OpClass.IGNORE:
            return Skipped(frame.op)
        op = Op(frame.op)
        message = decode(CLIENT_OPS[op], frame.body)
        self.state = next_state
        return self._judge(op, frame.rid, message)

    def _judge(self, op: Op, rid: int, message: msgspec.Struct) -> Event:
        try:
            validate(message, self.max_body)
        except ProtocolError as error:
            if error.code is not Code.INVALID:
                raise
            return Refused(rid, error)
        if isinstance(message, m.Close):
            return Ended(message.code, message.message, message.retry_after_ms)
        if op is Op.REAUTH and rid:
            self._remember(rid, op)
        return Received(op, rid, message)

    def _hold(self, frame: Frame) -> None:
        if self._held is None:
            self._held = deque()
        if len(self._held) == HELD_FRAMES:
            raise ProtocolError(Code.NOT_READY, f"more than {HELD_FRAMES} frames before a HELLO that is accepted")
        self._held.append(frame)

    def _receive_from_server(self, frame: Frame) -> Event:
        if frame.op not in SERVER_OPS:
            return Skipped(frame.op)
        op = Op(frame.op)
        request = self._requests.get(frame.rid) if self._requests and op in _REPLIES else None
        if frame.rid and op in _REPLIES and request is None:
            return Skipped(frame.op)
        message = decode(_reply_type(op, request), frame.body)
        validate(message, self.max_body)
        code = message.code if isinstance(message, (m.Error, m.Close)) else Code.NORMAL
        step = self._step_of(op, frame.rid, code, Side.SERVER)
        self.state = self._next_state_of_peer(step, op)
        if step is Step.SERVER_END and isinstance(message, (m.Error, m.Close)):
            return Ended(code, message.message, message.retry_after_ms, getattr(message, "detail", None))
        if isinstance(message, m.Welcome):
            self.max_frame = message.max_frame
        if not (isinstance(message, m.SyncDone) and message.more):
            self._forget(frame.rid if request is not None else 0)
        return Received(op, frame.rid, message, request)

    # -- both ways

    @property
    def unanswered(self) -> int:
        """At a client: how many requests with a rid wait for their reply. The window bounds it, not this class."""
        return len(self._requests or ())

    def _step_of(self, op: int, rid: int, code: int, sender: Side) -> Step:
        if sender is Side.CLIENT:
            return _CLIENT_STEPS.get(op, Step.REQUEST)
        if op != Op.ERROR:
            return _SERVER_STEPS.get(op, Step.PUSH)
        is_reauth_reply = (self._requests or {}).get(rid) is Op.REAUTH
        if ends_connection(code, is_reauth_reply=is_reauth_reply):
            return Step.SERVER_END
        return Step.REFUSAL if self.state is State.AUTHENTICATING else Step.PUSH

    def _next_state_of_peer(self, step: Step, op: int) -> State:
        next_state = transition(self.state, step)
        if next_state is None:
            raise ProtocolError(Code.NOT_READY, f"op 0x{op:02X} may not come in {self.state.name.lower()}")
        return next_state

    def _remember(self, rid: int, op: Op) -> None:
        if self._requests is None:
            self._requests = {}
        self._requests[rid] = op

    def _forget(self, rid: int) -> None:
        if self._requests:
            self._requests.pop(rid, None)
