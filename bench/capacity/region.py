"""The numbers that go in: what the region is, what is assumed of its people, what was measured of the parts.

Owns every input with its unit and its source; computes nothing. Invariant: no number of the arithmetic is anywhere else,
and each names where it comes from: the task, an assumption, a constant of the code, or a command that measured it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from bench.faults import BenchError


class Input(NamedTuple):
    name: str
    value: float
    unit: str
    source: str


def _figure(value: float, unit: str, source: str) -> Any:
    return field(default=value, metadata={"unit": unit, "source": source})


_MEASURED = "measured: docs/benchmarks.md, "
_CODE = "the code: "
_TASK = "given"


@dataclass(frozen=True)
class Region:
    """Rates are per second and of the whole region."""

    connections: float = _figure(10e6, "devices", _TASK)
    nodes: float = _figure(100, "", _TASK)
    messages_per_s: float = _figure(1.2e6, "SENDs/s", _TASK)
    group_members: float = _figure(256, "people", _TASK)

    group_share: float = _figure(0.01, "of the messages", "assumed: the others go to direct chats")
    online_share: float = _figure(1.0, "of the members", "assumed: everybody connected, the most work")
    session_s: float = _figure(1800, "s", "assumed: how long a phone stays connected")
    active_chats: float = _figure(10, "chats a user", "assumed: with a message now and then in a session")
    read_share: float = _figure(0.5, "of the deliveries", "assumed: marks READ apart from their ACK")
    body_bytes: float = _figure(100, "bytes", "assumed: as in the benches")
    workers_per_node: float = _figure(16, "processes", "assumed: one per core of a 16-core node")
    packet_bytes: float = _figure(
        78, "bytes", "assumed: Ethernet, IPv4 and TCP around a small frame; half of them again for ACKs"
    )

    keepalive_s: float = _figure(270, "s", _CODE + "session.keepalive_default_s")
    slots: float = _figure(16_384, "", _CODE + "storage/api.py, SLOTS")
    slots_per_part: float = _figure(64, "", _CODE + "storage/scylla/statements.py, SLOTS_PER_PART")
    parts_per_read: float = _figure(64, "partitions", _CODE + "storage/scylla/statements.py, KEYS_PER_READ")
    belief_questions_per_s: float = _figure(2, "per worker and s", _CODE + "gateway/cluster/belief.py")
    write_behind_s: float = _figure(1.0, "s", _CODE + "gateway/chat/marks.py: marks are folded so long")
    linger_s: float = _figure(0.002, "s", _CODE + "storage/scylla/settings.py, linger_s")
    located_users: float = _figure(200_000, "users a worker", _CODE + "gateway/cluster/locations.py, MAX_USERS")
    tick_s: float = _figure(0.25, "s", _CODE + "gateway/cluster/links.py, TICK_S: a link acknowledges pushes so late")
    worker_beats_per_s: float = _figure(2, "per worker and s", _CODE + "storage/redis/lua.py, BEAT_S")
    roster_record_bytes: float = _figure(110, "bytes", _CODE + "storage/redis/records.py: a worker's record")
    resend_days: float = _figure(8, "days", _CODE + "storage/api.py, RESEND_DAYS")
    replicas: float = _figure(3, "copies of a row", _CODE + "store.scylla.replication_factor")

    user_bytes: float = _figure(768, "bytes a connection", _MEASURED + "`bench idle`")
    socket_bytes: float = _figure(
        4_800, "bytes a socket", "measured: the operating system's share (gateway/ops/capacity.py)"
    )
    worker_bytes: float = _figure(
        80e6, "bytes", "the code: gateway/ops/capacity.py, a worker without connections, with room"
    )
    message_us: float = _figure(
        500,
        "us of CPU",
        "measured: `bench spread` without the rows: between 420 (750 messages/s a worker, half of them to others) and 730"
        " (190/s, nearly all to others)",
    )
    copy_us: float = _figure(
        70, "us of CPU", "measured: `bench fanout --no-acks`, 1 and 8 workers: what each copy adds"
    )
    mark_us: float = _figure(50, "us of CPU", "the code: gateway/net/folding.py: an ACK folded, forwarded, taken")
    request_us: float = _figure(
        290, "us of CPU", "measured: scylla-driver 3.29 to Cassandra 5, batches of 1, 20 and 100 rows: the fixed part"
    )
    row_us: float = _figure(20, "us of CPU", "measured: the same, the part of each row")
    placement_us: float = _figure(
        0.5, "us of CPU", "measured: gateway/cluster/placement.py, one worker's weight of a slot"
    )
    connects_per_s: float = _figure(7_614, "logins/s of a worker", _MEASURED + "`bench connect`")
    redis_per_s: float = _figure(
        100_000,
        "commands/s of one Redis",
        "measured: HGETALL over one pipelined connection, server and client on 2 cores",
    )
    scylla_core_per_s: float = _figure(
        12_500,
        "operations/s of a core",
        "published: ScyllaDB's documentation, Maximizing ScyllaDB Performance; not measured here",
    )
    scylla_nodes: float = _figure(24, "", "assumed")
    scylla_tokens: float = _figure(16, "ranges a node", "assumed: num_tokens; each may have replicas of its own")
    message_row_bytes: float = _figure(230, "bytes", "assumed: 100 of them the body; see the store's table sizes")
    resend_row_bytes: float = _figure(90, "bytes", "assumed")
    user_key_bytes: float = _figure(
        355, "bytes", "measured: `bench lookups --redis`: a user's key in Redis and the tracking of it"
    )

    @property
    def workers(self) -> float:
        return self.nodes * self.workers_per_node

    @property
    def recipients(self) -> float:
        """Of one message, the sender's devices not counted: the mean over direct chats and groups."""
        return (1 - self.group_share) + self.group_share * self.group_recipients

    @property
    def group_recipients(self) -> float:
        return (self.group_members - 1) * self.online_share

    @property
    def deliveries_per_s(self) -> float:
        return self.messages_per_s * self.recipients


def with_inputs(settings: Iterable[str]) -> Region:
    """The region with some inputs set: ``nodes=200``. Raises BenchError."""
    names = {each.name for each in fields(Region)}
    values: dict[str, float] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise BenchError(f"{name!r} is no input" + (f", did you mean {near[0]}?" if near else ""))
        try:
            values[name] = float(value)
        except ValueError as error:
            raise BenchError(f"{setting!r}: write INPUT=NUMBER") from error
    return replace(Region(), **values)


def inputs(region: Region) -> list[Input]:
    return [
        Input(each.name, getattr(region, each.name), each.metadata["unit"], each.metadata["source"])
        for each in fields(Region)
    ]
