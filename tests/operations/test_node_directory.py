"""One node per data directory and port: locks, generations, sockets' names."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.node import ports
from gateway.node.lock import DataDirectoryInUse, DirectoryLock
from gateway.node.rundir import MAX_SOCKET_PATH_BYTES, RunDirectory

HOLD = """
import os, sys, trio, pathlib, subprocess
from gateway.node.lock import DirectoryLock
lock = DirectoryLock(pathlib.Path(sys.argv[1]))
trio.run(lock.acquire)
worker = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[lock.descriptor])
print("held", worker.pid, flush=True)
sys.stdin.read()
"""


class Holder:
    """A supervisor that holds a directory, with a worker that inherited the lock."""

    def __init__(self, data: Path) -> None:
        command = [sys.executable, "-c", HOLD, str(data)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.worker = int(self.process.stdout.readline().split()[1])

    def stop_worker(self) -> None:
        os.kill(self.worker, signal.SIGSTOP)

    def end_worker(self) -> None:
        os.kill(self.worker, signal.SIGKILL)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    holder = Holder(tmp_path)
    yield holder
    holder.end_worker()
    holder.kill()


async def test_a_second_node_is_refused_in_one_line_that_names_the_first(tmp_path: Path, holder: Holder) -> None:
    with pytest.raises(
        DataDirectoryInUse, match=rf"served by another node \(process {holder.process.pid}\): stop"
    ) as it:
        await DirectoryLock(tmp_path).acquire()
    assert "\n" not in str(it.value)


async def test_after_a_kill_the_next_node_waits_for_the_workers_to_end(tmp_path: Path, holder: Holder) -> None:
    holder.stop_worker()  # it cannot see its lifeline's end
    holder.kill()
    lock = DirectoryLock(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lock.acquire)
        await trio.testing.wait_all_tasks_blocked()
        assert lock.generation == 0
        holder.end_worker()
    assert lock.generation > 0
    lock.release()


async def test_workers_that_do_not_end_are_waited_for_only_so_long(
    tmp_path: Path, holder: Holder, autojump_clock: trio.testing.MockClock
) -> None:
    holder.stop_worker()
    holder.kill()
    with pytest.raises(DataDirectoryInUse, match="workers of an earlier node have not ended"):
        await DirectoryLock(tmp_path).acquire()


async def test_generations_rise_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    generations = []
    for _ in range(2):
        lock = DirectoryLock(tmp_path)
        await lock.acquire()
        generations.append(lock.generation)
        lock.release()
    (tmp_path / "lock").write_text("99999999999\n")
    lock = DirectoryLock(tmp_path)
    await lock.acquire()
    lock.release()
    assert generations[0] < generations[1]
    assert lock.generation == 100_000_000_000


def test_a_port_is_kept_for_workers_and_refused_to_others() -> None:
    with ports.reserve("127.0.0.1", 0, "port") as reserved:
        port = reserved.getsockname()[1]
        with (
            ports.bind("127.0.0.1", port),
            ports.bind("127.0.0.1", port),
            pytest.raises(ports.PortUnavailable, match=f"port: 127.0.0.1 port {port} is in use"),
        ):
            ports.reserve("127.0.0.1", port, "port")
        with pytest.raises(ports.PortUnavailable, match=f"ops_port: 127.0.0.1 port {port} is in use"):
            ports.listen_alone("127.0.0.1", port, "ops_port")


def test_connections_that_have_just_ended_do_not_keep_a_port_from_the_next_node() -> None:
    with ports.reserve("127.0.0.1", 0, "port") as reserved:
        port = reserved.getsockname()[1]
        with ports.bind("127.0.0.1", port) as listener, socket.create_connection(("127.0.0.1", port)) as client:
            listener.setblocking(True)
            served, _ = listener.accept()
            served.close()  # this end first: it is the one that stays in TIME_WAIT
            assert client.recv(1) == b""
    with ports.reserve("127.0.0.1", port, "port"), ports.bind("127.0.0.1", port):
        pass


def test_an_address_of_another_host_is_refused_with_words() -> None:
    with pytest.raises(ports.PortUnavailable, match=r"192\.0\.2\.1 is no address of this host"):
        ports.reserve("192.0.2.1", 0, "port")


def test_sockets_of_a_deep_directory_have_names_that_fit(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 30)
    directory = RunDirectory(deep)
    directory.open()
    address = directory.socket_of(1000, 1 << 62)
    assert len(os.fsencode(address)) <= MAX_SOCKET_PATH_BYTES
    assert RunDirectory(deep).socket_of(1000, 1 << 62) == address
    assert RunDirectory(deep / "other").socket_of(1000, 1 << 62) != address
    directory.path.rmdir()


def test_opening_removes_what_an_earlier_node_left(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.open()
    Path(directory.socket_of(1, 5)).touch()
    directory.open()
    assert not list(directory.path.iterdir())


def test_a_run_directory_that_is_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        RunDirectory(tmp_path).open()
