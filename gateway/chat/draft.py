"""A batch in the making: requests of one chat become rows with a seq, or are answered at once.

Owns the rules that are applied to a SEND in order: is it a resend, may its sender write, what seq does it get. Rows that
were drafted before in the same batch count: a second copy of a message joins the first, and a member who was removed two
rows above may not write.

Invariant: rows have rising, gapless counters under one epoch, stay in one bucket and within what a store takes at once;
nothing here is visible to anybody
until the batch is committed, and a draft that fails leaves the actor as it was.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple, Protocol

from gateway.chat.membership import Step, apply_step, is_in, plan_change, plan_leave
from gateway.chat.remembered import RememberedIds
from gateway.chat.request import Found, InternalOp, Request
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.frames import encode_body
from gateway.protocol.identifiers import counter_of, seq_of
from gateway.protocol.messages import ChatChange, ChatChangeOk, Event, Kind, Op, Send, Sent, SystemBody
from storage.api import BUCKET_BITS, MAX_BATCH_BYTES, MAX_BATCH_ROWS, Batch, Chat, Member, MembershipChange, Message

NO_ID = bytes(16)
DIGEST_BYTES = 16
BUCKET_ROWS = 1 << BUCKET_BITS
MAX_CHANGE_BYTES = 20_480
"""Of the bodies of one change: four lists of 500 ids of 9 bytes, and a title."""
_CONTENT = struct.Struct(">QQQ")
_ENVELOPE = struct.Struct(">QQ")


class LogState(Protocol):
    """What a draft starts from; the actor is one."""

    chat: Chat
    members: dict[int, Member]
    head: int
    head_time_ms: int
    ids: RememberedIds


class DraftedRow(NamedTuple):
    row: Message
    waiters: list[Request]
    """Who gets SENT when it is committed."""


class Draft:
    """``take`` requests while there ``has_room_for`` the next; then ``batch``."""

    def __init__(self, log: LogState, epoch: int, now_ms: int, max_members: int) -> None:
        self._log = log
        self._epoch = epoch
        self._max_members = max_members
        self._time_ms = max(now_ms, log.head_time_ms)
        self._counter = counter_of(log.head)
        self._prev_seq = log.head
        self._drafted: dict[tuple[int, bytes], DraftedRow] = {}
        self.duplicates = 0
        """Resends that were answered from memory."""
        self.chat = log.chat
        self.members = log.members
        self.rows: list[DraftedRow] = []
        self.changes: list[MembershipChange] = []
        self.endings: list[tuple[Request, int]] = []
        """Membership requests, and the chat's version that answers them once the batch is committed."""
        self.is_unknown = False
        """It was given to the store, which may have stored it."""
        self.rest: Request | None = None
        """A change of membership that the bucket's end cuts: taken again by the next draft, which finds the rest to do."""
        self._body_bytes = 0
        self._room = min(MAX_BATCH_ROWS, BUCKET_ROWS - (self._counter + 1) % BUCKET_ROWS)
        """Rows that it may have: a batch ends with its bucket."""

    def has_room_for(self, request: Request) -> bool:
        """Always, if it is the first. A change of membership may need several rows, and may need to be the first."""
        if not self.rows:
            return True
        is_send = request.op == Op.SEND
        rows, body_bytes = (1, len(request.message.body)) if is_send else (len(Event), MAX_CHANGE_BYTES)  # type: ignore[attr-defined]
        return len(self.rows) + rows <= self._room and self._body_bytes + body_bytes <= MAX_BATCH_BYTES

    def batch(self) -> Batch:
        rows = [drafted.row for drafted in self.rows]
        return Batch(self.chat.chat_id, self._epoch, self._log.head, rows, tuple(self.changes))

    def take(self, request: Request) -> None:
        if request.op == Op.SEND:
            self._take_send(request, request.message)  # type: ignore[arg-type]
        else:
            self._take_change(request)

    # ---------------------------------------------------------------------------------------------- messages

    def _take_send(self, request: Request, send: Send) -> None:
        key = (request.user_id, send.client_msg_id)
        digest = digest_of(send)
        known = self._log.ids.get(key)
        if known is not None:
            self.duplicates += 1
            answer_resend(request, send.chat_id, known.seq, known.prev_seq, known.time_ms, known.digest == digest)
            return
        drafted = self._drafted.get(key)
        if drafted is not None:
            if drafted.row.digest == digest:
                drafted.waiters.append(request)
            else:
                request.refuse(Code.ID_REUSED, "this client_msg_id names a message with other content")
            return
        if not is_in(self.members.get(request.user_id)):
            request.refuse(Code.FORBIDDEN, "not a member of the chat")
            return
        message = self._row(
            (request.user_id, request.device_id), send.kind, send.body, send.client_msg_id, send.target_seq, digest
        )
        self._drafted[key] = drafted = DraftedRow(message, [request])
        self.rows.append(drafted)

    def _row(
        self, sender: tuple[int, int], kind: int, body: bytes, client_msg_id: bytes, target: int | None, digest: bytes
    ) -> Message:
        self._counter += 1
        self._body_bytes += len(body)
        seq, prev_seq = seq_of(self._epoch, self._counter), self._prev_seq
        self._prev_seq = seq
        user_id, device_id = sender
        return Message(
            self.chat.chat_id,
            seq,
            prev_seq,
            user_id,
            device_id,
            self._time_ms,
            kind,
            body,
            client_msg_id,
            target,
            digest,
        )

    # -------------------------------------------------------------------------------------------- membership

    def _take_change(self, request: Request) -> None:
        try:
            steps = self._plan(request)
        except ProtocolError as error:
            request.refuse(error.code, error.message, detail=error.detail)
            return
        version = self.chat.version
        if steps and request.op != InternalOp.FOUND:
            version += 1
        for step in steps[: self._room]:
            self._take_step(request.user_id, step, version)
        if len(steps) > self._room:
            self.rest = _without_version(request)
        else:
            self.endings.append((request, version))

    def _plan(self, request: Request) -> list[Step]:
        message = request.message
        if isinstance(message, ChatChange):
            return plan_change(self.chat, self.members, request.user_id, message, self._max_members)
        if isinstance(message, Found):
            return [Step(Event.CREATED, message.user_ids, self.chat.title)] if self._prev_seq == 0 else []
        return plan_leave(self.chat, self.members, request.user_id)

    def _take_step(self, actor_id: int, step: Step, version: int) -> None:
        body = encode_body(SystemBody(step.event, version, list(step.user_ids), step.title))
        row = self._row((actor_id, 0), Kind.SYSTEM, body, NO_ID, None, bytes(DIGEST_BYTES))
        changed = apply_step(self.members, step, row.seq, self._counter)
        title = step.title if step.title is not None else self.chat.title
        self.chat = self.chat._replace(title=title, version=version, changed_counter=self._counter)
        self.members = {**self.members, **{member.user_id: member for member in changed}}
        self.changes.append(MembershipChange(self.chat, changed))
        self.rows.append(DraftedRow(row, []))


def digest_of(send: Send) -> bytes:
    """What a resend must repeat, without ambiguity: numbers of a fixed width, length before content, sorted envelopes."""
    content = _CONTENT.pack(send.kind, send.target_seq or 0, len(send.body)) + send.body
    for device_id, envelope in sorted((send.envelopes or {}).items()):
        content += _ENVELOPE.pack(device_id, len(envelope)) + envelope
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def answer_resend(request: Request, chat_id: int, seq: int, prev_seq: int, time_ms: int, is_same: bool) -> None:
    """SENT again, before any check of rights; other content under the same id is refused."""
    if is_same:
        request.answer(Op.SENT, Sent(chat_id, seq, time_ms, True, prev_seq))
    else:
        request.refuse(Code.ID_REUSED, "this client_msg_id names a message with other content")


def answer_ending(request: Request, version: int) -> None:
    request.answer(Op.OK, ChatChangeOk(version) if request.op == Op.CHAT_CHANGE else None)


def _without_version(request: Request) -> Request:
    """The rest of a change is not refused because its first half has raised the version."""
    if isinstance(request.message, ChatChange):
        request.message.version = None
    return request
