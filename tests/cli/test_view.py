"""The open chat and the list of chats: what came, and what a person sees of it."""

from __future__ import annotations

import msgspec
import pytest

from parley import Chat, ChatKind, ChatSummary, Event, Kind, Member, Message, ReceiptKind, Role
from parley.terminal.roster import UNKNOWN, Roster
from parley.terminal.view import ChatView, Mark

ME, ANN, BOB = 1, 2, 3


def member(user_id: int, delivered_seq: int = 0, read_seq: int = 0) -> Member:
    return Member(user_id, Role.MEMBER, delivered_seq, read_seq)


def direct(*, delivered_seq: int = 0, read_seq: int = 0) -> ChatView:
    return ChatView(Chat(7, ChatKind.DIRECT, "", 1, (member(ME), member(ANN, delivered_seq, read_seq)), 0), ME)


def group() -> ChatView:
    return ChatView(Chat(7, ChatKind.GROUP, "hut", 1, (member(ME), member(ANN), member(BOB)), 0), ME)


def message(
    seq: int, sender_id: int = ANN, text: str = "hi", kind: int = Kind.CONTENT, target: int | None = None
) -> Message:
    return Message(
        7, seq, sender_id, 100 + sender_id, 1_000 * seq, kind, text.encode(), seq.to_bytes(16, "big"), target
    )


def change(seq: int, event: int, users: list[int], title: str | None = None) -> Message:
    body = msgspec.msgpack.encode([int(event), seq, users, title])
    return Message(7, seq, ANN, 0, 1_000 * seq, Kind.SYSTEM, body, bytes(16), None)


def texts(view: ChatView) -> list[str]:
    return [post.text for post in view.shown()]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (1, 2, 2, 3, 1)])
def test_messages_stand_in_the_logs_order_once_however_they_come(order: tuple[int, ...]) -> None:
    view = direct()
    for seq in order:
        view.add(message(seq, text=str(seq)))
    assert texts(view) == ["1", "2", "3"]


def test_an_own_message_waits_at_the_end_until_the_log_has_it() -> None:
    view = direct()
    own = message(5, ME, "mine")
    view.queue(own.client_msg_id, "mine", 0)
    view.add(message(6, ANN, "theirs"))
    assert texts(view) == ["theirs", "mine"]
    view.add(own)
    assert texts(view) == ["mine", "theirs"]
    assert not view.pending


MARKS = [
    ("nothing was received", 0, 0, Mark.SENT),
    ("an earlier one was", 4, 0, Mark.SENT),
    ("this one was received", 5, 4, Mark.DELIVERED),
    ("a later one was received", 9, 0, Mark.DELIVERED),
    ("this one was read", 5, 5, Mark.READ),
]


@pytest.mark.parametrize(("what", "delivered_seq", "read_seq", "mark"), MARKS, ids=[case[0] for case in MARKS])
def test_a_mark_says_how_far_the_peer_is(what: str, delivered_seq: int, read_seq: int, mark: Mark) -> None:
    known_at_start = direct(delivered_seq=delivered_seq, read_seq=read_seq)
    told_later = direct()
    told_later.receive_receipt(ANN, ReceiptKind.DELIVERED, delivered_seq)
    told_later.receive_receipt(ANN, ReceiptKind.READ, read_seq)
    for view in (known_at_start, told_later):
        view.add(message(5, ME))
        assert view.mark_of(view.posts[0]) is mark


def test_receipts_never_go_back() -> None:
    view = direct(read_seq=9, delivered_seq=9)
    view.receive_receipt(ANN, ReceiptKind.READ, 3)
    view.add(message(5, ME))
    assert view.mark_of(view.posts[0]) is Mark.READ


def test_read_implies_delivered() -> None:
    view = direct()
    view.receive_receipt(ANN, ReceiptKind.READ, 5)
    view.add(message(5, ME))
    assert view.mark_of(view.posts[0]) is Mark.READ


def test_a_groups_mark_waits_for_everybody() -> None:
    view = group()
    view.add(message(5, ME))
    view.receive_receipt(ANN, ReceiptKind.READ, 5)
    assert view.mark_of(view.posts[0]) is Mark.SENT
    view.receive_receipt(BOB, ReceiptKind.DELIVERED, 5)
    assert view.mark_of(view.posts[0]) is Mark.DELIVERED


def test_others_messages_have_no_mark() -> None:
    view = direct()
    view.add(message(1))
    assert view.mark_of(view.posts[0]) is None


def test_a_message_on_its_way_is_pending_and_a_refused_one_failed() -> None:
    view = direct()
    view.queue(b"a", "one", 0)
    (post,) = view.shown()
    assert view.mark_of(post) is Mark.PENDING
    view.fail(b"a", "300 forbidden")
    assert view.mark_of(post) is Mark.FAILED


def test_typing_lapses_after_ten_seconds_and_ends_with_a_message() -> None:
    view = group()
    view.set_typing(ANN, True, 100.0)
    view.set_typing(BOB, True, 101.0)
    view.set_typing(ME, True, 101.0)
    assert view.typists(105.0) == [ANN, BOB]
    view.add(message(1, BOB))
    assert view.typists(105.0) == [ANN]
    assert view.typists(110.1) == []


