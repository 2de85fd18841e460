"""The configuration: every setting, its type, its bounds, its default and what it means, said once.

Owns the settings alone. It must not know what they do, nor how they are written down: ``gateway/configfile.py`` reads
and prints them, ``gateway/keyfiles.py`` reads the keys that ``auth`` names. The comments of a printed configuration
and the table in docs/operations.md are the descriptions here.

Invariant: values are frozen; bounds are checked where a ``Config`` is made from outside (``configfile.load``), and
``check`` holds what two settings must be to each other. What a cluster needs is all there or not at all: a node that
believed itself alone over a shared store would be one that others take for dead.
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field

MAX_NODES = 1023
MAX_WORKERS = 1023
"""A worker's id has 10 bits for its number within the node, and the node's number above them; both begin at 1."""


def _number(low: float, high: float, description: str) -> Meta:
    return Meta(ge=low, le=high, description=description)


def _secret(description: str) -> Meta:
    """Is not printed."""
    return Meta(description=description, extra={"is_secret": True})


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file. Every field is Annotated with a Meta that describes it."""


class Rate(Section, frozen=True):
    """A token bucket: ``burst`` at once, refilled at ``per_s``."""

    per_s: Annotated[float, _number(0.001, 1e9, "refill, per second")]
    burst: Annotated[int, _number(1, 1_000_000_000, "how many at once after a pause")]


class ServeConfig(Section, frozen=True):
    host: Annotated[str, Meta(description="address that clients connect to; 0.0.0.0 or :: for every interface")] = (
        "127.0.0.1"
    )
    port: Annotated[int, _number(0, 65_535, "TCP port of the clients; 0 takes a free one")] = 7800
    ops_host: Annotated[str, Meta(description="address of /metrics, /healthz, /readyz")] = "127.0.0.1"
    ops_port: Annotated[int, _number(0, 65_535, "TCP port of the operations endpoint; 0 takes a free one")] = 7880
    data: Annotated[
        str,
        Meta(
            min_length=1,
            description="directory of the store, the keys and the sockets; relative to the working directory",
        ),
    ] = "data"
    workers: Annotated[
        int, _number(0, MAX_WORKERS, "worker processes; 0: one per core, and more where max_connections needs it")
    ] = 0
    max_connections: Annotated[
        int, _number(1, 10_000_000, "client connections of the node, spread over its workers; beyond it: 401")
    ] = 20_000
    drain_timeout_s: Annotated[
        float, _number(0, 3600, "after SIGTERM: how long connections may stay before the node ends")
    ] = 15.0
    hung_timeout_s: Annotated[
        float,
        _number(0, 3600, "a worker that serves and answers nothing for so long is ended and started again; 0: never"),
    ] = 10.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severity that is logged")
    ] = "info"


class SessionConfig(Section, frozen=True):
    hello_timeout_s: Annotated[int, _number(1, 60, "from connecting to a whole HELLO")] = 10
    keepalive_default_s: Annotated[int, _number(15, 1800, "when the client wishes none")] = 270
    keepalive_min_s: Annotated[int, _number(15, 1800, "shortest that is granted")] = 15
    keepalive_max_s: Annotated[
        int, _number(15, 1800, "longest that is granted; a connection silent for 1.5 x its keep-alive ends")
    ] = 1800
    window_default: Annotated[int, _number(1, 4096, "unanswered requests at once when the client wishes none")] = 64
    window_max: Annotated[int, _number(1, 4096, "most that is granted")] = 256
    max_frame_bytes: Annotated[int, _number(65_536, 8_388_608, "largest frame after WELCOME")] = 65_536
    linger_s: Annotated[
        int, _number(0, 60, "how long input is discarded after our side has ended, so that the reason arrives")
    ] = 2
    stall_timeout_s: Annotated[
        int, _number(1, 600, "a peer that takes nothing of its outbox for so long is cut (402)")
    ] = 15
    drain_spread_ms: Annotated[int, _number(0, 3_600_000, "GOAWAY spreads the reconnections over so long")] = 10_000


class AuthKey(Section, frozen=True):
    """One key that tokens may be signed with, by its kid: exactly one of the three sources."""

    kid: Annotated[str, Meta(min_length=1, max_length=256, description="key id in the token's header")]
    secret: Annotated[str, _secret("HS256: the secret itself, as UTF-8")] = ""
    secret_file: Annotated[
        str, Meta(description="HS256: a file that holds the secret; one newline at its end does not count")
    ] = ""
    public_key_file: Annotated[str, Meta(description="EdDSA: a file with the public key in PEM")] = ""


