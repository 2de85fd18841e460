"""What every device has before it when readers, workers, the supervisor or the disk failed: all that was acknowledged, once.

The faults are real ones: signals to the node's own processes, a file system that is full, a socket that nobody reads. Each
device keeps its own log by the protocol's rules (live, SYNC after WELCOME and LAGGED, HISTORY for holes), and the delivery
checker judges those logs; ``test_faults.py`` looks at what the node says and stores instead.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gateway.protocol.errors import Code
from gateway.protocol.frames import decode
from gateway.protocol.identifiers import epoch_of
from gateway.protocol.messages import Goaway, Msg, Op, Sent
from storage.api import TAIL_ROWS
from tests.node.devices import PATIENCE_S, Connect, Device, Devices
from tests.node.wire import code_of
from tests.nodes import NodeProcess

NewUser = Callable[[], int]
MakeNode = Callable[..., NodeProcess]
Gather = Callable[..., Devices]

BOUND = 131_072
BIG = 60_000
CONFIG = f"[outbox]\nsession_bytes = {BOUND}\n[session]\nlinger_s = 20\n"


@pytest.fixture
def gather(connect: Connect, new_user: NewUser) -> Gather:
    """Devices of ``count`` users, in turn on each of the node's workers."""

    def gather(node: NodeProcess, count: int) -> Devices:
        devices = Devices(node, connect, [new_user() for _ in range(count)])
        for device, worker in zip(devices.all, itertools.cycle(node.worker_pids())):
            device.come_in(worker=worker)
        return devices

    return gather


def _open_many(devices: Devices) -> None:
    """A direct chat of each two, and a group of all."""
    for one, other in itertools.combinations(devices.all, 2):
        devices.open_direct(one, other)
    devices.open_group(*devices.all)


# ------------------------------------------------------------------------------------ a reader that stops reading


class _Flood:
    """One who sends big messages to a group, and another who reads them all, each before the next is sent."""

    def __init__(self, node: NodeProcess, sender: Device, reader: Device, chat_id: int) -> None:
        self._node = node
        self._sender = sender
        self._reader = reader
        self._chat_id = chat_id

    def send(self, count: int) -> None:
        for _ in range(count):
            word = self._sender.say(self._chat_id, os.urandom(BIG))
            deadline = time.monotonic() + PATIENCE_S
            while not self._is_read(self._sender.acknowledged.get(word.msg_id)):
                assert time.monotonic() < deadline
                self._turn()

    def _is_read(self, sent: Sent | None) -> bool:
        return sent is not None and self._reader.holds(self._chat_id, sent.seq)

    def _turn(self) -> None:
        self._sender.send_some()
        both = [self._sender, self._reader]
        readable, _, _ = select.select([device.wire.socket for device in both], [], [], 0.1)
        for device in both:
            if device.wire.socket in readable:
                device.read()

    def until_lagged(self, sessions: int) -> None:
        for _ in range(60):
            if self._node.counted("parley_lagged_sessions_total") >= sessions:
                return
            self.send(8)
        raise AssertionError("nobody lags")


def test_a_reader_that_stops_reading_costs_bounded_memory_and_nobody_else_a_message(
    make_node: MakeNode, connect: Connect, new_user: NewUser
) -> None:
    node = make_node(config=f"{CONFIG}stall_timeout_s = 2\n")
    first, second = node.worker_pids()
    devices = Devices(node, connect, [new_user() for _ in range(3)])
    sender, reader, sleeper = devices.all
    sender.come_in(worker=first)
    reader.come_in(worker=second)
    sleeper.come_in(worker=second, receive_buffer=4096)
    chat_id = devices.open_group(sender, reader, sleeper)
    devices.run_until(lambda: devices.are_quiet)
    flood = _Flood(node, sender, reader, chat_id)
    flood.until_lagged(1)
    for _ in range(10):
        flood.send(2)
        assert node.counted("parley_outbox_bytes") < BOUND + 65_536 + 1024
    deadline = time.monotonic() + PATIENCE_S
    while not node.counted("parley_slow_consumers_total"):
        assert time.monotonic() < deadline
        flood.send(1)
    while not sleeper.is_away:
        sleeper.read()
    assert sleeper.sign_ops() == [Op.LAGGED, Op.CLOSE]
    assert code_of(sleeper.signs[-1]) == Code.SLOW_CONSUMER
    assert sleeper.cursor(chat_id) < reader.cursor(chat_id)
    sleeper.come_in()
    devices.run_until(lambda: sleeper.is_quiet)
    assert sleeper.cursor(chat_id) == reader.cursor(chat_id)
    devices.settle()
    assert devices.checker.holes == 0
    assert devices.violations() == []


