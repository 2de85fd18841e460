"""A stand-in for a node: says the right words, stores nothing, checks nobody. ``python -m bench.standin`` runs one.

It exists for two ends. The benches' own tests run against it, with a fault put in to see that the bench notices. And
``python -m bench ceiling`` measures the generator against it: what the generator can drive when the other side does
next to nothing. It must never be taken for a server: any token will do, and a chat lives as long as the process.
"""

from __future__ import annotations

import base64
import enum
import json
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from bench.generator import CLOSED, MAX_EVENTS, Event, Kernel, wait_readable
from gateway.protocol.frames import decode, encode, encode_body, encode_payload
from gateway.protocol.identifiers import seq_of
from gateway.protocol.messages import (
    ChatCreate,
    ChatCreateOk,
    ChatInfo,
    ChatInfoOk,
    ChatOpen,
    ChatOpenOk,
    Msg,
    Op,
    Send,
    Sent,
    Welcome,
)

WINDOW = 64
MAX_FRAME = 65_536


class Fault(enum.Enum):
    """What it does wrong, to every hundredth message."""

    NONE = "none"
    LOSE = "lose"
    REPEAT = "repeat"
    GARBLE = "garble"
    SKIP = "skip"


class _Chat:
    def __init__(self, chat_id: int, users: list[int]) -> None:
        self.chat_id = chat_id
        self.users = users
        self.counter = 0
        self.prev_seq = 0


class StandIn:
    def __init__(self, listener: socket.socket, fault: Fault = Fault.NONE, max_connections: int = 18_000) -> None:
        self._kernel = Kernel(max_connections, auto_replies={Op.PING: Op.PONG}, max_outbox_bytes=1 << 26)
        self._listener = listener
        self._kernel.listen(listener.fileno(), 0)
        self._fault = fault
        self._chats: dict[int, _Chat] = {}
        self._direct: dict[tuple[int, int], int] = {}
        self._users: dict[int, tuple[int, int]] = {}
        self._conns: dict[int, int] = {}
        self._sessions = 0
        self._now_ms = 0
        self._replies: dict[int, Callable[[int, bytes], bytes]] = {
            Op.CHAT_OPEN: self._open_chat,
            Op.CHAT_CREATE: self._create_chat,
            Op.CHAT_INFO: self._chat_info,
        }

    def run(self) -> None:
        while True:
            self.turn(1.0)

    def turn(self, timeout_s: float) -> None:
        if not self._kernel.has_backlog:
            wait_readable(self._kernel.fileno(), timeout_s)
        self._now_ms = int(time.time() * 1000)
        for event in self._kernel.poll(MAX_EVENTS, int(time.monotonic())):
            self._take(event)
        self._kernel.flush()

    def close(self) -> None:
        self._kernel.shutdown()
        self._listener.close()

    def _take(self, event: Event) -> None:
        conn, op, tag, body = event
        rid = tag & 0xFFFF
        if op == Op.SEND:
            self._send(conn, rid, body)
        elif op == Op.HELLO:
            self._hello(conn, body)
        elif op == CLOSED:
            self._leave(conn)
        elif op in self._replies:
            user_id = self._users[conn][0]
            self._kernel.send(conn, encode_payload(Op.OK, self._replies[op](user_id, body), rid=rid))

    def _hello(self, conn: int, body: bytes) -> None:
        user_id, device_id = _identity(msgspec.msgpack.decode(body)[2])
        self._sessions += 1
        self._users[conn] = (user_id, device_id)
        self._conns[user_id] = conn
        token = b"%d.%d" % (user_id, device_id)
        granted = (270, MAX_FRAME, WINDOW, self._now_ms, token, False, 3600)
        welcome = Welcome(1, user_id, device_id, self._sessions, [], *granted)
        self._kernel.admit(conn, max_frame=MAX_FRAME, window=WINDOW, timeout_s=0)
        self._kernel.send(conn, encode(Op.WELCOME, welcome))

    def _leave(self, conn: int) -> None:
        user_id, _ = self._users.pop(conn, (0, 0))
        if self._conns.get(user_id) == conn:
            del self._conns[user_id]

    def _send(self, conn: int, rid: int, body: bytes) -> None:
        send = decode(Send, body)
        chat = self._chats[send.chat_id]
        user_id, device_id = self._users[conn]
        chat.counter += 1
        fault = self._fault if chat.counter % 100 == 0 else Fault.NONE
        if fault is Fault.SKIP:
            chat.counter += 1
        seq, prev_seq = seq_of(1, chat.counter), chat.prev_seq
        chat.prev_seq = seq
        content = send.body[::-1] if fault is Fault.GARBLE else send.body
        place, sender = (chat.chat_id, seq, prev_seq), (user_id, device_id)
        message = Msg(*place, *sender, self._now_ms, send.kind, content, send.client_msg_id)
        self._kernel.send(conn, encode(Op.SENT, Sent(chat.chat_id, seq, self._now_ms, False, prev_seq), rid=rid))
        if fault is Fault.LOSE:
            return
        receivers = [self._conns[user] for user in chat.users if user != user_id and user in self._conns]
        for _ in range(2 if fault is Fault.REPEAT else 1):
            self._kernel.fanout(receivers, encode(Op.MSG, message))

    def _open_chat(self, user_id: int, body: bytes) -> bytes:
        peer = decode(ChatOpen, body).peer_user_id
        key = (min(user_id, peer), max(user_id, peer))
        if key not in self._direct:
            self._direct[key] = self._new_chat([user_id, peer]).chat_id
        return encode_body(ChatOpenOk(self._direct[key]))

    def _create_chat(self, user_id: int, body: bytes) -> bytes:
        chat = self._new_chat([user_id, *decode(ChatCreate, body).user_ids])
        return encode_body(ChatCreateOk(chat.chat_id, 1))

    def _chat_info(self, _: int, body: bytes) -> bytes:
        chat = self._chats[decode(ChatInfo, body).chat_id]
        return encode_body(ChatInfoOk(chat.chat_id, 0, "", 1, [], chat.prev_seq))

    def _new_chat(self, users: list[int]) -> _Chat:
        chat = _Chat((1 << 62) + len(self._chats), users)
        self._chats[chat.chat_id] = chat
        return chat


def _identity(credential: str | bytes) -> tuple[int, int]:
    """Whom a credential names. Nothing is verified."""
    if isinstance(credential, bytes):
        user_id, device_id = credential.split(b".")
        return int(user_id), int(device_id)
    payload = credential.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return int(claims["sub"]), int(claims["dev"])


def listen(port: int = 0) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    return listener


def main() -> None:
    fault = Fault(sys.argv[1]) if len(sys.argv) > 1 else Fault.NONE
    listener = listen()
    ready = {"event": "ready", "host": "127.0.0.1", "port": listener.getsockname()[1], "ops_port": 0}
    print(json.dumps(ready), flush=True)
    StandIn(listener, fault).run()


if __name__ == "__main__":
    main()