class AuthConfig(Section, frozen=True):
    algorithms: Annotated[
        tuple[Literal["HS256", "EdDSA"], ...], Meta(min_length=1, description="signatures that are accepted at all")
    ] = ("HS256", "EdDSA")
    leeway_s: Annotated[int, _number(0, 600, "a session ends so long after its token's exp")] = 60
    keys: Annotated[
        tuple[AuthKey, ...], Meta(description="none: the key in <data>/auth.key (kid local), made at the first start")
    ] = ()
    resume_secret: Annotated[
        str, _secret("what resume tokens are signed with; none: <data>/resume.key, which other nodes do not know")
    ] = ""
    resume_secret_file: Annotated[str, Meta(description="a file that holds it, the same on every node")] = ""


class LimitsConfig(Section, frozen=True):
    """Rates. Beyond one the request is answered 400 with retry_after_ms; nobody is closed for it."""

    address_connects: Annotated[Rate, Meta(description="connections accepted from one client address")] = Rate(
        10_000, 50_000
    )
    user_connects: Annotated[Rate, Meta(description="HELLOs of one user, all devices together")] = Rate(100, 1_000)
    user_sends: Annotated[Rate, Meta(description="SENDs of one user, all devices together")] = Rate(40_000, 80_000)
    user_requests: Annotated[Rate, Meta(description="other requests of one user, all devices together")] = Rate(
        10_000, 20_000
    )
    device_sends: Annotated[Rate, Meta(description="SENDs of one device")] = Rate(20_000, 40_000)
    device_requests: Annotated[Rate, Meta(description="other requests of one device")] = Rate(5_000, 10_000)
    max_tracked: Annotated[
        int, _number(1000, 10_000_000, "buckets that a worker remembers; beyond it the longest unused are forgotten")
    ] = 200_000


class ChatConfig(Section, frozen=True):
    max_members: Annotated[int, _number(2, 1024, "members of a group; beyond it: 305")] = 1024
    max_actors: Annotated[
        int, _number(16, 10_000_000, "chats that a worker holds in memory; the longest idle leave")
    ] = 20_000
    max_queued_requests: Annotated[int, _number(64, 1_000_000, "requests that wait in one chat; beyond it: 401")] = 4096
    max_remembered_ids: Annotated[
        int, _number(1000, 100_000_000, "client_msg_ids that a worker holds (some 400 bytes each)")
    ] = 1_000_000


class OutboxConfig(Section, frozen=True):
    session_bytes: Annotated[
        int, _number(65_536, 1 << 30, "bytes queued to one connection; beyond it pushes are dropped (LAGGED)")
    ] = 262_144
    total_bytes: Annotated[int, _number(1 << 20, 1 << 40, "bytes queued to all connections of a worker")] = 1 << 30


class LinkKeyConfig(Section, frozen=True):
    """A secret that every node of the cluster has: exactly one of the two sources."""

    id: Annotated[str, Meta(min_length=1, max_length=64, description="the key's name in handshakes")]
    secret: Annotated[str, _secret("the secret itself, as UTF-8; 16 bytes at least")] = ""
    secret_file: Annotated[
        str, Meta(description="a file that holds the secret; one newline at its end does not count")
    ] = ""


class ClusterConfig(Section, frozen=True):
    node: Annotated[
        int, _number(0, MAX_NODES, "this node's number, of which no other node of the cluster may be; 0: no cluster")
    ] = 0
    host: Annotated[str, Meta(description="where the other nodes reach this one: an address, or a name of it")] = ""
    link_host: Annotated[
        str, Meta(description="address that links are listened for on; 0.0.0.0 or :: for every interface; none: host's")
    ] = ""
    link_port: Annotated[
        int, _number(0, 65_535, "worker k listens for links on link_port + k - 1; 0: on free ports")
    ] = 0
    link_keys: Annotated[
        tuple[LinkKeyConfig, ...],
        Meta(description="the first is offered, any accepted: to change one, add, swap, remove"),
    ] = ()
    advertise: Annotated[
        tuple[str, ...],
        Meta(
            description="where clients go, in this order, when this node leaves: host:port; none: the same address again"
        ),
    ] = ()


