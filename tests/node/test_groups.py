"""Groups over the wire: who is in, who may change it, and what a member sees of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from gateway.protocol.errors import Code
from gateway.protocol.messages import (
    ChatCreate,
    ChatCreateOk,
    ChatKind,
    ChatLeave,
    Event,
    Kind,
    Op,
    Role,
)
from gateway.protocol.messages import Sync as SyncWish
from tests.node.talk import change, info, system
from tests.node.wire import Wire, messages_of, refusal_of
from tests.nodes import NodeProcess

Login = Callable[..., Wire]
NewUser = Callable[[], int]


def test_a_group_begins_with_a_message_that_names_its_members(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire], new_user: NewUser
) -> None:
    alice, bob = pair
    carol = new_user()
    chat_id = alice.create_group(bob.user_id, carol, bob.user_id, alice.user_id, title="Team")
    for wire in pair:
        row = wire.msg()
        assert (row.chat_id, row.prev_seq, row.sender_id) == (chat_id, 0, alice.user_id)
        body = system(row)
        assert (body.event, body.version, body.title) == (Event.CREATED, 1, "Team")
        assert sorted(body.user_ids) == sorted([alice.user_id, bob.user_id, carol])
    seen = info(bob, chat_id)
    assert (seen.kind, seen.title, seen.version) == (ChatKind.GROUP, "Team", 1)
    roles = {entry.user_id: entry.role for entry in seen.members}
    assert roles == {alice.user_id: Role.ADMIN, bob.user_id: Role.MEMBER, carol: Role.MEMBER}


def test_creating_again_with_the_same_id_is_the_same_group(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    alice, bob = pair
    wish = ChatCreate(secrets.token_bytes(16), "Team", [bob.user_id])
    first = alice.request(Op.CHAT_CREATE, wish)
    other = login(node, alice.user_id, 2)
    assert alice.request(Op.CHAT_CREATE, wish) == other.request(Op.CHAT_CREATE, wish) == first
    assert isinstance(first, ChatCreateOk)
    assert len(alice.whole_log(first.chat_id)) == 1
    assert bob.request(Op.CHAT_CREATE, wish) != first


def test_a_group_of_more_than_1024_is_305(pair: tuple[Wire, Wire]) -> None:
    alice, _ = pair
    wish = ChatCreate(secrets.token_bytes(16), "crowd", list(range(10**9, 10**9 + 1024)))
    error = refusal_of(lambda: alice.request(Op.CHAT_CREATE, wish))
    assert (error.code, error.detail) == (Code.TOO_MANY_MEMBERS, 1024)
    chat_id = alice.create_group(*range(10**9, 10**9 + 1023))
    error = refusal_of(lambda: change(alice, chat_id, add=[10**9 + 5000]))
    assert (error.code, error.detail) == (Code.TOO_MANY_MEMBERS, 1024)


def test_a_change_is_told_to_all_with_the_version_that_it_makes(pair: tuple[Wire, Wire], new_user: NewUser) -> None:
    alice, bob = pair
    carol = new_user()
    chat_id = alice.create_group(bob.user_id)
    bob.msg()
    assert change(alice, chat_id, version=1, add=[carol], promote=[bob.user_id], title="Renamed") == 2
    events = [system(bob.msg()) for _ in range(3)]
    assert {(body.event, body.version, tuple(body.user_ids), body.title) for body in events} == {
        (Event.ADDED, 2, (carol,), None),
        (Event.PROMOTED, 2, (bob.user_id,), None),
        (Event.TITLE, 2, (), "Renamed"),
    }
    assert change(bob, chat_id, version=2, demote=[alice.user_id], remove=[carol]) == 3
    assert refusal_of(lambda: change(alice, chat_id, title="mine again")).code == Code.FORBIDDEN
    seen = info(alice, chat_id)
    assert (seen.version, seen.title) == (3, "Renamed")
    assert {entry.user_id: entry.role for entry in seen.members} == {alice.user_id: 0, bob.user_id: 1}


def test_a_change_on_an_old_version_is_302_with_the_present_one(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.create_group(bob.user_id)
    change(alice, chat_id, title="one")
    error = refusal_of(lambda: change(alice, chat_id, version=1, title="two"))
    assert (error.code, error.detail) == (Code.CONFLICT, 2)
    assert info(bob, chat_id).title == "one"


def test_a_change_that_is_so_already_leaves_no_message_and_no_version(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.create_group(bob.user_id, title="same")
    assert change(alice, chat_id, add=[bob.user_id], promote=[alice.user_id], title="same") == 1
    assert change(alice, chat_id) == 1
    assert len(alice.whole_log(chat_id)) == 1


def test_what_may_not_be_changed(pair: tuple[Wire, Wire], new_user: NewUser) -> None:
    alice, bob = pair
    chat_id, direct = alice.create_group(bob.user_id), alice.open_direct(bob.user_id)
    alone = alice.user_id
    cases: list[tuple[int, Callable[[], object]]] = [
        (Code.FORBIDDEN, lambda: change(bob, chat_id, title="mine")),
        (Code.FORBIDDEN, lambda: change(alice, direct, title="ours")),
        (Code.FORBIDDEN, lambda: alice.request(Op.CHAT_LEAVE, ChatLeave(direct))),
        (Code.NOT_FOUND, lambda: change(alice, chat_id, promote=[new_user()])),
        (Code.CONFLICT, lambda: change(alice, chat_id, demote=[alone])),
        (Code.CONFLICT, lambda: change(alice, chat_id, remove=[alone])),
        (Code.NOT_FOUND, lambda: alice.request(Op.CHAT_LEAVE, ChatLeave(secrets.randbits(60) + 1))),
    ]
    assert [refusal_of(attempt).code for _, attempt in cases] == [code for code, _ in cases]
    assert info(alice, chat_id).version == 1


def test_somebody_removed_sees_his_removal_last(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.create_group(bob.user_id)
    alice.say(chat_id, b"while in")
    change(alice, chat_id, remove=[bob.user_id])
    alice.say(chat_id, b"behind his back")
    rows = [bob.msg() for _ in range(3)]
    assert [row.kind for row in rows] == [Kind.SYSTEM, Kind.CONTENT, Kind.SYSTEM]
    assert system(rows[-1]).event == Event.REMOVED
    assert refusal_of(lambda: bob.say(chat_id)).code == Code.FORBIDDEN
    change(alice, chat_id, add=[bob.user_id])
    assert system(bob.msg()).event == Event.ADDED  # so the message between did not come


def test_a_resend_succeeds_though_its_sender_was_removed_meanwhile(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.create_group(bob.user_id)
    msg_id = secrets.token_bytes(16)
    first = bob.say(chat_id, b"said", msg_id=msg_id)
    change(alice, chat_id, remove=[bob.user_id])
    again = bob.say(chat_id, b"said", msg_id=msg_id, retry=True)
    assert (again.duplicate, again.seq) == (True, first.seq)


def test_a_member_sees_the_log_from_joining_to_leaving(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    alice, bob = pair
    chat_id = alice.create_group()
    alice.say(chat_id, b"before")
    change(alice, chat_id, add=[bob.user_id])
    alice.say(chat_id, b"during")
    change(alice, chat_id, remove=[bob.user_id])
    alice.say(chat_id, b"after")
    rows = bob.whole_log(chat_id)
    assert [row.body for row in rows if row.kind != Kind.SYSTEM] == [b"during"]
    assert [system(row).event for row in (rows[0], rows[-1])] == [Event.ADDED, Event.REMOVED]
    assert bob.history(chat_id).messages == rows[::-1]
    brought, done = login(node, bob.user_id, 2).sync(SyncWish([]))
    assert messages_of(brought) == rows
    assert [(entry.chat_id, entry.head_seq) for entry in done.chats] == [(chat_id, rows[-1].seq)]
    assert bob.history(chat_id, before=rows[0].seq).messages == []
    assert bob.history(chat_id, after=rows[-1].seq).messages == []


def test_leaving_tells_the_others_and_the_longest_member_becomes_admin(
    pair: tuple[Wire, Wire], node: NodeProcess, login: Login, new_user: NewUser
) -> None:
    alice, bob = pair
    carol = login(node, new_user())
    chat_id = alice.create_group()
    change(alice, chat_id, add=[carol.user_id])
    change(alice, chat_id, add=[bob.user_id])
    alice.request(Op.CHAT_LEAVE, ChatLeave(chat_id))
    assert [system(bob.msg()).event for _ in range(3)] == [Event.ADDED, Event.PROMOTED, Event.LEFT]
    roles = {entry.user_id: entry.role for entry in info(bob, chat_id).members}
    assert roles == {carol.user_id: Role.ADMIN, bob.user_id: Role.MEMBER}
    alice.request(Op.CHAT_LEAVE, ChatLeave(chat_id))  # not in it: OK
    assert refusal_of(lambda: alice.say(chat_id)).code == Code.FORBIDDEN
    for wire in (bob, carol):
        wire.request(Op.CHAT_LEAVE, ChatLeave(chat_id))
    assert refusal_of(lambda: info(carol, chat_id)).code == Code.FORBIDDEN
