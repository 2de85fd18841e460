"""A server as a child process: started, awaited, paused, killed, started again, and never left behind.

Owns its processes by their ids; must not know which server it runs. Invariant: whatever becomes of this process, SIGKILL
included, the server's whole process group is killed too. A second process sees to that: it waits for the end of a pipe
that only we hold. PR_SET_PDEATHSIG is no way to do it, since it follows the *thread* that started the child: a server
restarted in a Trio worker thread would die when that thread has been idle for ten seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

LEASH = 'read -r ended || kill -s KILL -- "-$0"'
"""Ends with the pipe (kill the group that is named by its leader's id) or with a line (the server has ended)."""

STOP_TIMEOUT_S = 30.0
POLL_S = 0.05
TAIL_LINES = 25
LINE_CHARACTERS_MAX = 240


class ServerFailed(Exception):
    """A server did not start, or ended by itself; the message has its last lines."""


class ServerProcess:
    """One server in a folder of its own, which has its log. Synchronous: a test in Trio calls it in a worker thread."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, *, environment: Mapping[str, str] = {}) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / "server.log"
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._leash: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """A paused one is running, too."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Start it and wait until ``is_ready``. Raises ServerFailed, and then nothing of it is left."""
        self.launch()
        self.wait_until(is_ready, timeout_s)

    def launch(self) -> None:
        """Start it without waiting: several servers start at the same time so."""
        assert not self.is_running
        self.kill()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt of pytest is not for the server: its fixture ends it
            )
        leash = ["/bin/sh", "-c", LEASH, str(self._process.pid)]
        self._leash = subprocess.Popen(leash, stdin=subprocess.PIPE, start_new_session=True)

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float) -> None:
        """Ask again and again; ends at once when the server does. Raises ServerFailed, and kills it then."""
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        while not is_so():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(POLL_S)
                self._fail(f"{self.name} ended with status {self._process.returncode}")
            if time.monotonic() > deadline:
                self._fail(f"{self.name} was not ready after {timeout_s:.0f} s")

    def _fail(self, reason: str) -> None:
        self.kill()
        raise ServerFailed(f"{reason}; the end of its log:\n{self.tail()}")

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing is answered, the kernel goes on accepting and acknowledging bytes."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, and wait for its end; what has not ended in time is killed."""
        if self._process is not None and self.is_running:
            self.resume()
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all of its group. Safe to call at any time."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._leash is not None:
            self._leash.communicate(b"ended\n")
            self._leash = None

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log; at most 64 KiB of it are read."""
        if not self.log.exists():
            return "(it has no log)"
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 65536))
            last = log.read().decode(errors="replace").splitlines()[-lines:]
        return "\n".join(line[:LINE_CHARACTERS_MAX] for line in last)


class Server:
    """What every server of the tests can be made to do. ``start`` and ``close`` are each one's own."""

    process: ServerProcess

    def start(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """In order: what it holds is written, whoever it knows is told."""
        self.process.stop()

    def kill(self) -> None:
        """At once, as a machine fails."""
        self.process.kill()

    def restart(self) -> None:
        """Kill it and start it."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and silent."""
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()


S = TypeVar("S", bound=Server)


@contextlib.contextmanager
def running(server: S) -> Iterator[S]:
    """Started; closed afterwards, also if it did not start."""
    try:
        server.start()
        yield server
    finally:
        server.close()