class ScyllaConfig(Section, frozen=True):
    """Beyond a bound a request is refused (501), not queued."""

    contact_points: Annotated[
        tuple[str, ...], Meta(min_length=1, description="addresses or names of some servers; they tell of the others")
    ] = ("127.0.0.1",)
    port: Annotated[int, _number(1, 65_535, "of CQL, the same on every server")] = 9042
    keyspace: Annotated[
        str, Meta(pattern="^[a-z][a-z0-9_]{0,47}$", description="made at the first start if there is none")
    ] = "parley"
    replication_factor: Annotated[
        int, _number(1, 7, "copies, of a keyspace that is made; below 3 one lost server stops it")
    ] = 3
    local_datacenter: Annotated[
        str, Meta(description="quorums are of this one; none: that of the first contact point that answers")
    ] = ""
    username: Annotated[str, Meta(description="none: the servers ask for no password")] = ""
    password: Annotated[str, _secret("of the user")] = ""
    password_file: Annotated[str, Meta(description="a file that holds it; one newline at its end does not count")] = ""
    tls: Annotated[bool, Meta(description="speak TLS with the servers")] = False
    tls_ca_file: Annotated[
        str, Meta(description="who may have signed their certificates; none: the system's authorities")
    ] = ""
    tls_certificate_file: Annotated[str, Meta(description="ours, where they want one")] = ""
    tls_key_file: Annotated[str, Meta(description="its key; none: it is in the certificate's file")] = ""
    tls_check_hostname: Annotated[bool, Meta(description="their certificates must name their addresses")] = True
    connect_timeout_s: Annotated[float, _number(0.1, 300, "until some server answers at the start")] = 10.0
    request_timeout_s: Annotated[
        float,
        _number(0.1, 10, "until a request counts as unknown; beyond 2 s an answer proves nothing to whoever asked"),
    ] = 2.0
    max_in_flight_writes: Annotated[int, _number(1, 1024, "requests of a worker, up to a hundred rows each")] = 64
    max_in_flight_reads: Annotated[int, _number(1, 1024, "requests of a worker")] = 128
    max_waiting_rows: Annotated[int, _number(64, 10_000_000, "rows of a worker that wait to be written")] = 65_536


class StoreConfig(Section, frozen=True):
    backend: Annotated[
        Literal["sqlite", "memory", "scylla"],
        Meta(
            description="sqlite: <data>/parley.db; memory: for trials with one worker, nothing is kept; "
            "scylla: ScyllaDB or Cassandra, for a cluster"
        ),
    ] = "sqlite"
    scylla: Annotated[ScyllaConfig, Meta(description="where ScyllaDB or Cassandra is")] = field(
        default_factory=ScyllaConfig
    )


class RedisConfig(Section, frozen=True):
    url: Annotated[
        str,
        Meta(
            description="redis[s]://[user@]host[:port][/database] or unix:///path, instead of host, port, username, "
            "database and tls"
        ),
    ] = ""
    host: Annotated[str, Meta(description="address or name of the server")] = "127.0.0.1"
    port: Annotated[int, _number(1, 65_535, "its port")] = 6379
    database: Annotated[int, _number(0, 65_535, "number of the database")] = 0
    username: Annotated[str, Meta(description="none: the default user")] = ""
    password: Annotated[str, _secret("of the user; none: the server asks for none")] = ""
    password_file: Annotated[str, Meta(description="a file that holds it; one newline at its end does not count")] = ""
    tls: Annotated[bool, Meta(description="speak TLS with the server")] = False
    tls_ca_file: Annotated[
        str, Meta(description="who may have signed its certificate; none: the system's authorities")
    ] = ""
    tls_certificate_file: Annotated[str, Meta(description="ours, where it wants one")] = ""
    tls_key_file: Annotated[str, Meta(description="its key; none: it is in the certificate's file")] = ""
    tls_check_hostname: Annotated[bool, Meta(description="its certificate must name its address")] = True
    prefix: Annotated[
        str, Meta(min_length=1, max_length=64, description="of all keys: clusters that share a server need one each")
    ] = "parley"
    connect_timeout_s: Annotated[float, _number(0.1, 60, "until a connection is made and greeted")] = 1.0
    command_timeout_s: Annotated[float, _number(0.05, 10, "an answer later than this cuts the connection")] = 0.8


class DirectoryConfig(Section, frozen=True):
    backend: Annotated[
        Literal["embedded", "redis"], Meta(description="embedded: the node's supervisor; redis: for a cluster")
    ] = "embedded"
    redis: Annotated[RedisConfig, Meta(description="where Redis is")] = field(default_factory=RedisConfig)


class Config(Section, frozen=True):
    """All of it. ``load`` makes one; ``to_toml`` prints one."""

    serve: Annotated[ServeConfig, Meta(description="processes, ports, directories")] = field(
        default_factory=ServeConfig
    )
    session: Annotated[SessionConfig, Meta(description="one connection")] = field(default_factory=SessionConfig)
    auth: Annotated[AuthConfig, Meta(description="who may come in")] = field(default_factory=AuthConfig)
    limits: Annotated[LimitsConfig, Meta(description="token buckets; beyond one: 400 with retry_after_ms")] = field(
        default_factory=LimitsConfig
    )
    chat: Annotated[ChatConfig, Meta(description="chats in memory")] = field(default_factory=ChatConfig)
    outbox: Annotated[OutboxConfig, Meta(description="what waits for slow readers")] = field(
        default_factory=OutboxConfig
    )
    cluster: Annotated[ClusterConfig, Meta(description="several nodes as one service")] = field(
        default_factory=ClusterConfig
    )
    store: Annotated[StoreConfig, Meta(description="what lasts")] = field(default_factory=StoreConfig)
    directory: Annotated[DirectoryConfig, Meta(description="who is connected where; may be lost at any time")] = field(
        default_factory=DirectoryConfig
    )


