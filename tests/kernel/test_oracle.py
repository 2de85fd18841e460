"""The kernel against its twin: whatever bytes come, cut however, and whatever is called between, they are one behaviour.

A script is run on both, step by step, over socket pairs with small buffers; after each step what came of it is compared: events,
results, bytes at the peers, statistics. ``make fuzz`` searches longer with the same scripts.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._framing_values import KernelFull
from tests.kernel.rig import KERNELS, PING, Rig, frame, read_all

CONNECTIONS = 3
STREAMS = 5
OF_THE_STAGE = ("connect", "poll", "flush", "sweep", "fanout")
OF_THE_KERNEL = ("release", "answered", "unmute", "notify_drained", "close", "abort")

frames = st.builds(
    frame,
    st.sampled_from([1, PING, PING, 16, 255]),
    st.sampled_from([0, 0, 1, 2, 65_535]),
    st.one_of(st.binary(max_size=40), st.sampled_from([bytes(56), bytes(57), bytes(900), bytes(70_000)])),
    st.sampled_from([0, 1, 255]),
)


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """Frames, some bytes of them changed, cut at any points."""
    stream = bytearray(b"".join(draw(st.lists(frames, max_size=12))))
    positions = st.integers(0, max(len(stream) - 1, 0))
    if stream:
        for position, byte in draw(st.lists(st.tuples(positions, st.integers(0, 255)), max_size=2)):
            stream[position] = byte
    cuts = sorted({0, len(stream), *draw(st.lists(positions, max_size=6))})
    return [bytes(stream[start:end]) for start, end in itertools.pairwise(cuts)]


which = st.integers(0, STREAMS - 1)
steps = st.one_of(
    st.tuples(st.just("feed"), which),
    st.tuples(st.just("feed"), which),
    st.tuples(st.just("poll"), st.sampled_from([0, 1, 2, 1000, 1000])),
    st.tuples(st.just("poll"), st.sampled_from([1, 3, 1000, 1000])),
    st.tuples(st.just("admit"), which, st.sampled_from([0, 1, 2]), st.sampled_from([40, 64, 100_000])),
    st.tuples(st.just("release"), which),
    st.tuples(st.just("send"), which, frames, st.booleans()),
    st.tuples(st.just("answered"), which),
    st.tuples(st.just("fanout"), frames, st.booleans()),
    st.tuples(st.just("flush")),
    st.tuples(st.just("read"), which, st.sampled_from([1, 100, 1 << 20])),
    st.tuples(st.just("unmute"), which),
    st.tuples(st.just("notify_drained"), which),
    st.tuples(st.just("close"), which),
    st.tuples(st.just("abort"), which),
    st.tuples(st.just("connect")),
    st.tuples(st.just("peer_shuts"), which),
    st.tuples(st.just("peer_closes"), which),
    st.tuples(st.just("sweep"), st.sampled_from([0, 1, 2, 10])),
)


@dataclass
class Stage:
    """One of the two, with its connections, and what each peer has yet to say."""

    rig: Rig
    streams: list[list[bytes]]
    conns: list[int] = field(default_factory=list)
    peers: list[socket.socket] = field(default_factory=list)

    def connect(self) -> object:
        if len(self.conns) == STREAMS:
            return None
        try:
            conn, peer = self.rig.greet(4096)
        except KernelFull:
            return "full"
        self.conns.append(conn)
        self.peers.append(peer)
        return conn

    def poll(self, max_events: int) -> object:
        return self.rig.poll(max_events)

    def flush(self) -> object:
        return self.rig.kernel.flush()

    def sweep(self, after_s: int) -> object:
        return self.rig.sweep(after_s)

    def fanout(self, push: bytes, is_droppable: bool) -> object:
        return self.rig.kernel.fanout(self.conns, push, is_droppable)

    def feed(self, index: int) -> object:
        if not self.streams[index]:
            return None
        piece = self.streams[index].pop(0)
        return self._of_peer(lambda: self.peers[index].send(piece))

    def read(self, index: int, size: int) -> object:
        return self._of_peer(lambda: self.peers[index].recv(size))

    def peer_shuts(self, index: int) -> object:
        return self._of_peer(lambda: self.peers[index].shutdown(socket.SHUT_WR))

    def peer_closes(self, index: int) -> object:
        return self.peers[index].close()

    def admit(self, index: int, window: int, max_frame: int) -> object:
        return self.rig.kernel.admit(self.conns[index], max_frame=max_frame, window=window, timeout_s=8)

    def send(self, index: int, reply: bytes, more: bool) -> object:
        return self.rig.kernel.send(self.conns[index], reply, more)

    def run(self, step: tuple[str, *tuple[object, ...]]) -> object:
        name, *rest = step
        if name in OF_THE_STAGE:
            return getattr(self, name)(*rest)
        index = rest[0]
        assert isinstance(index, int)
        if index >= len(self.conns):
            return None
        if name in OF_THE_KERNEL:
            return getattr(self.rig.kernel, name)(self.conns[index])
        return getattr(self, name)(*rest)

    def state(self) -> object:
        counts = self.rig.kernel.statistics()._replace(slab_bytes=0)
        return counts, self.rig.kernel.has_backlog, [self.rig.kernel.outbox_bytes(conn) for conn in self.conns]

    def finish(self) -> object:
        """Everything that is still to come, of a caller that answers what it gets."""
        seen: list[object] = []
        for _ in range(20):
            events = self.rig.poll()
            for conn, op, tag, _ in events:
                if op < 256:
                    self.rig.kernel.send(conn, frame(4, tag & 0xFFFF))
            self.rig.kernel.flush()
            seen += [events, [self._of_peer(lambda peer=peer: read_all(peer)) for peer in self.peers]]  # type: ignore[misc]
        return seen

    def _of_peer(self, act: Callable[[], object]) -> object:
        try:
            return act()
        except OSError as error:
            return type(error)


def stage(name: str, streams: list[list[bytes]]) -> Stage:
    rig = Rig(
        KERNELS[name], CONNECTIONS, greeting_max_frame=60, max_outbox_bytes=600, max_total_outbox_bytes=200_000,
        greeting_timeout_s=5, stall_timeout_s=4,
    )  # fmt: skip
    return Stage(rig, [list(stream) for stream in streams])


@settings(deadline=None)
@given(st.lists(pieces(), min_size=STREAMS, max_size=STREAMS), st.lists(steps, max_size=60))
def test_kernel_and_twin_do_the_same(streams: list[list[bytes]], script: list[tuple[str, *tuple[object, ...]]]) -> None:
    kernel, twin = stage("kernel", streams), stage("twin", streams)
    try:
        for step in [("connect",), ("connect",), ("admit", 0, 2, 100_000), *script]:
            assert kernel.run(step) == twin.run(step), step
            assert kernel.state() == twin.state(), step
        assert kernel.finish() == twin.finish()
        assert kernel.state() == twin.state()
    finally:
        kernel.rig.close()
        twin.rig.close()


@settings(deadline=None)
@given(pieces(), st.sampled_from([0, 1, 3]), st.sampled_from([1, 2, 5, 1000]))
def test_kernel_and_twin_cut_the_same_frames_out_of_a_stream(stream: list[bytes], window: int, max_events: int) -> None:
    seen = []
    for name in KERNELS:
        one = stage(name, [stream])
        try:
            one.connect()
            one.admit(0, window, 1000)
            events: list[object] = []
            for _ in stream:
                events += [one.feed(0), one.poll(max_events)]
            seen.append([*events, one.finish()])
        finally:
            one.rig.close()
    assert seen[0] == seen[1]
