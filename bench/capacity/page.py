"""The tables of docs/capacity.md, from the arithmetic: ``python -m bench capacity`` prints them for other numbers.

Owns the layout and the units. Invariant: a table's figures are computed when it is made; none is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from bench.capacity import chance, connections, cpu, directory, store, traffic
from bench.capacity.region import Region, inputs

SIZES = (3, 10, 30, 100, 300, 1000)
GROUP_SHARES = (0.0, 0.01, 0.1, 1.0)
LINGERS_S = (0.002, 0.02)
FOLDS_S = (1.0, 10.0, 60.0, 300.0)
SEED, ROUNDS = 1, 20

Table = tuple[Sequence[str], Iterable[Sequence[str]]]


def number(value: float) -> str:
    """Three digits: 12.3 k, 4.56 M."""
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == ' k' else limit):.3g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def size(value: float) -> str:
    for limit, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g} B"


def percent(value: float) -> str:
    return f"{number(100 * value)} %"


def given(region: Region) -> Table:
    rows = ([f"`{each.name}`", number(each.value), each.unit, each.source] for each in inputs(region))
    return ("input", "value", "unit", "source"), rows


def node(region: Region) -> Table:
    load, links = connections.node_load(region), connections.link_load(region)
    rows = [
        ("connections", number(load.connections)),
        ("of one worker", number(load.connections_per_worker)),
        ("their memory in the workers", size(load.user_bytes)),
        ("their sockets in the operating system", size(load.socket_bytes)),
        ("the workers themselves", size(load.worker_bytes)),
        ("memory in all", size(load.bytes + links.socket_bytes_per_node)),
        ("PINGs, answered in C", f"{number(load.pings_per_s)}/s"),
        ("logins, with sessions of this length", f"{number(load.logins_per_s)}/s"),
        ("logins of a lost node's connections: CPU of each other worker", f"{1000 * load.wave_s:.2g} ms"),
        ("link connections of a worker, both directions", number(links.per_worker)),
        ("files of a worker: clients and links", number(links.files_per_worker)),
        ("sockets of the links in the operating system", size(links.socket_bytes_per_node)),
        ("links in the region", number(links.in_region)),
    ]
    return ("of one node", ""), rows


def links(region: Region) -> Table:
    frames, rates = traffic.link_frames(region), traffic.link_rates(region)
    away, pairs = traffic.share_between_nodes(region), region.nodes * (region.nodes - 1)
    into, out = traffic.client_bytes_per_s(region)
    pair_rate = rates.frames / (region.workers * (region.workers - 1))
    rows = [
        ("SENDs that the session's worker forwards", percent(traffic.elsewhere(region))),
        ("... to another node", percent(1 - 1 / region.nodes)),
        ("link frames per message: SEND and its answer", number(frames.forwards + frames.answers)),
        ("... copies to recipients' workers", number(frames.copies)),
        ("... ACK and READ marks to the owner", number(frames.marks)),
        ("... receipts to the sender", number(frames.receipts)),
        ("deliveries to clients", f"{number(region.deliveries_per_s)}/s"),
        ("link frames, of the region", f"{number(rates.frames)}/s"),
        ("of a worker, out (and in)", f"{number(rates.frames / region.workers)}/s"),
        ("of a pair of workers, one way", f"{number(pair_rate)}/s"),
        ("acknowledgements of pushes among them", percent(rates.acknowledgements / rates.frames)),
        ("bytes between nodes, of a node, out", f"{size(rates.bytes * away / region.nodes)}/s"),
        ("... of a pair of nodes, one way", f"{size(rates.bytes * away / pairs)}/s"),
        ("bytes of the clients, of a node, in", f"{size(into / region.nodes)}/s"),
        ("... out", f"{size(out / region.nodes)}/s"),
    ]
    return ("messages", ""), rows


def copies(region: Region) -> Table:
    """The formula beside a simulation of the same throws."""

    def row(nodes: int) -> Sequence[str]:
        at = replace(region, nodes=nodes)
        workers, members = int(at.workers), int(at.group_recipients)
        simulated = chance.simulated_distinct(workers, members, ROUNDS, SEED)
        whole = chance.expected_distinct(workers, members)
        return (
            *(str(nodes), number(workers), f"{whole:.1f}", f"{simulated:.1f}"),
            *(f"{chance.expected_distinct(nodes, members):.1f}", f"{members / whole:.2f}"),
        )

    head = ("nodes", "workers", "workers with a member", "simulated", "nodes with a member", "members per copy")
    return head, [row(nodes) for nodes in SIZES]


def directories(region: Region) -> Table:
    load = directory.directory_load(region)
    rows = [
        ("workers that keep a user's places", number(load.trackers)),
        ("users whose places a worker keeps", number(load.located_per_worker)),
        ("looked up in the cache and found", percent(load.hit_rate)),
        ("look-ups", f"{number(load.lookups)}/s"),
        ("of one worker", f"{number(load.lookups / region.workers)}/s"),
        ("invalidations sent", f"{number(load.invalidations)}/s"),
        ("registrations and ends (scripts)", f"{number(load.registrations)}/s"),
        ("workers' signs of life", f"{number(load.beats)}/s"),
        ("commands in all", f"{number(load.commands)}/s"),
        ("that is so much of one Redis", percent(load.servers)),
        ("memory of Redis", size(load.memory_bytes)),
        ("keys that it tracks for its clients", number(load.tracked_keys)),
    ]
    return ("directory", ""), rows


def stores(region: Region) -> Table:
    rows_, leases = store.row_rates(region), store.lease_load(region)
    written = store.appends(region)
    rows = [
        ("message rows", f"{number(rows_.messages)}/s"),
        ("resend ids", f"{number(rows_.resends)}/s"),
        ("watermarks, written behind", f"{number(rows_.watermarks)}/s"),
        ("cursors, written behind", f"{number(rows_.cursors)}/s"),
        ("rows in all", f"{number(rows_.total)}/s"),
        ("writes of the replicas", f"{number(rows_.total * region.replicas)}/s"),
        ("cores of the store's servers", number(store.scylla_cores(region))),
        ("rows in a request of messages", f"{written.rows_per_request:.2f}"),
        ("requests of messages", f"{number(written.requests_per_s)}/s"),
        ("slots of a worker", number(leases.slots_per_worker)),
        ("slots that change hands when a node ends", number(leases.node_slots)),
        ("`still_held`: requests", f"{number(leases.requests_per_s)}/s"),
        ("`still_held`: partitions read", f"{number(leases.partition_reads_per_s)}/s"),
        ("message rows on disk, all replicas, uncompressed", f"{size(store.disk_bytes_per_day(region))} a day"),
        ("resend ids on disk, all replicas", size(store.resend_bytes(region))),
    ]
    return ("store", ""), rows


def cores(region: Region) -> Table:
    used = cpu.node_cores(region)
    rows = [(name.replace("_", " "), f"{value:.2f}") for name, value in used._asdict().items()]
    return ("cores of a node", ""), [*rows, ("in all", f"{used.total:.2f} of {number(region.workers_per_node)}")]


def growth(region: Region) -> Table:
    """More nodes of the same load."""

    def row(nodes: int) -> Sequence[str]:
        scale = nodes / region.nodes
        messages_per_s, devices = region.messages_per_s * scale, region.connections * scale
        at = replace(region, nodes=nodes, messages_per_s=messages_per_s, connections=devices)
        fullest, empty = chance.simulated_shares(int(at.workers), int(at.slots), ROUNDS, SEED)
        link, used = connections.link_load(at), cpu.node_cores(at)
        return (
            *(str(nodes), number(link.per_worker), number(link.in_region), size(link.socket_bytes_per_node)),
            *(
                f"{number(connections.placement_s(at))} s",
                size(connections.roster_bytes(at)),
                f"{fullest:.2f}",
                percent(empty),
            ),
            *(percent(directory.directory_load(at).servers), f"{used.total:.1f}"),
        )

    head = (
        *(
            "nodes",
            "links of a worker",
            "links",
            "their sockets, a node",
            "placement when a node comes or goes, a worker",
            "list of workers after it, to all",
        ),
        *("busiest owner : mean", "workers without a slot", "of one Redis", "cores of a node"),
    )
    return head, [row(nodes) for nodes in SIZES]


def group_shares(region: Region) -> Table:
    def row(share: float) -> Sequence[str]:
        at = replace(region, group_share=share)
        used, rows = cpu.node_cores(at), store.row_rates(at)
        return (
            *(percent(share), f"{number(at.deliveries_per_s)}/s", number(traffic.link_frames(at).total)),
            *(f"{number(rows.marks)}/s", number(store.scylla_cores(at))),
            *(f"{used.copies:.1f}", f"{used.marks_told + used.marks_written:.1f}", f"{used.total:.1f}"),
        )

    head = (
        *("of the messages to groups", "deliveries", "link frames per message", "marks written", "store cores"),
        *("node cores: copies", "marks", "in all"),
    )
    return head, [row(share) for share in GROUP_SHARES]


def folding(region: Region) -> Table:
    def row(fold_s: float) -> Sequence[str]:
        at = replace(region, write_behind_s=fold_s)
        marks = store.row_rates(at).marks
        share = marks / store.row_rates(at).total
        used = cpu.node_cores(at)
        return (
            number(fold_s),
            f"{number(marks)}/s",
            percent(share),
            number(store.scylla_cores(at)),
            f"{used.marks_written:.2f}",
        )

    return ("written behind, s", "marks written", "of all rows", "store cores", "node cores"), map(row, FOLDS_S)


def grouping(region: Region) -> Table:
    choices = (
        ("that one coordinator keeps (as it is)", store.by_coordinator),
        ("of one set of replicas", store.by_replica_set),
        ("as they come", store.by_nothing),
    )

    def row(what: str, group: store.Grouping, linger_s: float) -> Sequence[str]:
        written = store.appends(replace(region, linger_s=linger_s), group)
        cores_ = region.messages_per_s * store.ROWS_PER_MESSAGE * written.row_us / region.nodes / 1e6
        return (
            *(what, f"{1000 * linger_s:.0f} ms", f"{written.rows_per_request:.2f}"),
            *(f"{number(written.requests_per_s)}/s", f"{written.row_us:.0f} us", f"{cores_:.2f}"),
        )

    head = ("rows of a request", "linger", "rows per request", "requests", "worker's CPU per row", "cores of a node")
    return head, [row(*choice, linger_s) for linger_s in LINGERS_S for choice in choices]


TABLES: Mapping[str, Callable[[Region], Table]] = {
    "inputs": given,
    "node": node,
    "links": links,
    "copies": copies,
    "directory": directories,
    "store": stores,
    "cpu": cores,
    "growth": growth,
    "groups": group_shares,
    "folding": folding,
    "requests": grouping,
}


def markdown(table: Table) -> str:
    head, rows = table
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def parts(region: Region | None = None) -> Mapping[str, Callable[[], str]]:
    """By the name that the page gives them: ``capacity_`` and the table's."""

    def part(make: Callable[[Region], Table]) -> Callable[[], str]:
        return lambda: markdown(make(region or Region()))

    return {f"capacity_{name}": part(make) for name, make in TABLES.items()}
