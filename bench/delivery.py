"""The delivery checker: told what clients did and saw, it says which promise was broken.

It owns the judgement on delivery for the tests and the bench alike, and nothing else: no I/O, no clock, no decoding.
Whoever drives the clients tells it every SEND, SENT, MSG and GAP, and, when all is quiet, the final log of each chat;
``conclude`` then returns the violations. What it holds the server to (docs/protocol.md, docs/delivery.md):

- an acknowledged message is in every member's final view, once, with the content that was sent;
- a user's client_msg_id has one seq in a chat, and a seq one message, whoever looks;
- prev_seq chains the log, its counters grow by one, its epochs never fall;
- a session's live MSG and SENT rise in each chat; nothing live comes between LAGGED and SYNC;
- a SYNC that is done has sent everything, or named it in a GAP;
- nobody was ever shown a row that the final log lacks.

Holes are not violations: pushing is best effort. A hole that is there at the end is one (``LOST``).

Memory: one record a message and one byte a message and view. A view is a bytearray by counter, which is exact because
a counter names one row of a log: a second row under it is itself a violation. A set of seqs (60 bytes an entry) or the
runs between holes (exact only if the server chains honestly) were the other choices.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bench.violations import Rule, Violation, Violations, name_of
from gateway.protocol.identifiers import counter_of, epoch_of

SERVER_MSG_ID = bytes(16)
"""The client_msg_id of system messages: not an id, it repeats."""

MAX_COUNTER = 1 << 24
"""A counter beyond this is taken for nonsense, since a view costs a byte a counter."""

_UNSEEN, _HELD, _IN_GAP = 0, 1, 2


class Via(enum.Enum):
    """How a MSG reached a device. Between a SYNC and its SYNC_DONE a client cannot tell live pushes: all is SYNC."""

    LIVE = "live"
    SYNC = "sync"
    HISTORY = "history"


class Message(NamedTuple):
    """A row of a chat's log, as somebody saw it. The content is its ``digest``: see ``digest_of``."""

    chat_id: int
    seq: int
    prev_seq: int
    sender_id: int
    client_msg_id: bytes
    digest: bytes


class Acknowledgement(NamedTuple):
    """A SENT."""

    chat_id: int
    client_msg_id: bytes
    seq: int
    prev_seq: int
    time_ms: int
    is_duplicate: bool


def digest_of(kind: int, body: bytes, target_seq: int | None = None) -> bytes:
    """Eight bytes that stand for a message's content. Of a message with envelopes take the common body."""
    return hashlib.blake2b(b"%d %d " % (kind, target_seq or 0) + body, digest_size=8).digest()


class _Device:
    """What is known of a device, and of its session of the moment."""

    def __init__(self, device_id: int, user_id: int) -> None:
        self.device_id = device_id
        self.user_id = user_id
        self.is_lagged = False
        self.is_retired = False
        self.highest: dict[int, int] = {}


