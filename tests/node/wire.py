"""A client of bytes for tests: one blocking socket, frames as they are, every wait with an end.

Owns nothing but the socket and what came on it. It does not keep the protocol's rules, it looks at them: no PONG by itself,
no SYNC after WELCOME, no reconnecting.
"""

from __future__ import annotations

import itertools
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from gateway.protocol.errors import Code
from gateway.protocol.frames import MIN_GRANTED_MAX_FRAME, Frame, FrameReader, decode, encode, encode_payload
from gateway.protocol.messages import (
    OK_FIELDS,
    Ack,
    ChatCreate,
    ChatCreateOk,
    ChatOpen,
    ChatOpenOk,
    Close,
    Cursor,
    Empty,
    Error,
    Hello,
    History,
    Kind,
    Msg,
    Op,
    Page,
    Read,
    Send,
    Sent,
    Sync,
    SyncDone,
    Welcome,
)

DEADLINE_S = 10.0
T = TypeVar("T")


class Ended(Exception):
    """The connection ended while something else was expected. Carries what had come before."""


class Refused(Exception):
    """A request was answered by ERROR."""

    def __init__(self, error: Error) -> None:
        super().__init__(f"{error.code} {error.message}")
        self.error = error
        self.code = error.code


class Wire:
    """One connection. ``frames`` holds what came and nobody has taken yet, in order."""

    def __init__(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        receive_buffer: int = 0,
        connect_timeout_s: float = DEADLINE_S,
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(connect_timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((host, port))
        self.frames: deque[Frame] = deque()
        self.is_ended = False
        self.user_id = self.device_id = 0
        self._reader = FrameReader(MIN_GRANTED_MAX_FRAME)
        self._rids = itertools.cycle(range(1, 1 << 16))

    # ------------------------------------------------------------------------------------------- out

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send(self, op: int, body: msgspec.Struct | None = None, *, rid: int = 0, flags: int = 0) -> None:
        self.write(encode(op, body, rid=rid, flags=flags))

    def send_payload(self, op: int, payload: bytes, *, rid: int = 0, flags: int = 0) -> None:
        self.write(encode_payload(op, payload, rid=rid, flags=flags))

    def next_rid(self) -> int:
        return next(self._rids)

    def ask(self, op: int, body: msgspec.Struct | None = None) -> int:
        """Send a request; its rid."""
        rid = self.next_rid()
        self.send(op, body, rid=rid)
        return rid

    # ------------------------------------------------------------------------------------------- in

    def receive(self, deadline: float) -> bool:
        """Read once. False: the peer has ended. TimeoutError: the deadline (monotonic) is over."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"nothing came in time; untaken: {[_name(frame) for frame in self.frames]}")
        self.socket.settimeout(left_s)
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            raise TimeoutError(f"nothing came in time; untaken: {[_name(frame) for frame in self.frames]}") from None
        except ConnectionError:
            data = b""
        if not data:
            self.is_ended = True
            return False
        self._reader.feed(data)
        while (frame := self._reader.next_frame()) is not None:
            self.frames.append(frame)
        return True

    def take(self, matches: Callable[[Frame], bool], timeout_s: float = DEADLINE_S) -> Frame:
        """The first frame that matches, now or later; the others stay."""
        deadline = time.monotonic() + timeout_s
        looked = 0
        while True:
            for index in range(looked, len(self.frames)):
                if matches(self.frames[index]):
                    frame = self.frames[index]
                    del self.frames[index]
                    return frame
            looked = len(self.frames)
            if self.is_ended or not self.receive(deadline):
                raise Ended(f"the connection ended after {[_name(frame) for frame in self.frames]}")

    def next(self, timeout_s: float = DEADLINE_S) -> Frame:
        return self.take(lambda frame: True, timeout_s)

    def expect(self, op: int, type_: type[T], timeout_s: float = DEADLINE_S) -> T:
        """The next frame of this op, decoded."""
        return decode(type_, self.take(lambda frame: frame.op == op, timeout_s).body)

    def reply(self, rid: int, timeout_s: float = DEADLINE_S) -> Frame:
        return self.take(lambda frame: frame.rid == rid and frame.op != Op.PING, timeout_s)

    def result(self, rid: int, type_: type[T], timeout_s: float = DEADLINE_S) -> T:
        """The reply's fields. Raises Refused."""
        frame = self.reply(rid, timeout_s)
        if frame.op == Op.ERROR:
            raise Refused(decode(Error, frame.body))
        return decode(type_, frame.body)

    def until_end(self, timeout_s: float = DEADLINE_S) -> list[Frame]:
        """Everything up to the peer's end of the stream."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ended and self.receive(deadline):
            pass
        frames, self.frames = list(self.frames), deque()
        return frames

    def ending(self, timeout_s: float = DEADLINE_S) -> tuple[int, int]:
        """How the server ended it: (ERROR or CLOSE, code). It must be the last frame."""
        frames = self.until_end(timeout_s)
        assert frames, "the connection ended without a word"
        return frames[-1].op, code_of(frames[-1])

    def barrier(self) -> None:
        """Everything sent so far has been read by the server."""
        self.result(self.ask(Op.PING), Empty)

    def has(self, op: int) -> bool:
        """Is such a frame here, among those not taken?"""
        return any(frame.op == op for frame in self.frames)

    def close(self) -> None:
        self.socket.close()

    # ------------------------------------------------------------------------------------------- the usual

    def greet(self, credential: str | bytes, *, device_id: int = 0, rid: int = 1, window: int | None = None) -> Frame:
        """HELLO, and its answer whatever it is."""
        self.send(Op.HELLO, hello(credential, device_id=device_id, window=window), rid=rid)
        return self.reply(rid)

    def welcome(self, credential: str | bytes, *, device_id: int = 0, window: int | None = None) -> Welcome:
        frame = self.greet(credential, device_id=device_id, window=window)
        assert frame.op == Op.WELCOME, _name(frame)
        welcome = decode(Welcome, frame.body)
        self.user_id, self.device_id = welcome.user_id, welcome.device_id
        return welcome

    def ask_to_send(self, chat_id: int, text: bytes = b"", *, msg_id: bytes = b"", retry: bool | None = None) -> int:
        return self.ask(Op.SEND, message(chat_id, text, msg_id=msg_id, retry=retry))

    def say(self, chat_id: int, text: bytes = b"", *, msg_id: bytes = b"", retry: bool | None = None) -> Sent:
        return self.result(self.ask_to_send(chat_id, text, msg_id=msg_id, retry=retry), Sent)

    def request(self, op: Op, body: msgspec.Struct | None = None) -> msgspec.Struct:
        """The fields of OK. Raises Refused."""
        return self.result(self.ask(op, body), OK_FIELDS[op])

    def open_direct(self, peer: int) -> int:
        return self.result(self.ask(Op.CHAT_OPEN, ChatOpen(peer)), ChatOpenOk).chat_id

    def create_group(self, *user_ids: int, title: str = "a group") -> int:
        wish = ChatCreate(secrets.token_bytes(16), title, list(user_ids))
        return self.result(self.ask(Op.CHAT_CREATE, wish), ChatCreateOk).chat_id

    def msg(self, timeout_s: float = DEADLINE_S) -> Msg:
        return self.expect(Op.MSG, Msg, timeout_s)

    def text(self, timeout_s: float = DEADLINE_S) -> Msg:
        """The next message that is no system message."""
        found = self.msg(timeout_s)
        return found if found.kind != Kind.SYSTEM else self.text(timeout_s)

    def ack(self, chat_id: int, seq: int) -> None:
        self.result(self.ask(Op.ACK, Ack([Cursor(chat_id, seq)])), Empty)

    def read(self, chat_id: int, seq: int) -> None:
        self.result(self.ask(Op.READ, Read([Cursor(chat_id, seq)])), Empty)

    def history(self, chat_id: int, *, before: int | None = None, after: int | None = None, limit: int = 200) -> Page:
        return self.result(self.ask(Op.HISTORY, History(chat_id, before, after, limit)), Page)

    def whole_log(self, chat_id: int) -> list[Msg]:
        """Oldest first."""
        log: list[Msg] = []
        page = self.history(chat_id, after=0)
        log += page.messages
        while not page.complete:
            page = self.history(chat_id, after=log[-1].seq)
            log += page.messages
        return log

    def sync(self, wish: Sync | None = None, timeout_s: float = DEADLINE_S) -> tuple[list[Frame], SyncDone]:
        """SYNC: the MSG and GAP frames up to its SYNC_DONE, and that."""
        rid = self.ask(Op.SYNC, wish or Sync(None))
        done = SyncDone([], False, [])
        while True:
            part = self.result(rid, SyncDone, timeout_s)
            done.chats += part.chats
            done.gone = part.gone
            if not part.more:
                break
        brought = [frame for frame in self.frames if frame.op in (Op.MSG, Op.GAP)]
        self.frames = deque(frame for frame in self.frames if frame.op not in (Op.MSG, Op.GAP))
        return brought, done


def hello(
    credential: str | bytes,
    *,
    device_id: int = 0,
    proto: int = 1,
    window: int | None = None,
    keepalive_s: int | None = None,
) -> Hello:
    kind = "jwt" if isinstance(credential, str) else "resume"
    return Hello(proto, kind, credential, device_id, [], keepalive_s, window, "tests")


def message(
    chat_id: int, text: bytes = b"", *, msg_id: bytes = b"", retry: bool | None = None, kind: int = Kind.CONTENT
) -> Send:
    return Send(chat_id, msg_id or secrets.token_bytes(16), kind, text, retry)


def cursors(*pairs: tuple[int, int]) -> list[Cursor]:
    return [Cursor(chat_id, seq) for chat_id, seq in pairs]


def code_of(frame: Frame) -> int:
    """Of an ERROR or a CLOSE."""
    assert frame.op in (Op.ERROR, Op.CLOSE), _name(frame)
    return Code(_told(frame)[0])


def error_of(frame: Frame) -> Error:
    assert frame.op == Op.ERROR, _name(frame)
    return decode(Error, frame.body)


def messages_of(frames: Sequence[Frame]) -> list[Msg]:
    return [decode(Msg, frame.body) for frame in frames if frame.op == Op.MSG]


def refusal_of(request: Callable[[], object]) -> Error:
    """The ERROR that a request is answered with."""
    try:
        answer = request()
    except Refused as refused:
        return refused.error
    raise AssertionError(f"it was not refused: {answer}")


def _told(frame: Frame) -> tuple[int, str]:
    if frame.op == Op.ERROR:
        error = decode(Error, frame.body)
        return error.code, error.message
    close = decode(Close, frame.body)
    return close.code, close.message


def _name(frame: Frame) -> str:
    op = Op(frame.op).name if frame.op in set(Op) else f"op {frame.op:#04x}"
    told = _told(frame) if frame.op in (Op.ERROR, Op.CLOSE) else ""
    return f"{op} {told} (rid {frame.rid})"
