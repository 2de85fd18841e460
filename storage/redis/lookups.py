"""Where users are: pipelined reads, kept true by the server's invalidations.

Owns ``locate`` and ``on_moved``. It must not know how a device gets into the directory.

Theory of operation. The connection tracks (``CLIENT TRACKING``): Redis remembers the keys that it answered and pushes one
invalidation when one of them changes, on the same connection, after the answer. It does so for the reads that ask for it
(OPTIN). Without that it would remember what scripts read, too: a thousand workers' beats read and write one key, and each
of them would be pushed to all the others. A read notes in ``Tracked``
what it found inside its callback, so whatever follows in the stream finds it noted. A user's value names workers by their
stay; whether a stay is live is known here alone, and a stay that begins or ends to be live moves its users. A stay that
nobody here has heard of may be that of a worker that has just joined. But its joining was published on the same connection
before it could register anything: if such news wait to be read, they are read first, and then the user once more.

MGET of many keys, not a command for each: at 256 keys Redis and we spend a third of the time per user.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio

from gateway.cluster.directory import Location
from gateway.cluster.gathering import Finish, Gatherer
from gateway.protocol.identifiers import UserId, WorkerId
from storage.redis.connection import Connection
from storage.redis.errors import RedisProtocolError, RedisUnavailable
from storage.redis.pipeline import pack
from storage.redis.records import Keys, connected
from storage.redis.tracked import Tracked

MAX_USERS = 256
"""Per command: some 60 us of the server's time."""

MAX_CATCHING_UP = 3
"""Past it a user is where known workers have it, and moves with the next news."""

Places = tuple[Location, ...]

_TRACK_NEXT = pack(b"CLIENT", b"CACHING", b"YES")


class _Opted:
    """The answer to it: nobody waits for that, but without it the read that follows is not kept true."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: RedisUnavailable | None = None

    def __call__(self, reply: Any) -> None:
        if isinstance(reply, RedisUnavailable):
            self.error = reply


class Lookups:
    """``on_moved`` is told at the end of a round of the connection; ``is_behind``: news of workers wait to be read, which
    ``catch_up`` does. Both are set before ``locate``."""

    def __init__(self, connection: Connection, keys: Keys, on_moved: Callable[[list[UserId]], None]) -> None:
        self.is_behind: Callable[[], bool] = lambda: False
        self.catch_up: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self._connection = connection
        self._keys = keys
        self._on_moved = on_moved
        self._tracked = Tracked()
        self._stays: Mapping[bytes, WorkerId] = {}
        self._moved: list[UserId] = []
        self._reads: Gatherer[UserId, Places | None] = Gatherer(
            connection.call_soon, self._send, MAX_USERS, RedisUnavailable
        )

    @property
    def tracked(self) -> int:
        return len(self._tracked)

    async def locate(self, users: Sequence[UserId]) -> dict[UserId, Places]:
        """Raises RedisUnavailable."""
        located = dict(zip(users, await self._reads.call(users), strict=True))
        for _ in range(MAX_CATCHING_UP):
            unsure = [user for user, places in located.items() if places is None]
            if not unsure:
                break
            await self.catch_up()
            located.update(zip(unsure, await self._reads.call(unsure), strict=True))
        return {user: places or () for user, places in located.items()}

    def _send(self, users: list[UserId], finish: Finish[Places | None]) -> None:
        opted = _Opted()
        self._connection.submit(_TRACK_NEXT, opted)
        command = pack(b"MGET", *map(self._keys.of_user, users))
        self._connection.submit(command, lambda values: self._take(users, finish, opted.error or values))

    def _take(self, users: list[UserId], finish: Finish[Places | None], values: Any) -> None:
        if isinstance(values, RedisUnavailable):
            finish(values)
        elif not isinstance(values, list) or len(values) != len(users):
            finish(RedisProtocolError("MGET was answered with something else"))
        else:
            finish([self._note(user, value) for user, value in zip(users, values, strict=True)])

    def _note(self, user: UserId, value: bytes | None) -> Places | None:
        """None: it cannot be said before the news were read."""
        found = connected(value) if value else []
        given_way = self._tracked.add(user, tuple([stay for stay, _ in found]))
        if given_way is not None:
            self._moved.append(given_way)
        places = tuple([location for stay, location in found if stay in self._stays])
        return None if len(places) < len(found) and self.is_behind() else places

    # ---------------------------------------------------------------------------------------------- news

    def take_stays(self, stays: Mapping[bytes, WorkerId]) -> None:
        """These are live from now on."""
        turned = self._stays.keys() ^ stays.keys()
        self._stays = stays
        self._moved += self._tracked.take_at(turned)
        self.flush()

    def invalidated(self, keys: Sequence[bytes] | None) -> None:
        """The server's word. None: it has forgotten everything that it tracked."""
        if keys is None:
            self._moved += self._tracked.take_all()
            return
        for key in keys:
            user = self._keys.user_of(key)
            if user is not None and self._tracked.take(user):
                self._moved.append(user)

    def forget(self) -> None:
        """Nothing is tracked any more, and everybody is told so in another way."""
        self._tracked.take_all()
        self._moved = []

    def flush(self) -> None:
        """Tell who moved."""
        if self._moved:
            moved, self._moved = self._moved, []
            self._on_moved(moved)
