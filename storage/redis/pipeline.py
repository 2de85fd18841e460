"""Commands and their answers, sans-IO: who gets which reply of a stream of bytes.

Owns the queue of those who wait. It knows no socket and no clock, and no command's meaning. RESP answers commands in
order and names none of them, so order is all there is.

Invariants: each command that was expected is ended exactly once, by its own reply or by the error that ended the
connection; nobody ever gets another's reply. A caller that gave up stays in the queue: its reply must be swallowed in its
place. Push frames (RESP3) answer nothing and are told apart by their type.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import hiredis

from storage.redis.errors import ErrorReply, RedisProtocolError, RedisUnavailable

Done: TypeAlias = Callable[[Any], None]
"""Called once: with a reply (bytes, int, None, list, dict …), or with an Exception instead of one."""

_MORE = object()


def pack(*words: bytes | str | int) -> bytes:
    return hiredis.pack_command(words)  # type: ignore[arg-type,no-any-return]


class Pipeline:
    def __init__(self, on_push: Callable[[list[Any]], None], on_error: Callable[[ErrorReply], None]) -> None:
        """``on_error``: told of each command that failed, before who waits for it."""
        self._on_push = on_push
        self._on_error = on_error
        self._reader = hiredis.Reader(protocolError=RedisProtocolError, replyError=ErrorReply, notEnoughData=_MORE)
        self._waiting: deque[tuple[Done, float]] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def deadline(self) -> float | None:
        """Of who has waited longest."""
        return self._waiting[0][1] if self._waiting else None

    def expect(self, done: Done, deadline: float) -> None:
        """A command was sent whose reply is for ``done``. Call in the order of sending; deadlines must not fall."""
        self._waiting.append((done, deadline))

    def receive(self, received: bytes) -> None:
        """Hand out whatever is whole. Raises RedisProtocolError: then nothing more can be believed, see ``abandon``."""
        self._reader.feed(received)
        while True:
            reply = self._reader.gets()
            if reply is _MORE:
                return
            if isinstance(reply, hiredis.PushNotification):
                self._on_push(reply)
            else:
                self._answer(reply)

    def _answer(self, reply: Any) -> None:
        if not self._waiting:
            raise RedisProtocolError(f"a reply that nobody asked for: {reply!r:.80}")
        if isinstance(reply, ErrorReply):
            self._on_error(reply)
        self._waiting.popleft()[0](reply)

    def abandon(self, reason: str) -> None:
        """The connection is over: end all who wait, in order, each by an error of its own."""
        waiting, self._waiting = self._waiting, deque()
        for done, _ in waiting:
            done(RedisUnavailable(reason))