def test_lagged_readers_that_read_again_get_everything_by_sync_and_then_live(
    make_node: MakeNode, connect: Connect, new_user: NewUser
) -> None:
    """One of them on the worker that sends, one on the other: what is dropped there was sent over a link."""
    node = make_node(config=f"{CONFIG}stall_timeout_s = 60\n")
    devices = Devices(node, connect, [new_user() for _ in range(4)])
    sender, reader, *sleepers = devices.all
    sender.come_in()
    reader.come_in()
    for sleeper, worker in zip(sleepers, node.worker_pids(), strict=True):
        sleeper.come_in(worker=worker, receive_buffer=4096)
    chat_id = devices.open_group(*devices.all)
    devices.run_until(lambda: devices.are_quiet)
    flood = _Flood(node, sender, reader, chat_id)
    flood.until_lagged(2)
    for sleeper in sleepers:
        while Op.LAGGED not in sleeper.sign_ops():
            sleeper.read()
    flood.send(3)
    for sleeper in sleepers:
        sleeper.wire.barrier()
        assert not sleeper.wire.frames  # nothing live comes before the SYNC
        sleeper.sync()
    devices.run_until(lambda: devices.are_quiet)
    assert {device.cursor(chat_id) for device in devices.all} == {sender.cursor(chat_id)}
    devices.settle()
    assert devices.checker.holes == 0
    assert devices.violations() == []
    assert [sleeper.sign_ops() for sleeper in sleepers] == [[Op.LAGGED]] * 2


# -------------------------------------------------------------------------------------------- processes that die


