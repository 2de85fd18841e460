"""Registrations and their ends, in order, on their way to the directory.

Owns the order of changes and what was not said. It must not know who reads them.

Ends are not waited for, but none may be lost: a session that has ended and is still registered attracts messages until its
record runs out. So an end is kept until it was answered, and said again in the next life of the connection, which is safe:
a session's number is never used twice. Past the bound all locations of this worker are voided instead (``is_overrun``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from gateway.cluster.directory import Outcome, Registered, Registration
from gateway.cluster.gathering import Finish, Gatherer
from gateway.protocol.identifiers import DeviceId, SessionId, UserId
from storage.redis.connection import Connection
from storage.redis.errors import RedisProtocolError, RedisUnavailable
from storage.redis.lua import DEVICES
from storage.redis.records import Keys, pack_ending, pack_registration
from storage.redis.scripts import Script

MAX_CHANGES = 64
"""Per script: half a millisecond of the server's time, in which it serves nobody else."""
MAX_UNSAID = 100_000

Ending: TypeAlias = tuple[UserId, DeviceId, SessionId]


class _Change(NamedTuple):
    user_id: UserId
    packed: bytes


class Devices:
    SCRIPT = Script(DEVICES)

    def __init__(self, connection: Connection, keys: Keys, now_s: Callable[[], float], kept_s: int) -> None:
        self.stay = b""
        """Registrations are made under it."""
        self.is_overrun = False
        """More ends were not said than are remembered: what is registered under this stay is no longer true."""
        self._connection = connection
        self._keys = keys
        self._now_s = now_s
        self._kept_s = kept_s
        self._unsaid: dict[Ending, None] = {}
        self._changes: Gatherer[_Change, Registered | None] = Gatherer(
            connection.call_soon, self._send, MAX_CHANGES, RedisUnavailable
        )

    async def register(self, registrations: Sequence[Registration]) -> list[Registered]:
        """Raises RedisUnavailable."""
        changes = [_Change(wanted.user_id, pack_registration(wanted)) for wanted in registrations]
        results = await self._changes.call(changes)
        return [result for result in results if result is not None]

    @property
    def unsaid(self) -> int:
        return len(self._unsaid)

    def unregister(self, ending: Ending) -> None:
        """Said after all earlier calls; without a connection, in its next life."""
        if len(self._unsaid) >= MAX_UNSAID:
            self.is_overrun = True
        else:
            self._unsaid[ending] = None
        if self._connection.is_up:
            self._say([ending])

    def say_again(self) -> None:
        """In a new life: what the last one did not answer."""
        unsaid = list(self._unsaid)
        for at in range(0, len(unsaid), MAX_CHANGES):
            self._say(unsaid[at : at + MAX_CHANGES])

    def start_stay(self, stay: bytes) -> None:
        """All earlier locations are void, and with them what was not said of them."""
        self.stay = stay
        self._unsaid = {}
        self.is_overrun = False

    def _say(self, endings: list[Ending]) -> None:
        changes = [_Change(user, pack_ending(device, session)) for user, device, session in endings]
        self._changes.post(changes, partial(self._said, endings))

    def _said(self, endings: list[Ending], results: object) -> None:
        if not isinstance(results, RedisUnavailable):
            for ending in endings:
                self._unsaid.pop(ending, None)

    def _send(self, changes: list[_Change], finish: Finish[Registered | None]) -> None:
        keys = [self._keys.cluster, *(self._keys.of_user(change.user_id) for change in changes)]
        head: tuple[bytes | int, ...] = (self.stay, self._keys.channel, int(self._now_s()), self._kept_s)
        packed = [change.packed for change in changes]
        self.SCRIPT.submit(self._connection, keys, (*head, *packed), partial(self._take, finish))

    def _take(self, finish: Finish[Registered | None], reply: Any) -> None:
        if isinstance(reply, RedisUnavailable):
            finish(reply)
            return
        try:
            finish([_unpack(result) for result in reply])
        except (TypeError, ValueError) as error:
            finish(RedisProtocolError(f"registrations were answered with something else: {error}"))


def _unpack(result: bytes) -> Registered | None:
    """None: of an end."""
    return Registered(Outcome(int(result[:1])), SessionId(int(result[1:]))) if result else None
