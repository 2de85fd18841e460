"""What dies, hangs, fills up or does not read, and what is still true afterwards: the delivery checker says so."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.protocol.errors import Code
from gateway.protocol.frames import decode, encode
from gateway.protocol.messages import Error, Msg, Op, Sent
from gateway.protocol.messages import Sync as SyncWish
from tests.node.crowd import Crowd
from tests.node.wire import Refused, Wire, code_of, cursors, message, messages_of
from tests.nodes import NodeProcess

Login = Callable[..., Wire]
NewUser = Callable[[], int]
MakeNode = Callable[..., NodeProcess]
MakeCrowd = Callable[..., Crowd]

PATIENCE_S = 30.0


@pytest.fixture
def make_crowd(new_user: NewUser) -> Iterator[MakeCrowd]:
    crowds: list[Crowd] = []

    def make(node: NodeProcess, *, people: int = 8, chats: int = 4) -> Crowd:
        crowds.append(Crowd(node, [new_user() for _ in range(people)], chats))
        return crowds[-1]

    yield make
    for crowd in crowds:
        crowd.close()


def _until(is_so: Callable[[], bool]) -> None:
    """Ask again and again; each asking is a round trip of its own."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true in time"


def _wait_for_ends(descriptors: list[int]) -> None:
    """Of processes, by their pidfds."""
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], PATIENCE_S)[0], "a process did not end"
        os.close(descriptor)


# --------------------------------------------------------------------------------------------------- quiet


def test_without_any_fault_a_crowd_loses_nothing(make_node: MakeNode, make_crowd: MakeCrowd) -> None:
    """The yardstick of this file: the same crowd, the same checker, nobody killed."""
    crowd = make_crowd(make_node())
    crowd.post(each=60)
    crowd.settle()
    assert crowd.verdict() == []
    assert crowd.acknowledged == 480
    assert not any(writer.refused for writer in crowd.writers)


# ------------------------------------------------------------------------------------------- dead processes


@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_killed_in_the_middle_of_a_burst_costs_no_acknowledged_message(
    make_node: MakeNode, make_crowd: MakeCrowd, which: int
) -> None:
    node = make_node()
    crowd = make_crowd(node)
    workers = node.worker_pids()
    crowd.post(each=60)
    crowd.writers[0].read_some(10)
    os.kill(workers[which], signal.SIGKILL)
    crowd.post(each=20)
    crowd.settle()
    crowd.hear_each_other()
    assert crowd.verdict() == []
    assert crowd.acknowledged >= 640
    _until(lambda: node.page("/readyz")[0] == 200)
    assert len(set(node.worker_pids()) - set(workers)) == 1
    assert node.counted("parley_worker_restarts_total") == 1
    crowd.post(each=8)
    crowd.settle()
    crowd.hear_each_other()
    assert crowd.verdict() == []


def test_both_workers_killed_one_after_the_other_cost_no_acknowledged_message(
    make_node: MakeNode, make_crowd: MakeCrowd
) -> None:
    node = make_node()
    crowd = make_crowd(node)
    for worker in node.worker_pids():
        crowd.post(each=40)
        crowd.writers[-1].read_some(crowd.writers[-1].acknowledged + 5)
        os.kill(worker, signal.SIGKILL)
        crowd.settle()
    assert crowd.verdict() == []


def test_a_killed_supervisor_takes_its_workers_along_and_the_next_start_has_everything(
    make_node: MakeNode, make_crowd: MakeCrowd
) -> None:
    node = make_node()
    crowd = make_crowd(node)
    workers = [os.pidfd_open(pid) for pid in node.worker_pids()]
    crowd.post(each=40)
    crowd.writers[0].read_some(10)
    node.kill()
    _wait_for_ends(workers)
    node.start()
    crowd.settle()
    assert crowd.verdict() == []


def test_a_node_started_at_once_after_its_supervisor_was_killed_waits_for_the_orphans(
    make_node: MakeNode, make_crowd: MakeCrowd
) -> None:
    node = make_node()
    crowd = make_crowd(node, people=4, chats=2)
    crowd.post(each=20)
    node.kill()
    node.start()
    crowd.settle()
    assert crowd.verdict() == []


def test_a_worker_that_hangs_and_goes_on_costs_nothing(make_node: MakeNode, make_crowd: MakeCrowd) -> None:
    node = make_node()
    crowd = make_crowd(node)
    stopped = node.worker_pids()[0]
    crowd.post(each=30)
    os.kill(stopped, signal.SIGSTOP)
    try:
        up = [line for line in node.metrics().splitlines() if line.startswith("parley_worker_up{")]
        assert sorted(line.split()[-1] for line in up) == ["0.0", "1.0"]
        assert node.page("/healthz")[0] == 200
    finally:
        os.kill(stopped, signal.SIGCONT)
    crowd.settle()
    assert crowd.verdict() == []


