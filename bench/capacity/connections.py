"""Connections: memory, file descriptors, heartbeats, and the wave of logins after a node's end; and the links between workers."""

from __future__ import annotations

from typing import NamedTuple

from bench.capacity.region import Region


class NodeLoad(NamedTuple):
    """Of one node, ``per_worker`` of one of its processes."""

    connections: float
    connections_per_worker: float
    user_bytes: float
    socket_bytes: float
    worker_bytes: float
    pings_per_s: float
    logins_per_s: float
    wave_s: float
    """Until the connections of a lost node have logged in at the others."""

    @property
    def bytes(self) -> float:
        return self.user_bytes + self.socket_bytes + self.worker_bytes


class LinkLoad(NamedTuple):
    """Every worker talks to every other: at this load no pair is silent for long."""

    per_worker: float
    """Connections: each end opens one of its own."""
    in_region: float
    files_per_worker: float
    """Clients and links; the rest of the process needs some tens."""
    socket_bytes_per_node: float
    scan_us_per_s: float
    """Of a worker: the periodic walk over its peers."""


PEER_SCAN_US = 0.5
"""Of one peer, four times a second: some attribute reads."""


def node_load(region: Region) -> NodeLoad:
    connections = region.connections / region.nodes
    others = max(1.0, region.nodes - 1) * region.workers_per_node
    return NodeLoad(
        connections=connections,
        connections_per_worker=connections / region.workers_per_node,
        user_bytes=connections * region.user_bytes,
        socket_bytes=connections * region.socket_bytes,
        worker_bytes=region.workers_per_node * region.worker_bytes,
        pings_per_s=connections / region.keepalive_s,
        logins_per_s=connections / region.session_s,
        wave_s=connections / (others * region.connects_per_s),
    )


def link_load(region: Region) -> LinkLoad:
    per_worker = 2 * (region.workers - 1)
    in_region = region.workers * (region.workers - 1)
    return LinkLoad(
        per_worker=per_worker,
        in_region=in_region,
        files_per_worker=node_load(region).connections_per_worker + per_worker,
        socket_bytes_per_node=region.workers_per_node * per_worker * region.socket_bytes,
        scan_us_per_s=region.workers * PEER_SCAN_US / region.tick_s,
    )


def roster_bytes(region: Region) -> float:
    """What Redis sends after each change of the set of workers: all records to every worker."""
    return region.workers**2 * region.roster_record_bytes


def placement_s(region: Region) -> float:
    """CPU of one worker when a node comes or goes: each slot is compared with each of the node's workers, or the slots that the
    node had, as many as a node's share, are computed anew over all workers. (All slots over all workers, as it was first,
    is 13 s with 1,600 workers.)"""
    came = region.slots * region.workers_per_node
    left = region.slots / region.nodes * region.workers
    return max(came, left) * region.placement_us / 1e6
