"""What a process's links are set up with, and what they count. Values alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gateway.cluster.handshake import LinkKey
from gateway.cluster.wire import LINK_VERSION, LINK_VERSION_MIN

PEER_TIMEOUT_S = 5.0


class LinkSettings(NamedTuple):
    """``keys``: for other nodes, the first offered, any accepted. ``versions``: oldest and newest that are spoken.

    ``peer_timeout_s``: how long a peer may take to connect and introduce itself, and after how long the system ends a TCP
    connection on which nothing is acknowledged.
    """

    keys: tuple[LinkKey, ...] = ()
    versions: tuple[int, int] = (LINK_VERSION_MIN, LINK_VERSION)
    peer_timeout_s: float = PEER_TIMEOUT_S


class LinkStatistics(NamedTuple):
    """``peers``, ``connections``, ``outstanding`` as of now; the rest only grow.

    ``refused``: frames that no connection took. ``lost_pushes``: pushes among them. ``broken``: connections that broke.
    ``handshakes``: connections on which both ends came to know each other. ``failures``: those that came to nothing, and
    peers that broke the protocol later, by reason (``handshake.Reason``).
    """

    peers: int
    connections: int
    outstanding: int
    sent: int
    refused: int
    lost_pushes: int
    broken: int
    handshakes: int = 0
    failures: Mapping[str, int] = MappingProxyType({})