class ConfigError(Exception):
    """The operator's mistake: one line that says where it is and what to write instead."""


def check(config: Config) -> None:
    """What holds between settings. Raises ConfigError."""
    session = config.session
    if not session.keepalive_min_s <= session.keepalive_default_s <= session.keepalive_max_s:
        raise ConfigError(
            "session: keepalive_min_s, keepalive_default_s and keepalive_max_s must rise, "
            f"they are {session.keepalive_min_s}, {session.keepalive_default_s}, {session.keepalive_max_s}"
        )
    if session.window_default > session.window_max:
        raise ConfigError(f"session: window_default {session.window_default} is above window_max {session.window_max}")
    if config.outbox.session_bytes < 2 * session.max_frame_bytes:
        raise ConfigError("outbox.session_bytes must hold two frames: at least 2 x session.max_frame_bytes")
    if config.store.backend == "memory" and config.serve.workers != 1:
        raise ConfigError('store.backend "memory" is one process\'s own: set serve.workers = 1')
    for kid in {key.kid for key in config.auth.keys}:
        _check_keys_of(kid, config.auth)
    _check_one(config.auth, "auth", "resume_secret", "resume_secret_file")
    _check_cluster(config)


def _check_keys_of(kid: str, auth: AuthConfig) -> None:
    first, *others = (key for key in auth.keys if key.kid == kid)
    if others:
        raise ConfigError(f"auth.keys: kid {kid!r} is named twice")
    if [bool(first.secret), bool(first.secret_file), bool(first.public_key_file)].count(True) != 1:
        raise ConfigError(f"auth.keys: kid {kid!r} needs exactly one of secret, secret_file, public_key_file")
    algorithm = "EdDSA" if first.public_key_file else "HS256"
    if algorithm not in auth.algorithms:
        raise ConfigError(f"auth.keys: kid {kid!r} signs with {algorithm}, which auth.algorithms does not allow")


def _check_cluster(config: Config) -> None:
    cluster, store, directory = config.cluster, config.store, config.directory
    if not cluster.node:
        for name, is_used in (
            ('store.backend "scylla"', store.backend == "scylla"),
            ('directory.backend "redis"', directory.backend == "redis"),
            ("cluster.host", bool(cluster.host)),
            ("cluster.link_keys", bool(cluster.link_keys)),
        ):
            if is_used:
                raise ConfigError(f"{name} is for a cluster: set cluster.node, from 1 on, another for each node")
        return
    if store.backend != "scylla":
        raise ConfigError(f'store.backend "{store.backend}" is one node\'s own: a cluster needs "scylla"')
    if directory.backend != "redis":
        raise ConfigError('directory.backend "embedded" is one node\'s own: a cluster needs "redis"')
    if not cluster.host:
        raise ConfigError("cluster.host: say where the other nodes reach this one")
    if not cluster.link_keys:
        raise ConfigError("cluster.link_keys: nodes know each other by a shared secret, give them one")
    _check_link_places(cluster, config.serve.workers)
    _check_one(store.scylla, "store.scylla", "password", "password_file")
    _check_redis(directory.redis)


def _check_link_places(cluster: ClusterConfig, workers: int) -> None:
    ids = [key.id for key in cluster.link_keys]
    for key in cluster.link_keys:
        if ids.count(key.id) > 1:
            raise ConfigError(f"cluster.link_keys: id {key.id!r} is named twice")
        if bool(key.secret) == bool(key.secret_file):
            raise ConfigError(f"cluster.link_keys: id {key.id!r} needs exactly one of secret, secret_file")
    if cluster.link_port and cluster.link_port + max(1, workers) - 1 > 65_535:
        raise ConfigError(f"cluster.link_port {cluster.link_port}: {workers} workers need as many ports from there on")
    for address in cluster.advertise:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ConfigError(f"cluster.advertise: {address!r} is not host:port")


def _check_redis(redis: RedisConfig) -> None:
    _check_one(redis, "directory.redis", "password", "password_file")
    if not redis.url:
        return
    try:
        parts = urlsplit(redis.url)
        is_known = parts.scheme in ("redis", "rediss", "unix") and (parts.port is None or parts.port > 0)
    except ValueError:
        is_known = False
    if not is_known:
        raise ConfigError("directory.redis.url: write redis://host:port, rediss://host:port or unix:///path")
    if parts.password is not None:
        raise ConfigError("directory.redis.url: a password in it would be printed: use password or password_file")


def _check_one(section: Section, where: str, inline: str, file: str) -> None:
    if getattr(section, inline) and getattr(section, file):
        raise ConfigError(f"{where}: give {inline} or {file}, not both")
