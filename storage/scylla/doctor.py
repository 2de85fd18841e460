"""What the promises need of the cluster, as far as CQL can see it.

Owns the questions and the judgement over the answers; ``parley doctor`` prints them. Invariant: it changes nothing, and every
finding that is not good says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import trio
from cassandra import InvalidRequest
from cassandra.cluster import Session

from gateway.ops.findings import Finding
from storage.api import StoreError
from storage.scylla.connecting import Connected, connect
from storage.scylla.errors import DRIVER_ERRORS, translate
from storage.scylla.servers import Server, identify
from storage.scylla.settings import ScyllaSettings

WANTED_COPIES = 3
WANTED_GRACE_S = 864_000
WANTED_BATCH_WARN_KIB = 50
DURABLE_SYNCS = {"batch", "group"}
SCYLLA_TABLETS_CONDITIONAL_SINCE = (2025, 4)
"""The first release of ScyllaDB whose conditional writes work on tablets."""


class TableOptions(NamedTuple):
    name: str
    compaction: str
    gc_grace_s: int
    default_ttl_s: int
    read_repair: str | None
    """None: the engine has no such option (ScyllaDB: it always blocks)."""


class Readings(NamedTuple):
    """What a cluster says of itself."""

    server: Server
    node_versions: Mapping[str, str]
    """By address; of all nodes that the one asked knows."""
    down: tuple[str, ...]
    replication: Mapping[str, str] | None
    """None: there is no such keyspace."""
    has_tablets: bool
    settings: Mapping[str, Mapping[str, str]]
    """By node's address, those of ``NODE_SETTINGS`` that it names."""
    tables: tuple[TableOptions, ...]


NODE_SETTINGS = (
    "commitlog_sync",
    "minimum_timestamp_warn_threshold",
    "minimum_timestamp_fail_threshold",
    "batch_size_warn_threshold",
)


async def examine(settings: ScyllaSettings) -> list[Finding]:
    """One finding a subject; a cluster that cannot be asked is the one finding there is."""
    try:
        readings = await trio.to_thread.run_sync(_read, settings, abandon_on_cancel=True)
    except StoreError as error:
        return [Finding("store", False, str(error), "start the cluster, or mend contact_points, port and credentials")]
    return list(judge(readings, settings))


# ---------------------------------------------------------------------------------------------------- judgement


def judge(readings: Readings, settings: ScyllaSettings) -> Iterator[Finding]:
    yield _judge_server(readings)
    yield Finding(
        "nodes",
        not readings.down,
        f"{len(readings.node_versions)} known, {len(readings.down)} down"
        + "".join(f", {name}" for name in readings.down),
        "start them, or remove them from the cluster",
        is_needed=False,
    )
    if readings.replication is None:
        yield Finding("keyspace", True, f"{settings.keyspace} does not exist; the first worker makes it")
    else:
        yield from _judge_replication(readings, settings)
    yield from _judge_nodes(readings)
    for table in readings.tables:
        yield from _judge_table(table)


def _judge_server(readings: Readings) -> Finding:
    versions = sorted(set(readings.node_versions.values()))
    if not readings.server.is_scylla and readings.server.major < 4:
        return Finding("version", False, readings.server.name, "Apache Cassandra 4.0 or later, or ScyllaDB")
    if len(versions) > 1:
        return Finding("version", False, f"nodes of {', '.join(versions)}", "end the upgrade", is_needed=False)
    return Finding("version", True, readings.server.name)


def _judge_replication(readings: Readings, settings: ScyllaSettings) -> Iterator[Finding]:
    replication = dict(readings.replication or {})
    strategy = replication.pop("class", "").rpartition(".")[2]
    yield Finding(
        "replication",
        strategy == "NetworkTopologyStrategy",
        f"{strategy} {replication}",
        f"ALTER KEYSPACE {settings.keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', ...}}",
        is_needed=False,
    )
    copies = [int(count.partition("/")[0]) for count in replication.values() if count.partition("/")[0].isdigit()]
    fewest = min(copies, default=0)
    yield Finding(
        "copies",
        fewest >= WANTED_COPIES,
        f"{fewest} in a datacenter: "
        + ("one lost node loses nothing" if fewest >= 3 else "one lost node stops or loses chats"),
        f"ALTER KEYSPACE {settings.keyspace} to {WANTED_COPIES} copies in each datacenter, then repair",
    )
    if readings.server.is_scylla:
        yield Finding(
            "tablets",
            not readings.has_tablets or _version(readings.server) >= SCYLLA_TABLETS_CONDITIONAL_SINCE,
            "on" if readings.has_tablets else "off",
            "make the keyspace WITH tablets = {'enabled': false}: conditional writes need it in this version",
        )


