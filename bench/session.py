"""A cheap client: enough of the protocol to log in, set the scene, send, and read what comes back.

Owns HELLO and requests with one reply. It is no general client: it never reconnects, holds no history, and answers
nothing (the kernel answers PING). Whatever ends a session that the bench did not end raises ``BenchError`` while the
scene is set, and is a violation while it is measured (``traffic.py``).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from bench.faults import BenchError
from bench.generator import CLOSED, Event, Generator
from gateway.protocol.errors import ProtocolError
from gateway.protocol.frames import decode, encode
from gateway.protocol.messages import Close, Error, Hello, Op, Welcome
from parley.tokens import Credential

REQUEST_TIMEOUT_S = 30.0
HELLOS_IN_FLIGHT = 192
"""Connections between connect and WELCOME: well under a listener's backlog, so that none is dropped and tried again."""

RID_MASK = 0xFFFF
PING = encode(Op.PING)

T = TypeVar("T", bound=msgspec.Struct)
Item = TypeVar("Item")


class Session(NamedTuple):
    """A live, authenticated connection."""

    conn: int
    user_id: int
    device_id: int
    window: int
    resume_token: bytes


class Login(NamedTuple):
    """What HELLO takes: a JWT, or a resume token of the device."""

    device_id: int
    credential: str | bytes


def login_of(credential: Credential) -> Login:
    return Login(credential.device_id, credential.token)


def hello(login: Login, keepalive_s: int | None = None) -> bytes:
    kind = "jwt" if isinstance(login.credential, str) else "resume"
    return encode(Op.HELLO, Hello(1, kind, login.credential, login.device_id, [], keepalive_s, None, "parley-bench"))


def welcomed(event: Event) -> Session:
    """The session of a WELCOME. BenchError: the node said something else."""
    conn, op, _, body = event
    if op != Op.WELCOME:
        raise BenchError(f"HELLO was answered by {describe(event)}")
    welcome = decode(Welcome, body)
    return Session(conn, welcome.user_id, welcome.device_id, welcome.window, welcome.resume_token)


def describe(event: Event) -> str:
    """What the node said, for people: an error's code and message, or the op."""
    _, op, tag, body = event
    try:
        if op in (Op.ERROR, Op.CLOSE):
            told = decode(Error, body) if op == Op.ERROR else decode(Close, body)
            return f"{Op(op).name} {told.code} {told.message}"
    except ProtocolError as error:
        return f"{Op(op).name} that cannot be read: {error}"
    if op == CLOSED:
        return f"the end of the connection (errno {tag})"
    return Op(op).name if op in set(Op) else f"op {op}"


def open_sessions(generator: Generator, logins: Sequence[Login], keepalive_s: int | None = None) -> list[Session]:
    """Log in, many at a time; in the order of ``logins``."""
    waiting: dict[int, int] = {}
    sessions: dict[int, Session] = {}
    todo = iter(enumerate(logins))
    deadline = _Deadline("WELCOME")
    while len(sessions) < len(logins):
        for index, login in _up_to(todo, HELLOS_IN_FLIGHT - len(waiting)):
            conn = generator.connect()
            generator.kernel.send(conn, hello(login, keepalive_s))
            waiting[conn] = index
        for event in generator.turn(1.0):
            if event[0] in waiting:
                sessions[waiting.pop(event[0])] = welcomed(event)
                deadline.extend()
        deadline.check()
    return [sessions[index] for index in range(len(logins))]


def request_all(
    generator: Generator, requests: Iterable[tuple[Session, Op, msgspec.Struct]], reply: type[T]
) -> list[T]:
    """One request of each session at a time, many sessions at once; the replies in order of the requests."""
    asked = list(requests)
    replies: dict[int, T] = {}
    waiting: dict[int, int] = {}
    todo = iter(enumerate(asked))
    deadline = _Deadline("a reply")
    while len(replies) < len(asked):
        for index, (session, op, body) in _up_to(todo, HELLOS_IN_FLIGHT - len(waiting)):
            generator.kernel.send(session.conn, encode(op, body, rid=1 + index % RID_MASK))
            waiting[1 + index % RID_MASK] = index
        for event in generator.turn(1.0):
            index_of_reply = waiting.pop(event[2] & RID_MASK, None)
            if index_of_reply is not None and event[1] == Op.OK:
                replies[index_of_reply] = decode(reply, event[3])
                deadline.extend()
            elif index_of_reply is not None or event[1] in (CLOSED, Op.CLOSE, Op.ERROR):
                raise BenchError(f"setting the scene, the node answered {describe(event)}")
        deadline.check()
    return [replies[index] for index in range(len(asked))]


def _up_to(items: Iterator[tuple[int, Item]], n: int) -> Iterator[tuple[int, Item]]:
    for _ in range(n):
        try:
            yield next(items)
        except StopIteration:
            return


class _Deadline:
    """Ends a wait in which nothing comes any more."""

    def __init__(self, what: str, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._what = what
        self._timeout_s = timeout_s
        self.extend()

    def extend(self) -> None:
        self._until = time.monotonic() + self._timeout_s

    def check(self) -> None:
        if time.monotonic() > self._until:
            raise BenchError(f"waited {self._timeout_s:g} s for {self._what}")