def test_the_operations_pages_survive_a_dead_worker(make_node: MakeNode) -> None:
    node = make_node()
    assert (node.page("/healthz")[0], node.page("/readyz")[0]) == (200, 200)
    ended = os.pidfd_open(node.worker_pids()[0])
    os.kill(node.worker_pids()[0], signal.SIGKILL)
    _wait_for_ends([ended])
    assert node.page("/healthz")[0] == 200
    assert "parley_worker_up" in node.metrics()
    assert node.page("/readyz")[0] in (200, 503)
    _until(lambda: node.page("/readyz")[0] == 200)
    assert node.counted("parley_worker_up") == 2


# -------------------------------------------------------------------------------------------------- restarts


def test_a_resend_is_recognised_through_a_restart(make_node: MakeNode, login: Login, new_user: NewUser) -> None:
    node = make_node()
    user_id, msg_id = new_user(), secrets.token_bytes(16)
    wire = login(node, user_id)
    chat_id = wire.open_direct(new_user())
    first = wire.say(chat_id, b"once", msg_id=msg_id)
    wire.close()
    assert node.stop() == 0
    node.start()
    for retry in (True, None):
        again = login(node, user_id).say(chat_id, b"once", msg_id=msg_id, retry=retry)
        assert (again.duplicate, again.seq, again.time_ms, again.prev_seq) == (True, first.seq, first.time_ms, 0)
    wire = login(node, user_id)
    assert wire.say(chat_id, b"next").prev_seq == first.seq
    assert [row.body for row in wire.whole_log(chat_id)] == [b"once", b"next"]


def test_cursors_marks_and_groups_outlive_a_restart(make_node: MakeNode, login: Login, new_user: NewUser) -> None:
    node = make_node()
    alice, bob = new_user(), new_user()
    wire, other = login(node, alice), login(node, bob)
    chat_id = wire.open_direct(bob)
    sent = [wire.say(chat_id, b"%d" % number) for number in range(3)]
    other.read(chat_id, sent[1].seq)
    wire.expect(Op.RECEIPT, object)
    for one in (wire, other):
        one.close()
    assert node.stop() == 0
    node.start()
    brought, done = login(node, bob).sync()
    assert [row.seq for row in messages_of(brought)] == [sent[2].seq]
    assert [(entry.head_seq, entry.read_seq) for entry in done.chats] == [(sent[2].seq, sent[1].seq)]


