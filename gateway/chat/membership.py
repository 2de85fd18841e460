"""Who may change a chat's membership, and what a change writes: pure functions from a chat and a wish to rows.

Owns the rules of CHAT_CHANGE and CHAT_LEAVE. Knows no log and no seq: a ``Step`` becomes a system row where the actor
puts it, and only there do ``joined_seq`` and ``left_seq`` get their values.

Invariants: a change that is in force already makes no step; a group that has members has an admin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.messages import ChatChange, ChatKind, Event, Role
from storage.api import Chat, Member


class Step(NamedTuple):
    """One system row: what happened, and to whom."""

    event: Event
    user_ids: Sequence[int] = ()
    title: str | None = None


def is_in(member: Member | None) -> bool:
    return member is not None and member.left_seq == 0


def plan_change(
    chat: Chat, members: Mapping[int, Member], user_id: int, wish: ChatChange, max_members: int
) -> list[Step]:
    """The steps that make the wish true, in the order in which they are written: who is added sees what follows.

    Raises ProtocolError: FORBIDDEN (not an admin, or a direct chat), CONFLICT (stale version, or no admin would be left),
    NOT_FOUND (promote or demote somebody who is not in), TOO_MANY_MEMBERS.
    """
    _check_admin(chat, members, user_id)
    if wish.version is not None and wish.version != chat.version:
        raise ProtocolError(Code.CONFLICT, f"the chat's version is {chat.version}", detail=chat.version)
    added = [u for u in _once(wish.add) if not is_in(members.get(u))]
    removed = [u for u in _once(wish.remove) if is_in(members.get(u))]
    present = {u for u, m in members.items() if m.left_seq == 0}
    after = (present | set(added)) - set(removed)
    if len(after) > max_members:
        raise ProtocolError(Code.TOO_MANY_MEMBERS, f"a chat has at most {max_members} members", detail=max_members)
    admins = {u for u in present if members[u].role == Role.ADMIN}
    promoted = [u for u in _once(wish.promote) if u not in admins]
    demoted = [u for u in _once(wish.demote) if u in admins or u not in after]
    absent = [u for u in (*promoted, *demoted) if u not in after]
    if absent:
        raise ProtocolError(Code.NOT_FOUND, "not in the chat", detail=absent)
    if after and not ((admins | set(promoted)) - set(demoted)) & after:
        raise ProtocolError(Code.CONFLICT, "a group keeps at least one admin")
    steps = [
        Step(Event.ADDED, added),
        Step(Event.PROMOTED, promoted),
        Step(Event.DEMOTED, demoted),
        Step(Event.REMOVED, removed),
    ]
    steps = [step for step in steps if step.user_ids]
    if wish.title is not None and wish.title != chat.title:
        steps.append(Step(Event.TITLE, (), wish.title))
    return steps


def plan_leave(chat: Chat, members: Mapping[int, Member], user_id: int) -> list[Step]:
    """Leaving, and before it the promotion of the longest member if the last admin goes. Nobody there: no step."""
    if chat.kind == ChatKind.DIRECT:
        raise ProtocolError(Code.FORBIDDEN, "a direct chat cannot be left")
    if not is_in(members.get(user_id)):
        return []
    others = [m for u, m in members.items() if m.left_seq == 0 and u != user_id]
    steps = [Step(Event.LEFT, [user_id])]
    if others and not any(m.role == Role.ADMIN for m in others):
        heir = min(others, key=lambda m: (m.joined_seq, m.user_id))
        steps.insert(0, Step(Event.PROMOTED, [heir.user_id]))
    return steps


def apply_step(members: Mapping[int, Member], step: Step, seq: int, counter: int) -> list[Member]:
    """The member rows that a step changes, once its row has a seq."""
    changed = []
    for user_id in step.user_ids:
        old = members.get(user_id)
        if step.event == Event.ADDED:
            changed.append(Member(user_id, Role.MEMBER, seq, 0, counter))
        elif old is not None and step.event in (Event.REMOVED, Event.LEFT):
            changed.append(old._replace(left_seq=seq, role=Role.MEMBER, changed_counter=counter))
        elif old is not None and step.event in (Event.PROMOTED, Event.DEMOTED):
            role = Role.ADMIN if step.event == Event.PROMOTED else Role.MEMBER
            changed.append(old._replace(role=role, changed_counter=counter))
    return changed


def _check_admin(chat: Chat, members: Mapping[int, Member], user_id: int) -> None:
    if chat.kind == ChatKind.DIRECT:
        raise ProtocolError(Code.FORBIDDEN, "the members of a direct chat do not change")
    member = members.get(user_id)
    if member is None or member.left_seq or member.role != Role.ADMIN:
        raise ProtocolError(Code.FORBIDDEN, "only an admin of the chat may change it")


def _once(user_ids: Iterable[int] | None) -> list[int]:
    return list(dict.fromkeys(user_ids or ()))
