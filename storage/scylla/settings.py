"""What a worker must be told to reach its cluster, with the bounds of its use."""

from __future__ import annotations

from typing import NamedTuple


class ScyllaSettings(NamedTuple):
    """Times in seconds. Every bound is per worker."""

    contact_points: tuple[str, ...] = ("127.0.0.1",)
    port: int = 9042
    keyspace: str = "parley"
    replication_factor: int = 3
    """Of a keyspace that is made; an existing one keeps its own, and ``parley doctor`` says where that is too low."""
    local_datacenter: str = ""
    """Quorums are of this one. Empty: that of the first contact point that answers."""
    username: str = ""
    password: str = ""
    is_tls: bool = False
    tls_ca_path: str = ""
    """Who may have signed the servers' certificates. Empty: the system's authorities."""
    tls_certificate_path: str = ""
    """The client's own, with its key, where the servers want one."""
    tls_key_path: str = ""
    is_tls_hostname_checked: bool = True
    connect_timeout_s: float = 10.0
    """To reach any contact point at all. The migration of the schema comes on top."""
    migration_timeout_s: float = 60.0
    request_timeout_s: float = 2.0
    """As long as a slot's holder believes: an answer later than that proves nothing to whoever asked. It is also what the
    servers give their own replicas (``write_request_timeout``), so a coordinator that knows more has said so by then."""
    linger_s: float = 0.002
    """How long a write waits for others to share its request. At 5,000 messages/s and two rows each that is 20 rows."""
    linger_max_s: float = 0.006
    """And how long while a request to the same coordinator is under way: what comes meanwhile is the next one."""
    max_in_flight_writes: int = 64
    """Requests; each may hold a hundred rows."""
    max_waiting_rows: int = 65_536
    max_waiting_bytes: int = 64 << 20
    max_in_flight_reads: int = 128
    max_waiting_reads: int = 4_096
    max_in_flight_decisions: int = 16
    max_waiting_decisions: int = 1_024
    page_rows: int = 1_000
