"""From a session to the owner of a chat, whichever worker that is, and back.

Owns where a request goes: to this worker's own actors if it holds the chat's slot, else over a link to the worker that
should. What cannot go anywhere yet (a slot being acquired, an owner that just died, two views of the worker set) waits
here, in order of arrival, and goes as soon as it can.

Invariants: requests of one session to one chat are handed over in the order in which they came (none goes to a slot's
new owner while an old one has not answered all of them); a request waits at most ``PATIENCE_S`` for an owner, and comes
back for another one at most for ``RETURN_S``, then it is answered MOVED. A SEND that came back is marked as a retry,
because it may have been committed: the next owner then looks for it before it writes.
"""

from __future__ import annotations

import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec
import trio

from gateway.chat.actors import Actors
from gateway.chat.request import Found, InternalOp, Request, View, Wake, wake_request
from gateway.cluster.link_marks import LinkMarks
from gateway.cluster.links import LinkLost, LinkRefused, Links, Reply
from gateway.cluster.slots import NotOwner, Slots
from gateway.cluster.tenure import Tenure
from gateway.cluster.wire import LinkProtocolError
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.frames import decode, encode_body
from gateway.protocol.identifiers import ChatId, WorkerId
from gateway.protocol.messages import CLIENT_OPS, Error, Op, Send
from storage.api import StoreError, slot_of

REQUEST_OP = 0xB0
PATIENCE_S = 5.0
RETURN_S = 10.0
AGAIN_S = 0.05
MAX_WAITING = 65_536
NAMED_S = 10.0
"""A chat is named to its next owner if something was sent to it so recently: older news have been told, or asked for."""
MAX_NAMED = 8_192

_HEAD = struct.Struct(">HQQd")
"""op, user, device, how long ago it was received (s): clocks of two hosts have nothing in common. The body follows."""
MAX_AGE_S = 60.0
"""A request is answered long before. Version 1 of links sent a clock, and what a peer says is not believed without end."""
_ANSWER = struct.Struct(">B")

_REQUEST_TYPES: dict[int, type[msgspec.Struct]] = {
    **{int(op): message for op, message in CLIENT_OPS.items()},
    InternalOp.VIEW: View,
    InternalOp.FOUND: Found,
    InternalOp.WAKE: Wake,
}


