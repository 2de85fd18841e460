"""What a worker must be told to reach its directory, with the bounds of its use."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

DEFAULT_PORT = 6379


class RedisSettings(NamedTuple):
    """Times in seconds. Every bound is per worker: each worker has one connection."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    unix_path: str = ""
    """A Unix socket instead of host and port."""
    database: int = 0
    username: str = ""
    """Empty: the default user."""
    password: str = ""
    is_tls: bool = False
    tls_ca_path: str = ""
    """Who may have signed the server's certificate. Empty: the system's authorities."""
    tls_certificate_path: str = ""
    """The client's own, with its key, where the server wants one."""
    tls_key_path: str = ""
    is_tls_hostname_checked: bool = True
    prefix: str = "parley"
    """All keys and channels are named ``{prefix}:…``, braces included: in a Redis Cluster that keeps them on one node."""
    connect_timeout_s: float = 1.0
    """To a connection that has answered its greeting."""
    command_timeout_s: float = 0.8
    """An answer later than this cuts the connection. Below a second: who asks where a user is has a message to send."""
    max_waiting_commands: int = 8_192
    max_unsent_bytes: int = 16 << 20
    location_ttl_s: int = 6 * 3600
    """A connected device's record is kept so long without a word of its worker, which says one three times as often."""
    settle_s: float = 3.0
    """A directory that is younger than this may not know everybody yet: who joins waits. 0: nobody waits."""


def parse_url(url: str) -> RedisSettings:
    """``redis[s]://[user[:password]@]host[:port][/database]`` or ``unix:///path``. Raises ValueError."""
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "unix":
        return RedisSettings(unix_path=parts.path, username=user, password=password)
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(f"{parts.scheme}:// is not the address of a Redis: redis://, rediss:// or unix://")
    return RedisSettings(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or DEFAULT_PORT,
        database=int(parts.path.strip("/") or 0),
        username=user,
        password=password,
        is_tls=parts.scheme == "rediss",
    )
