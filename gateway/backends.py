"""From settings to what stands behind the ports: part of the composition root, beside ``app.py``.

Owns which backend a configuration means, and the translation of its settings. It must not know how a node runs. Drivers
are imported by the functions that need them: an embedded node loads neither scylla-driver nor hiredis.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from gateway.cluster.directory import DirectoryUnavailable, Registration
from gateway.cluster.directory_client import DirectoryClient
from gateway.cluster.handshake import LinkKey
from gateway.cluster.links import Links, LinkSettings, Peer
from gateway.config import ClusterConfig, Config, ConfigError
from gateway.keyfiles import link_secrets, secret
from gateway.metrics import DirectoryFigures, StoreFigures
from gateway.node_directory import DirectorySizes, EmbeddedDirectory, MakeDirectory
from gateway.protocol.identifiers import WorkerId
from gateway.worker import Backends, RunningDirectory
from storage.api import Store
from storage.memory import MemoryStore
from storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from storage.redis.settings import RedisSettings
    from storage.redis.supervision import RedisSupervision
    from storage.scylla.settings import ScyllaSettings

DATABASE = "parley.db"

log = structlog.get_logger(__name__)


def open_backends(config: Config, supervisor: Peer, workers: int) -> Backends:
    """A worker's. ``workers``: of its node. Nothing is reached yet. Raises ConfigError."""
    if config.cluster.node:
        return _of_cluster(config, workers)

    def make_directory(links: Links, _sessions: Callable[[], Iterable[Registration]]) -> RunningDirectory:
        return DirectoryClient(links, supervisor)

    return Backends(_own_store(config), make_directory, LinkSettings())


def _own_store(config: Config) -> Store:
    if config.store.backend == "memory":
        return MemoryStore()
    return SqliteStore(Path(config.serve.data) / DATABASE)


def _of_cluster(config: Config, workers: int) -> Backends:
    from storage.redis.directory import RedisDirectory
    from storage.scylla.executor import ScyllaExecutor
    from storage.scylla.statements import STATEMENTS
    from storage.scylla.store import ScyllaStore

    settings = scylla_settings(config)
    executor = ScyllaExecutor(settings, STATEMENTS)
    directory = RedisDirectory(redis_settings(config), expected_workers=workers)

    def make_directory(_links: Links, sessions: Callable[[], Iterable[Registration]]) -> RunningDirectory:
        directory.sessions = sessions
        return directory

    return Backends(
        store=ScyllaStore(executor, queue_rows_max=settings.max_waiting_rows),
        make_directory=make_directory,
        links=LinkSettings(keys=link_keys(config)),
        limits=directory.limits,
        tell_ended=directory.tell_ended,
        store_figures=lambda: StoreFigures(*executor.statistics()),
        directory_figures=lambda: DirectoryFigures(*directory.statistics().connection),
    )


def node_directory(config: Config) -> MakeDirectory:
    """What the supervisor has of a directory. Raises ConfigError."""
    if not config.cluster.node:
        return EmbeddedDirectory
    from storage.redis.supervision import RedisSupervision

    settings = redis_settings(config)
    return lambda _links, _workers: Obituaries(RedisSupervision(settings))


class Obituaries:
    """A ``NodeDirectory`` that is elsewhere: the supervisor says who ended, and knows nothing else of it."""

    def __init__(self, supervision: RedisSupervision) -> None:
        self._supervision = supervision
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._supervision.run)
            self._nursery = nursery
            task_status.started()

    def remove_worker(self, worker: WorkerId, incarnation: int) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._tell, worker, incarnation)

    async def _tell(self, worker: WorkerId, incarnation: int) -> None:
        try:
            await self._supervision.ended(worker, incarnation)
        except DirectoryUnavailable as error:
            log.warning("end_not_told", worker=worker, error=str(error))

    def sizes(self) -> DirectorySizes | None:
        return None


# ------------------------------------------------------------------------------------------------ settings


class NameUnknown(Exception):
    """The network's fault, or the operator's mistake: cluster.host or link_host has no address. One line."""


async def link_addresses(cluster: ClusterConfig) -> tuple[str, str]:
    """Where other nodes reach this one, and what is listened on for them: numeric. Raises NameUnknown."""
    advertised = await _address_of(cluster.host, "cluster.host")
    return advertised, await _address_of(cluster.link_host, "cluster.link_host") if cluster.link_host else advertised


async def _address_of(name: str, setting: str) -> str:
    try:
        found = await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NameUnknown(f"{setting}: {name} has no address: {error.strerror}") from error
    return str(found[0][4][0])


def link_keys(config: Config) -> tuple[LinkKey, ...]:
    """Raises ConfigError."""
    try:
        return tuple(LinkKey(key_id, found) for key_id, found in link_secrets(config.cluster))
    except ValueError as error:
        raise ConfigError(f"cluster.link_keys: {error}") from error


def scylla_settings(config: Config) -> ScyllaSettings:
    """Raises ConfigError."""
    from storage.scylla.settings import ScyllaSettings

    given = config.store.scylla
    return ScyllaSettings(
        contact_points=given.contact_points,
        port=given.port,
        keyspace=given.keyspace,
        replication_factor=given.replication_factor,
        local_datacenter=given.local_datacenter,
        username=given.username,
        password=secret(given.password, given.password_file).decode(),
        is_tls=given.tls,
        tls_ca_path=given.tls_ca_file,
        tls_certificate_path=given.tls_certificate_file,
        tls_key_path=given.tls_key_file,
        is_tls_hostname_checked=given.tls_check_hostname,
        connect_timeout_s=given.connect_timeout_s,
        request_timeout_s=given.request_timeout_s,
        max_in_flight_writes=given.max_in_flight_writes,
        max_in_flight_reads=given.max_in_flight_reads,
        max_waiting_rows=given.max_waiting_rows,
    )


def redis_settings(config: Config) -> RedisSettings:
    """Raises ConfigError."""
    from storage.redis.settings import RedisSettings, parse_url

    given = config.directory.redis
    settings = RedisSettings(
        host=given.host, port=given.port, database=given.database, username=given.username, is_tls=given.tls
    )
    if given.url:
        try:
            settings = parse_url(given.url)
        except ValueError as error:
            raise ConfigError(f"directory.redis.url: {error}") from error
    return settings._replace(
        password=secret(given.password, given.password_file).decode(),
        tls_ca_path=given.tls_ca_file,
        tls_certificate_path=given.tls_certificate_file,
        tls_key_path=given.tls_key_file,
        is_tls_hostname_checked=given.tls_check_hostname,
        prefix=given.prefix,
        connect_timeout_s=given.connect_timeout_s,
        command_timeout_s=given.command_timeout_s,
    )
