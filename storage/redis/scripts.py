"""Scripts by their digest, and by their text where the server has forgotten them.

Owns EVALSHA and its fallback. Invariant: what NOSCRIPT turned away is sent again in the order in which it was sent first,
as long as it is one script: what must stay in order must be one script.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from gateway.cluster.promise import Promise
from storage.redis.connection import Connection, keeping
from storage.redis.errors import ErrorReply, RedisUnavailable
from storage.redis.pipeline import Done, pack


class Script:
    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    @property
    def load(self) -> bytes:
        """A command that makes the server know it."""
        return pack(b"SCRIPT", b"LOAD", self._text)

    def submit(
        self, connection: Connection, keys: Sequence[bytes], arguments: Sequence[bytes | str | int], done: Done
    ) -> None:
        """``done``: with the reply or the error. Raises RedisUnavailable: nothing was sent."""
        words = (len(keys), *keys, *arguments)
        command = pack(b"EVALSHA", self._digest, *words)
        connection.submit(command, partial(self._answered, connection, words, done))

    def _answered(self, connection: Connection, words: tuple[bytes | str | int, ...], done: Done, reply: Any) -> None:
        if isinstance(reply, ErrorReply) and reply.code == "NOSCRIPT":
            try:
                connection.submit(pack(b"EVAL", self._text, *words), done)
            except RedisUnavailable as error:
                done(error)
            return
        done(reply)

    async def call(self, connection: Connection, keys: Sequence[bytes], arguments: Sequence[bytes | str | int]) -> Any:
        """The reply. Raises RedisUnavailable, ErrorReply among them."""
        promise: Promise[Any] = Promise()
        self.submit(connection, keys, arguments, keeping(promise))
        return await promise.wait()
