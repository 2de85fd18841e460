"""Devices that talk through faults: each keeps its own log, as docs/protocol.md asks of a client, and the checker watches.

Owns what a device holds and what it has sent without an answer, over all of its connections. It knows nothing of faults:
a connection that ends is opened again, what has no SENT is sent again with retry = true, SYNC and HISTORY fill in the rest.
Everything that a device does and sees is told to the delivery checker. One thread: whoever waits, waits for all sockets.
"""

from __future__ import annotations

import secrets
import select
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bench.delivery import Acknowledgement, DeliveryChecker, Message, Via, digest_of
from gateway.protocol.errors import Code
from gateway.protocol.frames import Frame, decode
from gateway.protocol.identifiers import ID_LIMIT
from gateway.protocol.messages import Close, Cursor, Gap, Kind, Msg, Op, Sent, Sync, SyncDone
from tests.node.conftest import device_id_of
from tests.node.wire import Ended, Wire, code_of, error_of, message
from tests.nodes import NodeProcess

PATIENCE_S = 40.0
UNANSWERED = 32
SYNC_MESSAGES = 2000

Connect = Callable[..., Wire]


@dataclass
class Outgoing:
    """A message of this device's, until it has its SENT."""

    chat_id: int
    body: bytes
    msg_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    is_retry: bool = False


