"""A scripted server that speaks RESP: for what a real one cannot be made to say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import hiredis
import trio

from storage.redis.settings import RedisSettings

CUT = b"\0cut"
"""At the end of an answer: what is before it is sent, then the connection is closed."""

Answer = Callable[[list[bytes]], bytes | None]
"""The bytes to send for a command; None: it says nothing."""


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def greet(command: list[bytes]) -> bytes | None:
    """What a fit server says to the commands of a greeting and to ECHO."""
    match command[0]:
        case b"HELLO":
            return b"%1\r\n+proto\r\n:3\r\n"
        case b"PING":
            return b"+PONG\r\n"
        case b"ECHO":
            return bulk(command[1])
        case b"SUBSCRIBE":
            return b"".join(b">3\r\n+subscribe\r\n%b:%d\r\n" % (bulk(name), n) for n, name in enumerate(command[1:], 1))
    return b"+OK\r\n"


class FakeRedis:
    """``answer`` may be replaced at any time; ``heard`` is every command of every connection."""

    def __init__(self, answer: Answer = greet) -> None:
        self.answer = answer
        self.heard: list[list[bytes]] = []
        self.connections = 0
        self.port = 0
        self._streams: list[trio.SocketStream] = []

    @property
    def settings(self) -> RedisSettings:
        return RedisSettings(port=self.port)

    async def start(self, nursery: trio.Nursery) -> None:
        serve = partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        self.port = listener.socket.getsockname()[1]

    async def push(self, data: bytes) -> None:
        await self._streams[-1].send_all(data)

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self._streams.append(stream)
        reader = hiredis.Reader(notEnoughData=None)
        try:
            while received := await stream.receive_some():
                reader.feed(bytes(received))
                while (command := reader.gets()) is not None:
                    self.heard.append(command)
                    said = self.answer(command)
                    if said is None:
                        continue
                    await stream.send_all(said.removesuffix(CUT))
                    if said.endswith(CUT):
                        return
        except trio.BrokenResourceError:
            return
        finally:
            await stream.aclose()
