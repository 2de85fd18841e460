"""The store: rows, requests and their cost to the workers, the leases' reads, and what fills the disks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from bench.capacity.chance import events_per_s, expected_distinct, expected_groups
from bench.capacity.region import Region

DAY_S = 86_400
MAX_ROWS = 128.0
"""Of a request, as storage/scylla/grouping.py has it."""

Grouping: TypeAlias = Callable[[Region, float], float]
"""How many requests so many rows become."""

ROWS_PER_MESSAGE = 2
"""The message and its resend id: two partitions, hence two rows that need not go together."""


class RowRates(NamedTuple):
    """Written per second, of the whole region."""

    messages: float
    resends: float
    watermarks: float
    cursors: float

    @property
    def total(self) -> float:
        return sum(self)

    @property
    def marks(self) -> float:
        return self.watermarks + self.cursors


class Requests(NamedTuple):
    """Writes of all workers."""

    rows_per_request: float
    requests_per_s: float
    """Of the whole region."""
    row_us: float
    """The worker's CPU per row."""


class LeaseLoad(NamedTuple):
    slots_per_worker: float
    parts_per_worker: float
    requests_per_s: float
    partition_reads_per_s: float
    node_slots: float
    """What changes hands when a node ends."""


def row_rates(region: Region) -> RowRates:
    """Marks are folded per chat and person for ``write_behind_s``; a delivery is a cursor and a mark, a READ another mark."""
    pairs = region.connections * region.active_chats
    delivered = pairs * events_per_s(region.deliveries_per_s / pairs, region.write_behind_s)
    read = pairs * events_per_s(region.deliveries_per_s * region.read_share / pairs, region.write_behind_s)
    return RowRates(region.messages_per_s, region.messages_per_s, delivered + read, delivered)


def by_coordinator(region: Region, gathered: float) -> float:
    """Requests for so many rows: a row joins any whose coordinator is one of its replicas (storage/scylla/grouping.py)."""
    return expected_groups(gathered, region.scylla_nodes, region.replicas)


def by_replica_set(region: Region, gathered: float) -> float:
    """A row joins only rows of the very same replicas, as some clients do: one set per token range, at most."""
    combinations = math.comb(int(region.scylla_nodes), int(region.replicas))
    return expected_distinct(max(1.0, min(region.scylla_nodes * region.scylla_tokens, combinations)), gathered)


def by_nothing(region: Region, gathered: float) -> float:
    """Any rows together: the coordinator sends most of them on."""
    return min(1.0, gathered)


def appends(region: Region, group: Grouping = by_coordinator) -> Requests:
    """Messages and resend ids: those of ``linger_s`` may share requests."""
    return _requests(region, region.messages_per_s * ROWS_PER_MESSAGE, region.linger_s, group)


def mark_writes(region: Region, group: Grouping = by_coordinator) -> Requests:
    """Watermarks and cursors: those of ``write_behind_s`` go together."""
    return _requests(region, row_rates(region).marks, region.write_behind_s, group)


def _requests(region: Region, rows_per_s: float, gathered_s: float, group: Grouping) -> Requests:
    gathered = rows_per_s / region.workers * gathered_s
    rows = min(MAX_ROWS, max(1.0, gathered / group(region, gathered))) if gathered > 1 else 1.0
    return Requests(rows, rows_per_s / rows, region.request_us / rows + region.row_us)


def lease_load(region: Region) -> LeaseLoad:
    slots = region.slots / region.workers
    parts = expected_distinct(region.slots / region.slots_per_part, slots)
    asked = region.workers * region.belief_questions_per_s
    return LeaseLoad(
        slots_per_worker=slots,
        parts_per_worker=parts,
        requests_per_s=asked * math.ceil(parts / region.parts_per_read),
        partition_reads_per_s=asked * parts,
        node_slots=region.slots / region.nodes,
    )


def scylla_cores(region: Region) -> float:
    return row_rates(region).total * region.replicas / region.scylla_core_per_s


def disk_bytes_per_day(region: Region) -> float:
    """Message rows, all replicas, before compression: they stay."""
    return region.messages_per_s * DAY_S * region.message_row_bytes * region.replicas


def resend_bytes(region: Region) -> float:
    """All replicas: what is there at any time."""
    return region.messages_per_s * DAY_S * region.resend_days * region.resend_row_bytes * region.replicas
