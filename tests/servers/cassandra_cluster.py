"""Three Cassandra nodes that replicate to each other, with a proxy before every port, for tests of faults.

Owns the nodes, their addresses and the proxies; must not know what is stored. Invariant: ``start`` and ``heal`` return when
each node has an answer of all nodes and all know the same tables.

A node listens on one address and is known, to clients and to the other nodes, by another, on which the proxies listen:
a driver takes the addresses of nodes from the nodes, so a proxy that only the test knows of would soon be gone around.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tests.servers.addresses import free_hosts
from tests.servers.cassandra import CassandraNode
from tests.servers.cassandra_settings import NATIVE_PORT, STORAGE_PORT, Place
from tests.servers.installing import Cassandra
from tests.servers.toxiproxy import Toxiproxy

HEAP_MB = 512

IMPATIENT: Mapping[str, object] = {
    "read_request_timeout": "1s",
    "range_request_timeout": "2s",
    "write_request_timeout": "1s",
    "cas_contention_timeout": "1s",
    "truncate_request_timeout": "60s",
}
"""A test of faults sees the server's own time-out within a second of the pause of two replicas."""


class ClusterNode(CassandraNode):
    """A node and the ways to it: ``clients`` and ``peers``, one proxy each.

    ``node.peers.silence("upstream")`` loses what the other nodes send to it; what it sends them goes through their proxies.
    """

    def __init__(
        self, installed: Cassandra, folder: Path, place: Place, settings: Mapping[str, object], proxies: Toxiproxy
    ) -> None:
        super().__init__(installed, folder, heap_mb=HEAP_MB, settings=settings, place=place)
        self.clients, self.peers = (
            proxies.proxy(place.listen_host, port, listen_host=place.host, listen_port=port)
            for port in (NATIVE_PORT, STORAGE_PORT)
        )


class CassandraCluster:
    """Nodes on loopback addresses of their own, all on one port."""

    def __init__(
        self,
        installed: Cassandra,
        folder: Path,
        proxies: Toxiproxy,
        *,
        size: int = 3,
        settings: Mapping[str, object] = IMPATIENT,
    ) -> None:
        """``proxies`` has been started, is not cleared while the cluster lives, and outlives it."""
        hosts = free_hosts(2 * size, (NATIVE_PORT, STORAGE_PORT))
        known = tuple(hosts[:size])
        self.port = NATIVE_PORT
        self.nodes: list[ClusterNode] = []
        for number, (host, listen_host) in enumerate(zip(known, hosts[size:], strict=True)):
            token = {"initial_token": str(number * 2**64 // size - 2**63 + 1)}
            place = Place(host, listen_host, known)
            self.nodes.append(ClusterNode(installed, folder / f"node{number}", place, {**settings, **token}, proxies))

    @property
    def contact_points(self) -> list[str]:
        """``host:port`` of each."""
        return [node.contact_point for node in self.nodes]

    @property
    def hosts(self) -> list[str]:
        return [node.host for node in self.nodes]

    def start(self) -> None:
        """All at the same time: 13 s on two cores, one after the other 41 s."""
        for node in self.nodes:
            node.launch()
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Until every node has an answer of every node, and all know the same tables."""
        for node in self.nodes:
            node.wait_until(node.is_answering_with_all)
        self.wait_until_agreed()

    def wait_until_agreed(self) -> None:
        """Until all nodes know the same keyspaces and tables: a statement that makes one returns before that."""
        first = self.nodes[0]
        for node in self.nodes[1:]:
            node.wait_until(partial(node.agrees_with, first))

    def heal(self) -> None:
        """Mend every way, resume what is paused, start what has ended, and wait until it is whole again."""
        for node in self.nodes:
            node.clients.heal()
            node.peers.heal()
            if node.process.is_running:
                node.resume()
            else:
                node.launch()
        self.wait_until_whole()

    def close(self) -> None:
        for node in self.nodes:
            node.close()
