"""A network of the tests' own: hosts with addresses, one switch, and cables that can be cut one way or both.

Owns the network namespaces (ip-netns(8)) and the packet filters in them; the machine's own network is never touched. A host
is a namespace with one interface on the switch; the *hub* is the host whose bridge the switch is: servers and clients that are
nobody's node live there. ``inside`` moves the calling thread (and so what it starts) to a host: sockets stay where they were
made.

A cut drops packets silently, as a broken network does: nobody is told by a reset. It is a rule in the filter of the host that
is cut off, so that a host can lose one direction, one peer, or one port of a peer.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
NETWORK = "10.77.0"
HUB_ADDRESS = f"{NETWORK}.1"
_libc = ctypes.CDLL(None, use_errno=True)


class NoNetwork(Exception):
    """This process may not make network namespaces here, or lacks the tools. One line says which."""


class Host:
    """One namespace. ``address``: where the others reach it."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is on this host meanwhile."""
        with open("/proc/thread-self/ns/net") as before, open(Path("/run/netns") / self.name) as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def cut(self, peer: str, *, port: int | None = None, incoming: bool = True, outgoing: bool = True) -> None:
        """Drop what comes from, or goes to, a peer's address (and, if given, TCP port of the peer)."""
        for rule in _rules(peer, port, incoming, outgoing):
            self._filter("-A", rule)

    def mend(self, peer: str, *, port: int | None = None, incoming: bool = True, outgoing: bool = True) -> None:
        """Undo the ``cut`` of the same arguments."""
        for rule in _rules(peer, port, incoming, outgoing):
            self._filter("-D", rule)

    def mend_all(self) -> None:
        _run("ip", "netns", "exec", self.name, "iptables", "-F")

    def _filter(self, verb: str, rule: list[str]) -> None:
        _run("ip", "netns", "exec", self.name, "iptables", "-w", verb, *rule, "-j", "DROP")


class Network:
    """See the module. ``close`` removes all of it."""

    def __init__(self) -> None:
        self._prefix = f"parley{os.getpid()}"
        self._hosts: list[Host] = []
        self.hub = self._make_host("hub", HUB_ADDRESS)
        try:
            _run("ip", "-n", self.hub.name, "link", "add", "switch", "type", "bridge")
            _run("ip", "-n", self.hub.name, "address", "add", f"{HUB_ADDRESS}/24", "dev", "switch")
            _run("ip", "-n", self.hub.name, "link", "set", "switch", "up")
            _run("ip", "netns", "exec", self.hub.name, "iptables", "-L", "-n")
        except NoNetwork:
            self.close()
            raise

    def add_address(self, number: int) -> str:
        """One more address of the hub: for a server that wants one of its own."""
        address = f"{NETWORK}.{number}"
        _run("ip", "-n", self.hub.name, "address", "add", f"{address}/24", "dev", "switch")
        return address

    def add_host(self, number: int) -> Host:
        """A host on the switch, with the address that ends in ``number``."""
        host = self._make_host(f"host{number}", f"{NETWORK}.{number}")
        cable = f"cable{number}"
        _run(
            "ip", "-n", self.hub.name, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host.name
        )
        _run("ip", "-n", self.hub.name, "link", "set", cable, "master", "switch", "up")
        _run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
        _run("ip", "-n", host.name, "link", "set", "eth0", "up")
        return host

    def close(self) -> None:
        for host in self._hosts:
            subprocess.run(["ip", "netns", "delete", host.name], check=False, capture_output=True)
        self._hosts.clear()

    def _make_host(self, role: str, address: str) -> Host:
        host = Host(f"{self._prefix}-{role}", address)
        _run("ip", "netns", "add", host.name)
        self._hosts.append(host)
        _run("ip", "-n", host.name, "link", "set", "lo", "up")
        return host


def _rules(peer: str, port: int | None, incoming: bool, outgoing: bool) -> list[list[str]]:
    rules = []
    if incoming:
        rules.append(["INPUT", "-s", peer, *(["-p", "tcp", "--sport", str(port)] if port else [])])
    if outgoing:
        rules.append(["OUTPUT", "-d", peer, *(["-p", "tcp", "--dport", str(port)] if port else [])])
    return rules


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise NoNetwork(f"cannot enter a network namespace: {os.strerror(error)}")


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        raise NoNetwork(f"{command[0]} is not installed (iproute2, iptables)") from None
    except subprocess.CalledProcessError as error:
        raise NoNetwork(f"{' '.join(command)}: {error.stderr.strip()}") from None
