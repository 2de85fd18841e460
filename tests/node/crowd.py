"""Many people who write at once through whatever happens to the node, each as a good client would; the delivery checker looks on.

Owns their outboxes: what was not acknowledged is sent again with ``retry``, on a new connection if the old one ended. It does
not judge: ``bench.delivery`` does.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Sequence

from bench.delivery import Acknowledgement, DeliveryChecker, Message, Via, digest_of
from bench.violations import Violation
from gateway.protocol.errors import Code
from gateway.protocol.frames import Frame, decode
from gateway.protocol.messages import Error, Kind, Msg, Op, Send, Sent, Sync
from tests.node.conftest import device_id_of
from tests.node.wire import DEADLINE_S, Ended, Wire
from tests.nodes import NodeProcess

AGAIN = frozenset({Code.UNAVAILABLE, Code.MOVED, Code.TIMED_OUT, Code.OVERLOADED, Code.INTERNAL, Code.RATE_LIMITED})
SETTLE_S = 40.0


class Writer:
    """One device. ``unanswered``: what may or may not be stored, in order."""

    def __init__(self, node: NodeProcess, checker: DeliveryChecker, user_id: int) -> None:
        self.user_id = user_id
        self.device_id = device_id_of(user_id)
        self.unanswered: dict[bytes, Send] = {}
        self.acknowledged = 0
        self.refused: list[int] = []
        self.heard: set[bytes] = set()
        """Bodies that came by themselves, live or after LAGGED."""
        self._node = node
        self._checker = checker
        self._asked: dict[int, bytes] = {}
        self._sync_rid = 0
        self.wire = self._connect()

    def _connect(self) -> Wire:
        """Until it works: a node that is being restarted refuses, which is no news."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            try:
                wire = Wire(self._node.port)
                wire.welcome(self._node.token(self.user_id, self.device_id))
            except (OSError, Ended, AssertionError) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no session in {SETTLE_S:g} s: {error}") from error
            else:
                break
        self._checker.connected(self.device_id, self.user_id)
        self._asked.clear()
        self._sync_rid = 0
        return wire

    def post(self, chat_id: int, body: bytes) -> None:
        send = Send(chat_id, secrets.token_bytes(16), Kind.CONTENT, body)
        self.unanswered[send.client_msg_id] = send
        self._ask(send)

    def _ask(self, send: Send) -> None:
        self._checker.sent(self.device_id, send.chat_id, send.client_msg_id, digest_of(send.kind, send.body))
        try:
            rid = self.wire.ask(Op.SEND, send)
        except ConnectionError:
            return  # ``settle`` notices
        self._asked[rid] = send.client_msg_id

    def settle(self) -> None:
        """Read, reconnect and send again until everything is acknowledged."""
        deadline = time.monotonic() + SETTLE_S
        while self.unanswered:
            assert time.monotonic() < deadline, f"{len(self.unanswered)} unanswered, refused with {self.refused[-5:]}"
            if not self._read_answers():
                self.wire.close()
                self.wire = self._connect()
            if not self._asked:
                for send in list(self.unanswered.values()):
                    send.retry = True
                    self._ask(send)

    def _read_answers(self) -> bool:
        """Until nothing asked waits any more. False: the connection ended."""
        while self._asked:
            if self.wire.is_ended or not self.wire.receive(time.monotonic() + DEADLINE_S):
                self.take_frames()
                return False
            self.take_frames()
        return True

    def read_some(self, acknowledged: int) -> None:
        """Until so many have been acknowledged in all."""
        while self.acknowledged < acknowledged and self.wire.receive(time.monotonic() + DEADLINE_S):
            self.take_frames()

    def hear(self, body: bytes) -> None:
        """Until this message has come by itself."""
        while body not in self.heard:
            assert self.wire.receive(time.monotonic() + DEADLINE_S), "the connection ended"
            self.take_frames()

    def take_frames(self) -> None:
        while self.wire.frames:
            self._take(self.wire.frames.popleft())

    def _take(self, frame: Frame) -> None:
        if frame.op == Op.MSG:
            row = decode(Msg, frame.body)
            if row.kind != Kind.SYSTEM:
                self._checker.received(self.device_id, checked(row), Via.SYNC if self._sync_rid else Via.LIVE)
                self.heard.add(row.body)
        elif frame.op == Op.LAGGED:
            self._checker.lagged(self.device_id)
            self._catch_up()
        elif frame.op == Op.SYNC_DONE:
            self._sync_rid = 0
        elif frame.op == Op.SENT:
            sent = decode(Sent, frame.body)
            msg_id = self._asked.pop(frame.rid)
            acknowledgement = Acknowledgement(
                sent.chat_id, msg_id, sent.seq, sent.prev_seq, sent.time_ms, sent.duplicate
            )
            self._checker.acknowledged(self.device_id, acknowledgement)
            self.unanswered.pop(msg_id, None)
            self.acknowledged += 1
        elif frame.op == Op.ERROR and frame.rid:
            code = decode(Error, frame.body).code
            assert code in AGAIN, f"refused with {code}"
            self.refused.append(code)
            self._asked.pop(frame.rid, None)
            if frame.rid == self._sync_rid:
                self._catch_up()

    def _catch_up(self) -> None:
        """SYNC, for the newest message of each chat: the log is read in the end anyway."""
        self._checker.syncing(self.device_id)
        with contextlib.suppress(ConnectionError):  # whoever reads next notices
            self._sync_rid = self.wire.ask(Op.SYNC, Sync([], None, 1))

    def log(self, chat_id: int) -> list[Message]:
        """The whole log; on a new connection if the old one has ended."""
        try:
            self.wire.barrier()
        except (Ended, ConnectionError):
            self.wire = self._connect()
        return [checked(row) for row in self.wire.whole_log(chat_id)]


