"""Messages, receipts and typing over the wire, with sender and receiver on two workers."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec
import pytest

from gateway.protocol.errors import Code
from gateway.protocol.frames import Frame, decode, encode
from gateway.protocol.messages import (
    ChatChange,
    ChatInfo,
    ChatOpen,
    History,
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
    Typing,
)
from tests.node.talk import chains, info, wait_for_read
from tests.node.wire import Wire, code_of, message, refusal_of
from tests.nodes import NodeProcess

Login = Callable[..., Wire]
NewUser = Callable[[], int]


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
    assert chains(got)


def _seq_of(frame: Frame) -> int:
    return decode(Sent, frame.body).seq if frame.op == Op.SENT else decode(Msg, frame.body).seq


def test_two_who_talk_at_once_see_one_order(pair: tuple[Wire, Wire]) -> None:
    """SENT and MSG of one session rise together: who has SENT of a row has had everything before it."""
    alice, bob = pair
    chat_id = alice.open_direct(bob.user_id)
    for wire in pair:
        wire.write(b"".join(encode(Op.SEND, message(chat_id), rid=1000 + number) for number in range(100)))
    orders = []
    for wire in pair:
        frames = [wire.take(lambda frame: frame.op in (Op.SENT, Op.MSG)) for _ in range(200)]
        orders.append([_seq_of(frame) for frame in frames])
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
            attempts: dict[Op, msgspec.Struct] = {
                Op.SEND: message(there, b"me too"),
                Op.HISTORY: History(there, None, None, 10),
                Op.CHAT_INFO: ChatInfo(there),
                Op.CHAT_CHANGE: ChatChange(there, title="mine"),
                Op.TYPING: Typing(there, 0, True),
            }
            replies = [eve.reply(eve.ask(op, body)) for op, body in attempts.items()]
            assert [code_of(frame) for frame in replies] == [code] * len(attempts)
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


def test_opening_a_chat_with_somebody_who_never_came_is_fine(pair: tuple[Wire, Wire], new_user: NewUser) -> None:
    alice, _ = pair
    answer = alice.request(Op.CHAT_OPEN, ChatOpen(new_user()))
    assert alice.say(answer.chat_id).prev_seq == 0  # type: ignore[attr-defined]


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
    members = {entry.user_id: entry for entry in info(alice, chat_id).members}
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
    members = {entry.user_id: entry for entry in info(alice, chat_id).members}
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
        assert wait_for_read(bob, chat_id, bob.user_id, one.seq)
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
