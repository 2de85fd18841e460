"""CPU of a node's workers, in cores: what a message costs, and what grows beside it."""

from __future__ import annotations

from typing import NamedTuple

from bench.capacity import connections, store, traffic
from bench.capacity.region import Region


class Cores(NamedTuple):
    """Of one node."""

    messages: float
    """Reading, forwarding, the actor, SENT, one push, its ACK and its receipt."""
    copies: float
    """Pushes to the other workers of a group's members."""
    marks_told: float
    """ACKs and READs of a group's members, from their workers to the owner."""
    appends: float
    marks_written: float
    """Watermarks and cursors, written behind."""
    peers: float
    """Walks over the links."""

    @property
    def total(self) -> float:
        return sum(self)


def node_cores(region: Region) -> Cores:
    messages_per_s = region.messages_per_s / region.nodes
    appends, marks = store.appends(region), store.mark_writes(region)
    rows_per_s = messages_per_s * store.ROWS_PER_MESSAGE
    marks_per_s = store.row_rates(region).marks / region.nodes
    return Cores(
        messages=messages_per_s * region.message_us / 1e6,
        copies=messages_per_s * traffic.extra_copies(region) * region.copy_us / 1e6,
        marks_told=messages_per_s * traffic.extra_marks(region) * region.mark_us / 1e6,
        appends=rows_per_s * appends.row_us / 1e6,
        marks_written=marks_per_s * marks.row_us / 1e6,
        peers=region.workers_per_node * connections.link_load(region).scan_us_per_s / 1e6,
    )
