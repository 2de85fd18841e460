"""What a chat's owner answers from memory: who is in, how far one may read, typing, and how far the members are.

Owns the requests that write no row. Invariant: answers name the committed head or less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.chat.environment import Environment
from gateway.chat.membership import is_in
from gateway.chat.request import InternalOp, Mark, Request, ViewOk
from gateway.chat.route import push_sign
from gateway.protocol.errors import Code
from gateway.protocol.frames import encode
from gateway.protocol.messages import ChatInfoOk, MemberEntry, Op, Typing
from storage.api import Watermark

if TYPE_CHECKING:
    from gateway.chat.actor import ChatActor

NO_MARK = Watermark(0, 0, 0)


def answer_query(actor: ChatActor, request: Request, environment: Environment) -> None:
    if request.op == InternalOp.MARK and not actor.tenure.is_lost:
        take_mark(actor, request, environment)
    elif not actor.tenure.is_current:
        request.refuse(Code.MOVED, "the chat may have another owner now", retry_after_ms=1000)
    elif request.op == InternalOp.WAKE:
        request.answer(Op.OK)
    elif request.op == InternalOp.VIEW:
        answer_view(actor, request)
    elif not is_in(actor.members.get(request.user_id)):
        request.refuse(Code.FORBIDDEN, "not a member of the chat")
    elif request.op == Op.TYPING:
        push_typing(actor, request, environment)
    else:
        answer_info(actor, request)


def answer_view(actor: ChatActor, request: Request) -> None:
    member = actor.members.get(request.user_id)
    if member is None:
        request.refuse(Code.FORBIDDEN, "not a member of the chat")
        return
    last = min(member.left_seq, actor.head) if member.left_seq else actor.head
    request.answer(Op.OK, ViewOk(member.joined_seq, last))


def answer_info(actor: ChatActor, request: Request) -> None:
    chat = actor.chat
    members = []
    for member in actor.members.values():
        if is_in(member):
            mark = actor.marks.get(member.user_id, NO_MARK)
            members.append(MemberEntry(member.user_id, member.role, mark.delivered_seq, mark.read_seq))
    request.answer(Op.OK, ChatInfoOk(chat.chat_id, chat.kind, chat.title, chat.version, members, actor.head))


def push_typing(actor: ChatActor, request: Request, environment: Environment) -> None:
    typing = request.message
    assert isinstance(typing, Typing)
    frame = encode(Op.TYPING, Typing(actor.chat_id, request.user_id, typing.active))
    but = (request.user_id, request.device_id)
    push_sign(environment.locator, environment.postman, actor.audience(), frame, but=but)
    request.answer(Op.OK)


def take_mark(actor: ChatActor, request: Request, environment: Environment) -> None:
    """Fold a device's cursor into the member's marks: clamped to what the member may see, the highest wins."""
    mark = request.message
    assert isinstance(mark, Mark)
    member = actor.members.get(request.user_id)
    if member is None:
        return
    last = min(member.left_seq, actor.head) if member.left_seq else actor.head
    read = min(mark.read_seq, last)
    delivered = max(min(mark.delivered_seq, last), read)
    environment.marks.cursor((request.user_id, request.device_id), actor.chat_id, delivered)
    old = actor.marks.get(request.user_id, NO_MARK)
    new = Watermark(request.user_id, max(old.delivered_seq, delivered), max(old.read_seq, read))
    if new[1:] != old[1:]:
        actor.marks[request.user_id] = new
        environment.marks.watermark(actor.chat_id, new)
        rose = Watermark(
            request.user_id,
            new.delivered_seq if new.delivered_seq > old.delivered_seq else 0,
            new.read_seq if new.read_seq > old.read_seq else 0,
        )
        environment.marks.receipt(actor.chat_id, request.user_id, rose, request.device_id)
