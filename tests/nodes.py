"""Real nodes for tests: ``parley serve`` as a subprocess, on free ports, with a data directory that outlives it; and clusters of
them over servers that the test has.

Owns the processes that it started, by id: whatever a test does to them, none is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from parley.tokens import Identity, Mint

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
ACCEPT_TIMEOUT_S = 5.0


class NodeFailed(Exception):
    """The node did not start; its last lines say why."""


class NodeProcess:
    """One node. ``start`` again after ``stop`` or ``kill``: the same data, the same ports.

    ``host``: where clients reach it. ``within``: words before the command, as of ``ip netns exec``.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        workers: int = 2,
        config: str = "",
        host: str = "127.0.0.1",
        within: Sequence[str] = (),
    ) -> None:
        self.data_dir = data_dir
        self.host = host
        self._within = [*within]
        self.port = 0
        self.ops_port = 0
        self.lines: list[str] = []
        self._has_said = threading.Condition()
        self._workers = workers
        self._config = data_dir.with_suffix(".toml")
        self._config.write_text(config)
        self._process: subprocess.Popen[str] | None = None

    def command(self) -> list[str]:
        options = ["--config", str(self._config), "--data", str(self.data_dir), "--workers", str(self._workers)]
        ports = ["--host", self.host, "--port", str(self.port), "--ops-port", str(self.ops_port)]
        return [*self._within, sys.executable, "-m", "parley.cli", "serve", *options, *ports]

    def start(self) -> None:
        """Returns when it is ready. Raises NodeFailed."""
        self.wait_ready(self.launch())

    def launch(self) -> threading.Event:
        """``start`` without waiting: several nodes of a cluster start together."""
        self.lines = []
        self._process = subprocess.Popen(
            self.command(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )
        is_ready = threading.Event()
        threading.Thread(target=self._read, args=(self._process, is_ready), daemon=True).start()
        return is_ready

    def wait_ready(self, is_ready: threading.Event) -> None:
        if not is_ready.wait(START_TIMEOUT_S) or not self.port:
            self.kill()
            raise NodeFailed(" | ".join(self.lines[-8:]) or "it said nothing")

    def _read(self, process: subprocess.Popen[str], is_ready: threading.Event) -> None:
        """Until the end of its output, so that the node never blocks on a full pipe."""
        assert process.stdout is not None
        for line in process.stdout:
            with self._has_said:
                self.lines.append(line.rstrip())
                self._has_said.notify_all()
            if '"ready"' in line:
                with contextlib.suppress(ValueError):
                    ready = json.loads(line)
                    self.port, self.ops_port = ready["port"], ready["ops_port"]
                    is_ready.set()
        is_ready.set()

    def wait_said(self, words: str, timeout_s: float = START_TIMEOUT_S) -> str:
        """The first line with these words, said already or yet to be."""
        with self._has_said:
            found = self._has_said.wait_for(lambda: [line for line in self.lines if words in line], timeout_s)
        if not found:
            raise NodeFailed(f"it never said {words!r}")
        return found[0]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def worker_pids(self) -> list[int]:
        """Of all its threads: the process may have been started in any of them."""
        children = Path(f"/proc/{self.pid}/task").glob("*/children")
        return sorted(int(child) for of_thread in children for child in of_thread.read_text().split())

    def worker_of(self, connection: socket.socket) -> int | None:
        """The process that accepted a client's connection; None: nobody yet, or it has ended."""
        inode = _inode_of(connection.getpeername()[1], connection.getsockname()[1])
        deadline = time.monotonic() + ACCEPT_TIMEOUT_S
        while inode and time.monotonic() < deadline:
            for pid in self.worker_pids():
                with contextlib.suppress(FileNotFoundError):
                    if any(_target_of(entry) == f"socket:[{inode}]" for entry in Path(f"/proc/{pid}/fd").iterdir()):
                        return pid
            inode = _inode_of(connection.getpeername()[1], connection.getsockname()[1])
        return None

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    @contextlib.contextmanager
    def stopping(self) -> Iterator[Callable[[], int]]:
        """SIGTERM now; what is yielded waits for the end and returns its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        yield partial(self._process.wait, STOP_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL to the supervisor alone; its workers must end by themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill_all(self) -> None:
        """SIGKILL to all of its processes at once: to the others it is a machine that failed, but for its refusals."""
        if not self.is_running:
            return
        self.signal(signal.SIGKILL)
        self.kill()

    def pause(self) -> None:
        """SIGSTOP to all of its processes: their sockets stay, and nobody answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """To the supervisor first, so that it restarts nobody meanwhile."""
        for pid in (self.pid, *self.worker_pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """End what is left of it."""
        self.kill_all()

    def token(self, user_id: int, device_id: int, *, ttl_s: int = 3600) -> str:
        return Mint.of(self.data_dir, ttl_s=ttl_s).sign(Identity(user_id, device_id)).token

    def metrics(self) -> str:
        return self.page("/metrics")[1]

    def page(self, path: str) -> tuple[int, str]:
        """(status, body) of a page of the operations endpoint."""
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.ops_port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def counted(self, series: str) -> float:
        """The sum of a series over the workers; 0 if there is none."""
        lines = (line.split() for line in self.metrics().splitlines() if line.startswith(series))
        return sum(float(words[-1]) for words in lines if words[0].partition("{")[0] == series)


class Servers(NamedTuple):
    """What the nodes of a cluster stand on."""

    cassandra_hosts: Sequence[str]
    cassandra_port: int
    redis_host: str
    redis_port: int
    keyspace: str
    replication_factor: int = 1


class ClusterProcess:
    """Some nodes over the same servers. They share the keys of tokens, resumptions and links.

    ``hosts``: of each node, where clients and other nodes reach it; ``withins``: see NodeProcess. ``config`` is every node's.
    """

    def __init__(
        self,
        directory: Path,
        servers: Servers,
        *,
        hosts: Sequence[str] = ("127.0.0.1", "127.0.0.1"),
        withins: Sequence[Sequence[str]] = (),
        workers: int = 2,
        config: str = "",
        advertise: Sequence[str] = (),
    ) -> None:
        self._advertise = [*advertise]
        directory.mkdir(parents=True, exist_ok=True)
        self.servers = servers
        self.kid = "cluster"
        self.secret = secrets.token_hex(32).encode()
        self._link_secret = secrets.token_hex(32)
        self._prefix = f"test-{secrets.token_hex(6)}"
        self.nodes = [
            NodeProcess(
                directory / f"node{number}",
                workers=workers,
                config=f"{self._settings_of(number, host)}\n{config}",
                host=host,
                within=withins[number - 1] if withins else (),
            )
            for number, host in enumerate(hosts, 1)
        ]

    def _settings_of(self, number: int, host: str) -> str:
        servers = self.servers
        return f"""
[cluster]
node = {number}
host = "{host}"
link_keys = [{{ id = "one", secret = "{self._link_secret}" }}]
advertise = {json.dumps(self._advertise)}

[auth]
keys = [{{ kid = "{self.kid}", secret = "{self.secret.decode()}" }}]
resume_secret = "{self.secret.decode()}"

[store]
backend = "scylla"

[store.scylla]
contact_points = {json.dumps([*servers.cassandra_hosts])}
port = {servers.cassandra_port}
keyspace = "{servers.keyspace}"
replication_factor = {servers.replication_factor}

[directory]
backend = "redis"

[directory.redis]
host = "{servers.redis_host}"
port = {servers.redis_port}
prefix = "{self._prefix}"
"""

    def start(self) -> None:
        """All at once."""
        for node, is_ready in [(node, node.launch()) for node in self.nodes if not node.is_running]:
            node.wait_ready(is_ready)

    def token(self, user_id: int, device_id: int, *, ttl_s: int = 3600) -> str:
        return Mint(self.secret, kid=self.kid, ttl_s=ttl_s).sign(Identity(user_id, device_id)).token

    def close(self) -> None:
        for node in self.nodes:
            if node.is_running:
                node.resume()
            node.close()


def _inode_of(local_port: int, remote_port: int) -> str:
    """The server's end of a loopback connection; empty: not accepted yet, or gone."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        ports = [int(address.partition(":")[2], 16) for address in words[1:3]]
        if ports == [local_port, remote_port]:
            return words[9]
    return ""


def _target_of(descriptor: Path) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(descriptor)
    return ""
