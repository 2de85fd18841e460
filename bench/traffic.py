"""Messages on their way: sends them, checks every one that comes back, and times it.

Owns the account of a run: what was sent, acknowledged, refused and delivered, by message number. It must not know when
to send (the commands do), nor how the node is doing. The delivery check runs in the hot loop (``chain.py``); the end of
a run is quiet, or it is a violation.

What is cheap here is cheap on purpose. A MSG that goes to 256 devices is the same bytes 256 times: it is decoded
once and then known by its bytes. Latencies are counted per cycle and message, not per delivery.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Sequence

from bench.acks import Acks
from bench.chain import Chain
from bench.figures import Histogram
from bench.generator import CLOSED, Event, Generator
from bench.scene import Chat
from bench.sendframe import Numbering, SendFrame
from bench.session import RID_MASK, Session, describe
from bench.violations import Rule, Violations
from gateway.protocol.frames import decode
from gateway.protocol.messages import Error, Msg, Op, Sent

MEMO_LIMIT = 8192
_MSG, _SENT = int(Op.MSG), int(Op.SENT)
_FOREIGN = -1
_NEVER = 1 << 62
"""No message has this number: nothing is measured before ``measure_from_now``."""


class Channel:
    """A session that sends to one chat."""

    __slots__ = ("chain", "conn", "frames", "next_rid", "receivers", "unanswered")

    def __init__(self, session: Session, chain: Chain, frames: SendFrame, receivers: int) -> None:
        self.conn = session.conn
        self.chain = chain
        self.frames = frames
        self.receivers = receivers
        self.next_rid = 1
        self.unanswered: dict[int, int] = {}


class Traffic:
    def __init__(self, generator: Generator, chats: Sequence[Chat], body_bytes: int, *, do_ack: bool = True) -> None:
        self._generator = generator
        self._numbering = Numbering(body_bytes)
        self.found = Violations()
        self._chains: dict[int, Chain] = {}
        self.channels: dict[int, Channel] = {}
        for chat in chats:
            self._add(chat)
        self._heads: dict[int, int] = {chat.chat_id: chat.head_seq for chat in chats}
        self._memo: dict[bytes, tuple[int, int, int, int]] = {}
        self._acks = Acks(list(self._chains.items())) if do_ack else None
        self._times_ns = array("q")
        self.measured_from = _NEVER
        self.delivered = Histogram()
        self.acknowledged = Histogram()
        self.deliveries = 0
        self.outstanding = 0
        self.unanswered = 0
        self.refused: Counter[str] = Counter()
        self.other: Counter[int] = Counter()
        self.answered: list[Channel] = []
        """The channels that got an answer in the last turn, each as often as it got one."""

    def _add(self, chat: Chat) -> None:
        for member in chat.members:
            self._chains[member.conn] = Chain(member.device_id, chat.chat_id, chat.head_seq, self.found)
        frames = SendFrame(chat.chat_id, self._numbering)
        for sender in chat.senders:
            channel = Channel(sender, self._chains[sender.conn], frames, len(chat.members) - 1)
            self.channels[sender.conn] = channel

    # ---- sending

    def send(self, channel: Channel, at_ns: int) -> None:
        """Send the next message; ``at_ns`` is the moment that its latency counts from."""
        number = len(self._times_ns)
        self._times_ns.append(at_ns)
        rid = channel.next_rid
        channel.next_rid = rid % RID_MASK + 1
        channel.unanswered[rid] = number
        self.unanswered += 1
        self.outstanding += channel.receivers
        if not self._generator.kernel.send(channel.conn, channel.frames.numbered(number, rid)):
            self.found.add(Rule.ENDED, f"message {number} could not be sent: connection {channel.conn} is gone or full")

    def measure_from_now(self) -> None:
        """The warm-up is over: what is sent from here on is measured."""
        self.measured_from = len(self._times_ns)

    @property
    def measured(self) -> int:
        return len(self._times_ns) - self.measured_from

    # ---- what comes back

    def turn(self, timeout_s: float) -> None:
        """One cycle of the generator: everything sent leaves, what has come is checked."""
        events = self._generator.turn(timeout_s)
        self.answered.clear()
        if events:
            self._take(events)
        if self._acks is not None:
            self._acks.send_due(self._generator)

    def _take(self, events: Sequence[Event]) -> None:
        memo, chains = self._memo, self._chains
        arrived: list[int] = []
        for event in events:
            conn, op, _, body = event
            if op == _MSG:
                row = memo.get(body) or self._first_sight(body)
                number, chat_id, seq, prev_seq = row
                chain = chains.get(conn)
                if chain is None or chain.chat_id != chat_id:
                    self._misled(conn, row)
                    continue
                chain.follow(prev_seq, seq)
                if number >= 0:
                    arrived.append(number)
            elif op == _SENT:
                self._take_sent(event)
            else:
                self._take_other(event)
        self._count(arrived)

    def _first_sight(self, body: bytes) -> tuple[int, int, int, int]:
        if len(self._memo) >= MEMO_LIMIT:
            self._memo.clear()
        message = decode(Msg, body)
        number = self._numbering.number_of(message)
        if number is None:
            number = _FOREIGN
        elif number >= len(self._times_ns):
            self.found.add(Rule.INVENTED, f"chat {message.chat_id}, seq {message.seq}: message {number}")
            number = _FOREIGN
        elif message.body != self._numbering.body_of(number):
            self.found.add(Rule.CONTENT, f"chat {message.chat_id}, seq {message.seq}: message {number}")
        row = (number, message.chat_id, message.seq, message.prev_seq)
        self._memo[body] = row
        return row

    def _misled(self, conn: int, row: tuple[int, int, int, int]) -> None:
        if row[0] != _FOREIGN:
            self.found.add(Rule.INVENTED, f"connection {conn} got message {row[0]} of chat {row[1]}, not its own")

    def _count(self, arrived: list[int]) -> None:
        now_ns, times_ns = self._generator.now_ns, self._times_ns
        self.outstanding -= len(arrived)
        for number, n in Counter(arrived).items():
            if number >= self.measured_from:
                self.deliveries += n
                self.delivered.record(max(0, now_ns - times_ns[number]) // 1000, n)

    def _take_sent(self, event: Event) -> None:
        conn, _, rid, body = event
        channel = self.channels.get(conn)
        number = None if channel is None else channel.unanswered.pop(rid & RID_MASK, None)
        sent = decode(Sent, body)
        if channel is None or number is None:
            self.found.add(Rule.INVENTED, f"connection {conn} got SENT, rid {rid}, for nothing it sent: {sent}")
            return
        self.unanswered -= 1
        self.answered.append(channel)
        channel.chain.follow(sent.prev_seq, sent.seq)
        if sent.duplicate or sent.chat_id != channel.chain.chat_id:
            self.found.add(Rule.DUPLICATE, f"message {number}, sent once, was answered by {sent}")
        chat_id = channel.chain.chat_id
        self._heads[chat_id] = max(self._heads[chat_id], sent.seq)
        if number >= self.measured_from:
            self.acknowledged.record(max(0, self._generator.now_ns - self._times_ns[number]) // 1000)

    def _take_other(self, event: Event) -> None:
        conn, op, rid, body = event
        self.other[op] += 1
        channel = self.channels.get(conn)
        if op == Op.ERROR and channel is not None and channel.unanswered.pop(rid & RID_MASK, None) is not None:
            self.unanswered -= 1
            self.outstanding -= channel.receivers
            self.refused[str(decode(Error, body).code)] += 1
        elif op in (CLOSED, Op.CLOSE, Op.ERROR):
            self.found.add(Rule.ENDED, f"connection {conn}: {describe(event)}")

    # ---- the end

    def settle(self, timeout_s: float) -> None:
        """Wait until everything sent is answered and delivered, ``timeout_s`` at most."""
        until = time.monotonic() + timeout_s
        while (self.unanswered or self.outstanding > 0) and time.monotonic() < until:
            self.turn(0.05)

    def drain(self, timeout_s: float) -> None:
        """Settle, then judge."""
        self.settle(timeout_s)
        if self.unanswered:
            self.found.add(Rule.LATE, f"{self.unanswered} SENDs were not answered within {timeout_s:g} s")
        for chain in self._chains.values():
            chain.conclude(self._heads[chain.chat_id])
