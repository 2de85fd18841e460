"""CHAT_LIST, HISTORY and SYNC over the wire: nothing missed, nothing shown that may not be seen."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest

from gateway.protocol.frames import Frame, decode, encode
from gateway.protocol.messages import (
    ChatCreate,
    ChatCreateOk,
    ChatLeave,
    ChatList,
    ChatListOk,
    Gap,
    Msg,
    Op,
    Receipt,
    Sent,
    SyncDone,
)
from gateway.protocol.messages import Sync as SyncWish
from tests.node.conftest import device_id_of
from tests.node.talk import chains, wait_for_read
from tests.node.wire import Refused, Wire, cursors, messages_of
from tests.nodes import NodeProcess

Login = Callable[..., Wire]
NewUser = Callable[[], int]


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
    assert wait_for_read(bob, chat_id, bob.user_id, sent.seq)
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
    assert chains(rows[::-1])


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


def _chat_of(frame: Frame) -> int:
    return decode(Gap, frame.body).chat_id if frame.op == Op.GAP else decode(Msg, frame.body).chat_id


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
    order = [(frame.op, _chat_of(frame)) for frame in frames]
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
        frames: list[Frame] = []
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
