"""The configuration: every setting, its type, its bounds, its default and what it means, said once.

Owns the settings alone. It must not know what they do, nor how they are written down: ``gateway/configfile.py`` reads
and prints them, ``gateway/keyfiles.py`` reads the keys that ``auth`` names. The comments of a printed configuration
and the table in docs/operations.md are the descriptions here.

Invariant: values are frozen; bounds are checked where a ``Config`` is made from outside (``configfile.load``), and
``check`` holds what two settings must be to each other.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field


def _number(low: float, high: float, description: str) -> Meta:
    return Meta(ge=low, le=high, description=description)


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
        int, _number(0, 1024, "worker processes; 0: one per core, and more where max_connections needs it")
    ] = 0
    max_connections: Annotated[
        int, _number(1, 10_000_000, "client connections of the node, spread over its workers; beyond it: 401")
    ] = 20_000
    drain_timeout_s: Annotated[
        float, _number(0, 3600, "after SIGTERM: how long connections may stay before the node ends")
    ] = 15.0
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
    secret: Annotated[str, Meta(description="HS256: the secret itself, as UTF-8")] = ""
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


class StoreConfig(Section, frozen=True):
    backend: Annotated[
        Literal["sqlite", "memory"],
        Meta(description="sqlite: <data>/parley.db; memory: for trials with one worker, nothing is kept"),
    ] = "sqlite"


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
    store: Annotated[StoreConfig, Meta(description="what lasts")] = field(default_factory=StoreConfig)


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


def _check_keys_of(kid: str, auth: AuthConfig) -> None:
    first, *others = (key for key in auth.keys if key.kid == kid)
    if others:
        raise ConfigError(f"auth.keys: kid {kid!r} is named twice")
    if [bool(first.secret), bool(first.secret_file), bool(first.public_key_file)].count(True) != 1:
        raise ConfigError(f"auth.keys: kid {kid!r} needs exactly one of secret, secret_file, public_key_file")
    algorithm = "EdDSA" if first.public_key_file else "HS256"
    if algorithm not in auth.algorithms:
        raise ConfigError(f"auth.keys: kid {kid!r} signs with {algorithm}, which auth.algorithms does not allow")
