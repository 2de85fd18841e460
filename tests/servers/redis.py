"""Redis servers that tests flush, fill, pause, kill and restart empty.

Owns the server's options and its readiness; must not know what is stored. Invariant: the port stays the same over restarts,
and nothing is kept on the disk unless the test asks for it: a directory must live through the loss of all of it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path

import hiredis

from tests.servers.addresses import free_port
from tests.servers.processes import Server, ServerProcess

START_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 5.0

VOLATILE: Mapping[str, str] = {"save": "", "appendonly": "no"}


class RedisServer(Server):
    """One server on one address. ``start`` again after ``stop`` or ``kill``: the same port, and empty."""

    def __init__(self, binary: Path, folder: Path, *, options: Mapping[str, str] = {}, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = free_port(host)
        fixed = {"bind": self.host, "port": str(self.port), "dir": str(folder), "daemonize": "no"}
        words = [word for name, value in {**VOLATILE, **fixed, **options}.items() for word in (f"--{name}", value)]
        self.process = ServerProcess(f"Redis on port {self.port}", [str(binary), *words], folder)

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}"

    def start(self) -> None:
        self.process.start(self.is_answering, START_TIMEOUT_S)

    def is_answering(self) -> bool:
        with contextlib.suppress(hiredis.ReplyError, OSError):
            return self.command("PING") == "PONG"
        return False

    def command(self, *words: str | int) -> object:
        """One command on a connection of its own, and its plain answer. Raises hiredis.ReplyError, OSError."""
        with socket.create_connection((self.host, self.port), ANSWER_TIMEOUT_S) as connection:
            connection.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]
            reader = hiredis.Reader(encoding="utf-8")
            while (answer := reader.gets()) is False:
                received = connection.recv(65536)
                if not received:
                    raise ConnectionResetError("Redis closed the connection")
                reader.feed(received)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def flush(self) -> None:
        """Forget all keys; clients stay connected."""
        self.command("FLUSHALL")

    def limit_memory(self, maximum_bytes: int = 1) -> None:
        """Refuse writes with -OOM while more than this is in use; 0 ends it."""
        self.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        self.command("CONFIG", "SET", "maxmemory", maximum_bytes)

    def drop_clients(self) -> None:
        """Close the connections of all its clients, those that subscribed too."""
        for kind in ("normal", "pubsub"):
            self.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def heal(self) -> None:
        """As new: running, without keys, limits and clients, and with the options that it was started with."""
        if self.process.is_running:
            self.resume()
            self.process.wait_until(self.is_answering, START_TIMEOUT_S)
            self.limit_memory(0)
            self.drop_clients()
            self.flush()
        else:
            self.start()

    def close(self) -> None:
        self.kill()