def test_typing_ends_when_it_is_said_to() -> None:
    view = direct()
    view.set_typing(ANN, True, 100.0)
    view.set_typing(ANN, False, 101.0)
    assert view.typists(101.0) == []


def test_edits_deletes_and_reactions_change_their_target() -> None:
    view = direct()
    view.add(message(1, text="tpyo"))
    view.add(message(2, text="typo", kind=Kind.EDIT, target=1))
    view.add(message(3, ME, "!", kind=Kind.REACTION, target=1))
    assert [(post.text, post.is_edited, post.reactions) for post in view.posts] == [("typo", True, {ME: "!"})]
    view.add(message(4, ME, "", kind=Kind.REACTION, target=1))
    view.add(message(5, kind=Kind.DELETE, target=1))
    assert [(post.is_deleted, post.reactions) for post in view.posts] == [(True, {})]


def test_nobody_edits_another_ones_message() -> None:
    view = direct()
    view.add(message(1, text="mine"))
    view.add(message(2, ME, "yours", kind=Kind.EDIT, target=1))
    assert texts(view) == ["mine"]


def test_an_edit_waits_for_its_target_to_be_paged_in() -> None:
    view = direct()
    view.add(message(9, text="newest"))
    view.add(message(10, text="mended", kind=Kind.EDIT, target=2))
    view.add_page([message(2, text="borken")], is_complete=True)
    assert texts(view) == ["mended", "newest"]


def test_membership_follows_the_system_messages() -> None:
    view = group()
    view.add(change(1, Event.ADDED, [9]))
    view.add(change(2, Event.REMOVED, [BOB]))
    view.add(change(3, Event.TITLE, [], "hut 2"))
    assert view.members == [ME, ANN, 9]
    assert view.title == "hut 2"
    assert texts(view) == ["2 added 9", "2 removed 3", "2 named the group “hut 2”"]


def test_an_old_membership_change_read_back_is_shown_and_not_applied() -> None:
    view = group()
    view.add_page([change(1, Event.REMOVED, [BOB])], is_complete=False)
    assert view.members == [ME, ANN, BOB]
    assert texts(view) == ["2 removed 3"]


def test_a_system_message_of_a_later_version_is_still_a_line() -> None:
    view = group()
    view.add(Message(7, 1, ANN, 0, 0, Kind.SYSTEM, b"\xff", bytes(16), None))
    assert len(texts(view)) == 1


def summary(chat_id: int, *, head: int = 0, read: int = 0, kind: int = ChatKind.GROUP, title: str = "") -> ChatSummary:
    return ChatSummary(chat_id, kind, title, 1, head, read)


def roster_of(*summaries: ChatSummary) -> Roster:
    roster = Roster(ME)
    roster.load(summaries)
    return roster


def unread(roster: Roster) -> dict[int, int]:
    return {entry.chat_id: entry.unread for entry in roster.entries()}


def test_unread_messages_are_counted_where_they_are_seen_and_unknown_where_not() -> None:
    roster = roster_of(summary(6, head=9, read=9), summary(7, head=5, read=5), summary(8, head=5, read=2))
    assert unread(roster) == {6: 0, 7: 0, 8: UNKNOWN}
    for seq in (6, 7):
        roster.receive(message(seq))
    roster.receive(message(8, ME))
    assert unread(roster) == {6: 0, 7: 2, 8: UNKNOWN}


def test_the_open_chat_has_nothing_unread() -> None:
    roster = roster_of(summary(7, head=5, read=2))
    roster.open(7)
    roster.receive(message(6))
    assert unread(roster) == {7: 0}
    assert roster.unread_elsewhere() == 0


def test_reading_on_another_device_clears_the_count() -> None:
    roster = roster_of(summary(7))
    roster.receive(message(6))
    roster.read_up_to(7, 6)
    assert unread(roster) == {7: 0}


def test_a_chat_with_news_comes_first_and_others_keep_the_servers_order() -> None:
    roster = roster_of(summary(6), summary(5), summary(7))
    roster.receive(message(1))
    assert [entry.chat_id for entry in roster.entries()] == [7, 6, 5]


def test_a_message_of_an_unlisted_chat_asks_for_the_list() -> None:
    roster = roster_of(summary(6))
    assert not roster.receive(message(1))


def test_names_are_titles_or_the_peer() -> None:
    roster = roster_of(summary(6, title="hut"), summary(7, kind=ChatKind.DIRECT), summary(8))
    assert [entry.name for entry in roster.entries()] == ["hut", "chat 7", "group 8"]
    seven = roster.get(7)
    assert seven is not None
    seven.peer = ANN
    assert seven.name == "2"


def test_a_chat_that_is_gone_leaves_the_list() -> None:
    roster = roster_of(summary(6), summary(7))
    roster.open(7)
    roster.drop(7)
    assert [entry.chat_id for entry in roster.entries()] == [6]
    assert roster.open_chat_id is None