def test_a_second_node_on_the_same_data_is_refused_in_one_line(make_node: MakeNode) -> None:
    node = make_node(workers=1)
    second = NodeProcess(node.data_dir, workers=1)
    ended = subprocess.run(
        second.command(), cwd=Path.cwd(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    said = (ended.stdout + ended.stderr).strip().splitlines()
    assert ended.returncode == 1
    assert len(said) == 1
    assert str(node.data_dir) in said[0]
    assert node.page("/readyz")[0] == 200


def test_a_port_that_is_taken_is_refused_in_one_line(make_node: MakeNode, tmp_path: Path) -> None:
    node = make_node(workers=1)
    second = NodeProcess(tmp_path / "other", workers=1)
    second.port = node.port
    ended = subprocess.run(
        second.command(), cwd=Path.cwd(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    said = (ended.stdout + ended.stderr).strip().splitlines()
    assert (ended.returncode, len(said)) == (1, 1)
    assert str(node.port) in said[0]


# ---------------------------------------------------------------------------------------------- slow readers

SMALL = "[outbox]\nsession_bytes = 131072\n[session]\nstall_timeout_s = {stall}\nlinger_s = 20\n"
BODY = 30_000


def _lag(node: NodeProcess, sender: Wire, chat_id: int) -> list[int]:
    """Send until a session is told LAGGED; the seqs. One at a time: a burst would fill an outbox before its socket has."""
    seqs: list[int] = []
    while node.counted("parley_lagged_sessions_total") == 0:
        assert len(seqs) < 2000, "a reader that does not read never lags"
        seqs += [sender.say(chat_id, bytes(BODY)).seq for _ in range(10)]
    return seqs


def test_who_does_not_read_is_told_lagged_and_gets_the_rest_by_sync(
    make_node: MakeNode, login: Login, new_user: NewUser
) -> None:
    node = make_node(config=SMALL.format(stall=60))
    sender, reader = login(node, new_user()), login(node, new_user(), receive_buffer=8192)
    chat_id = sender.open_direct(reader.user_id)
    seqs = _lag(node, sender, chat_id)
    assert node.counted("parley_outbox_bytes") <= 131_072 + 2 * 65_536
    seqs.append(sender.say(chat_id, b"dropped for the reader").seq)
    got: list[int] = []
    while (frame := reader.next()).op == Op.MSG:
        got.append(decode(Msg, frame.body).seq)
    assert frame.op == Op.LAGGED
    assert got == seqs[: len(got)]
    seqs.append(sender.say(chat_id, b"and this one").seq)
    reader.barrier()
    assert not reader.frames  # no MSG until SYNC, and LAGGED once
    brought, done = reader.sync(SyncWish(cursors((chat_id, got[-1])), None, 2000, 2000))
    assert [row.seq for row in messages_of(brought)] == seqs[len(got) :]
    assert done.chats[0].head_seq == seqs[-1]
    live = sender.say(chat_id, b"live again").seq
    assert reader.msg().seq == live


def test_who_takes_nothing_at_all_is_cut_with_402_and_finds_everything_in_the_log(
    make_node: MakeNode, login: Login, new_user: NewUser
) -> None:
    node = make_node(config=SMALL.format(stall=1))
    sender, reader = login(node, new_user()), login(node, new_user(), receive_buffer=8192)
    chat_id = sender.open_direct(reader.user_id)
    seqs = _lag(node, sender, chat_id)
    _until(lambda: node.counted("parley_slow_consumers_total") == 1)
    frames = reader.until_end(PATIENCE_S)
    ops = [frame.op for frame in frames]
    assert ops == [Op.MSG] * (len(ops) - 2) + [Op.LAGGED, Op.CLOSE]
    assert code_of(frames[-1]) == Code.SLOW_CONSUMER
    back = login(node, reader.user_id)
    assert [row.seq for row in back.whole_log(chat_id)] == seqs
    seqs.append(sender.say(chat_id, b"news").seq)
    assert back.msg().seq == seqs[-1]


@pytest.mark.parametrize("is_same_worker", [True, False])
def test_a_burst_does_not_lag_a_reader_whose_socket_takes_it(
    node: NodeProcess, login: Login, new_user: NewUser, is_same_worker: bool
) -> None:
    """As many and as long messages as a window lets through: more than an outbox holds, all in one cycle of the worker."""
    first, second = node.worker_pids()
    sender = login(node, new_user(), worker=first)
    reader = login(node, new_user(), worker=first if is_same_worker else second)
    chat_id = sender.open_direct(reader.user_id)
    for size in (8_000, 30_000, 60_000):
        sender.write(b"".join(encode(Op.SEND, message(chat_id, bytes(size)), rid=1 + rid) for rid in range(40)))
        seqs = [decode(Msg, frame.body).seq for frame in (reader.next() for _ in range(40)) if frame.op == Op.MSG]
        assert [sender.result(1 + rid, Sent).seq for rid in range(40)] == seqs


def test_a_slow_reader_slows_nobody_else(make_node: MakeNode, login: Login, new_user: NewUser) -> None:
    node = make_node(config=SMALL.format(stall=60))
    sender, slow, quick = login(node, new_user()), login(node, new_user(), receive_buffer=8192), login(node, new_user())
    chat_id = sender.create_group(slow.user_id, quick.user_id)
    quick.msg()
    while node.counted("parley_lagged_sessions_total") == 0:
        sent = sender.say(chat_id, bytes(BODY))
        assert quick.msg().seq == sent.seq


# ------------------------------------------------------------------------------------------------- full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount") or "mount"
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        reason = f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}"
        if os.environ.get("PARLEY_NO_SKIP") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_refuses_messages_loses_none_and_serves_again_when_there_is_room(
    small_disk: Path, login: Login, new_user: NewUser
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3 << 20))
    node = NodeProcess(small_disk / "data")
    node.start()
    try:
        user_id = new_user()
        wire = login(node, user_id)
        chat_id = wire.open_direct(new_user())
        seqs, refused = _fill(wire, chat_id)
        assert refused.code == Code.UNAVAILABLE
        assert refused.retry_after_ms
        assert [row.seq for row in wire.whole_log(chat_id)] == seqs
        wire.barrier()
        ballast.unlink()
        _until(lambda: _is_taken(wire, chat_id, seqs))
        assert [row.seq for row in wire.whole_log(chat_id)] == seqs
        wire.close()
        assert node.stop() == 0
        node.start()
        assert [row.seq for row in login(node, user_id).whole_log(chat_id)] == seqs
    finally:
        node.close()


def _fill(wire: Wire, chat_id: int) -> tuple[list[int], Error]:
    seqs: list[int] = []
    for _ in range(500):
        try:
            seqs.append(wire.say(chat_id, bytes(60_000)).seq)
        except Refused as refused:
            return seqs, refused.error
    raise AssertionError("the disk did not fill")


def _is_taken(wire: Wire, chat_id: int, seqs: list[int]) -> bool:
    try:
        seqs.append(wire.say(chat_id, b"there is room").seq)
    except Refused as refused:
        return refused.code != Code.UNAVAILABLE
    return True