class _Chat:
    """The log of a chat as far as it was seen, who is in it, and who saw what."""

    def __init__(self, chat_id: int) -> None:
        self.chat_id = chat_id
        self.rows: dict[int, tuple[Message, int]] = {}
        self.seqs: dict[tuple[int, bytes], int] = {}
        self.acknowledged: dict[int, Acknowledgement] = {}
        self.members: dict[int, tuple[int, int]] = {}
        self.views: dict[int, bytearray] = {}
        self.final: set[int] | None = None

    def view(self, device_id: int, length: int = 1) -> bytearray:
        view = self.views.setdefault(device_id, bytearray((_HELD,)))
        if len(view) < length:
            view.extend(bytes(max(length, len(view) * 5 // 4) - len(view)))
        return view

    def missing(self, device_id: int) -> Iterator[int]:
        """The counters up to the newest known one that the device does not hold."""
        end = max(self.rows, default=0) + 1
        view = self.view(device_id, end)
        yield from _positions(view, _UNSEEN, end)
        yield from _positions(view, _IN_GAP, end)


def _positions(view: bytearray, state: int, end: int) -> Iterator[int]:
    at = view.find(state, 0, end)
    while at >= 0:
        yield at
        at = view.find(state, at + 1, end)


class DeliveryChecker:
    def __init__(self, max_violations: int = 200) -> None:
        self._found = Violations(max_violations)
        self._devices: dict[int, _Device] = {}
        self._chats: dict[int, _Chat] = {}
        self._contents: dict[tuple[int, int, bytes], bytes] = {}
        self.holes = 0
        """Live messages that did not follow what the device held: to be repaired by then, not wrong."""
        self.may_repeat = False
        """Set where owners are lost: a chat's next owner pushes again what the former may not have told."""
        self.repeats = 0
        """Live messages that came late and had been told to somebody before, where that may be; whether or not one holds them."""

    # ---- who is there

    def connected(self, device_id: int, user_id: int) -> None:
        """A session of the device begins: what it sees rises anew."""
        device = self._devices.setdefault(device_id, _Device(device_id, user_id))
        device.highest.clear()
        device.is_lagged = False

    def retired(self, device_id: int) -> None:
        """The device is gone for good: its view need not be whole in the end. What it saw must still be true."""
        self._devices[device_id].is_retired = True

    def joined(self, user_id: int, chat_id: int, seq: int = 0) -> None:
        """The user sees the chat from ``seq`` on, inclusive."""
        self._chat(chat_id).members[user_id] = (counter_of(seq), MAX_COUNTER)

    def left(self, user_id: int, chat_id: int, seq: int) -> None:
        """The user sees the chat up to ``seq``, inclusive."""
        members = self._chat(chat_id).members
        members[user_id] = (members[user_id][0], counter_of(seq))

    # ---- what a client did, and what it was told

    def sent(self, device_id: int, chat_id: int, client_msg_id: bytes, digest: bytes) -> None:
        """A client is about to SEND, for the first time or again."""
        self._contents.setdefault((chat_id, self._devices[device_id].user_id, client_msg_id), digest)

    def acknowledged(self, device_id: int, sent: Acknowledgement) -> None:
        """A client got SENT. Its view holds the message from here on: the sending session gets no MSG."""
        device, chat = self._devices[device_id], self._chat(sent.chat_id)
        digest = self._contents.get((sent.chat_id, device.user_id, sent.client_msg_id))
        if digest is None:
            self._found.add(Rule.INVENTED, f"device {device_id} got SENT for what it did not send: {sent}")
            return
        row = Message(sent.chat_id, sent.seq, sent.prev_seq, device.user_id, sent.client_msg_id, digest)
        if not self._witness(chat, row, device_id):
            return
        if not sent.is_duplicate:
            self._rises(device, sent.chat_id, sent.seq)
        self._repeats(chat, device_id, sent)
        self._hold(chat, row, device_id)

    def received(self, device_id: int, message: Message, via: Via) -> None:
        """A device got a MSG, or a message in a PAGE."""
        device, chat = self._devices[device_id], self._chat(message.chat_id)
        if via is Via.LIVE:
            if device.is_lagged:
                self._found.add(Rule.LAGGED, f"device {device_id}: {_text(message)}")
            is_told = self.may_repeat and counter_of(message.seq) in chat.rows
            self._rises(device, message.chat_id, message.seq, may_repeat=is_told)
        if not self._witness(chat, message, device_id):
            return
        if via is Via.LIVE and not self._holds(chat, device_id, counter_of(message.prev_seq)):
            self.holes += 1
        self._hold(chat, message, device_id)

    def lagged(self, device_id: int) -> None:
        self._devices[device_id].is_lagged = True

    def syncing(self, device_id: int) -> None:
        """The device sent a SYNC."""
        self._devices[device_id].is_lagged = False

    def gap(self, device_id: int, chat_id: int, after_seq: int, before_seq: int) -> None:
        """The device was told that messages between (both exclusive) exist and were not sent."""
        before = counter_of(before_seq)
        if before > MAX_COUNTER:
            self._found.add(Rule.COUNTER, f"device {device_id}, chat {chat_id}: GAP before {name_of(before_seq)}")
            return
        view = self._chat(chat_id).view(device_id, before)
        for counter in range(counter_of(after_seq) + 1, before):
            view[counter] = view[counter] or _IN_GAP

    def synced(self, device_id: int, chat_id: int, head_seq: int) -> None:
        """The device's SYNC is done, and named this head of the chat."""
        chat, head = self._chat(chat_id), counter_of(head_seq)
        if head > MAX_COUNTER:
            self._found.add(Rule.COUNTER, f"device {device_id}, chat {chat_id}: head {name_of(head_seq)}")
            return
        first, last = chat.members.get(self._devices[device_id].user_id, (0, MAX_COUNTER))
        for counter in _positions(chat.view(device_id, head + 1), _UNSEEN, head + 1):
            if first <= counter <= last:
                evidence = f"device {device_id}, chat {chat_id}: no counter {counter}, head {name_of(head_seq)}"
                self._found.add(Rule.SYNC, evidence)

    def paged(self, device_id: int, chat_id: int, after_seq: int, before_seq: int) -> None:
        """HISTORY between (both exclusive) was read to its end: what was acknowledged there must have come."""
        chat = self._chat(chat_id)
        for counter in chat.missing(device_id):
            if counter_of(after_seq) < counter < counter_of(before_seq) and self._is_owed(chat, device_id, counter):
                row = chat.rows[counter][0]
                self._found.add(Rule.LOST, f"HISTORY of device {device_id} was complete without {_text(row)}")

    # ---- in the end

    def final_log(self, chat_id: int, messages: Iterable[Message]) -> None:
        """The whole log, read when all is quiet, oldest first."""
        chat = self._chat(chat_id)
        chat.final = set(self._ordered(chat, messages, "the final log"))

    def final_view(self, device_id: int, chat_id: int, messages: Iterable[Message]) -> None:
        """What the device's user has before them in the end, oldest first: instead of what the device received."""
        chat = self._chat(chat_id)
        chat.views[device_id] = bytearray((_HELD,))
        for counter in self._ordered(chat, messages, f"the final view of device {device_id}"):
            chat.view(device_id, counter + 1)[counter] = _HELD

    def conclude(self) -> list[Violation]:
        """Judge the end, and return all that was found. ValueError: acknowledged messages in a chat without members."""
        for chat in self._chats.values():
            if chat.acknowledged and not chat.members:
                raise ValueError(f"nobody joined chat {chat.chat_id}: whose views were to be checked?")
            self._conclude_log(chat)
            for device in self._devices.values():
                if device.user_id in chat.members and not device.is_retired:
                    self._conclude_view(chat, device.device_id)
        return self._found.kept

    def lines(self, limit: int = 20) -> list[str]:
        return self._found.lines(limit)

    # ---- the rules

    def _chat(self, chat_id: int) -> _Chat:
        chat = self._chats.get(chat_id)
        if chat is None:
            chat = self._chats[chat_id] = _Chat(chat_id)
        return chat

    def _witness(self, chat: _Chat, row: Message, device_id: int) -> bool:
        """Compare a row with all earlier accounts of its place, its neighbours and its id. False: unusable."""
        counter = counter_of(row.seq)
        if not 0 < counter <= MAX_COUNTER:
            self._found.add(Rule.COUNTER, f"device {device_id}: {_text(row)}")
            return False
        known = chat.rows.get(counter)
        if known is None:
            chat.rows[counter] = (row, device_id)
            self._check_row(chat, row, device_id)
        elif known[0] != row:
            is_other_content = known[0][:-1] == row[:-1]
            self._found.add(
                Rule.CONTENT if is_other_content else Rule.ORDER,
                f"device {device_id} saw {_text(row)}; before, device {known[1]} saw {_text(known[0])}",
            )
            return is_other_content
        return True

    def _check_row(self, chat: _Chat, row: Message, device_id: int) -> None:
        counter = counter_of(row.seq)
        if counter != counter_of(row.prev_seq) + 1 or epoch_of(row.seq) < epoch_of(row.prev_seq):
            self._found.add(Rule.COUNTER, f"device {device_id}: {_text(row)}")
        before, after = chat.rows.get(counter - 1), chat.rows.get(counter + 1)
        if before is not None and before[0].seq != row.prev_seq:
            self._found.add(Rule.CHAIN, f"device {device_id}: {_text(row)}, but before it is {_text(before[0])}")
        if after is not None and after[0].prev_seq != row.seq:
            self._found.add(Rule.CHAIN, f"device {device_id}: {_text(row)}, but after it is {_text(after[0])}")
        if row.client_msg_id != SERVER_MSG_ID:
            self._check_id(chat, row, device_id)

    def _check_id(self, chat: _Chat, row: Message, device_id: int) -> None:
        seq = chat.seqs.setdefault((row.sender_id, row.client_msg_id), row.seq)
        if seq != row.seq:
            self._found.add(Rule.TWICE, f"device {device_id}: {_text(row)}, which is also {name_of(seq)}")
        digest = self._contents.get((chat.chat_id, row.sender_id, row.client_msg_id))
        if digest is None:
            self._found.add(Rule.INVENTED, f"device {device_id}: {_text(row)}")
        elif digest != row.digest:
            self._found.add(Rule.CONTENT, f"device {device_id}: {_text(row)}, sent as {digest.hex()}")

    def _rises(self, device: _Device, chat_id: int, seq: int, *, may_repeat: bool = False) -> None:
        highest = device.highest.get(chat_id, 0)
        if seq > highest:
            device.highest[chat_id] = seq
        elif may_repeat:
            self.repeats += 1
        else:
            evidence = f"device {device.device_id}, chat {chat_id}: {name_of(seq)} after {name_of(highest)}"
            self._found.add(Rule.RISING, evidence)

    def _repeats(self, chat: _Chat, device_id: int, sent: Acknowledgement) -> None:
        first = chat.acknowledged.setdefault(counter_of(sent.seq), sent)
        if first is not sent and (not sent.is_duplicate or sent.time_ms != first.time_ms):
            self._found.add(Rule.DUPLICATE, f"device {device_id} got {sent} after {first}")

    def _holds(self, chat: _Chat, device_id: int, counter: int) -> bool:
        first, _ = chat.members.get(self._devices[device_id].user_id, (0, 0))
        view = chat.view(device_id)
        return counter < first or (counter < len(view) and view[counter] == _HELD)

    def _hold(self, chat: _Chat, row: Message, device_id: int) -> None:
        counter = counter_of(row.seq)
        chat.view(device_id, counter + 1)[counter] = _HELD

    def _is_owed(self, chat: _Chat, device_id: int, counter: int) -> bool:
        first, last = chat.members.get(self._devices[device_id].user_id, (1, 0))
        return counter in chat.acknowledged and first <= counter <= last

    def _ordered(self, chat: _Chat, messages: Iterable[Message], where: str) -> Iterator[int]:
        """The counters of a final list of messages, each of them checked."""
        newest = 0
        listed: set[int] = set()
        for row in messages:
            if row.seq in listed:
                self._found.add(Rule.TWICE, f"{where}: {_text(row)}")
            elif row.seq < newest:
                self._found.add(Rule.ORDER, f"{where}: {_text(row)} after {name_of(newest)}")
            listed.add(row.seq)
            newest = max(newest, row.seq)
            if self._witness(chat, row, 0):
                yield counter_of(row.seq)

    def _conclude_log(self, chat: _Chat) -> None:
        if chat.final is None:
            return
        for counter in chat.rows.keys() - chat.final:
            row, device_id = chat.rows[counter]
            is_acknowledged = counter in chat.acknowledged
            rule = Rule.LOST if is_acknowledged else Rule.PHANTOM
            self._found.add(rule, f"device {device_id} saw {_text(row)}; the final log has no such row")

    def _conclude_view(self, chat: _Chat, device_id: int) -> None:
        for counter in chat.missing(device_id):
            if self._is_owed(chat, device_id, counter):
                self._found.add(Rule.LOST, f"device {device_id} never got {_text(chat.rows[counter][0])}")


def _text(row: Message) -> str:
    return (
        f"chat {row.chat_id} seq {name_of(row.seq)} (prev {name_of(row.prev_seq)}) of user {row.sender_id}, "
        f"id {row.client_msg_id.hex()}, content {row.digest.hex()}"
    )
