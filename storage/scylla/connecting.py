"""From settings to an open session of the driver. Everything here blocks and runs in a thread.

Owns what the driver is told: versions, policies, time-outs, consistency, TLS. Invariant: what is opened is shut down again if
any step after it fails.
"""

from __future__ import annotations

import logging
import socket
import ssl
from typing import NamedTuple

from cassandra import ConsistencyLevel
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, Session
from cassandra.policies import ExponentialReconnectionPolicy
from cassandra.query import tuple_factory

from storage.scylla.binding import PROTOCOL_VERSION
from storage.scylla.errors import DRIVER_ERRORS, unreachable
from storage.scylla.routing import NeverRetry, Routing
from storage.scylla.settings import ScyllaSettings

QUORUM = "quorum"
SERIAL = "serial"
"""Execution profiles: everything but linearizable reads, and those."""

HEARTBEAT_INTERVAL_S = 2
HEARTBEAT_TIMEOUT_S = 3
"""A connection behind a dead link is found within 5 s; the driver's default takes a minute."""
RECONNECT_FIRST_S = 0.25
RECONNECT_MAX_S = 5.0

SOCKET_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
"""The driver sends a batch in pieces. With Nagle's algorithm the last piece waits for the acknowledgement of those before it,
which the server delays by 40 ms: measured, 48 ms a batch of 20 KB, against 2.5 ms with this option."""


class _WideConnection(Cluster.connection_class):  # type: ignore[misc]
    """Its event loop is what the driver chose: libev's, in a thread of its own, one for the process; it sleeps when all
    connections are closed, and serves the next executor of the process."""

    out_buffer_size = in_buffer_size = 65_536
    """A batch is one call of ``send`` instead of ten, as is a page of ``recv``."""


class Connected(NamedTuple):
    cluster: Cluster
    session: Session
    routing: Routing


def connect(settings: ScyllaSettings) -> Connected:
    """Reach the cluster, without a keyspace yet. Raises StoreUnavailable, one line, within some connect_timeout_s."""
    # Cassandra warns of every batch above 5 KiB, and the driver logs that for every request; ``doctor`` says it once
    logging.getLogger("cassandra.protocol").setLevel(logging.ERROR)
    try:
        routing = Routing(settings.local_datacenter)
        cluster = _configure(settings, routing)
    except (*DRIVER_ERRORS, ValueError) as error:
        raise unreachable(error, settings.contact_points, settings.port) from error
    try:
        session = cluster.connect()
    except BaseException as error:
        cluster.shutdown()
        if isinstance(error, DRIVER_ERRORS):
            raise unreachable(error, settings.contact_points, settings.port) from error
        raise
    session.default_fetch_size = settings.page_rows
    session.use_client_timestamp = False  # every write that needs a timestamp brings its own
    routing.watch(session)
    return Connected(cluster, session, routing)


def _configure(settings: ScyllaSettings, routing: Routing) -> Cluster:
    credentials = PlainTextAuthProvider(settings.username, settings.password) if settings.username else None
    return Cluster(
        list(settings.contact_points),
        port=settings.port,
        protocol_version=PROTOCOL_VERSION,
        compression=False,
        connection_class=_WideConnection,
        sockopts=SOCKET_OPTIONS,
        auth_provider=credentials,
        ssl_context=_tls_context(settings) if settings.is_tls else None,
        reconnection_policy=ExponentialReconnectionPolicy(RECONNECT_FIRST_S, RECONNECT_MAX_S, max_attempts=None),
        execution_profiles={
            EXEC_PROFILE_DEFAULT: _profile(settings, routing, ConsistencyLevel.LOCAL_QUORUM),
            QUORUM: _profile(settings, routing, ConsistencyLevel.LOCAL_QUORUM),
            SERIAL: _profile(settings, routing, ConsistencyLevel.LOCAL_SERIAL),
        },
        connect_timeout=settings.connect_timeout_s / max(1, len(settings.contact_points)),
        control_connection_timeout=settings.connect_timeout_s / 2,
        idle_heartbeat_interval=HEARTBEAT_INTERVAL_S,
        idle_heartbeat_timeout=HEARTBEAT_TIMEOUT_S,
        driver_config_reporting_enabled=False,
    )


def _profile(settings: ScyllaSettings, routing: Routing, consistency: int) -> ExecutionProfile:
    return ExecutionProfile(
        load_balancing_policy=routing,
        retry_policy=NeverRetry(),
        consistency_level=consistency,
        serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
        request_timeout=settings.request_timeout_s,
        row_factory=tuple_factory,
    )


def _tls_context(settings: ScyllaSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.tls_ca_path or None)
    context.check_hostname = settings.is_tls_hostname_checked
    if settings.tls_certificate_path:
        context.load_cert_chain(settings.tls_certificate_path, settings.tls_key_path or None)
    return context
