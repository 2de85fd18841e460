"""The network of the fault tests: cuts lose packets silently, one way or both."""

from __future__ import annotations

import socket

import pytest

from tests.faults.network import Host, Network


class Line:
    """A UDP line between two hosts: what was said on one side and heard on the other."""

    def __init__(self, one: Host, other: Host) -> None:
        self._sockets = {host: self._bound(host) for host in (one, other)}

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        for bound in self._sockets.values():
            bound.close()

    @staticmethod
    def _bound(host: Host) -> socket.socket:
        with host.inside():
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bound.bind((host.address, 9000))
            bound.settimeout(0.5)
            return bound

    def reaches(self, sender: Host, receiver: Host) -> bool:
        try:
            self._sockets[sender].sendto(b"hello", (receiver.address, 9000))
        except PermissionError:  # the sender's own filter says so at once
            return False
        try:
            return self._sockets[receiver].recv(100) == b"hello"
        except TimeoutError:
            return False


@pytest.fixture(scope="module")
def hosts(network: Network) -> tuple[Host, Host]:
    return network.add_host(101), network.add_host(102)


def test_hosts_reach_each_other_and_the_hub(network: Network, hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    with Line(one, other) as line:
        assert line.reaches(one, other)
    with Line(one, network.hub) as line:
        assert line.reaches(network.hub, one)


@pytest.mark.parametrize(("incoming", "outgoing"), [(True, False), (False, True), (True, True)])
def test_a_cut_loses_what_it_names_and_mending_it_brings_it_back(
    hosts: tuple[Host, Host], incoming: bool, outgoing: bool
) -> None:
    one, other = hosts
    with Line(one, other) as line:
        one.cut(other.address, incoming=incoming, outgoing=outgoing)
        assert line.reaches(other, one) is not incoming
        assert line.reaches(one, other) is not outgoing
        one.mend(other.address, incoming=incoming, outgoing=outgoing)
        assert line.reaches(other, one)
        assert line.reaches(one, other)