class Device:
    """See the module. ``is_away`` before the first ``come_in``, and from an end to the next one."""

    def __init__(self, node: NodeProcess, checker: DeliveryChecker, connect: Connect, user_id: int) -> None:
        self.user_id = user_id
        self.device_id = device_id_of(user_id)
        self.is_away = True
        self.to_send: deque[Outgoing] = deque()
        self.acknowledged: dict[bytes, Sent] = {}
        self.refusals: Counter[int] = Counter()
        """Requests answered by an ERROR that asks to try again, by code."""
        self.signs: list[Frame] = []
        """What is no message and no reply: LAGGED, GOAWAY, CLOSE, in order, over all connections."""
        self.connections = 0
        self._node = node
        self._checker = checker
        self._connect = connect
        self._unanswered: dict[int, Outgoing] = {}
        self._sync_rid = 0
        self._after: dict[int, dict[int, int]] = {}
        """By chat: what follows each seq, as far as it was told."""

    # ------------------------------------------------------------------------------------------- coming and going

    def come_in(self, *, worker: int | None = None, receive_buffer: int = 0) -> None:
        """Until WELCOME, however often a connection is cut or refused for the moment; then SYNC."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_let_in(worker, receive_buffer):
            assert time.monotonic() < deadline, f"device {self.device_id} cannot come in: {dict(self.refusals)}"
        self.is_away = False
        self.connections += 1
        self._checker.connected(self.device_id, self.user_id)
        self.sync()

    def _is_let_in(self, worker: int | None, receive_buffer: int) -> bool:
        token = self._node.token(self.user_id, self.device_id)
        try:
            self.wire = self._connect(self._node, worker=worker, receive_buffer=receive_buffer)
            answer = self.wire.greet(token)
        except (Ended, OSError):
            return False
        if answer.op == Op.WELCOME:
            return True
        assert code_of(answer) >= Code.RATE_LIMITED, error_of(answer)
        self.refusals[code_of(answer)] += 1
        return False

    def leave(self) -> None:
        self.wire.send(Op.CLOSE, Close(0, ""))
        self._gone()

    def _gone(self) -> None:
        """The connection has ended: what became of the unanswered SENDs is unknown."""
        self.is_away = True
        self._sync_rid = 0
        self._again(self._unanswered.values())
        self._unanswered.clear()
        self.wire.close()

    def _again(self, messages: Iterable[Outgoing]) -> None:
        for outgoing in reversed(list(messages)):
            outgoing.is_retry = True
            self.to_send.appendleft(outgoing)

    # ------------------------------------------------------------------------------------------- out

    def say(self, chat_id: int, body: bytes) -> Outgoing:
        """To be sent when the window allows."""
        outgoing = Outgoing(chat_id, body)
        self.to_send.append(outgoing)
        return outgoing

    def sync(self) -> None:
        held = [Cursor(chat_id, self.cursor(chat_id)) for chat_id in self._after]
        self._checker.syncing(self.device_id)
        self._sync_rid = self.wire.ask(Op.SYNC, Sync(held, None, SYNC_MESSAGES, SYNC_MESSAGES))

    def send_some(self) -> None:
        try:
            while self.to_send and len(self._unanswered) < UNANSWERED and not self.is_away:
                self._send(self.to_send.popleft())
        except ConnectionError:
            self._gone()

    def _send(self, outgoing: Outgoing) -> None:
        digest = digest_of(Kind.CONTENT, outgoing.body)
        self._checker.sent(self.device_id, outgoing.chat_id, outgoing.msg_id, digest)
        rid = self.wire.next_rid()
        self._unanswered[rid] = outgoing
        retry = True if outgoing.is_retry else None
        self.wire.send(Op.SEND, message(outgoing.chat_id, outgoing.body, msg_id=outgoing.msg_id, retry=retry), rid=rid)

    # ------------------------------------------------------------------------------------------- in

    def read(self) -> None:
        """Once what is there, or what comes next, or the end."""
        is_alive = self.wire.receive(time.monotonic() + PATIENCE_S)
        self.take_in()
        if not is_alive:
            self._gone()

    def take_in(self) -> None:
        while self.wire.frames:
            self._take(self.wire.frames.popleft())

    def _take(self, frame: Frame) -> None:
        if frame.op == Op.MSG:
            self._hold(decode(Msg, frame.body), Via.SYNC if self._sync_rid else Via.LIVE)
        elif frame.op == Op.SENT:
            self._acknowledge(self._unanswered.pop(frame.rid), decode(Sent, frame.body))
        elif frame.op == Op.GAP:
            gap = decode(Gap, frame.body)
            self._checker.gap(self.device_id, gap.chat_id, gap.after_seq, gap.before_seq)
        elif frame.op == Op.SYNC_DONE:
            self._synced(decode(SyncDone, frame.body))
        elif frame.op == Op.ERROR and frame.rid:
            self._refused(frame)
        else:
            if frame.op == Op.LAGGED:
                self._checker.lagged(self.device_id)
            self.signs.append(frame)

    def _hold(self, row: Msg, via: Via) -> None:
        self._after.setdefault(row.chat_id, {})[row.prev_seq] = row.seq
        self._checker.received(self.device_id, as_seen(row), via)

    def _acknowledge(self, outgoing: Outgoing, sent: Sent) -> None:
        self.acknowledged[outgoing.msg_id] = sent
        self._after.setdefault(sent.chat_id, {})[sent.prev_seq] = sent.seq
        ids = sent.chat_id, outgoing.msg_id
        told = Acknowledgement(*ids, sent.seq, sent.prev_seq, sent.time_ms, sent.duplicate)
        self._checker.acknowledged(self.device_id, told)

    def _refused(self, frame: Frame) -> None:
        error = error_of(frame)
        self.refusals[error.code] += 1
        assert error.code >= Code.RATE_LIMITED, error
        if frame.rid == self._sync_rid:
            self.sync()
        else:
            self._again([self._unanswered.pop(frame.rid)])

    def _synced(self, done: SyncDone) -> None:
        for news in done.chats:
            self._checker.synced(self.device_id, news.chat_id, news.head_seq)
        if not done.more:
            self._sync_rid = 0

    # ------------------------------------------------------------------------------------------- what it holds

    @property
    def is_syncing(self) -> bool:
        return self._sync_rid != 0

    @property
    def is_quiet(self) -> bool:
        return not (self.is_away or self.to_send or self._unanswered or self._sync_rid)

    def sign_ops(self) -> list[int]:
        return [frame.op for frame in self.signs]

    def cursor(self, chat_id: int) -> int:
        """Everything up to it is held."""
        after, seq = self._after.get(chat_id, {}), 0
        while seq in after:
            seq = after[seq]
        return seq

    def holds(self, chat_id: int, seq: int) -> bool:
        return seq in self._after.get(chat_id, {}).values()

    def repair(self, chat_id: int) -> None:
        """HISTORY, if something is held that does not follow what is before it."""
        newest = max(self._after[chat_id].values())
        while self.cursor(chat_id) < newest:
            after = self.cursor(chat_id)
            page = self.wire.history(chat_id, after=after)
            for row in page.messages:
                self._hold(row, Via.HISTORY)
            if page.complete:
                self._checker.paged(self.device_id, chat_id, after, ID_LIMIT - 1)
                return


class Devices:
    """Devices that are driven together, and the chats that they have in common."""

    def __init__(self, node: NodeProcess, connect: Connect, user_ids: Sequence[int]) -> None:
        self.checker = DeliveryChecker()
        self.checker.may_repeat = True
        self.all = [Device(node, self.checker, connect, user_id) for user_id in user_ids]
        self.chats: dict[int, list[Device]] = {}
        self.come_back = True
        """Do they open a connection again that has ended?"""

    @property
    def acknowledged(self) -> int:
        return sum(len(device.acknowledged) for device in self.all)

    @property
    def are_quiet(self) -> bool:
        return all(device.is_quiet for device in self.all)

    def open_direct(self, one: Device, other: Device) -> int:
        return self._add(one.wire.open_direct(other.user_id), [one, other])

    def open_group(self, *members: Device) -> int:
        others = [device.user_id for device in members[1:]]
        return self._add(members[0].wire.create_group(*others), list(members))

    def _add(self, chat_id: int, members: list[Device]) -> int:
        self.chats[chat_id] = members
        for device in members:
            self.checker.joined(device.user_id, chat_id)
        return chat_id

    def talk(self, rounds: int) -> int:
        """Everybody is to write to every chat of theirs; the number of messages."""
        for number in range(rounds):
            for chat_id, members in self.chats.items():
                for device in members:
                    device.say(chat_id, b"%d of %d" % (number, device.device_id))
        return rounds * sum(len(members) for members in self.chats.values())

    def turn(self, timeout_s: float = 0.1) -> None:
        """Send what may be sent, read what has come."""
        for device in self.all:
            if device.is_away and self.come_back:
                device.come_in()
            device.send_some()
        here = [device for device in self.all if not device.is_away]
        readable, _, _ = select.select([device.wire.socket for device in here], [], [], timeout_s)
        for device in here:
            if device.wire.socket in readable:
                device.read()

    def run_until(self, is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        for device in self.all:
            device.take_in()
        while not is_done():
            assert time.monotonic() < deadline, [(d.device_id, d.is_quiet, dict(d.refusals)) for d in self.all]
            self.turn()

    def settle(self) -> None:
        """Everything is answered; then one more word in every chat, which reaches all its members live."""
        self.run_until(lambda: self.are_quiet)
        words = [
            (chat_id, members, members[0].say(chat_id, b"the last word")) for chat_id, members in self.chats.items()
        ]
        self.run_until(lambda: all(_has_arrived(*word) for word in words))

    def violations(self) -> list[str]:
        """After ``settle``: every device fills its holes as a client does, and the checker concludes."""
        for chat_id, members in self.chats.items():
            for device in members:
                device.repair(chat_id)
            self.checker.final_log(chat_id, map(as_seen, members[0].wire.whole_log(chat_id)))
        self.checker.conclude()
        return self.checker.lines()


def _has_arrived(chat_id: int, members: Sequence[Device], word: Outgoing) -> bool:
    sent = members[0].acknowledged.get(word.msg_id)
    return sent is not None and all(device.holds(chat_id, sent.seq) for device in members)


def as_seen(row: Msg) -> Message:
    """A row as the checker knows it."""
    digest = digest_of(row.kind, row.body, row.target_seq)
    return Message(row.chat_id, row.seq, row.prev_seq, row.sender_id, row.client_msg_id, digest)
