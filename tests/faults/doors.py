"""The ways into a cluster, and one attempt to come in by one of them.

Owns the connecting and the greeting of a client, off the thread that drives the others: a door behind which nobody answers
must not keep everybody else from talking. A thread is on the host of whoever started it, so attempts are, too.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from gateway.protocol.messages import Error, Op
from parley.tokens import Identity, Mint
from tests.node.wire import Ended, Wire, error_of, hello

GREETING_S = 2.0
"""For connecting, and once more for WELCOME."""


class Door(NamedTuple):
    """Where clients reach one node."""

    host: str
    port: int


class Doors:
    """All ways in, and the key that lets people in. It stands where ``Devices`` knows one node."""

    def __init__(self, secret: bytes, kid: str, doors: Sequence[Door]) -> None:
        self.doors = list(doors)
        self._mint = Mint(secret, kid=kid)

    def token(self, user_id: int, device_id: int) -> str:
        return self._mint.sign(Identity(user_id, device_id)).token

    def attempt(self, number: int, user_id: int, device_id: int) -> Attempt:
        """By any number: they are taken in turn."""
        return Attempt(self.doors[number % len(self.doors)], self.token(user_id, device_id))


class Attempt:
    """``wire``, ``refusal`` and ``failure`` may be read when it ``is_over``: one of the three is there."""

    def __init__(self, door: Door, token: str) -> None:
        self.wire: Wire | None = None
        """Welcome."""
        self.refusal: Error | None = None
        self.failure = ""
        """Nobody answered, or not to the end."""
        self._door = door
        self._token = token
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def discard(self) -> None:
        """Whoever wanted in has gone."""
        self._thread.join()
        if self.wire is not None:
            self.wire.close()

    def _run(self) -> None:
        try:
            wire = Wire(self._door.port, host=self._door.host, connect_timeout_s=GREETING_S)
        except OSError as error:
            self.failure = str(error) or type(error).__name__
            return
        try:
            wire.send(Op.HELLO, hello(self._token), rid=1)
            answer = wire.reply(1, GREETING_S)
        except (Ended, OSError) as error:
            self.failure = str(error)
        else:
            if answer.op == Op.WELCOME:
                self.wire = wire
                return
            self.refusal = error_of(answer)
        wire.close()