def _version(server: Server) -> tuple[int, int]:
    numbers = [int(part) if part.isdigit() else 0 for part in server.version.split(".")[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _judge_nodes(readings: Readings) -> Iterator[Finding]:
    syncs = {node: known["commitlog_sync"] for node, known in readings.settings.items() if "commitlog_sync" in known}
    lazy = sorted(node for node, sync in syncs.items() if sync not in DURABLE_SYNCS)
    if syncs:
        yield Finding(
            "commitlog_sync",
            not lazy,
            f"periodic on {', '.join(lazy)}: a machine that loses power forgets rows that it acknowledged"
            if lazy
            else "batch or group on all nodes",
            "commitlog_sync: group (or batch) in every node's configuration, and restart it",
        )
    guarded = sorted(
        node
        for node, known in readings.settings.items()
        for name in ("minimum_timestamp_warn_threshold", "minimum_timestamp_fail_threshold")
        if known.get(name, "") not in {"", "null"}
    )
    if syncs:
        yield Finding(
            "minimum timestamps",
            not guarded,
            f"guarded on {', '.join(sorted(set(guarded)))}: the write times here are epochs and counters"
            if guarded
            else "not guarded",
            "unset minimum_timestamp_warn_threshold and minimum_timestamp_fail_threshold",
        )
    warned = sorted(
        node
        for node, known in readings.settings.items()
        if _kibibytes(known.get("batch_size_warn_threshold", "")) < WANTED_BATCH_WARN_KIB
    )
    if warned:
        yield Finding(
            "batch warnings",
            False,
            f"a line in the log of {', '.join(warned)} for every request of many rows",
            f"batch_size_warn_threshold: {WANTED_BATCH_WARN_KIB}KiB, unlogged_batch_across_partitions_warn_threshold: 200",
            is_needed=False,
        )


def _kibibytes(text: str) -> int:
    """Of ``5kib`` (Cassandra from 4.1 on) or ``128`` (ScyllaDB); where it says nothing, as much as is wanted."""
    digits = text.removesuffix("kib")
    return int(digits) if digits.isdigit() else WANTED_BATCH_WARN_KIB


def _judge_table(table: TableOptions) -> Iterator[Finding]:
    if table.name == "messages":
        compaction = table.compaction.rpartition(".")[2]
        yield Finding(
            "messages: compaction",
            compaction != "TimeWindowCompactionStrategy",
            compaction,
            "SizeTieredCompactionStrategy: time windows sort by write time, which is an epoch here",
        )
        yield Finding(
            "messages: time to live", table.default_ttl_s == 0, f"{table.default_ttl_s} s", "default_time_to_live = 0"
        )
    if table.gc_grace_s < WANTED_GRACE_S:
        yield Finding(
            f"{table.name}: gc_grace_seconds",
            False,
            f"{table.gc_grace_s}: a fence may be forgotten before every node has it",
            f"{WANTED_GRACE_S}, and a repair of the whole keyspace more often than that",
        )
    if table.read_repair not in {None, "BLOCKING"}:
        yield Finding(
            f"{table.name}: read_repair",
            False,
            f"{table.read_repair}: a page read twice may differ",
            f"ALTER TABLE {table.name} WITH read_repair = 'BLOCKING'",
        )


# ------------------------------------------------------------------------------------------------------ reading


def _read(settings: ScyllaSettings) -> Readings:
    connected = connect(settings)
    try:
        return _read_all(connected, settings.keyspace)
    except DRIVER_ERRORS as error:
        raise translate(error, was_sent=True) from error
    finally:
        connected.cluster.shutdown()


def _read_all(connected: Connected, keyspace: str) -> Readings:
    session = connected.session
    server = identify(session)
    hosts = connected.cluster.metadata.all_hosts()
    replication = session.execute(
        "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s", (keyspace,)
    ).one()
    return Readings(
        server=server,
        node_versions={str(host.address): str(host.release_version) for host in hosts},
        down=tuple(sorted(str(host.address) for host in hosts if not host.is_up)),
        replication=dict(replication[0]) if replication else None,
        has_tablets=_has_tablets(session, server, keyspace),
        settings={str(host.address): _node_settings(session, server, host) for host in hosts if host.is_up},
        tables=_tables(session, server, keyspace),
    )


def _has_tablets(session: Session, server: Server, keyspace: str) -> bool:
    if not server.is_scylla:
        return False
    try:
        row = session.execute(
            "SELECT initial_tablets FROM system_schema.scylla_keyspaces WHERE keyspace_name = %s", (keyspace,)
        ).one()
    except InvalidRequest:  # a version before tablets
        return False
    return row is not None and row[0] is not None


def _node_settings(session: Session, server: Server, host: Any) -> dict[str, str]:
    """Each node tells its own only."""
    table = "system.config" if server.is_scylla else "system_views.settings"
    found: dict[str, str] = {}
    for name in NODE_SETTINGS:
        try:
            spelled = f"{name}_in_kb" if server.is_scylla and name.startswith("batch_size") else name
            row = session.execute(f"SELECT value FROM {table} WHERE name = '{spelled}'", host=host).one()  # noqa: S608
        except InvalidRequest:  # a version without that table
            return found
        if row is not None and row[0] is not None:
            found[name] = str(row[0]).strip('"').lower()
    return found


def _tables(session: Session, server: Server, keyspace: str) -> tuple[TableOptions, ...]:
    has_option = not server.is_scylla and server.major >= 4
    rows = session.execute(
        "SELECT table_name, compaction, gc_grace_seconds, default_time_to_live"  # noqa: S608
        f"{', read_repair' if has_option else ''} FROM system_schema.tables WHERE keyspace_name = %s",
        (keyspace,),
    )
    return tuple(
        TableOptions(row[0], dict(row[1]).get("class", ""), row[2], row[3], row[4] if has_option else None)
        for row in rows
    )