class Router:
    """See the module. ``run`` must be running."""

    def __init__(self, links: Links, slots: Slots, actors: Actors) -> None:
        self._links = links
        self._slots = slots
        self._actors = actors
        self._waiting: dict[int, list[tuple[ChatId, Request]]] = {}
        self._waiting_count = 0
        self._under_way: dict[int, tuple[WorkerId, int]] = {}
        """By slot: who was asked, and how many answers are still to come."""
        self._last_number = 0
        self._nursery: trio.Nursery | None = None
        self.forwarded = 0
        self._sent_to: OrderedDict[ChatId, tuple[WorkerId, float]] = OrderedDict()
        """Chats that SENDs were forwarded to, the latest last: to whom, and when (CLOCK_MONOTONIC)."""
        self._marks = LinkMarks(links, self._serve, _LinkOrigin(None))
        links.register(REQUEST_OP, self._on_request)
        links.add_lost_listener(self._name_chats_of)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # cancelled: others of the worker may still ask, and nothing more is begun

    def request(self, chat_id: ChatId, request: Request) -> None:
        """Take a request to the chat's owner. It is answered by whoever ends it."""
        slot = slot_of(chat_id)
        asked = self._under_way.get(slot)
        tenure = self._slots.tenure(slot)
        owner = self._links.me if tenure is not None else self._slots.owner_of(slot)
        if slot in self._waiting or (asked is not None and asked[0] != owner):
            self._wait(slot, chat_id, request)
        elif tenure is not None:
            self._actors.submit(chat_id, tenure, request)
        elif owner is None or owner == self._links.me:
            self._wait(slot, chat_id, request)
        else:
            self._forward(owner, chat_id, request)

    # ---------------------------------------------------------------------------------------------- elsewhere

    def _forward(self, owner: WorkerId, chat_id: ChatId, request: Request) -> None:
        if isinstance(request.origin, _LinkOrigin):
            # It waited for a tenure of ours that did not come. Sent on from here, its SENT would go round by us, behind
            # the MSGs that the owner pushes straight to the session's worker.
            self.take_back(chat_id, request)
            return
        self.forwarded += 1
        if request.op == InternalOp.MARK:
            self._marks.forward(owner, request)
            return
        payload = _pack(request)
        self._number(request)
        if request.op == Op.SEND:
            self._note_sent(owner, chat_id)
        slot = slot_of(chat_id)
        self._under_way[slot] = (owner, self._under_way.get(slot, (owner, 0))[1] + 1)
        self._links.request(owner, REQUEST_OP, payload, partial(self._forwarded, chat_id, request))

    def _note_sent(self, owner: WorkerId, chat_id: ChatId) -> None:
        self._sent_to[chat_id] = (owner, time.monotonic())
        self._sent_to.move_to_end(chat_id)
        if len(self._sent_to) > MAX_NAMED:
            self._sent_to.popitem(last=False)

    def _name_chats_of(self, worker: WorkerId) -> None:
        """A link has ended. Its worker may have committed messages and died before anybody heard of them: the chats are
        named to their next owner, who loads them and tells. If the worker lives, it only answers that it serves them."""
        since_s = time.monotonic() - NAMED_S
        named = [chat_id for chat_id, (owner, at_s) in self._sent_to.items() if owner == worker and at_s > since_s]
        for chat_id in named:
            del self._sent_to[chat_id]
            self._wait(slot_of(chat_id), chat_id, wake_request(chat_id))

    def _forwarded(self, chat_id: ChatId, request: Request, answer: bytes | LinkLost | LinkRefused) -> None:
        self._came_back(slot_of(chat_id))
        if isinstance(answer, bytes):
            if request.rid:
                request.origin.answer(request.rid, answer[0], answer[1:])
        elif isinstance(answer, LinkRefused) and answer.code != Code.MOVED:
            request.refuse(Code(answer.code), answer.message, retry_after_ms=1000)
        else:
            self.take_back(chat_id, request)

    def _came_back(self, slot: int) -> None:
        owner, count = self._under_way[slot]
        if count > 1:
            self._under_way[slot] = (owner, count - 1)
        else:
            del self._under_way[slot]

    def take_back(self, chat_id: ChatId, request: Request) -> None:
        """A request whose owner has gone or let go of the chat: the next owner is to have it.

        Another worker's request goes back to that worker, which keeps the order of its own.
        """
        if isinstance(request.origin, _LinkOrigin) or time.monotonic() - request.received_s > RETURN_S:
            request.refuse(Code.MOVED, "the chat's owner is changing", retry_after_ms=1000)
            return
        if isinstance(request.message, Send):
            request.message.retry = True
        self._wait(slot_of(chat_id), chat_id, request)

    def _on_request(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        """Another worker's request. It is served under a tenure or a claim of ours, never sent on: views settle by themselves."""
        op, user_id, device_id, age_s, message = _unpack(payload)
        if message is None:
            if reply is not None:
                reply.refuse(Code.UNKNOWN_OP, f"request {op:#x}")
            return
        received_s = time.monotonic() - max(0.0, min(age_s, MAX_AGE_S))
        origin = _LinkOrigin(reply)
        request = Request(op, message, (user_id, device_id), origin, 1 if reply else 0, received_s)
        self._serve(worker, ChatId(message.chat_id), request)  # type: ignore[attr-defined]

    def _serve(self, worker: WorkerId, chat_id: ChatId, request: Request) -> None:
        slot = slot_of(chat_id)
        tenure = self._slots.tenure(slot)
        if tenure is not None and slot not in self._waiting:
            self._actors.submit(chat_id, tenure, request)
        elif self._slots.owner_of(slot) == self._links.me:
            self._wait(slot, chat_id, request)
        elif request.rid:
            owner = self._slots.owner_of(slot)
            if owner is not None and owner != worker:
                self._slots.suspect(owner)  # to whom it came first, perhaps in vain
            request.refuse(Code.MOVED, "not the owner")

    # ---------------------------------------------------------------------------------------------- waiting

    def _wait(self, slot: int, chat_id: ChatId, request: Request) -> None:
        if self._nursery is None:
            request.refuse(Code.MOVED, "the worker ends", retry_after_ms=1000)
            return
        if self._waiting_count >= MAX_WAITING:
            request.refuse(Code.OVERLOADED, "too many requests wait for an owner", retry_after_ms=1000)
            return
        self._number(request)
        self._waiting_count += 1
        if slot in self._waiting:
            self._waiting[slot].append((chat_id, request))
            return
        self._waiting[slot] = [(chat_id, request)]
        self._nursery.start_soon(self._settle, slot)

    def _number(self, request: Request) -> None:
        if not request.number:
            self._last_number += 1
            request.number = self._last_number

    async def _settle(self, slot: int) -> None:
        """Find out who owns the slot, then let everything that waits for it go, oldest first."""
        code, message = Code.MOVED, "the chat's owner is changing"
        with trio.move_on_after(PATIENCE_S):
            while True:
                try:
                    if await self._is_settled(slot):
                        self._go(slot)
                        return
                except StoreError as error:
                    code, message = Code.UNAVAILABLE, str(error)
                    break
                await trio.sleep(AGAIN_S)
        for _, request in self._take(slot):
            request.refuse(code, message, retry_after_ms=1000)
        self._actors.finish_cycle()

    async def _is_settled(self, slot: int) -> bool:
        owner = self._slots.owner_of(slot)
        if owner is None or self._under_way.get(slot, (owner, 0))[0] != owner:
            return False
        if owner != self._links.me:
            await trio.sleep(AGAIN_S)  # what came back came back for a reason: give the views time to agree
            return self._slots.owner_of(slot) == owner
        try:
            await self._slots.acquire(slot)
        except NotOwner:
            return False
        return True

    def _go(self, slot: int) -> None:
        for chat_id, request in self._take(slot):
            self.request(chat_id, request)
        self._actors.finish_cycle()

    def _take(self, slot: int) -> Iterable[tuple[ChatId, Request]]:
        waiting = self._waiting.pop(slot)
        self._waiting_count -= len(waiting)
        return sorted(waiting, key=lambda entry: entry[1].number)

    # ---------------------------------------------------------------------------------------------- many chats

    async def by_owner(self, chat_ids: Sequence[ChatId]) -> dict[WorkerId, list[ChatId]]:
        """Chats grouped by the worker that owns them now or should. Raises NotOwner when no worker is known."""
        groups: dict[WorkerId, list[ChatId]] = {}
        for chat_id in chat_ids:
            slot = slot_of(chat_id)
            owner = self._links.me if self._slots.tenure(slot) is not None else self._slots.owner_of(slot)
            if owner is None:
                raise NotOwner(slot, None)
            groups.setdefault(owner, []).append(chat_id)
        return groups

    async def hold(self, chat_ids: Sequence[ChatId]) -> list[Tenure]:
        """The tenures of these chats' slots, taken if need be. Raises NotOwner, StoreError."""
        missing = {slot_of(chat_id) for chat_id in chat_ids if self._slots.tenure(slot_of(chat_id)) is None}
        failures: list[Exception] = []
        async with trio.open_nursery() as nursery:
            for slot in missing:
                nursery.start_soon(self._hold_one, slot, failures.append)
        if failures:
            raise failures[0]
        tenures = {slot_of(chat_id): self._slots.tenure(slot_of(chat_id)) for chat_id in chat_ids}
        for slot, tenure in tenures.items():
            if tenure is None:  # let go again while the others were being taken
                raise NotOwner(slot, None)
        return [tenure for tenure in tenures.values() if tenure is not None]

    async def _hold_one(self, slot: int, failed: Callable[[Exception], None]) -> None:
        try:
            await self._slots.acquire(slot)
        except (NotOwner, StoreError) as error:
            failed(error)


class _LinkOrigin:
    """Answers travel back as ``op u8 | body``."""

    __slots__ = ("_reply",)

    def __init__(self, reply: Reply | None) -> None:
        self._reply = reply

    def answer(self, rid: int, op: int, payload: bytes) -> None:
        if self._reply is None:
            return
        if op == Op.ERROR and decode(Error, payload).code == Code.MOVED:
            self._reply.refuse(Code.MOVED, "the owner changes")
        else:
            self._reply.reply(_ANSWER.pack(op) + payload)


def _pack(request: Request) -> bytes:
    head = _HEAD.pack(request.op, request.user_id, request.device_id, time.monotonic() - request.received_s)
    return head + encode_body(request.message)


def _unpack(payload: bytes) -> tuple[int, int, int, float, msgspec.Struct | None]:
    """What ``_pack`` packed; no message: of an op that a later release has added."""
    if len(payload) < _HEAD.size:
        raise LinkProtocolError("a request without its head")
    op, user_id, device_id, age_s = _HEAD.unpack_from(payload)
    message_type = _REQUEST_TYPES.get(op)
    try:
        message = decode(message_type, payload[_HEAD.size :]) if message_type is not None else None
    except ProtocolError as error:
        raise LinkProtocolError(f"request {op:#x}: {error}") from error
    return op, user_id, device_id, age_s, message