def test_workers_killed_in_the_middle_of_a_burst_cost_no_device_a_message(make_node: MakeNode, gather: Gather) -> None:
    node = make_node(workers=3)
    devices = gather(node, 6)
    _open_many(devices)
    count = devices.talk(20)
    for reached, worker in zip((count // 4, count // 2), node.worker_pids(), strict=False):
        devices.run_until(lambda reached=reached: devices.acknowledged >= reached)  # type: ignore[misc]
        os.kill(worker, signal.SIGKILL)
    devices.settle()
    assert devices.acknowledged == count + len(devices.chats)
    assert sum(device.connections for device in devices.all) > len(devices.all)
    for device in devices.all:
        assert Code.OVERLOADED not in device.refusals, "what an owner left behind is its successor's, and no overload"
    devices.run_until(lambda: node.page("/readyz")[0] == 200)
    assert len(node.worker_pids()) == 3
    assert node.counted("parley_worker_restarts_total") == 2
    assert devices.violations() == []


@contextlib.contextmanager
def _watched(pids: Sequence[int]) -> Iterator[Callable[[], None]]:
    """What is yielded waits until all these processes have ended; none of them outlives the block."""
    with contextlib.ExitStack() as stack:
        descriptors = [os.pidfd_open(pid) for pid in pids]
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
            stack.callback(_kill, descriptor)

        def wait() -> None:
            for descriptor in descriptors:
                assert select.select([descriptor], [], [], PATIENCE_S)[0], "a process has not ended"

        yield wait


def _kill(descriptor: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def _kill_supervisor_and_start_again(node: NodeProcess, devices: Devices) -> None:
    devices.come_back = False
    with _watched(node.worker_pids()) as wait_for_their_end:
        node.kill()
        wait_for_their_end()
    devices.run_until(lambda: all(device.is_away for device in devices.all))
    node.start()
    devices.come_back = True


def test_workers_end_with_a_killed_supervisor_and_the_next_start_goes_on_under_higher_epochs(
    make_node: MakeNode, gather: Gather
) -> None:
    node = make_node()
    devices = gather(node, 4)
    _open_many(devices)
    count = devices.talk(20)
    devices.run_until(lambda: devices.acknowledged >= count // 3)
    _kill_supervisor_and_start_again(node, devices)
    epochs: dict[int, int] = {}
    for sent in _all_sent(devices):
        epochs[sent.chat_id] = max(epochs.get(sent.chat_id, 0), epoch_of(sent.seq))
    devices.settle()
    assert devices.acknowledged == count + len(devices.chats)
    for chat_id, epoch in epochs.items():
        assert max(epoch_of(sent.seq) for sent in _all_sent(devices) if sent.chat_id == chat_id) > epoch
    assert devices.violations() == []


def _all_sent(devices: Devices) -> list[Sent]:
    return [sent for device in devices.all for sent in device.acknowledged.values()]


def test_a_resend_after_a_kill_of_everything_is_the_same_message(make_node: MakeNode, gather: Gather) -> None:
    """Of messages that lie behind what a chat remembers when it is opened: only the store knows them."""
    node = make_node()
    devices = gather(node, 2)
    chat_id = devices.open_direct(*devices.all)
    sender = devices.all[0]
    words = [sender.say(chat_id, b"%d" % number) for number in range(4 * TAIL_ROWS)]
    devices.run_until(lambda: devices.acknowledged == len(words))
    before = dict(sender.acknowledged)
    _kill_supervisor_and_start_again(node, devices)
    for number, word in enumerate(words[:20]):
        word.is_retry = number % 2 == 0  # without it, the last ten minutes are looked at
        sender.to_send.append(word)
    devices.settle()
    for word in words[:20]:
        first, again = before[word.msg_id], sender.acknowledged[word.msg_id]
        assert (again.seq, again.prev_seq, again.time_ms) == (first.seq, first.prev_seq, first.time_ms)
        assert (first.duplicate, again.duplicate) == (False, True)
    assert devices.violations() == []


def test_a_second_node_on_the_same_data_names_the_first_which_does_not_notice(
    node: NodeProcess, gather: Gather
) -> None:
    devices = gather(node, 2)
    _open_many(devices)
    workers = node.worker_pids()
    ended = subprocess.run(
        NodeProcess(node.data_dir).command(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert str(node.data_dir) in line
    assert f"process {node.pid}" in line
    devices.talk(3)
    devices.settle()
    assert devices.violations() == []
    assert node.worker_pids() == workers
    assert [device.connections for device in devices.all] == [1, 1]


# ------------------------------------------------------------------------------------------------------ draining


def test_during_a_drain_messages_are_accepted_and_delivered_until_the_last_device_leaves(
    make_node: MakeNode, gather: Gather
) -> None:
    node = make_node(config="[session]\ndrain_spread_ms = 2500\n")
    devices = gather(node, 4)
    _open_many(devices)
    devices.talk(5)
    with node.stopping() as ended:
        for device in devices.all:
            while Op.GOAWAY not in device.sign_ops():
                device.send_some()
                device.read()
        assert {decode(Goaway, device.signs[-1].body).delay_max_ms for device in devices.all} == {2500}
        devices.talk(5)
        devices.settle()
        assert [device.connections for device in devices.all] == [1] * 4
        for device in devices.all:
            device.leave()
        assert ended() == 0
    node.start()
    devices.settle()
    assert devices.violations() == []


def test_a_second_sigterm_ends_the_node_at_once_and_what_was_acknowledged_is_there(
    make_node: MakeNode, gather: Gather
) -> None:
    node = make_node(config="[serve]\ndrain_timeout_s = 3600.0\n")
    devices = gather(node, 2)
    _open_many(devices)
    count = devices.talk(10)
    devices.run_until(lambda: devices.acknowledged >= count // 2)
    devices.come_back = False
    with _watched(node.worker_pids()) as wait_for_their_end, node.stopping() as ended:
        devices.run_until(lambda: all(Op.GOAWAY in device.sign_ops() for device in devices.all))
        os.kill(node.pid, signal.SIGTERM)
        assert ended() == 0
        wait_for_their_end()
    devices.run_until(lambda: all(device.is_away for device in devices.all))
    node.start()
    devices.come_back = True
    devices.settle()
    assert devices.violations() == []


# -------------------------------------------------------------------------------------------- a worker that hangs


def test_pages_are_served_while_a_worker_hangs_and_everything_goes_on_when_it_does(
    make_node: MakeNode, gather: Gather
) -> None:
    node = make_node()
    devices = gather(node, 4)
    _open_many(devices)
    count = devices.talk(20)
    devices.run_until(lambda: devices.acknowledged >= count // 4)
    stopped = node.worker_pids()[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert node.page("/healthz") == (200, "ok\n")
        assert node.page("/readyz")[0] in (200, 503)
        page = node.metrics()
    finally:
        os.kill(stopped, signal.SIGCONT)
    up = [line.split()[-1] for line in page.splitlines() if line.startswith("parley_worker_up{")]
    assert sorted(up) == ["0.0", "1.0"]
    assert page.count("\nparley_sends_total{") == 1
    devices.settle()
    assert devices.acknowledged == count + len(devices.chats)
    assert [device.connections for device in devices.all] == [1] * 4
    assert node.counted("parley_worker_up") == 2
    assert devices.violations() == []


# ------------------------------------------------------------------------------------------------ a disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        reason = mounted.stderr.strip() if mounted.returncode else ""
    except FileNotFoundError as error:
        reason = str(error)
    if reason:
        give_up = pytest.fail if os.environ.get("PARLEY_NO_SKIP") == "1" else pytest.skip
        give_up(f"no file system of its own: {reason}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def node_on_small_disk(small_disk: Path) -> Iterator[NodeProcess]:
    node = NodeProcess(small_disk / "data")
    try:
        node.start()
        yield node
    finally:
        node.close()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as filler:
        for size in (65_536, 4096):
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                while filler.write(bytes(size)):
                    pass


def test_on_a_full_disk_sends_are_501_and_reads_go_on_and_service_returns_with_the_space(
    node_on_small_disk: NodeProcess, small_disk: Path, gather: Gather
) -> None:
    node = node_on_small_disk
    devices = gather(node, 4)
    _open_many(devices)
    devices.talk(3)
    devices.run_until(lambda: devices.are_quiet)
    _fill(small_disk / "filler")
    for chat_id, members in devices.chats.items():
        for device in members:
            device.say(chat_id, os.urandom(BIG))
    devices.run_until(lambda: all(device.refusals[Code.UNAVAILABLE] >= 3 for device in devices.all))
    for device in devices.all:
        assert device.refusals.keys() == {Code.UNAVAILABLE}
        shown = {row.client_msg_id for chat_id in devices.chats for row in _log(devices, device, chat_id)}
        assert device.acknowledged.keys() <= shown
        _come_back_and_sync(devices, device)
    (small_disk / "filler").unlink()
    devices.settle()
    assert devices.violations() == []
    for device in devices.all:
        device.leave()
    assert node.stop() == 0
    node.start()
    devices.settle()
    assert devices.violations() == []


def _come_back_and_sync(devices: Devices, device: Device) -> None:
    """With the cursors that it holds, for which the disk has no room."""
    device.leave()
    device.come_in()
    devices.run_until(lambda: not device.is_syncing)


def _log(devices: Devices, device: Device, chat_id: int) -> list[Msg]:
    return device.wire.whole_log(chat_id) if device in devices.chats[chat_id] else []
