"""The directory on Redis: a worker's side, which is all there is of it but the scripts.

Owns the wiring of its parts to one connection, and the events of the port. The rules live where they are atomic: in
``lua.py``. It knows no links: whoever hears ``on_workers`` tells them who their peers are.

Theory of operation. Everything in Redis has a time to live and comes back by itself. Three kinds of keys:

- the cluster: generation, version, and a record of each worker, kept by everybody's beats (``membership.py``);
- a user's devices, written by compare-and-set, 64 registrations a script (``devices.py``), read by MGET under tracking
  (``lookups.py``). A location names the worker's *stay*, and is one as long as that stay is listed: a worker's end voids
  all of them without touching one. A stay ends with the worker's life, and with the server's: what a restarted server has
  kept of earlier may be older than what we know;
- rates (``limits.py``).

Joined again, and ``on_generation``: in each new life of the connection, for the server forgets what it tracked and what it
would have published; and in each new generation. In between nothing was missed, since replies and news share a stream.

With Redis away ``workers`` stays as last told, and whatever must be asked raises DirectoryUnavailable: at once without a
connection, within ``command_timeout_s`` on one that is silent.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import structlog
import trio

from gateway.cluster.directory import (
    DirectoryEvents,
    DirectoryUnavailable,
    Location,
    Registered,
    Registration,
    Replaced,
    WorkerRecord,
    Workers,
    superseded,
)
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId
from storage.redis.connection import Connection, ConnectionStatistics, Greeting
from storage.redis.devices import Devices
from storage.redis.errors import RedisUnavailable
from storage.redis.limits import RedisLimits
from storage.redis.lookups import Lookups
from storage.redis.membership import Membership, say_ended
from storage.redis.pipeline import pack
from storage.redis.records import TAG_CHARS, Keys, stay_of, unpack_replaced
from storage.redis.settings import RedisSettings

JOIN_TIMEOUT_S = 2.0
SETTLE_S = 5.0
"""How long who joins waits for others at most."""
REFRESH_CHUNK = 500
REFRESH_RETRY_S = 2.0
"""After registrations that a full server refused, say."""
REFRESH_PAUSE_S = 0.1
"""5,000 sessions a second and worker: a hundred thousand in 20 s."""

log = structlog.get_logger(__name__)


class RedisStatistics(NamedTuple):
    connection: ConnectionStatistics
    is_listed: bool
    workers: int
    tracked_users: int
    unsaid_endings: int


class RedisDirectory:
    """See ``Directory``. ``run`` must be running."""

    def __init__(
        self,
        settings: RedisSettings,
        *,
        expected_workers: int = 0,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """``expected_workers``: how many of this node start together. ``now_s``: the wall clock of tokens."""
        self.events = DirectoryEvents()
        self.sessions: Callable[[], Iterable[Registration]] = tuple
        """This worker's sessions, for the slow refresh of their records. Set before ``run``."""
        self._settings = settings
        self._keys = keys = Keys(settings.prefix)
        self._connection = connection = Connection(settings)
        self._membership = Membership(connection, keys, settings.settle_s, expected_workers)
        self._devices = Devices(connection, keys, now_s, settings.location_ttl_s)
        self._lookups = Lookups(connection, keys, lambda users: self.events.on_moved(users))
        self.limits = RedisLimits(connection, keys)
        self._replaced: list[Replaced] = []
        self._is_wanted = trio.Event()
        self._must_refresh = trio.Event()
        self._has_joined = False
        self._wire()

    def _wire(self) -> None:
        events, membership = self._connection.events, self._membership
        events.greeting, events.on_up, events.on_down = self._greeting, self._on_up, self._on_down
        events.on_push, events.on_round = self._on_push, self._on_round
        membership.on_told = lambda workers: self.events.on_workers(workers)
        membership.on_stays = lambda: self._lookups.take_stays(membership.roster.stays)
        membership.on_renewed = self._on_renewed
        self._lookups.is_behind = lambda: membership.is_behind
        self._lookups.catch_up = membership.catch_up

    @property
    def workers(self) -> Workers:
        return self._membership.told

    def statistics(self) -> RedisStatistics:
        counted = (len(self._membership.told), self._lookups.tracked, self._devices.unsaid)
        return RedisStatistics(self._connection.statistics(), self._membership.is_listed, *counted)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, beat, refresh. Until cancelled."""
        task_status.started()
        await self._is_wanted.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._connection.run)
            nursery.start_soon(self._membership.run)
            nursery.start_soon(self._refresh_again_and_again)

    # ------------------------------------------------------------------------------------------- the port

    async def join(self, record: WorkerRecord) -> None:
        membership = self._membership
        is_changed = membership.record not in (None, record)
        membership.record = record
        self._is_wanted.set()
        try:
            with trio.fail_after(JOIN_TIMEOUT_S):
                await membership.wait_listed()
                if is_changed:
                    await membership.beat()
        except (RedisUnavailable, trio.TooSlowError) as error:
            raise _unavailable(error) from error
        with trio.move_on_after(SETTLE_S):
            await membership.wait_settled()
        if not membership.is_settled:
            membership.settle()

    def settle(self) -> None:
        """Stop waiting for workers that have not joined yet."""
        self._membership.settle()

    async def drain(self) -> None:
        membership = self._membership
        if membership.record is not None:
            membership.record = membership.record._replace(is_draining=True)
        try:
            await membership.beat()
        except RedisUnavailable as error:
            raise _unavailable(error) from error

    async def leave(self) -> None:
        try:
            await self._membership.end()
        except RedisUnavailable as error:
            raise _unavailable(error) from error

    async def tell_ended(self, worker_id: WorkerId, incarnation: int) -> None:
        """Another worker's process has ended, as its host's refusals show: the word that its supervisor did not live to say.
        Idempotent; a later incarnation is left alone. Raises DirectoryUnavailable."""
        try:
            await say_ended(self._connection, self._keys, WorkerRecord(worker_id, incarnation, "", False))
        except RedisUnavailable as error:
            raise _unavailable(error) from error

    async def register(self, registrations: Sequence[Registration]) -> list[Registered]:
        self._check_listed()
        try:
            return await self._devices.register(registrations)
        except RedisUnavailable as error:
            if self._connection.is_up:  # a life goes on in which this was not said, and nothing else will ask for it
                self._must_refresh.set()
            raise _unavailable(error) from error

    def unregister(self, user_id: UserId, device_id: DeviceId, session_id: SessionId) -> None:
        self._devices.unregister((user_id, device_id, session_id))

    async def locate(self, user_ids: Sequence[UserId]) -> dict[UserId, tuple[Location, ...]]:
        self._check_listed()
        try:
            return await self._lookups.locate(user_ids)
        except RedisUnavailable as error:
            raise _unavailable(error) from error

    def _check_listed(self) -> None:
        if not self._membership.is_listed:
            raise DirectoryUnavailable("this worker has not joined the directory, or not yet again")

    # ------------------------------------------------------------------------------------- the connection

    def _greeting(self) -> Greeting:
        record = self._membership.record
        assert record is not None, "connected before anybody joined"
        scripts = (Membership.BEAT, Membership.ROSTER, Membership.ENDED, Devices.SCRIPT, RedisLimits.SCRIPT)
        return Greeting(
            (
                pack(b"CLIENT", b"TRACKING", b"ON", b"OPTIN"),
                pack(b"INFO", b"server"),
                *(script.load for script in scripts),
            ),
            (self._keys.news, self._keys.channel_of(record.worker_id)),
        )

    def _on_up(self, replies: list[Any]) -> None:
        membership, record = self._membership, self._membership.record
        run_id = _run_id(replies[1])
        if not membership.tag or run_id != membership.run_id or self._devices.is_overrun:
            membership.tag = secrets.token_hex(TAG_CHARS // 2).encode()
            membership.run_id = run_id
            if record is not None:
                self._devices.start_stay(stay_of(record.worker_id, membership.tag))
        membership.hurry()

    def _on_down(self) -> None:
        self._membership.end_life()
        self._lookups.forget()

    def _on_push(self, push: list[Any]) -> None:
        kind = push[0]
        if kind == b"invalidate":
            self._lookups.invalidated(push[1])
            if push[1] is None:
                self._membership.hurry()
        elif kind == b"message" and push[1] == self._keys.news:
            self._membership.hear()
        elif kind == b"message":
            self._take_replaced(push[2])

    def _take_replaced(self, packed: bytes) -> None:
        try:
            self._replaced.append(unpack_replaced(packed))
        except ValueError:
            log.warning("replacement_not_understood", packed=packed[:100])

    def _on_round(self) -> None:
        self._lookups.flush()
        if self._replaced:
            replaced, self._replaced = self._replaced, []
            self.events.on_replaced(replaced)

    # ------------------------------------------------------------------------------------------- the news

    def _on_renewed(self) -> None:
        self._lookups.forget()
        self._devices.say_again()
        if self._has_joined:
            self.events.on_generation()
        self._has_joined = True

    # ---------------------------------------------------------------------------------------- the refresh

    async def _refresh_again_and_again(self) -> None:
        period_s = self._settings.location_ttl_s / 4
        while True:
            with trio.move_on_after(period_s * random.uniform(0.9, 1.1)):
                await self._must_refresh.wait()
                await trio.sleep(REFRESH_RETRY_S)
            self._must_refresh = trio.Event()
            try:
                await self.refresh()
            except DirectoryUnavailable as error:
                log.warning("sessions_not_refreshed", error=str(error))

    async def refresh(self) -> None:
        """Register all sessions once more, so that none outlives its record. Whoever was superseded is told.

        Raises DirectoryUnavailable.
        """
        sessions = list(self.sessions())
        for at in range(0, len(sessions), REFRESH_CHUNK):
            chunk = sessions[at : at + REFRESH_CHUNK]
            results = await self.register(chunk)
            replaced = superseded(chunk, results)
            if replaced:
                self.events.on_replaced(replaced)
            await trio.sleep(REFRESH_PAUSE_S)


def _unavailable(reason: Exception) -> DirectoryUnavailable:
    return DirectoryUnavailable(f"the directory did not answer: {reason}")


def _run_id(server: Any) -> bytes:
    """Names one life of a server. Drawn where it does not tell: then every life of the connection counts as one."""
    text = server if isinstance(server, bytes) else str(server).encode()
    _, found, rest = text.partition(b"run_id:")
    return rest.split(b"\r\n", 1)[0] if found else secrets.token_hex(20).encode()
