"""A server that does what a test says, frame by frame, over memory streams.

It speaks ``gateway.protocol`` and keeps no rule of its own: whatever a real server must not do, this one can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import trio
import trio.testing

import parley
from gateway.protocol import frames
from gateway.protocol import messages as wire
from gateway.protocol.messages import CLIENT_OPS, Op
from parley.credentials import TokenSource
from parley.events import ClientEvent

ME, MY_DEVICE = 7, 70
PEER, PEER_DEVICE = 8, 80
CHAT = 100
RESUME_TOKEN = b"resume me"

T = TypeVar("T", bound=msgspec.Struct)
E = TypeVar("E")


class Asked:
    """A frame of the client."""

    def __init__(self, frame: frames.Frame) -> None:
        self.op = Op(frame.op)
        self.rid = frame.rid
        self.body = frames.decode(CLIENT_OPS[self.op], frame.body)


class Peer:
    """The server's end of one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._reader = frames.FrameReader(1 << 20)
        self._later: deque[Asked] = deque()

    async def receive(self) -> Asked | None:
        """The client's next frame, or None at the end of the stream."""
        return self._later.popleft() if self._later else await self._receive()

    async def _receive(self) -> Asked | None:
        while (frame := self._reader.next_frame()) is None:
            try:
                piece = await self._stream.receive_some()
            except trio.BrokenResourceError:
                return None
            if not piece:
                return None
            self._reader.feed(piece)
        return Asked(frame)

    async def expect(self, op: Op) -> Asked:
        """The client's next frame, but for PINGs, which must be this one."""
        while True:
            asked = await self.receive()
            assert asked is not None, f"the client hung up instead of sending {op.name}"
            if asked.op is op:
                return asked
            assert asked.op is Op.PING, f"{asked.op.name} came instead of {op.name}: {asked.body}"
            await self.say(Op.PONG, rid=asked.rid)

    async def find(self, op: Op) -> Asked:
        """The next frame of this op; others before it come later."""
        for asked in self._later:
            if asked.op is op:
                self._later.remove(asked)
                return asked
        while (new := await self._receive()) is not None:
            if new.op is op:
                return new
            self._later.append(new)
        raise AssertionError(f"the client hung up instead of sending {op.name}")

    async def silence(self, seconds: float) -> bool:
        """Whether the client says nothing for so long."""
        with trio.move_on_after(seconds):
            await self.receive()
            return False
        return True

    async def say(self, op: Op, body: msgspec.Struct | None = None, *, rid: int = 0) -> None:
        await self._stream.send_all(frames.encode(op, body, rid=rid))

    async def refuse(self, asked: Asked, code: int, *, retry_after_ms: int | None = None) -> None:
        await self.say(Op.ERROR, wire.Error(code, "no", retry_after_ms), rid=asked.rid)

    async def welcome(
        self, *, session_id: int = 1, window: int = 16, keepalive_s: int = 270, ttl_s: int = 3600
    ) -> None:
        granted = wire.Welcome(
            1, ME, MY_DEVICE, session_id, [], keepalive_s, 65_536, window, 0, RESUME_TOKEN, False, ttl_s
        )
        await self.say(Op.WELCOME, granted)

    async def sync(self, *chats: tuple[int, int], gone: list[int] | None = None) -> wire.Sync:
        """Answer the client's SYNC: these chats have these heads, and nothing else is sent."""
        asked = await self.find(Op.SYNC)
        await self.synced(asked, *chats, gone=gone)
        assert isinstance(asked.body, wire.Sync)
        return asked.body

    async def synced(self, asked: Asked, *chats: tuple[int, int], gone: list[int] | None = None) -> None:
        news = [wire.ChatNews(chat_id, head, 0) for chat_id, head in chats]
        await self.say(Op.SYNC_DONE, wire.SyncDone(news, None, gone), rid=asked.rid)

    async def greet(self, *, session_id: int = 1, window: int = 16, keepalive_s: int = 270, ttl_s: int = 3600) -> Asked:
        """HELLO, WELCOME, and a SYNC without news."""
        hello = await self.expect(Op.HELLO)
        await self.welcome(session_id=session_id, window=window, keepalive_s=keepalive_s, ttl_s=ttl_s)
        await self.sync()
        return hello

    async def push(self, seq: int, prev_seq: int, *, chat_id: int = CHAT) -> None:
        await self.say(Op.MSG, msg(seq, prev_seq, chat_id=chat_id))

    async def store(self, asked: Asked, seq: int, prev_seq: int, *, is_duplicate: bool = False) -> None:
        """SENT for a SEND."""
        assert isinstance(asked.body, wire.Send)
        await self.say(Op.SENT, wire.Sent(asked.body.chat_id, seq, 0, is_duplicate, prev_seq), rid=asked.rid)

    async def page(self, asked: Asked, *seqs: int, is_complete: bool = True) -> None:
        """PAGE for a HISTORY."""
        assert isinstance(asked.body, wire.History)
        chat_id = asked.body.chat_id
        messages = [msg(seq, seq - 1, chat_id=chat_id) for seq in seqs]
        await self.say(Op.PAGE, wire.Page(chat_id, is_complete, messages), rid=asked.rid)

    async def hang_up(self) -> None:
        await self._stream.aclose()


class Network:
    """Hand ``open_stream`` to ``parley.connect``; take the other ends from ``accept``."""

    def __init__(self) -> None:
        self._accepted, self._waiting = trio.open_memory_channel[Peer](8)
        self.dialled: list[tuple[float, str, int]] = []
        self.is_down = False

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        self.dialled.append((trio.current_time(), host, port))
        if self.is_down:
            raise ConnectionRefusedError("nobody listens")
        mine, theirs = trio.testing.memory_stream_pair()
        await self._accepted.send(Peer(theirs))
        return mine

    async def accept(self) -> Peer:
        return await self._waiting.receive()


@asynccontextmanager
async def connected(
    network: Network,
    *,
    token: str | TokenSource = "token",
    store: parley.ClientStore | None = None,
    options: parley.Options | None = None,
    window: int = 16,
    keepalive_s: int = 270,
    ttl_s: int = 3600,
) -> AsyncIterator[tuple[parley.Client, Peer]]:
    """A client in its first session, with nothing missed, and its peer."""
    peers: list[Peer] = []

    async def greet() -> None:
        peer = await network.accept()
        await peer.greet(window=window, keepalive_s=keepalive_s, ttl_s=ttl_s)
        peers.append(peer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet)
        async with parley.connect(
            "node", 7800, token, store=store, options=options or parley.Options(), open_stream=network.open_stream
        ) as client:
            await next_of(client, parley.Synced)
            yield client, peers[0]
        nursery.cancel_scope.cancel()


def msg(seq: int, prev_seq: int, *, chat_id: int = CHAT) -> wire.Msg:
    return wire.Msg(chat_id, seq, prev_seq, PEER, PEER_DEVICE, 0, 0, f"message {seq}".encode(), seq.to_bytes(16))


async def next_of(client: parley.Client, kind: type[E]) -> E:
    """The next event of a kind; others are skipped."""
    while True:
        event: ClientEvent = await client.next_event()
        if isinstance(event, kind):
            return event


async def next_seqs(client: parley.Client, count: int) -> list[int]:
    """The seqs of the next messages shown, one's own too."""
    seqs: list[int] = []
    while len(seqs) < count:
        event = await client.next_event()
        if isinstance(event, parley.MessageReceived | parley.MessageSent):
            seqs.append(event.message.seq)
    return seqs
