"""Addresses and ports on loopback that no other server has, and that it gets again when it is restarted.

Ports lie below the range from which the system takes the ports of outgoing connections: another process' connection could
take one of those while its server is down. Two runs at the same time begin their search at different places; what is left
of the race, a bind that fails, is a server that does not start and says so.
"""

from __future__ import annotations

import os
import random
import socket

FIRST_PORT, LAST_PORT = 20_000, 32_000
TRIES = 200


class NoAddress(Exception):
    """This machine has no such addresses, or all are taken."""


def free_port(host: str = "127.0.0.1") -> int:
    choice = random.SystemRandom()
    for _ in range(TRIES):
        port = choice.randint(FIRST_PORT, LAST_PORT)
        if _is_free(host, port):
            return port
    raise NoAddress(f"no free port on {host}")


def free_hosts(count: int, ports: tuple[int, ...]) -> list[str]:
    """``count`` loopback addresses next to each other on each of which all of ``ports`` are free.

    Servers that find each other need the same port on every address. Linux has all of 127.0.0.0/8; others only 127.0.0.1.
    """
    for attempt in range(TRIES):
        number = (os.getpid() + attempt * 7919) % 40_000
        prefix = f"127.{16 + number // 250}.{1 + number % 250}"
        hosts = [f"{prefix}.{last}" for last in range(1, count + 1)]
        if all(_is_free(host, port) for host in hosts for port in ports):
            return hosts
    raise NoAddress("no free addresses in 127.0.0.0/8: other systems than Linux have 127.0.0.1 alone")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