class Crowd:
    """Writers who are all in all of some chats."""

    def __init__(self, node: NodeProcess, user_ids: Sequence[int], chats: int) -> None:
        self.checker = DeliveryChecker()
        self.checker.may_repeat = True
        self.writers = [Writer(node, self.checker, user_id) for user_id in user_ids]
        self.chats = [self._make_group(user_ids) for _ in range(chats)]

    def _make_group(self, user_ids: Sequence[int]) -> int:
        chat_id = self.writers[0].wire.create_group(*user_ids)
        for user_id in user_ids:
            self.checker.joined(user_id, chat_id)
        return chat_id

    def post(self, each: int, size: int = 20) -> None:
        """So many messages of everybody, in turn to every chat; nothing is read meanwhile."""
        for number in range(each):
            for writer in self.writers:
                writer.post(self.chats[number % len(self.chats)], secrets.token_bytes(size))

    def settle(self) -> None:
        for writer in self.writers:
            writer.settle()

    def hear_each_other(self) -> None:
        """One message in every chat, which comes to everybody by itself, wherever they are."""
        speaker, *others = self.writers
        for chat_id in self.chats:
            body = secrets.token_bytes(16)
            speaker.post(chat_id, body)
            speaker.settle()
            for writer in others:
                writer.hear(body)

    @property
    def acknowledged(self) -> int:
        return sum(writer.acknowledged for writer in self.writers)

    def verdict(self) -> list[Violation]:
        """Everybody's final views, and what the checker says of all."""
        for writer in self.writers:
            writer.take_frames()
            for chat_id in self.chats:
                self.checker.final_view(writer.device_id, chat_id, writer.log(chat_id))
        for chat_id in self.chats:
            self.checker.final_log(chat_id, self.writers[0].log(chat_id))
        return self.checker.conclude()

    def close(self) -> None:
        for writer in self.writers:
            writer.wire.close()


def checked(row: Msg) -> Message:
    digest = digest_of(row.kind, row.body, row.target_seq)
    return Message(row.chat_id, row.seq, row.prev_seq, row.sender_id, row.client_msg_id, digest)
