"""Who may change a chat, and what a change writes: tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gateway.chat.membership import Step, apply_step, is_in, plan_change, plan_leave
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.messages import ChatChange, Event, Role
from storage.api import Chat, ChatKind, Member

GROUP = Chat(7, ChatKind.GROUP, "old", 3, 0)
DIRECT = Chat(7, ChatKind.DIRECT, "", 1, 0)
ADMIN, SECOND, THIRD, GONE, NEW, OTHER = 1, 2, 3, 4, 5, 6
MAX_MEMBERS = 5


def members_of(*rows: Member) -> dict[int, Member]:
    return {row.user_id: row for row in rows}


MEMBERS = members_of(
    Member(ADMIN, Role.ADMIN, 0, 0, 0),
    Member(SECOND, Role.MEMBER, 0, 0, 0),
    Member(THIRD, Role.MEMBER, 20, 0, 2),
    Member(GONE, Role.MEMBER, 0, 30, 3),
)


def plan(user_id: int = ADMIN, chat: Chat = GROUP, **wish: Any) -> Sequence[Step]:
    return plan_change(chat, MEMBERS, user_id, ChatChange(chat.chat_id, **wish), MAX_MEMBERS)


@pytest.mark.parametrize(
    ("wish", "steps"),
    [
        ({}, []),
        ({"add": [NEW]}, [Step(Event.ADDED, [NEW])]),
        ({"add": [NEW, OTHER]}, [Step(Event.ADDED, [NEW, OTHER])]),
        ({"add": [NEW, NEW, SECOND]}, [Step(Event.ADDED, [NEW])]),
        ({"add": [GONE]}, [Step(Event.ADDED, [GONE])]),
        ({"remove": [SECOND]}, [Step(Event.REMOVED, [SECOND])]),
        ({"promote": [SECOND, SECOND]}, [Step(Event.PROMOTED, [SECOND])]),
        ({"title": "new"}, [Step(Event.TITLE, (), "new")]),
        ({"title": ""}, [Step(Event.TITLE, (), "")]),
        ({"version": 3, "title": "new"}, [Step(Event.TITLE, (), "new")]),
        ({"add": [NEW], "promote": [NEW]}, [Step(Event.ADDED, [NEW]), Step(Event.PROMOTED, [NEW])]),
        (
            {"promote": [SECOND], "demote": [ADMIN]},
            [Step(Event.PROMOTED, [SECOND]), Step(Event.DEMOTED, [ADMIN])],
        ),
        (
            {"title": "t", "remove": [ADMIN], "promote": [THIRD], "add": [NEW]},
            [
                Step(Event.ADDED, [NEW]),
                Step(Event.PROMOTED, [THIRD]),
                Step(Event.REMOVED, [ADMIN]),
                Step(Event.TITLE, (), "t"),
            ],
        ),
    ],
)
def test_a_change_makes_these_steps(wish: dict[str, Any], steps: list[Step]) -> None:
    assert plan(**wish) == steps


@pytest.mark.parametrize(
    "wish",
    [
        {"add": [SECOND, ADMIN]},
        {"remove": [NEW, GONE]},
        {"promote": [ADMIN]},
        {"demote": [SECOND]},
        {"title": "old"},
        {"add": [], "remove": [], "promote": [], "demote": []},
    ],
)
def test_what_is_in_force_makes_no_step(wish: dict[str, Any]) -> None:
    assert plan(**wish) == []


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"version": 2, "title": "new"}, Code.CONFLICT),
        ({"version": 4, "title": "new"}, Code.CONFLICT),
        ({"demote": [ADMIN]}, Code.CONFLICT),
        ({"remove": [ADMIN]}, Code.CONFLICT),
        ({"promote": [NEW]}, Code.NOT_FOUND),
        ({"promote": [GONE]}, Code.NOT_FOUND),
        ({"demote": [NEW]}, Code.NOT_FOUND),
        ({"promote": [SECOND], "remove": [SECOND]}, Code.NOT_FOUND),
        ({"add": [NEW, OTHER, 8]}, Code.TOO_MANY_MEMBERS),
    ],
)
def test_these_changes_are_refused(wish: dict[str, Any], code: Code) -> None:
    with pytest.raises(ProtocolError) as refused:
        plan(**wish)
    assert refused.value.code == code


def test_a_stale_version_is_told_the_present_one() -> None:
    with pytest.raises(ProtocolError) as refused:
        plan(version=1)
    assert refused.value.detail == 3


@pytest.mark.parametrize(("user_id", "chat"), [(SECOND, GROUP), (GONE, GROUP), (NEW, GROUP), (ADMIN, DIRECT)])
def test_only_an_admin_changes_a_group_and_nobody_a_direct_chat(user_id: int, chat: Chat) -> None:
    with pytest.raises(ProtocolError) as refused:
        plan(user_id, chat, title="new")
    assert refused.value.code == Code.FORBIDDEN


def test_everybody_may_be_removed_with_the_admin() -> None:
    assert plan(remove=[ADMIN, SECOND, THIRD]) == [Step(Event.REMOVED, [ADMIN, SECOND, THIRD])]


@pytest.mark.parametrize(
    ("members", "user_id", "steps"),
    [
        (MEMBERS, SECOND, [Step(Event.LEFT, [SECOND])]),
        (MEMBERS, GONE, []),
        (MEMBERS, NEW, []),
        (MEMBERS, ADMIN, [Step(Event.PROMOTED, [SECOND]), Step(Event.LEFT, [ADMIN])]),
        (members_of(Member(ADMIN, Role.ADMIN, 0, 0, 0)), ADMIN, [Step(Event.LEFT, [ADMIN])]),
        (
            members_of(
                Member(ADMIN, Role.ADMIN, 0, 0, 0),
                Member(SECOND, Role.MEMBER, 40, 0, 4),
                Member(THIRD, Role.MEMBER, 20, 0, 2),
                Member(GONE, Role.MEMBER, 0, 30, 3),
            ),
            ADMIN,
            [Step(Event.PROMOTED, [THIRD]), Step(Event.LEFT, [ADMIN])],
        ),
        (
            members_of(Member(ADMIN, Role.ADMIN, 0, 0, 0), Member(SECOND, Role.ADMIN, 9, 0, 1), MEMBERS[THIRD]),
            ADMIN,
            [Step(Event.LEFT, [ADMIN])],
        ),
    ],
)
def test_leaving_promotes_the_longest_member_when_the_last_admin_goes(
    members: dict[int, Member], user_id: int, steps: list[Step]
) -> None:
    assert plan_leave(GROUP, members, user_id) == steps


def test_a_direct_chat_cannot_be_left() -> None:
    with pytest.raises(ProtocolError) as refused:
        plan_leave(DIRECT, MEMBERS, SECOND)
    assert refused.value.code == Code.FORBIDDEN


@pytest.mark.parametrize(
    ("step", "changed"),
    [
        (Step(Event.ADDED, [NEW]), [Member(NEW, Role.MEMBER, 50, 0, 5)]),
        (Step(Event.ADDED, [GONE]), [Member(GONE, Role.MEMBER, 50, 0, 5)]),
        (Step(Event.REMOVED, [THIRD]), [Member(THIRD, Role.MEMBER, 20, 50, 5)]),
        (Step(Event.LEFT, [ADMIN]), [Member(ADMIN, Role.MEMBER, 0, 50, 5)]),
        (Step(Event.PROMOTED, [THIRD]), [Member(THIRD, Role.ADMIN, 20, 0, 5)]),
        (Step(Event.DEMOTED, [ADMIN]), [Member(ADMIN, Role.MEMBER, 0, 0, 5)]),
        (Step(Event.TITLE, (), "new"), []),
        (Step(Event.CREATED, [ADMIN, SECOND], "t"), []),
    ],
)
def test_a_step_changes_these_members_at_its_row(step: Step, changed: list[Member]) -> None:
    assert apply_step(MEMBERS, step, 50, 5) == changed


def test_who_left_is_not_in_and_neither_is_who_never_was() -> None:
    assert [user_id for user_id in (ADMIN, SECOND, THIRD, GONE, NEW) if is_in(MEMBERS.get(user_id))] == [1, 2, 3]
