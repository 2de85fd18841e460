"""Chats over the wire, with everybody on another worker than the others as far as there are workers."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec
import pytest

from gateway.protocol.errors import Code
from gateway.protocol.frames import decode, encode
from gateway.protocol.messages import (
    ChatChange,
    ChatChangeOk,
    ChatCreate,
    ChatCreateOk,
    ChatInfo,
    ChatInfoOk,
    ChatKind,
    ChatLeave,
    ChatList,
    ChatListOk,
    ChatOpen,
    Event,
    Gap,
    Kind,
    MemberEntry,
    Msg,
    Op,
    Receipt,
    ReceiptKind,
    Role,
    Send,
    Sent,
    State,
    SyncDone,
    SystemBody,
    Typing,
)
from gateway.protocol.messages import Sync as SyncWish
from tests.node.conftest import device_id_of
from tests.node.wire import Refused, Wire, cursors, message, messages_of, refusal_of
from tests.nodes import NodeProcess

Login = Callable[..., Wire]
NewUser = Callable[[], int]


@pytest.fixture
def pair(node: NodeProcess, login: Login, new_user: NewUser) -> tuple[Wire, Wire]:
    """Two people on two workers."""
    first, second = node.worker_pids()
    return login(node, new_user(), worker=first), login(node, new_user(), worker=second)


def _change(wire: Wire, chat_id: int, **fields: object) -> int:
    answer = wire.request(Op.CHAT_CHANGE, ChatChange(chat_id, **fields))  # type: ignore[arg-type]
    assert isinstance(answer, ChatChangeOk)
    return answer.version


def _info(wire: Wire, chat_id: int) -> ChatInfoOk:
    answer = wire.request(Op.CHAT_INFO, ChatInfo(chat_id))
    assert isinstance(answer, ChatInfoOk)
    return answer


def _system(row: Msg) -> SystemBody:
    assert (row.kind, row.sender_device, row.client_msg_id) == (Kind.SYSTEM, 0, bytes(16))
    return decode(SystemBody, row.body)


def _chains(rows: list[Msg], before: int = 0) -> bool:
    """Each names the one before it."""
    return [row.prev_seq for row in rows] == [before, *(row.seq for row in rows[:-1])]


# ------------------------------------------------------------------------------------------------- sending


def test_a_message_reaches_the_peer_as_it_was_sent(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    msg_id = secrets.token_bytes(16)
    sent = alice.say(chat_id, b"hello", msg_id=msg_id)
    assert (sent.duplicate, sent.prev_seq) == (False, 0)
    assert bob.msg() == Msg(
        chat_id, sent.seq, 0, alice.user_id, alice.device_id, sent.time_ms, Kind.CONTENT, b"hello", msg_id, None
    )


def test_both_ask_for_the_direct_chat_and_get_the_same(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    assert alice.open_direct(bob.user_id) == bob.open_direct(alice.user_id) == alice.open_direct(bob.user_id)
    assert refusal_of(lambda: alice.open_direct(alice.user_id)).code == Code.INVALID


def test_messages_keep_the_order_in_which_they_were_sent_and_chain(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    rids = [alice.ask_to_send(chat_id, b"%d" % number) for number in range(200)]
    sent = [alice.result(rid, Sent) for rid in rids]
    got = [bob.msg() for _ in rids]
    assert [row.body for row in got] == [b"%d" % number for number in range(200)]
    assert [row.seq for row in got] == [one.seq for one in sent] == sorted(one.seq for one in sent)
    assert _chains(got)


def test_two_who_talk_at_once_see_one_order(pair: tuple[Wire, Wire]) -> None:
    """SENT and MSG of one session rise together: who has SENT of a row has had everything before it."""
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    for wire in pair:
        wire.write(b"".join(encode(Op.SEND, message(chat_id), rid=1000 + number) for number in range(100)))
    orders = []
    for wire in pair:
        frames = [wire.take(lambda frame: frame.op in (Op.SENT, Op.MSG)) for _ in range(200)]
        orders.append([decode(Sent if frame.op == Op.SENT else Msg, frame.body).seq for frame in frames])
    assert orders[0] == orders[1] == sorted(orders[0])
    assert len(set(orders[0])) == 200


def test_ones_own_other_device_gets_the_message_and_the_sending_one_does_not(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    alice, bob = pair
    for worker in node.worker_pids():
        other = login(node, alice.user_id, 2, worker=worker)
        chat_id = alice.open_direct(bob.user_id)
        sent = alice.say(chat_id, b"mine")
        assert other.msg().seq == sent.seq
        assert bob.msg().seq == sent.seq
        other.say(chat_id, b"from the other")
        assert alice.msg().body == b"from the other"  # so nothing of its own came before
        assert bob.msg().body == b"from the other"


def test_a_resend_is_the_same_message_from_any_connection(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    msg_id = secrets.token_bytes(16)
    first = alice.say(chat_id, b"once", msg_id=msg_id)
    for worker in node.worker_pids():
        again = login(node, alice.user_id, 2, worker=worker)
        for retry in (None, True):
            sent = again.say(chat_id, b"once", msg_id=msg_id, retry=retry)
            assert (sent.duplicate, sent.seq, sent.time_ms, sent.prev_seq) == (True, first.seq, first.time_ms, 0)
    alice.say(chat_id, b"twice")
    assert [bob.msg().body for _ in range(2)] == [b"once", b"twice"]
    assert len(alice.whole_log(chat_id)) == 2


def test_the_same_send_many_times_at_once_is_one_message(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    send = message(chat_id, b"once")
    alice.write(b"".join(encode(Op.SEND, send, rid=rid) for rid in range(1000, 1030)))
    answers = [alice.result(rid, Sent) for rid in range(1000, 1030)]
    assert [answer.duplicate for answer in answers] == [False, *[True] * 29]
    assert len({answer.seq for answer in answers}) == 1
    assert len(bob.whole_log(chat_id)) == 1


@pytest.mark.parametrize("other", [{"body": b"changed"}, {"kind": 5}, {"target_seq": 1}])
def test_an_id_used_for_other_content_is_306(pair: tuple[Wire, Wire], other: dict[str, object]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    send = message(chat_id, b"first")
    alice.result(alice.ask(Op.SEND, send), Sent)
    changed = msgspec.structs.replace(send, **other)
    assert refusal_of(lambda: alice.result(alice.ask(Op.SEND, changed), Sent)).code == Code.ID_REUSED
    assert alice.result(alice.ask(Op.SEND, msgspec.structs.replace(send, retry=True, notify=0)), Sent).duplicate


def test_the_same_id_of_another_user_or_in_another_chat_is_another_message(
    pair: tuple[Wire, Wire], new_user: NewUser
) -> None:
    alice, bob = pair
    msg_id = secrets.token_bytes(16)
    chat_id, elsewhere = alice.open_direct(bob.user_id), alice.open_direct(new_user())
    one = alice.say(chat_id, b"x", msg_id=msg_id)
    other = bob.say(chat_id, b"x", msg_id=msg_id)
    assert (one.duplicate, other.duplicate) == (False, False)
    assert one.seq < other.seq
    assert not alice.say(elsewhere, b"x", msg_id=msg_id).duplicate


def test_a_stranger_is_300_and_a_chat_that_is_not_there_301(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire], new_user: NewUser
) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    alice.say(chat_id, b"between us")
    for worker in node.worker_pids():
        eve = login(node, new_user(), worker=worker)
        for there, code in ((chat_id, Code.FORBIDDEN), (secrets.randbits(62) + 1, Code.NOT_FOUND)):
            attempts: list[Callable[[], object]] = [
                lambda there=there: eve.say(there, b"me too"),  # type: ignore[misc]
                lambda there=there: eve.history(there),  # type: ignore[misc]
                lambda there=there: eve.request(Op.CHAT_INFO, ChatInfo(there)),  # type: ignore[misc]
                lambda there=there: eve.request(Op.CHAT_CHANGE, ChatChange(there, title="mine")),  # type: ignore[misc]
                lambda there=there: eve.request(Op.TYPING, Typing(there, 0, True)),  # type: ignore[misc]
            ]
            assert [refusal_of(attempt).code for attempt in attempts] == [code] * len(attempts)
    assert len(alice.whole_log(chat_id)) == 1
    assert not bob.has(Op.TYPING)


def test_with_rid_0_a_send_is_stored_and_nobody_is_answered(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    alice.send(Op.SEND, message(chat_id, b"no answer, please"))
    assert bob.msg().body == b"no answer, please"
    alice.barrier()
    assert not alice.frames


def test_kinds_and_targets_travel_as_they_are(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    first = alice.say(chat_id, b"the original")
    for kind, body in (
        (Kind.EDIT, b"edited"),
        (Kind.REACTION, b"+1"),
        (Kind.DELETE, b""),
        (64, b"app"),
        ((1 << 63) - 1, b""),
    ):
        alice.result(alice.ask(Op.SEND, Send(chat_id, secrets.token_bytes(16), kind, body, None, first.seq)), Sent)
    rows = [bob.msg() for _ in range(6)]
    assert [row.kind for row in rows] == [0, 1, 3, 2, 64, (1 << 63) - 1]
    assert [row.target_seq for row in rows] == [None, *[first.seq] * 5]


# ---------------------------------------------------------------------------------------- receipts and typing


def test_an_ack_is_a_receipt_to_the_sender_and_a_read_also_to_ones_own_other_device(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    alice, bob = pair
    others = [login(node, bob.user_id, 2 + number, worker=pid) for number, pid in enumerate(node.worker_pids())]
    chat_id = alice.open_direct(bob.user_id)
    sent = alice.say(chat_id, b"read me")
    bob.msg()
    bob.ack(chat_id, sent.seq)
    assert alice.expect(Op.RECEIPT, Receipt) == Receipt(chat_id, ReceiptKind.DELIVERED, sent.seq, bob.user_id)
    bob.read(chat_id, sent.seq)
    assert alice.expect(Op.RECEIPT, Receipt) == Receipt(chat_id, ReceiptKind.READ, sent.seq, bob.user_id)
    for other in others:
        receipt = Receipt(chat_id, ReceiptKind.READ, sent.seq, bob.user_id)
        assert other.expect(Op.RECEIPT, Receipt) == receipt
    alice.say(chat_id, b"after")
    bob.msg()
    assert not bob.has(Op.RECEIPT)
    members = {entry.user_id: entry for entry in _info(alice, chat_id).members}
    assert members[bob.user_id] == MemberEntry(bob.user_id, Role.MEMBER, sent.seq, sent.seq)


def test_a_read_says_that_it_was_received_too(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    sent = alice.say(chat_id)
    bob.read(chat_id, sent.seq)
    kinds = {alice.expect(Op.RECEIPT, Receipt).kind for _ in range(2)}
    assert kinds == {ReceiptKind.DELIVERED, ReceiptKind.READ}


def test_a_cursor_above_the_head_counts_as_the_head_and_a_lower_one_for_nothing(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    first, second = alice.say(chat_id), alice.say(chat_id)
    bob.ack(chat_id, (1 << 63) - 1)
    assert alice.expect(Op.RECEIPT, Receipt).seq == second.seq
    bob.ack(chat_id, first.seq)
    bob.read(chat_id, first.seq)
    assert alice.expect(Op.RECEIPT, Receipt) == Receipt(chat_id, ReceiptKind.READ, first.seq, bob.user_id)
    members = {entry.user_id: entry for entry in _info(alice, chat_id).members}
    assert members[bob.user_id].delivered_seq == second.seq


def test_acks_of_chats_that_one_is_not_in_are_ignored(
    pair: tuple[Wire, Wire], node: NodeProcess, login: Login, new_user: NewUser
) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    sent = alice.say(chat_id)
    eve = login(node, new_user())
    eve.ack(chat_id, sent.seq)
    eve.ack(secrets.randbits(60) + 1, 5)
    bob.ack(chat_id, sent.seq)
    assert alice.expect(Op.RECEIPT, Receipt).user_id == bob.user_id


def test_receipts_wait_merged_for_a_session_that_is_not_looked_at(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    sent = [alice.say(chat_id) for _ in range(3)]
    alice.request(Op.STATE, State(False))
    for one in sent:
        bob.read(chat_id, one.seq)
        bob.sync()  # takes its marks to the chat's owner
        assert _wait_for_read(bob, chat_id, bob.user_id, one.seq)
    # A receipt is told at most 100 ms after its mark, a message at once and on the same way: so after two of them ...
    bob.say(chat_id, b"done")
    alice.msg()
    assert not alice.has(Op.RECEIPT)
    alice.request(Op.STATE, State(True))
    receipts = [alice.expect(Op.RECEIPT, Receipt) for _ in range(2)]
    assert {receipt.kind for receipt in receipts} == {ReceiptKind.DELIVERED, ReceiptKind.READ}
    assert receipts[-1].seq == sent[-1].seq
    bob.say(chat_id, b"and no more")
    alice.msg()


def _wait_for_read(wire: Wire, chat_id: int, user_id: int, seq: int) -> bool:
    """Marks are folded for 100 ms before their owner hears them."""
    return any(
        entry.read_seq >= seq for _ in range(2000) for entry in _info(wire, chat_id).members if entry.user_id == user_id
    )


def test_typing_goes_to_the_others_who_look_and_to_nobody_else(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    alice, bob = pair
    away, own = login(node, bob.user_id, 2), login(node, alice.user_id, 2)
    chat_id = alice.open_direct(bob.user_id)
    alice.say(chat_id)
    for wire in (bob, away, own):
        wire.msg()
    away.request(Op.STATE, State(False))
    alice.request(Op.TYPING, Typing(chat_id, 0, True))
    assert bob.expect(Op.TYPING, Typing) == Typing(chat_id, alice.user_id, True)
    assert own.expect(Op.TYPING, Typing) == Typing(chat_id, alice.user_id, True)
    alice.say(chat_id, b"typed")
    assert away.msg().body == b"typed"
    assert not away.has(Op.TYPING)
    assert not alice.has(Op.TYPING)


# ------------------------------------------------------------------------------------------------- groups


def test_a_group_begins_with_a_message_that_names_its_members(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire], new_user: NewUser
) -> None:
    alice, bob = pair
    carol = new_user()
    chat_id = alice.create_group(bob.user_id, carol, bob.user_id, alice.user_id, title="Team")
    for wire in pair:
        row = wire.msg()
        assert (row.chat_id, row.prev_seq, row.sender_id) == (chat_id, 0, alice.user_id)
        body = _system(row)
        assert (body.event, body.version, body.title) == (Event.CREATED, 1, "Team")
        assert sorted(body.user_ids) == sorted([alice.user_id, bob.user_id, carol])
    info = _info(bob, chat_id)
    assert (info.kind, info.title, info.version) == (ChatKind.GROUP, "Team", 1)
    roles = {entry.user_id: entry.role for entry in info.members}
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
    error = refusal_of(lambda: _change(alice, chat_id, add=[10**9 + 5000]))
    assert (error.code, error.detail) == (Code.TOO_MANY_MEMBERS, 1024)


def test_a_change_is_told_to_all_with_the_version_that_it_makes(pair: tuple[Wire, Wire], new_user: NewUser) -> None:
    alice, bob = pair
    carol = new_user()
    chat_id = alice.create_group(bob.user_id)
    bob.msg()
    assert _change(alice, chat_id, version=1, add=[carol], promote=[bob.user_id], title="Renamed") == 2
    events = [_system(bob.msg()) for _ in range(3)]
    assert {(body.event, body.version, tuple(body.user_ids), body.title) for body in events} == {
        (Event.ADDED, 2, (carol,), None),
        (Event.PROMOTED, 2, (bob.user_id,), None),
        (Event.TITLE, 2, (), "Renamed"),
    }
    assert _change(bob, chat_id, version=2, demote=[alice.user_id], remove=[carol]) == 3
    assert refusal_of(lambda: _change(alice, chat_id, title="mine again")).code == Code.FORBIDDEN
    info = _info(alice, chat_id)
    assert (info.version, info.title) == (3, "Renamed")
    assert {entry.user_id: entry.role for entry in info.members} == {alice.user_id: 0, bob.user_id: 1}


def test_a_change_on_an_old_version_is_302_with_the_present_one(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.create_group(bob.user_id)
    _change(alice, chat_id, title="one")
    error = refusal_of(lambda: _change(alice, chat_id, version=1, title="two"))
    assert (error.code, error.detail) == (Code.CONFLICT, 2)
    assert _info(bob, chat_id).title == "one"


def test_a_change_that_is_so_already_leaves_no_message_and_no_version(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.create_group(bob.user_id, title="same")
    assert _change(alice, chat_id, add=[bob.user_id], promote=[alice.user_id], title="same") == 1
    assert _change(alice, chat_id) == 1
    assert len(alice.whole_log(chat_id)) == 1


def test_what_may_not_be_changed(pair: tuple[Wire, Wire], new_user: NewUser) -> None:
    alice, bob = pair
    chat_id, direct = alice.create_group(bob.user_id), alice.open_direct(bob.user_id)
    alone = alice.user_id
    cases: list[tuple[int, Callable[[], object]]] = [
        (Code.FORBIDDEN, lambda: _change(bob, chat_id, title="mine")),
        (Code.FORBIDDEN, lambda: _change(alice, direct, title="ours")),
        (Code.FORBIDDEN, lambda: alice.request(Op.CHAT_LEAVE, ChatLeave(direct))),
        (Code.NOT_FOUND, lambda: _change(alice, chat_id, promote=[new_user()])),
        (Code.CONFLICT, lambda: _change(alice, chat_id, demote=[alone])),
        (Code.CONFLICT, lambda: _change(alice, chat_id, remove=[alone])),
        (Code.NOT_FOUND, lambda: alice.request(Op.CHAT_LEAVE, ChatLeave(secrets.randbits(60) + 1))),
    ]
    assert [refusal_of(attempt).code for _, attempt in cases] == [code for code, _ in cases]
    assert _info(alice, chat_id).version == 1


def test_somebody_removed_sees_his_removal_last(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.create_group(bob.user_id)
    alice.say(chat_id, b"while in")
    _change(alice, chat_id, remove=[bob.user_id])
    alice.say(chat_id, b"behind his back")
    rows = [bob.msg() for _ in range(3)]
    assert [row.kind for row in rows] == [Kind.SYSTEM, Kind.CONTENT, Kind.SYSTEM]
    assert _system(rows[-1]).event == Event.REMOVED
    assert refusal_of(lambda: bob.say(chat_id)).code == Code.FORBIDDEN
    _change(alice, chat_id, add=[bob.user_id])
    assert _system(bob.msg()).event == Event.ADDED  # so the message between did not come


def test_a_resend_succeeds_though_its_sender_was_removed_meanwhile(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.create_group(bob.user_id)
    msg_id = secrets.token_bytes(16)
    first = bob.say(chat_id, b"said", msg_id=msg_id)
    _change(alice, chat_id, remove=[bob.user_id])
    again = bob.say(chat_id, b"said", msg_id=msg_id, retry=True)
    assert (again.duplicate, again.seq) == (True, first.seq)


def test_a_member_sees_the_log_from_joining_to_leaving(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    alice, bob = pair
    chat_id = alice.create_group()
    alice.say(chat_id, b"before")
    _change(alice, chat_id, add=[bob.user_id])
    alice.say(chat_id, b"during")
    _change(alice, chat_id, remove=[bob.user_id])
    alice.say(chat_id, b"after")
    rows = bob.whole_log(chat_id)
    assert [row.body for row in rows if row.kind != Kind.SYSTEM] == [b"during"]
    assert [_system(row).event for row in (rows[0], rows[-1])] == [Event.ADDED, Event.REMOVED]
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
    _change(alice, chat_id, add=[carol.user_id])
    _change(alice, chat_id, add=[bob.user_id])
    alice.request(Op.CHAT_LEAVE, ChatLeave(chat_id))
    assert [_system(bob.msg()).event for _ in range(3)] == [Event.ADDED, Event.PROMOTED, Event.LEFT]
    roles = {entry.user_id: entry.role for entry in _info(bob, chat_id).members}
    assert roles == {carol.user_id: Role.ADMIN, bob.user_id: Role.MEMBER}
    alice.request(Op.CHAT_LEAVE, ChatLeave(chat_id))  # not in it: OK
    assert refusal_of(lambda: alice.say(chat_id)).code == Code.FORBIDDEN
    for wire in (bob, carol):
        wire.request(Op.CHAT_LEAVE, ChatLeave(chat_id))
    assert refusal_of(lambda: _info(carol, chat_id)).code == Code.FORBIDDEN


# --------------------------------------------------------------------------------------------- list and history


def test_the_list_of_chats_comes_in_pages_newest_first(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chats = [alice.create_group(bob.user_id, title=f"group {number}") for number in range(7)]
    for chat_id in (chats[2], chats[5]):
        bob.say(chat_id, b"news")
    expected = [chats[5], chats[2], *(c for c in reversed(chats) if c not in (chats[5], chats[2]))]
    listed, cursor = [], None
    for _ in range(4):
        page = alice.request(Op.CHAT_LIST, ChatList(cursor, 2))
        assert isinstance(page, ChatListOk)
        listed += page.chats
        cursor = page.next_cursor
    assert cursor is None
    assert [entry.chat_id for entry in listed][:2] == expected[:2]
    assert sorted(entry.chat_id for entry in listed) == sorted(expected)
    assert {entry.title for entry in listed} == {f"group {number}" for number in range(7)}


def test_a_chat_that_was_left_is_not_in_the_list_and_read_marks_are(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id, left = alice.open_direct(bob.user_id), alice.create_group(bob.user_id)
    sent = alice.say(chat_id)
    bob.request(Op.CHAT_LEAVE, ChatLeave(left))
    bob.read(chat_id, sent.seq)
    assert _wait_for_read(bob, chat_id, bob.user_id, sent.seq)
    page = bob.request(Op.CHAT_LIST, ChatList(None, 10))
    assert isinstance(page, ChatListOk)
    assert [(entry.chat_id, entry.head_seq, entry.read_seq) for entry in page.chats] == [(chat_id, sent.seq, sent.seq)]


def test_history_reads_in_every_direction_and_says_when_it_is_complete(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    rids = [alice.ask_to_send(chat_id, b"%d" % number) for number in range(10)]
    seqs = [alice.result(rid, Sent).seq for rid in rids]

    def page(**wish: int | None) -> tuple[list[int], bool]:
        found = bob.history(chat_id, **wish)  # type: ignore[arg-type]
        assert found.chat_id == chat_id
        return [seqs.index(row.seq) for row in found.messages], found.complete

    assert page() == ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], True)
    assert page(limit=4) == ([9, 8, 7, 6], False)
    assert page(limit=10) == ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], True)
    assert page(before=seqs[3]) == ([2, 1, 0], True)
    assert page(before=seqs[3], limit=2) == ([2, 1], False)
    assert page(after=0, limit=3) == ([0, 1, 2], False)
    assert page(after=seqs[6]) == ([7, 8, 9], True)
    assert page(after=seqs[2], before=seqs[5]) == ([3, 4], True)
    assert page(after=seqs[2], before=seqs[5], limit=1) == ([3], False)
    assert page(after=seqs[2], before=seqs[3]) == ([], True)
    assert page(after=seqs[5], before=seqs[2]) == ([], True)
    assert page(after=seqs[9]) == ([], True)
    assert page(before=seqs[0]) == ([], True)
    assert page(before=0) == ([], True)
    assert page(before=(1 << 63) - 1, limit=1) == ([9], False)


def test_a_page_ends_before_its_limit_to_fit_a_frame(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    for _ in range(7):
        alice.say(chat_id, bytes(30_000))
    rows, before, pages = [], None, 0
    while True:
        page = bob.history(chat_id, before=before)
        rows += page.messages
        pages += 1
        if page.complete:
            break
        before = page.messages[-1].seq
    assert len(rows) == 7
    assert pages == 4
    assert _chains(rows[::-1])


# -------------------------------------------------------------------------------------------------- SYNC


def test_sync_from_nothing_brings_everything_oldest_first(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    sent = [alice.say(chat_id, b"%d" % number) for number in range(5)]
    for wish in (SyncWish(None), SyncWish([]), SyncWish([], True), SyncWish(cursors((chat_id, 0)))):
        brought, done = bob.sync(wish)
        live = {row.seq for row in messages_of(brought)}
        assert live == {one.seq for one in sent}
        assert [(entry.chat_id, entry.head_seq, entry.read_seq) for entry in done.chats] == [(chat_id, sent[-1].seq, 0)]
        assert done.gone == []


def test_sync_starts_from_the_record_of_acks_and_a_new_install_from_nothing(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    sent = [alice.say(chat_id, b"%d" % number) for number in range(5)]
    bob.ack(chat_id, sent[2].seq)
    assert alice.expect(Op.RECEIPT, Receipt).seq == sent[2].seq  # so the chat's owner has heard it
    for worker in node.worker_pids():  # the store may not have it yet
        again = login(node, bob.user_id, worker=worker)
        assert [row.seq for row in messages_of(again.sync()[0])] == [one.seq for one in sent[3:]]
    other = login(node, bob.user_id, 2)
    assert len(messages_of(other.sync()[0])) == 5
    newest = login(node, bob.user_id)
    assert len(messages_of(newest.sync(SyncWish([]))[0])) == 5
    assert len(messages_of(newest.sync()[0])) == 5  # [] became the record


def test_named_cursors_become_the_record_downwards_too(pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id, other = alice.open_direct(bob.user_id), alice.create_group(bob.user_id)
    created = bob.msg()
    sent = [alice.say(chat_id) for _ in range(5)]
    for _ in sent:
        bob.msg()
    bob.ack(chat_id, sent[4].seq)
    bob.ack(other, created.seq)
    assert bob.sync()[1].chats == []
    brought, _ = bob.sync(SyncWish(cursors((chat_id, sent[1].seq)), True))
    assert [row.seq for row in messages_of(brought)] == [one.seq for one in sent[2:]]
    brought, _ = bob.sync()  # from the record, which went down
    assert [row.seq for row in messages_of(brought)] == [one.seq for one in sent[2:]]
    brought, _ = bob.sync(SyncWish(cursors((chat_id, sent[4].seq))))  # without rest: the other chat from 0
    assert [row.chat_id for row in messages_of(brought)] == [other]
    twice = cursors((chat_id, sent[0].seq), (chat_id, sent[3].seq))
    rows = messages_of(bob.sync(SyncWish(twice, True))[0])
    assert [row.seq for row in rows if row.chat_id == chat_id] == [sent[4].seq]


def test_a_chat_with_more_than_per_chat_gets_a_gap_and_the_newest(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    rids = [alice.ask_to_send(chat_id, b"%d" % number) for number in range(30)]
    seqs = [alice.result(rid, Sent).seq for rid in rids]
    fresh = login(node, bob.user_id, 2)
    brought, done = fresh.sync(SyncWish(cursors((chat_id, seqs[4])), None, 10))
    assert decode(Gap, brought[0].body) == Gap(chat_id, seqs[4], seqs[20])
    assert [row.seq for row in messages_of(brought[1:])] == seqs[20:]
    page = fresh.history(chat_id, after=seqs[4], before=seqs[20])
    assert ([row.seq for row in page.messages], page.complete) == (seqs[5:20], True)
    assert [entry.head_seq for entry in done.chats] == [seqs[29]]


def test_per_chat_0_and_total_0_give_gaps_alone(node: NodeProcess, login: Login, pair: tuple[Wire, Wire]) -> None:
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    sent = [alice.say(chat_id) for _ in range(3)]
    fresh = login(node, bob.user_id, 2)
    for wish in (SyncWish([], None, 0), SyncWish([], None, None, 0)):
        frames, done = fresh.sync(wish)
        assert [frame.op for frame in frames] == [Op.GAP]
        gap = decode(Gap, frames[0].body)
        assert (gap.chat_id, gap.after_seq) == (chat_id, 0)
        page = fresh.history(chat_id, after=gap.after_seq, before=gap.before_seq)
        assert [row.seq for row in page.messages] == [one.seq for one in sent]
        assert done.chats[0].head_seq == sent[-1].seq


def test_beyond_total_the_remaining_chats_get_a_gap_alone_newest_chats_first(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    alice, bob = pair
    chats = [alice.create_group(bob.user_id) for _ in range(3)]
    for chat_id in chats:  # the last one is the newest
        for _ in range(4):
            alice.say(chat_id)
    fresh = login(node, bob.user_id, 2)
    frames, done = fresh.sync(SyncWish([], None, None, 7))
    order = [
        (frame.op, decode(Gap if frame.op == Op.GAP else Msg, frame.body).chat_id)
        for frame in frames  # type: ignore[arg-type]
    ]
    assert order == [
        *[(Op.MSG, chats[2])] * 5,
        (Op.GAP, chats[1]),
        *[(Op.MSG, chats[1])] * 2,
        (Op.GAP, chats[0]),
    ]
    assert [entry.chat_id for entry in done.chats] == chats[::-1]


def test_chats_that_were_named_and_may_not_be_seen_are_gone(pair: tuple[Wire, Wire], new_user: NewUser) -> None:
    alice, bob = pair
    foreign, unknown = alice.create_group(new_user()), secrets.randbits(60) + 1
    mine = bob.open_direct(new_user())
    _, done = bob.sync(SyncWish(cursors((foreign, 5), (unknown, 7), (mine, 0)), True))
    assert sorted(done.gone or []) == sorted([foreign, unknown])


def test_a_long_list_of_news_comes_in_several_parts(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    alice, bob = login(node, new_user()), new_user()
    wishes = b"".join(
        encode(Op.CHAT_CREATE, ChatCreate(secrets.token_bytes(16), "", [bob]), rid=1000 + number)
        for number in range(1100)
    )
    alice.write(wishes)
    chats = {alice.result(1000 + number, ChatCreateOk, 30.0).chat_id for number in range(1100)}
    reader = login(node, bob)
    rid = reader.ask(Op.SYNC, SyncWish([], None, 0))
    parts = [reader.result(rid, SyncDone) for _ in range(2)]
    assert [part.more for part in parts] == [True, False]
    assert {entry.chat_id for part in parts for entry in part.chats} == chats


def test_a_second_sync_before_the_first_is_done_is_302(pair: tuple[Wire, Wire]) -> None:
    alice, _ = pair
    alice.write(encode(Op.SYNC, SyncWish(None), rid=7) + encode(Op.SYNC, SyncWish(None), rid=8))
    with pytest.raises(Refused, match="302"):
        alice.result(8, SyncDone)
    alice.result(7, SyncDone)
    alice.sync()


def test_what_is_sent_during_a_sync_comes_too(pair: tuple[Wire, Wire]) -> None:
    """Whatever the moment, SYNC and live messages together leave no hole."""
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    seen: set[int] = set()
    sent: set[int] = set()
    for _ in range(30):
        rids = [alice.ask_to_send(chat_id) for _ in range(10)]
        rid = bob.ask(Op.SYNC, SyncWish(cursors((chat_id, max(seen, default=0)))))
        sent |= {alice.result(one, Sent).seq for one in rids}
        bob.result(rid, SyncDone)
        seen |= {row.seq for row in messages_of(list(bob.frames))}
        bob.frames.clear()
    while seen != sent:
        seen.add(bob.msg().seq)


def test_a_sync_of_3000_messages_to_a_slow_reader_is_not_lagged(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    alice, bob = pair
    chats = [alice.create_group(bob.user_id) for _ in range(2)]
    seqs: dict[int, list[int]] = {}
    for chat_id in chats:
        rids = [alice.ask_to_send(chat_id, bytes(600)) for _ in range(1500)]
        seqs[chat_id] = [alice.result(rid, Sent, 30.0).seq for rid in rids]
    first, second = node.worker_pids()
    for number, worker in enumerate((first, second)):
        slow = login(node, bob.user_id, 2 + number, worker=worker, receive_buffer=65_536)
        rid = slow.ask(Op.SYNC, SyncWish([], None, 2000, 2000))
        alice.say(chats[0], b"live, while nobody reads")  # the SYNC waits for us meanwhile
        frames = []
        while not (frames and frames[-1].op == Op.SYNC_DONE):
            frames.append(slow.next())
        assert frames[-1].rid == rid
        assert Op.LAGGED not in [frame.op for frame in frames]
        rows = messages_of(frames)
        gaps = [decode(Gap, frame.body) for frame in frames if frame.op == Op.GAP]
        assert len(gaps) == 1
        got = {(row.chat_id, row.seq) for row in rows}
        for chat_id in chats:
            in_gap = [
                seq
                for seq in seqs[chat_id]
                for gap in gaps
                if gap.chat_id == chat_id and gap.after_seq < seq < gap.before_seq
            ]
            assert {(chat_id, seq) for seq in seqs[chat_id]} <= got | {(chat_id, seq) for seq in in_gap}


def test_a_device_that_comes_while_others_write_misses_nothing(
    node: NodeProcess, login: Login, pair: tuple[Wire, Wire]
) -> None:
    """Coming, going and coming back on either worker, in the middle of a stream of messages."""
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    seen: set[int] = set()
    sent: set[int] = set()
    for number in range(8):
        rids = [alice.ask_to_send(chat_id) for _ in range(20)]
        wire = login(node, bob.user_id, 2, worker=node.worker_pids()[number % 2])
        rids += [alice.ask_to_send(chat_id) for _ in range(20)]
        brought, _ = wire.sync(SyncWish(cursors((chat_id, max(seen, default=0)))))
        sent |= {alice.result(rid, Sent).seq for rid in rids}
        seen |= {row.seq for row in messages_of(brought)}
        while not sent <= seen:
            seen.add(wire.msg().seq)
        assert wire.device_id == device_id_of(bob.user_id, 2)


def test_opening_a_chat_with_somebody_who_never_came_is_fine(pair: tuple[Wire, Wire], new_user: NewUser) -> None:
    alice, _ = pair
    answer = alice.request(Op.CHAT_OPEN, ChatOpen(new_user()))
    assert alice.say(answer.chat_id).prev_seq == 0  # type: ignore[attr-defined]
