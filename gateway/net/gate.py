"""Client events, one by one: from a frame of a live session to the handler of its op.

Owns the dispatch of clients' frames, and the fate of every fault in it: the peer's fault is answered with its code, a
dependency's with 501, our own with 500 and a line of log; none of them touches another connection.

What can be done at once is done in the dispatch, in frame order. What must wait (the store, an owner) is a task, at most
``MAX_TASKS`` at once; beyond it the request is refused as overloaded.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
import structlog
import trio

from gateway.chat.request import Request
from gateway.config import Config
from gateway.metrics import WorkerMetrics
from gateway.net.credentials import TokenVerifier
from gateway.net.folding import Folding
from gateway.net.greeting import Greeter, granted_keepalive_s, silence_s
from gateway.net.limits import Buckets
from gateway.net.ports import ChatRequests, RegistryUnavailable, SessionRegistry
from gateway.net.pushes import Pushes
from gateway.net.reading import Reading
from gateway.net.replies import Replies
from gateway.net.sessions import Session, SessionTable
from gateway.net.syncing import Syncing, SyncRun
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.frames import BODY_MARGIN, decode, encode, encode_body
from gateway.protocol.identifiers import ChatId
from gateway.protocol.messages import CLIENT_OPS, Error, Op, ReauthOk, Send, State, StateOk, Sync, Throttle
from gateway.protocol.transitions import OpClass, classify_client_op
from gateway.protocol.validation import validate, validate_send
from gateway.pump import ACCEPTED, CLOSED, DRAINED, TOO_LARGE, TOO_SHORT
from storage.api import StoreError

if TYPE_CHECKING:
    from gateway._framing import Kernel

MAX_TASKS = 4_096
NEVER_REFUSED = frozenset({Op.PING, Op.PONG, Op.ACK, Op.READ, Op.STATE, Op.CLOSE})

log = structlog.get_logger(__name__)
T = TypeVar("T")


class RateLimits(NamedTuple):
    """Buckets of one worker: messages and other requests, by whom they are counted."""

    device_sends: Buckets[tuple[int, int]]
    user_sends: Buckets[int]
    device_requests: Buckets[tuple[int, int]]
    user_requests: Buckets[int]


class Parts(NamedTuple):
    """What the gate directs."""

    kernel: Kernel
    config: Config
    metrics: WorkerMetrics
    sessions: SessionTable
    greeter: Greeter
    replies: Replies
    requests: ChatRequests
    folding: Folding
    pushes: Pushes
    syncing: Syncing
    reading: Reading
    registry: SessionRegistry
    verifier: TokenVerifier
    limits: RateLimits
    finish_cycle: Callable[[], None]


class Gate:
    """See the module. ``run`` must be running."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._kernel = parts.kernel
        self._of_conn = parts.sessions.of_conn
        self._max_body = parts.config.session.max_frame_bytes - BODY_MARGIN
        self._now_s = 0.0
        self._tasks = 0
        self._nursery: trio.Nursery | None = None
        self._handlers: dict[int, Callable[[Session, int, bytes], None]] = {
            Op.SEND: self._on_send,
            Op.ACK: partial(self._on_cursors, Op.ACK),
            Op.READ: partial(self._on_cursors, Op.READ),
            Op.PING: self._on_ping,
            Op.PONG: self._ignore,
            Op.STATE: self._on_state,
            Op.SYNC: self._on_sync,
            Op.REAUTH: self._on_reauth,
            Op.CLOSE: self._on_close,
            Op.HELLO: self._on_second_hello,
            Op.HISTORY: partial(self._on_task, Op.HISTORY),
            Op.CHAT_OPEN: partial(self._on_task, Op.CHAT_OPEN),
            Op.CHAT_CREATE: partial(self._on_task, Op.CHAT_CREATE),
            Op.CHAT_LIST: partial(self._on_task, Op.CHAT_LIST),
            Op.TYPING: partial(self._on_chat, Op.TYPING),
            Op.CHAT_CHANGE: partial(self._on_chat, Op.CHAT_CHANGE),
            Op.CHAT_LEAVE: partial(self._on_chat, Op.CHAT_LEAVE),
            Op.CHAT_INFO: partial(self._on_chat, Op.CHAT_INFO),
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    # ---------------------------------------------------------------------------------------------- events

    def start_cycle(self) -> None:
        self._now_s = time.monotonic()

    def on_event(self, conn: int, op: int, tag: int, body: bytes) -> None:
        """One event of the kernel for a client's connection."""
        session = self._of_conn(conn)
        if session is None:
            self._on_stranger(conn, op, tag, body)
        elif op < ACCEPTED:
            self._on_frame(session, op, tag, body)
        else:
            self._on_sign(session, op, tag)

    def _on_frame(self, session: Session, op: int, tag: int, body: bytes) -> None:
        rid = tag & 0xFFFF
        try:
            handler = self._handlers.get(op)
            if handler is not None:
                handler(session, rid, body)
            elif classify_client_op(op, tag >> 16) is OpClass.IGNORE:
                self._ignore(session, rid, body)
            else:
                raise ProtocolError(Code.UNKNOWN_OP, f"op {op:#04x} is not a client's")
        except ProtocolError as error:
            self._fail(session, rid, error)
        except Exception:
            # Whatever a handler of ours gets wrong must cost its own request only.
            log.exception("request_failed", op=op, user_id=session.user_id)
            self._fail(session, rid, ProtocolError(Code.INTERNAL, "a fault of the server"))

    def _fail(self, session: Session, rid: int, error: ProtocolError) -> None:
        if self._parts.replies.refuse(session.conn, rid, error):
            self.forget(session)

    def _on_stranger(self, conn: int, op: int, tag: int, body: bytes) -> None:
        greeter = self._parts.greeter
        if op == ACCEPTED:
            greeter.accepted(conn, body, self._now_s)
        elif not greeter.is_waiting(conn):
            return
        elif op < ACCEPTED:
            greeter.frame(conn, op, tag, body)
        elif op == CLOSED:
            greeter.closed(conn)
        else:
            greeter.refuse(conn, 0, _framing_fault(op, tag))

    def _on_sign(self, session: Session, op: int, tag: int) -> None:
        if op == CLOSED:
            self.forget(session)
        elif op == DRAINED:
            if session.sync is not None:
                session.sync.drained.set()
        elif op in (TOO_SHORT, TOO_LARGE):
            self._fail(session, 0, _framing_fault(op, tag))

    def forget(self, session: Session) -> bool:
        """The session is over, for whatever reason: nobody finds it any more. False: it was over."""
        if not self._parts.sessions.remove(session):
            return False
        if session.sync is not None:
            session.sync.cancel_scope.cancel()
        self._parts.registry.dismiss(session.user_id, session.device_id, session.session_id)
        return True

    def end_session(self, session: Session, code: Code, message: str, detail: object = None) -> None:
        """ERROR with a code that ends, and the end."""
        if code == Code.REPLACED:
            self._parts.metrics.replaced += 1
        self.forget(session)
        self._parts.replies.end_with_error(session.conn, code, message, detail)

    # ---------------------------------------------------------------------------------------------- handlers

    def _on_send(self, session: Session, rid: int, body: bytes) -> None:
        send = decode(Send, body)
        validate_send(send, self._max_body)
        if send.envelopes is not None:
            raise ProtocolError(Code.INVALID, "envelopes need device keys, which this server does not keep")
        self._check_send_rate(session, rid)
        asker = (session.user_id, session.device_id)
        self._parts.requests.request(ChatId(send.chat_id), Request(Op.SEND, send, asker, session, rid, self._now_s))

    def _check_send_rate(self, session: Session, rid: int) -> None:
        limits, now_s = self._parts.limits, self._now_s
        wait_s = limits.device_sends.take((session.user_id, session.device_id), now_s)
        wait_s = wait_s or limits.user_sends.take(session.user_id, now_s)
        if wait_s:
            self._refuse_rate(session, rid, "send", wait_s)

    def _refuse_rate(self, session: Session, rid: int, scope: str, wait_s: float) -> None:
        """ERROR to who waits for a reply; THROTTLE, once until it is over, to who does not."""
        self._parts.metrics.rate_limited[scope] += 1
        wait_ms = max(1, int(wait_s * 1000 + 0.999))
        if not rid and self._now_s >= session.throttled_until_s:
            session.throttled_until_s = self._now_s + wait_s
            self._kernel.send(session.conn, encode(Op.THROTTLE, Throttle(scope, wait_ms)))
        raise ProtocolError(Code.RATE_LIMITED, f"too many requests ({scope})", retry_after_ms=wait_ms)

    def _checked(self, session: Session, rid: int, op: Op, body: bytes) -> msgspec.Struct:
        """A request's message, of good types and values, within its device's rate."""
        message: msgspec.Struct = decode(CLIENT_OPS[op], body)
        validate(message)
        self._parts.metrics.requests[op.name.lower()] += 1
        if op not in NEVER_REFUSED:
            limits = self._parts.limits
            wait_s = limits.device_requests.take((session.user_id, session.device_id), self._now_s)
            wait_s = wait_s or limits.user_requests.take(session.user_id, self._now_s)
            if wait_s:
                self._refuse_rate(session, rid, _SCOPES.get(op, "session"), wait_s)
        return message

    def _on_cursors(self, op: Op, session: Session, rid: int, body: bytes) -> None:
        message = self._checked(session, rid, op, body)
        pairs = message.pairs  # type: ignore[attr-defined]
        self._parts.folding.fold(session.user_id, session.device_id, pairs, is_read=op == Op.READ)
        self._ok(session, rid)

    def _on_state(self, session: Session, rid: int, body: bytes) -> None:
        state = self._checked(session, rid, Op.STATE, body)
        assert isinstance(state, State)
        config = self._parts.config.session
        session.is_active = state.active
        keepalive_s = granted_keepalive_s(config, state.keepalive_s)
        self._kernel.admit(
            session.conn,
            max_frame=config.max_frame_bytes,
            window=session.window,
            timeout_s=silence_s(keepalive_s),
        )
        if state.active:
            self._parts.pushes.became_active(session)
        self._ok(session, rid, StateOk(keepalive_s))

    def _on_reauth(self, session: Session, rid: int, body: bytes) -> None:
        reauth = self._checked(session, rid, Op.REAUTH, body)
        try:
            identity = self._parts.verifier.verify(reauth.credential)  # type: ignore[attr-defined]
            if (identity.user_id, identity.device_id) != (session.user_id, session.device_id):
                raise ProtocolError(Code.UNAUTHENTICATED, "the token is another device's", detail="other_device")
        except ProtocolError as error:
            self._parts.metrics.auth_failures[str(error.detail)] += 1
            self._parts.metrics.errors[error.code] += 1
            if rid:
                self._kernel.send(session.conn, _error_frame(error, rid))
            return
        self._start(session, 0, partial(self._renew, session))
        self._parts.sessions.renew(session, identity.expires_s + self._parts.config.auth.leeway_s)
        self._ok(session, rid, ReauthOk(max(0, int(identity.expires_s - time.time()))))

    async def _renew(self, session: Session) -> None:
        """Tell the directory, which keeps what it knows of a device until its credential has ended."""
        if self._of_conn(session.conn) is not session:
            return
        ids = session.user_id, session.device_id, session.session_id
        try:
            latest = await self._parts.registry.renew(*ids, session.expires_s)
        except RegistryUnavailable as error:
            log.warning("session_not_renewed", user_id=session.user_id, error=str(error))
            return  # it is told again with the next generation
        if latest != session.session_id and self._of_conn(session.conn) is session:
            self.end_session(session, Code.REPLACED, "a newer session of this device", latest)

    def _on_close(self, session: Session, rid: int, body: bytes) -> None:
        self._checked(session, rid, Op.CLOSE, body)
        self.forget(session)
        self._kernel.close(session.conn)

    def _on_second_hello(self, session: Session, rid: int, body: bytes) -> None:
        raise ProtocolError(Code.NOT_READY, "HELLO comes once")

    def _on_ping(self, session: Session, rid: int, body: bytes) -> None:
        """One that came behind a refused HELLO: the kernel answers only what comes after WELCOME."""
        self._kernel.send(session.conn, encode(Op.PONG, rid=rid))

    def _ignore(self, session: Session, rid: int, body: bytes) -> None:
        """PONG answers a PING of ours, and an IGNORABLE op is skipped: neither waits for a reply, whatever its rid."""
        if rid:
            self._kernel.answered(session.conn)

    def _on_chat(self, op: Op, session: Session, rid: int, body: bytes) -> None:
        """What the chat's owner answers by itself."""
        message = self._checked(session, rid, op, body)
        asker = (session.user_id, session.device_id)
        request = Request(op, message, asker, session, rid, self._now_s)
        self._parts.requests.request(ChatId(message.chat_id), request)  # type: ignore[attr-defined]

    def _ok(self, session: Session, rid: int, fields: msgspec.Struct | None = None) -> None:
        if rid:
            session.answer(rid, Op.OK, b"" if fields is None else encode_body(fields))

    # ---------------------------------------------------------------------------------------------- tasks

    def _on_task(self, op: Op, session: Session, rid: int, body: bytes) -> None:
        message = self._checked(session, rid, op, body)
        reading = self._parts.reading
        steps: dict[Op, Callable[[], Awaitable[tuple[Op, msgspec.Struct]]]] = {
            Op.HISTORY: lambda: reading.history(session, message, self._parts.config.session.max_frame_bytes),  # type: ignore[arg-type]
            Op.CHAT_OPEN: lambda: reading.open_direct(session, message),  # type: ignore[arg-type]
            Op.CHAT_CREATE: lambda: reading.create_group(session, message),  # type: ignore[arg-type]
            Op.CHAT_LIST: lambda: reading.list_chats(session, message),  # type: ignore[arg-type]
        }
        self._start(session, rid, partial(self._answer_when_done, session, rid, steps[op]))

    async def _answer_when_done(
        self, session: Session, rid: int, step: Callable[[], Awaitable[tuple[Op, msgspec.Struct]]]
    ) -> None:
        op, fields = await step()
        if rid:
            session.answer(rid, op, encode_body(fields))

    def _on_sync(self, session: Session, rid: int, body: bytes) -> None:
        wish = self._checked(session, rid, Op.SYNC, body)
        assert isinstance(wish, Sync)
        if session.sync is not None:
            raise ProtocolError(Code.CONFLICT, "a SYNC is under way on this session")
        self._parts.folding.tell()
        run = SyncRun()
        self._start(session, rid, partial(self._sync, session, rid, wish, run))
        session.sync = run
        self._parts.pushes.caught_up(session)

    async def _sync(self, session: Session, rid: int, wish: Sync, run: SyncRun) -> None:
        try:
            with run.cancel_scope:
                await self._parts.syncing.run(session, rid, wish)
        finally:
            session.sync = None

    def _start(self, session: Session, rid: int, step: Callable[[], Awaitable[None]]) -> None:
        if self._tasks >= MAX_TASKS or self._nursery is None:
            raise ProtocolError(Code.OVERLOADED, "too many requests are under way", retry_after_ms=1000)
        self._tasks += 1
        self._nursery.start_soon(self._run_task, session, rid, step)

    async def _run_task(self, session: Session, rid: int, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except ProtocolError as error:
            self._fail(session, rid, error)
        except StoreError as error:
            log.warning("store_failed", error=str(error), user_id=session.user_id)
            self._fail(session, rid, ProtocolError(Code.UNAVAILABLE, "the store did not answer", retry_after_ms=1000))
        except Exception:
            log.exception("request_failed", user_id=session.user_id)
            self._fail(session, rid, ProtocolError(Code.INTERNAL, "a fault of the server"))
        finally:
            self._tasks -= 1
            self._parts.finish_cycle()


_SCOPES = {Op.HISTORY: "history", Op.SYNC: "sync"}


def _framing_fault(op: int, tag: int) -> ProtocolError:
    if op == TOO_LARGE:
        return ProtocolError(Code.TOO_LARGE, f"a frame of {tag} bytes is too large")
    return ProtocolError(Code.MALFORMED, "a frame's length is at least 4")


def _error_frame(error: ProtocolError, rid: int) -> bytes:
    return encode(Op.ERROR, Error(error.code, error.message, error.retry_after_ms, error.detail), rid=rid)
