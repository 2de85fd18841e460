"""From accept to WELCOME: who may come in, and as what.

Owns connections that have no session yet. Everything that ends a greeting is told to the client with its code, counted by
reason, and costs nobody else anything.

Greetings of one cycle are registered together: one call of the directory admits all of them. A session is registered
before it is welcomed, so its number is final, and the device's older session has been told to go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import structlog
import trio

from gateway.config import SessionConfig
from gateway.metrics import WorkerMetrics
from gateway.net.credentials import Identity, ResumeTokens, TokenVerifier
from gateway.net.limits import Buckets
from gateway.net.ports import RegistryUnavailable, SessionRegistry
from gateway.net.replies import Replies
from gateway.net.sessions import Session, SessionTable
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.frames import decode, encode
from gateway.protocol.identifiers import SessionId
from gateway.protocol.messages import Hello, Op, Welcome
from gateway.protocol.validation import validate

if TYPE_CHECKING:
    from gateway._framing import Kernel

PROTO = 1
ADMIT_TRIES = 3
MAX_HELD_FRAMES = 64
FULL_RETRY_MS = 5_000
HeldFrame = tuple[int, int, bytes]
"""(op, tag, body), as the kernel delivers it."""

log = structlog.get_logger(__name__)


class Gatehouse(NamedTuple):
    """What greeting needs of the worker."""

    kernel: Kernel
    config: SessionConfig
    verifier: TokenVerifier
    resume_tokens: ResumeTokens
    registry: SessionRegistry
    sessions: SessionTable
    replies: Replies
    metrics: WorkerMetrics
    address_connects: Buckets[bytes]
    user_connects: Buckets[int]
    leeway_s: int
    """A session ends so long after its credential."""
    max_clients: int
    """Connections of clients at once. The kernel holds more: links, and connections that are being ended."""
    handle: Callable[[int, int, int, bytes], None]
    """A frame of a session: (conn, op, tag, body)."""
    finish_cycle: Callable[[], None]
    end_session: Callable[[Session, Code, str, object], None]


class Greeting:
    """A HELLO that was understood; asks for admission."""

    __slots__ = ("conn", "device_id", "expires_s", "hello", "resumed_from", "rid", "session_id", "user_id")

    def __init__(self, conn: int, rid: int, hello: Hello, identity: Identity) -> None:
        self.conn = conn
        self.rid = rid
        self.hello = hello
        self.user_id, self.device_id, self.expires_s, self.resumed_from = identity
        self.session_id = SessionId(0)


class Greeter:
    """See the module. ``run`` must be running."""

    def __init__(self, house: Gatehouse) -> None:
        self._house = house
        self._waiting: dict[int, list[HeldFrame] | None] = {}
        """Connections without a session. A list: its HELLO was refused and may be said again, and these frames came
        behind the refused one; they are handled after WELCOME."""
        self._asking: list[Greeting] = []
        self._last_session_id = 0
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def accepted(self, conn: int, address: bytes, now_s: float) -> None:
        if len(self._waiting) + len(self._house.sessions) >= self._house.max_clients:
            self._house.replies.end(conn, Code.OVERLOADED, "the node is full", retry_after_ms=FULL_RETRY_MS)
            return
        wait_s = self._house.address_connects.take(address, now_s) if address else 0.0
        if wait_s:
            self._house.metrics.rate_limited["connect"] += 1
            self._house.replies.end(
                conn, Code.RATE_LIMITED, "too many connections from this address", retry_after_ms=_ms(wait_s)
            )
            return
        self._waiting[conn] = None

    def is_waiting(self, conn: int) -> bool:
        return conn in self._waiting

    def closed(self, conn: int) -> None:
        self._waiting.pop(conn, None)

    def frame(self, conn: int, op: int, tag: int, body: bytes) -> None:
        """The one frame that the kernel lets through before admission."""
        rid = tag & 0xFFFF
        try:
            if op != Op.HELLO:
                self._hold(conn, (op, tag, body))
                return
            greeting = self._understand(conn, rid, decode(Hello, body))
        except ProtocolError as error:
            self.refuse(conn, rid, error)
        else:
            self._asking.append(greeting)

    def _hold(self, conn: int, frame: HeldFrame) -> None:
        held = self._waiting[conn]
        if held is None:
            raise ProtocolError(Code.NOT_READY, "HELLO comes first")
        if len(held) >= MAX_HELD_FRAMES:
            raise ProtocolError(Code.NOT_READY, "too many frames before a HELLO that is accepted")
        held.append(frame)
        self._house.kernel.release(conn)

    def refuse(self, conn: int, rid: int, error: ProtocolError) -> None:
        reason = error.detail if isinstance(error.detail, str) else error.code.name.lower()
        if error.code // 100 == 2:
            self._house.metrics.auth_failures[reason] += 1
        if self._house.replies.refuse(conn, rid, error, is_hello=True):
            self._waiting.pop(conn, None)
            return
        self._waiting[conn] = self._waiting.get(conn) or []
        self._house.kernel.release(conn)

    def _understand(self, conn: int, rid: int, hello: Hello) -> Greeting:
        if hello.proto < PROTO:
            raise ProtocolError(Code.UNSUPPORTED_VERSION, f"this server speaks {PROTO}", detail=[PROTO, PROTO])
        validate(hello)
        if isinstance(hello.credential, bytes):
            identity = self._house.resume_tokens.verify(hello.credential, time.time())
        else:
            identity = self._house.verifier.verify(hello.credential)
        if hello.device_id not in (0, identity.device_id):
            raise ProtocolError(Code.UNAUTHENTICATED, "the token is another device's", detail="other_device")
        wait_s = self._house.user_connects.take(identity.user_id, time.monotonic())
        if wait_s:
            self._house.metrics.rate_limited["connect"] += 1
            message = "too many connections of this user"
            raise ProtocolError(Code.RATE_LIMITED, message, retry_after_ms=_ms(wait_s))
        return Greeting(conn, rid, hello, identity)

    # ---------------------------------------------------------------------------------------------- admission

    def finish_cycle(self) -> None:
        """Ask for the admission of everybody who said HELLO in this cycle."""
        if self._asking and self._nursery is not None:
            asking, self._asking = self._asking, []
            self._nursery.start_soon(self._admit, asking)

    async def _admit(self, asking: Sequence[Greeting]) -> None:
        for _ in range(ADMIT_TRIES):
            for greeting in asking:
                greeting.session_id = self._next_session_id(greeting.session_id)
            try:
                results = await self._house.registry.admit(asking)
            except RegistryUnavailable as error:
                log.warning("sessions_not_admitted", sessions=len(asking), error=str(error))
                break
            superseded = []
            for greeting, (is_admitted, is_outdated, highest) in zip(asking, results, strict=True):
                if is_admitted:
                    self._welcome(greeting)
                elif is_outdated:
                    error_ = ProtocolError(Code.RESUME_FAILED, "a later token was used already", detail="outdated")
                    self.refuse(greeting.conn, greeting.rid, error_)
                else:
                    greeting.session_id = highest
                    superseded.append(greeting)
            asking = superseded
            if not asking:
                break
        for greeting in asking:
            self._waiting.pop(greeting.conn, None)
            self._house.replies.end(greeting.conn, Code.UNAVAILABLE, "the directory does not answer")
        self._house.finish_cycle()

    def _next_session_id(self, above: int) -> SessionId:
        """Microseconds of the wall clock: it grows per device over restarts, and over workers with one clock."""
        self._last_session_id = max(time.time_ns() // 1000, self._last_session_id + 1, above + 1)
        return SessionId(self._last_session_id)

    def _welcome(self, greeting: Greeting) -> None:
        house = self._house
        if greeting.conn not in self._waiting:  # the client has gone meanwhile
            house.registry.dismiss(greeting.user_id, greeting.device_id, greeting.session_id)
            return
        older = house.sessions.of_device(greeting.user_id, greeting.device_id)
        if older is not None:
            house.end_session(older, Code.REPLACED, "a newer session of this device", greeting.session_id)
        ids = (greeting.user_id, greeting.device_id, greeting.session_id)
        session = Session(greeting.conn, ids, greeting.expires_s + house.leeway_s, house.replies)
        welcome = self._terms(greeting)
        session.window = welcome.window
        held = self._waiting.pop(greeting.conn)
        house.sessions.add(session)
        house.metrics.sessions += 1
        house.kernel.admit(
            greeting.conn,
            max_frame=welcome.max_frame,
            window=welcome.window,
            timeout_s=silence_s(welcome.keepalive_s),
        )
        house.kernel.send(greeting.conn, encode(Op.WELCOME, welcome, rid=greeting.rid))
        for op, tag, body in held or ():
            house.handle(greeting.conn, op, tag, body)

    def _terms(self, greeting: Greeting) -> Welcome:
        config, hello = self._house.config, greeting.hello
        identity = Identity(greeting.user_id, greeting.device_id, greeting.expires_s, SessionId(0))
        now_s = time.time()
        return Welcome(
            proto=PROTO,
            user_id=greeting.user_id,
            device_id=greeting.device_id,
            session_id=greeting.session_id,
            caps=[],
            keepalive_s=granted_keepalive_s(config, hello.keepalive_s),
            max_frame=config.max_frame_bytes,
            window=max(1, min(hello.window or config.window_default, config.window_max)),
            server_time_ms=int(now_s * 1000),
            resume_token=self._house.resume_tokens.issue(identity, greeting.session_id),
            resumed=greeting.resumed_from != 0,
            auth_ttl_s=max(0, int(greeting.expires_s - now_s)),
        )


def granted_keepalive_s(config: SessionConfig, asked: int | None) -> int:
    if asked is None:
        return config.keepalive_default_s
    return max(config.keepalive_min_s, min(asked, config.keepalive_max_s))


def silence_s(keepalive_s: int) -> int:
    """After so long without a byte a session ends: 1.5 keep-alives, rounded up."""
    return (keepalive_s * 3 + 1) // 2


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000 + 0.999))
