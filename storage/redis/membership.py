"""One worker's place among the live ones: it beats, and learns from the answer who else does.

Owns the beat, the list of workers that it brings, and when that list is worth telling for the first time. It must not
know of users.

One script call every ``BEAT_S`` says that this worker lives and answers the generation and the version of the set; the
set is read only when its version moved. A change is also published, so the news arrives before the next beat is due.

Invariants: what is told after the first time never lacks a worker only because the directory has just been emptied
(``Roster``); ``on_renewed`` follows whenever the directory may have lost what this worker said or heard: in each new life
of the connection, and in each new generation.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import structlog
import trio

from gateway.cluster.directory import WorkerRecord, Workers
from gateway.protocol.identifiers import node_of
from storage.redis.connection import Connection
from storage.redis.errors import RedisProtocolError, RedisUnavailable
from storage.redis.lua import BEAT, BEAT_S, ENDED, ROSTER
from storage.redis.records import Keys, pack_member
from storage.redis.roster import Roster, unpack_roster
from storage.redis.scripts import Script

PACE_S = 0.05
"""Between beats that news ask for: many workers that start together are told of together."""

log = structlog.get_logger(__name__)


class Refused(RedisUnavailable):
    """The directory will not list this life of the worker."""


class Membership:
    """See the module. ``run`` must be running."""

    BEAT, ROSTER, ENDED = Script(BEAT), Script(ROSTER), Script(ENDED)

    def __init__(self, connection: Connection, keys: Keys, settle_s: float, expected_workers: int) -> None:
        """``expected_workers``: how many of this node start together."""
        self.on_told: Callable[[Workers], None] = lambda workers: None
        self.on_stays: Callable[[], None] = lambda: None
        self.on_renewed: Callable[[], None] = lambda: None
        self.record: WorkerRecord | None = None
        self.tag = b""
        self.run_id = b""
        self.roster = Roster()
        self.told: Workers = {}
        self.is_listed = False
        """In this life of the connection."""
        self.is_settled = False
        self._connection = connection
        self._keys = keys
        self._settle_ms = settle_s * 1000
        self._expected_workers = expected_workers
        self._generation = self._version = b""
        self._refusal: Refused | None = None
        self._last_error = ""
        self._news_heard = self._news_read = 0
        self._due = trio.Event()
        self._progress = trio.Event()
        self._lock = trio.Lock()

    # -------------------------------------------------------------------------------------------- running

    async def run(self) -> None:
        while True:
            if self._connection.is_up and self.record is not None:
                try:
                    await self.beat()
                    self._last_error = ""
                except RedisUnavailable as error:
                    self._log_once(str(error))
            await trio.sleep(PACE_S)
            with trio.move_on_after(BEAT_S - PACE_S):
                await self._due.wait()
            self._due = trio.Event()

    def _log_once(self, error: str) -> None:
        if error != self._last_error:
            self._last_error = error
            log.warning("beat_failed", error=error)

    @property
    def is_behind(self) -> bool:
        """The set has changed, and the change was not read yet."""
        return self._news_read != self._news_heard

    def hear(self) -> None:
        """The set of workers has changed."""
        self._news_heard += 1
        self._due.set()

    def hurry(self) -> None:
        """Something may have changed: beat at once."""
        self._due.set()

    async def catch_up(self) -> None:
        """Read the news, if there are any. Raises RedisUnavailable."""
        async with self._lock:
            if self.record is not None and self.is_behind:
                await self._beat(self.record)

    def end_life(self) -> None:
        self.is_listed = False

    async def wait_listed(self) -> None:
        """Raises Refused."""
        while not self.is_listed:
            if self._refusal is not None:
                raise Refused(str(self._refusal))
            await self._progress.wait()

    async def wait_settled(self) -> None:
        while not self.is_settled:
            await self._progress.wait()

    def settle(self) -> None:
        """Those who wait have waited long enough."""
        self.is_settled = True
        self._tell()
        self._advance()

    def _advance(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    # -------------------------------------------------------------------------------------------- beating

    async def beat(self) -> None:
        """Be listed as ``record`` says, and take the news. Raises RedisUnavailable, Refused among them."""
        try:
            async with self._lock:
                if self.record is not None:
                    await self._beat(self.record)
        finally:
            self._advance()

    async def _beat(self, record: WorkerRecord) -> None:
        life, news_heard = self._connection.lives, self._news_heard
        keys = (self._keys.cluster, self._keys.alive, self._keys.ended)
        fresh = b"%016x" % secrets.randbits(64)
        arguments = (b"%07d" % record.worker_id, pack_member(record, self.tag), fresh, self.run_id, self._keys.news)
        reply = await self.BEAT.call(self._connection, keys, arguments)
        generation, version, up_ms = self._accepted(record, reply)
        is_renewed = not self.is_listed or generation != self._generation
        is_changed = False
        if is_renewed or version != self._version:
            is_changed = await self._read_roster(up_ms)
        elif self.roster.grow_older(up_ms):
            is_changed = True
        if self._connection.lives != life or not self._connection.is_up:
            raise RedisUnavailable("the connection to Redis was lost while it beat")
        self._generation, self._version, self.is_listed = generation, version, True
        self._news_read = news_heard
        self._consider(record, up_ms)
        if is_changed:
            self._tell()
        self.on_stays()
        if is_renewed:
            self.on_renewed()

    def _accepted(self, record: WorkerRecord, reply: Any) -> tuple[bytes, bytes, int]:
        if reply in ([b"ended"], [b"later"]):
            self.is_listed = False
            reason = "was reported as ended" if reply == [b"ended"] else "was replaced by a later one"
            self._refusal = Refused(f"incarnation {record.incarnation} of worker {record.worker_id} {reason}")
            raise Refused(str(self._refusal))
        try:
            generation, version, up_ms = reply
            accepted = bytes(generation), b"%d" % int(version), int(up_ms)
        except (TypeError, ValueError) as error:
            raise RedisProtocolError(f"a beat was answered with something else: {reply!r:.80}") from error
        self._refusal = None
        return accepted

    async def _read_roster(self, up_ms: int) -> bool:
        reply = await self.ROSTER.call(self._connection, (self._keys.cluster, self._keys.ended), ())
        try:
            cluster, ended = reply
            members, marks = unpack_roster(cluster, ended)
        except (TypeError, ValueError) as error:
            raise RedisProtocolError(f"the list of workers cannot be read: {error}") from error
        return self.roster.take(members, marks, up_ms)

    def _consider(self, record: WorkerRecord, up_ms: int) -> None:
        """Is the set worth telling? A young directory may not know everybody yet."""
        if not self.is_settled and up_ms >= self._settle_ms:
            own = node_of(record.worker_id)
            mine = sum(node_of(worker) == own for worker in self.roster.workers)
            if mine >= self._expected_workers:
                self.is_settled = True
                self._tell()

    def _tell(self) -> None:
        if self.is_settled and self.roster.workers != self.told:
            self.told = self.roster.workers
            self.on_told(self.told)

    async def end(self) -> None:
        """Be gone. Raises RedisUnavailable."""
        record, self.record, self.is_listed = self.record, None, False
        if record is not None:
            async with self._lock:
                await say_ended(self._connection, self._keys, record)


async def say_ended(connection: Connection, keys: Keys, record: WorkerRecord) -> None:
    """This life of the worker has ended; a later one is left alone. Raises RedisUnavailable."""
    arguments = (b"%07d" % record.worker_id, b"%019d" % record.incarnation, keys.news)
    await Membership.ENDED.call(connection, (keys.cluster, keys.alive, keys.ended), arguments)
