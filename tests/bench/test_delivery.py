"""The delivery checker finds each kind of violation, and finds nothing in a history that keeps the promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.delivery import Acknowledgement, DeliveryChecker, Message, Via, digest_of
from bench.violations import Rule
from gateway.protocol.identifiers import seq_of

CHAT = 77
ANNA, BEN = 1, 2
ANNAS_PHONE, ANNAS_LAPTOP, BENS_PHONE = 11, 12, 21


def seq(counter: int, epoch: int = 1) -> int:
    return seq_of(epoch, counter) if counter else 0


def message_id(counter: int) -> bytes:
    return counter.to_bytes(16, "big")


def row(counter: int, **changes: object) -> Message:
    """Anna's message number ``counter`` as it is in the log."""
    content = digest_of(0, b"message %d" % counter)
    true = Message(CHAT, seq(counter), seq(counter - 1), ANNA, message_id(counter), content)
    return true._replace(**changes)  # type: ignore[arg-type]


def acknowledgement(counter: int, **changes: object) -> Acknowledgement:
    true = Acknowledgement(CHAT, message_id(counter), seq(counter), seq(counter - 1), 1000 + counter, False)
    return true._replace(**changes)  # type: ignore[arg-type]


class History:
    """Anna sends from her phone; her laptop and Ben's phone receive."""

    def __init__(self) -> None:
        self.checker = DeliveryChecker()
        for device, user in ((ANNAS_PHONE, ANNA), (ANNAS_LAPTOP, ANNA), (BENS_PHONE, BEN)):
            self.checker.connected(device, user)
        self.checker.joined(ANNA, CHAT)
        self.checker.joined(BEN, CHAT)

    def send(self, *counters: int) -> None:
        for counter in counters:
            self.checker.sent(ANNAS_PHONE, CHAT, message_id(counter), row(counter).digest)

    def acknowledge(self, *counters: int) -> None:
        for counter in counters:
            self.checker.acknowledged(ANNAS_PHONE, acknowledgement(counter))

    def deliver(self, device: int, *counters: int, via: Via = Via.LIVE) -> None:
        for counter in counters:
            self.checker.received(device, row(counter), via)

    def happen(self, *counters: int) -> None:
        """Messages are sent, acknowledged, and delivered to everybody."""
        self.send(*counters)
        self.acknowledge(*counters)
        self.deliver(ANNAS_LAPTOP, *counters)
        self.deliver(BENS_PHONE, *counters)

    def rules(self) -> set[Rule]:
        return {violation.rule for violation in self.checker.conclude()}


@pytest.fixture
def history() -> History:
    made = History()
    made.happen(1, 2, 3)
    return made


# ---- what is right


def test_a_history_that_keeps_the_promises_has_no_violation(history: History) -> None:
    history.checker.final_log(CHAT, [row(1), row(2), row(3)])
    history.checker.final_view(BENS_PHONE, CHAT, [row(1), row(2), row(3)])
    assert history.checker.conclude() == []


def test_a_hole_that_history_fills_is_no_violation(history: History) -> None:
    history.send(4, 5)
    history.acknowledge(4, 5)
    history.deliver(ANNAS_LAPTOP, 4, 5)
    history.deliver(BENS_PHONE, 5)
    assert history.checker.holes == 1
    history.deliver(BENS_PHONE, 4, via=Via.HISTORY)
    history.checker.paged(BENS_PHONE, CHAT, seq(3), seq(5))
    assert history.checker.conclude() == []


def test_a_sync_may_repeat_what_came_live_and_name_the_rest_in_a_gap() -> None:
    history = History()
    history.send(1, 2, 3)
    history.acknowledge(1, 2, 3)
    history.deliver(ANNAS_LAPTOP, 1, 2, 3)
    history.deliver(BENS_PHONE, 3)
    history.checker.lagged(BENS_PHONE)
    history.checker.syncing(BENS_PHONE)
    history.checker.gap(BENS_PHONE, CHAT, 0, seq(2))
    history.deliver(BENS_PHONE, 2, 3, via=Via.SYNC)
    history.checker.synced(BENS_PHONE, CHAT, seq(3))
    history.deliver(BENS_PHONE, 1, via=Via.HISTORY)
    assert history.checker.conclude() == []


def test_where_an_owner_is_lost_what_was_told_may_be_told_again_also_to_who_missed_it(history: History) -> None:
    history.checker.may_repeat = True
    history.send(4, 5)
    history.acknowledge(4, 5)
    history.deliver(ANNAS_LAPTOP, 4, 5)
    history.deliver(BENS_PHONE, 5, 3, 4, 5)
    assert history.checker.repeats == 3
    assert history.checker.conclude() == []


def test_nor_there_may_a_message_be_told_for_the_first_time_after_a_later_one(history: History) -> None:
    history.checker.may_repeat = True
    history.send(4, 5)
    history.acknowledge(5)
    history.deliver(BENS_PHONE, 5, 4)
    assert Rule.RISING in history.rules()


def test_a_resend_is_answered_as_the_message_that_it_repeats(history: History) -> None:
    history.send(2)
    history.checker.acknowledged(ANNAS_PHONE, acknowledgement(2, is_duplicate=True))
    assert history.checker.conclude() == []


def test_a_message_that_was_never_acknowledged_may_be_missing(history: History) -> None:
    history.send(4)
    assert history.checker.conclude() == []


def test_an_unacknowledged_message_may_be_in_the_log(history: History) -> None:
    history.send(4)
    history.deliver(BENS_PHONE, 4)
    history.checker.final_log(CHAT, [row(1), row(2), row(3), row(4)])
    assert history.checker.conclude() == []


def test_a_new_epoch_goes_on_with_the_counter(history: History) -> None:
    history.send(4)
    history.checker.acknowledged(ANNAS_PHONE, acknowledgement(4, seq=seq(4, epoch=2)))
    for device in (ANNAS_LAPTOP, BENS_PHONE):
        history.checker.received(device, row(4, seq=seq(4, epoch=2)), Via.LIVE)
    assert history.checker.conclude() == []


def test_a_new_session_may_see_old_messages_again(history: History) -> None:
    history.checker.connected(BENS_PHONE, BEN)
    history.deliver(BENS_PHONE, 1, 2, 3)
    assert history.checker.conclude() == []


def test_a_member_who_left_misses_nothing_that_came_later(history: History) -> None:
    history.checker.left(BEN, CHAT, seq(3))
    history.send(4)
    history.acknowledge(4)
    history.deliver(ANNAS_LAPTOP, 4)
    assert history.checker.conclude() == []


def test_a_member_who_came_later_misses_nothing_of_before() -> None:
    history = History()
    history.checker.joined(BEN, CHAT, seq(2))
    history.send(1, 2)
    history.acknowledge(1, 2)
    history.deliver(ANNAS_LAPTOP, 1, 2)
    history.deliver(BENS_PHONE, 2)
    assert history.checker.holes == 0
    assert history.checker.conclude() == []


def test_a_retired_device_need_not_have_everything(history: History) -> None:
    history.send(4)
    history.acknowledge(4)
    history.deliver(ANNAS_LAPTOP, 4)
    history.checker.retired(BENS_PHONE)
    assert history.checker.conclude() == []


def test_system_messages_share_the_id_of_zeros(history: History) -> None:
    for counter in (4, 5):
        system = row(counter, client_msg_id=bytes(16), digest=digest_of(4, b"%d" % counter))
        for device in (ANNAS_PHONE, ANNAS_LAPTOP, BENS_PHONE):
            history.checker.received(device, system, Via.LIVE)
    assert history.checker.conclude() == []


# ---- what is wrong: each a change to the history above


def lose_an_acknowledged_message(history: History) -> None:
    history.send(4)
    history.acknowledge(4)
    history.deliver(ANNAS_LAPTOP, 4)


def lose_it_in_the_final_log(history: History) -> None:
    history.checker.final_log(CHAT, [row(1), row(2)])


def lose_it_in_a_final_view(history: History) -> None:
    history.checker.final_view(BENS_PHONE, CHAT, [row(1), row(3)])


def leave_it_out_of_a_complete_history(history: History) -> None:
    history.send(4, 5)
    history.acknowledge(4, 5)
    history.deliver(ANNAS_LAPTOP, 4, 5)
    history.deliver(BENS_PHONE, 5)
    history.checker.paged(BENS_PHONE, CHAT, seq(3), seq(5))
    history.deliver(BENS_PHONE, 4, via=Via.SYNC)


def leave_it_in_a_gap(history: History) -> None:
    history.send(4)
    history.acknowledge(4)
    history.deliver(ANNAS_LAPTOP, 4)
    history.checker.gap(BENS_PHONE, CHAT, seq(3), seq(5))


def acknowledge_one_message_under_two_seqs(history: History) -> None:
    history.checker.acknowledged(ANNAS_PHONE, acknowledgement(2, seq=seq(4), prev_seq=seq(3), is_duplicate=True))
    for device in (ANNAS_LAPTOP, BENS_PHONE):
        history.checker.received(device, row(4, client_msg_id=message_id(2), digest=row(2).digest), Via.LIVE)


def log_one_message_under_two_seqs(history: History) -> None:
    history.checker.received(BENS_PHONE, row(4, client_msg_id=message_id(2), digest=row(2).digest), Via.LIVE)


def show_it_twice_in_a_final_view(history: History) -> None:
    history.checker.final_view(BENS_PHONE, CHAT, [row(1), row(2), row(2), row(3)])


def show_other_content_to_one(history: History) -> None:
    history.checker.received(BENS_PHONE, row(2, digest=digest_of(0, b"forged")), Via.HISTORY)


def show_other_content_to_all(history: History) -> None:
    history.send(4)
    for device in (ANNAS_LAPTOP, BENS_PHONE):
        history.checker.received(device, row(4, digest=digest_of(0, b"forged")), Via.LIVE)


def show_what_nobody_sent(history: History) -> None:
    history.deliver(BENS_PHONE, 4)


def acknowledge_what_nobody_sent(history: History) -> None:
    history.acknowledge(4)


def show_two_messages_in_one_place(history: History) -> None:
    history.send(4, 5)
    history.deliver(ANNAS_LAPTOP, 4)
    history.checker.received(BENS_PHONE, row(5, seq=seq(4), prev_seq=seq(3)), Via.LIVE)


def show_one_counter_in_two_epochs(history: History) -> None:
    history.send(4, 5)
    history.deliver(ANNAS_LAPTOP, 4)
    history.checker.received(BENS_PHONE, row(5, seq=seq(4, epoch=2), prev_seq=seq(3)), Via.LIVE)


def list_a_final_view_out_of_order(history: History) -> None:
    history.checker.final_view(BENS_PHONE, CHAT, [row(1), row(3), row(2)])


def push_a_lower_seq_after_a_higher(history: History) -> None:
    history.deliver(BENS_PHONE, 2)


def acknowledge_a_lower_seq_after_a_higher(history: History) -> None:
    history.send(4, 5)
    history.deliver(ANNAS_LAPTOP, 4, 5)
    history.deliver(BENS_PHONE, 4, 5)
    history.acknowledge(5, 4)


def name_another_message_as_the_previous(history: History) -> None:
    history.send(4)
    history.checker.received(BENS_PHONE, row(4, prev_seq=seq(3, epoch=0) or 3), Via.LIVE)


def name_a_message_as_the_previous_of_an_earlier_one(history: History) -> None:
    history.send(4, 5)
    history.checker.received(BENS_PHONE, row(5, prev_seq=4), Via.LIVE)
    history.checker.received(BENS_PHONE, row(4), Via.HISTORY)


def skip_a_counter(history: History) -> None:
    history.send(5)
    history.checker.received(BENS_PHONE, row(5, prev_seq=seq(3)), Via.LIVE)


def fall_back_to_an_older_epoch(history: History) -> None:
    history.send(4, 5)
    history.checker.received(BENS_PHONE, row(4, seq=seq(4, epoch=3)), Via.LIVE)
    history.checker.received(BENS_PHONE, row(5, seq=seq(5, epoch=2), prev_seq=seq(4, epoch=3)), Via.HISTORY)


def give_a_counter_beyond_all_measure(history: History) -> None:
    history.send(4)
    history.checker.received(BENS_PHONE, row(4, seq=seq(1 << 39), prev_seq=seq((1 << 39) - 1)), Via.LIVE)


def acknowledge_a_resend_as_new(history: History) -> None:
    history.checker.connected(ANNAS_PHONE, ANNA)
    history.acknowledge(2)


def acknowledge_a_resend_with_another_time(history: History) -> None:
    history.checker.acknowledged(ANNAS_PHONE, acknowledgement(2, is_duplicate=True, time_ms=5))


def show_what_the_final_log_lacks(history: History) -> None:
    history.send(4)
    history.deliver(BENS_PHONE, 4)
    history.checker.final_log(CHAT, [row(1), row(2), row(3)])


def end_a_sync_too_early(history: History) -> None:
    history.send(4)
    history.checker.syncing(BENS_PHONE)
    history.checker.synced(BENS_PHONE, CHAT, seq(4))


def push_after_lagged(history: History) -> None:
    history.checker.lagged(BENS_PHONE)
    history.send(4)
    history.deliver(BENS_PHONE, 4)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (lose_an_acknowledged_message, Rule.LOST),
        (lose_it_in_the_final_log, Rule.LOST),
        (lose_it_in_a_final_view, Rule.LOST),
        (leave_it_out_of_a_complete_history, Rule.LOST),
        (leave_it_in_a_gap, Rule.LOST),
        (acknowledge_one_message_under_two_seqs, Rule.TWICE),
        (log_one_message_under_two_seqs, Rule.TWICE),
        (show_it_twice_in_a_final_view, Rule.TWICE),
        (show_other_content_to_one, Rule.CONTENT),
        (show_other_content_to_all, Rule.CONTENT),
        (show_what_nobody_sent, Rule.INVENTED),
        (acknowledge_what_nobody_sent, Rule.INVENTED),
        (show_two_messages_in_one_place, Rule.ORDER),
        (show_one_counter_in_two_epochs, Rule.ORDER),
        (list_a_final_view_out_of_order, Rule.ORDER),
        (push_a_lower_seq_after_a_higher, Rule.RISING),
        (acknowledge_a_lower_seq_after_a_higher, Rule.RISING),
        (name_another_message_as_the_previous, Rule.CHAIN),
        (name_a_message_as_the_previous_of_an_earlier_one, Rule.CHAIN),
        (skip_a_counter, Rule.COUNTER),
        (fall_back_to_an_older_epoch, Rule.COUNTER),
        (give_a_counter_beyond_all_measure, Rule.COUNTER),
        (acknowledge_a_resend_as_new, Rule.DUPLICATE),
        (acknowledge_a_resend_with_another_time, Rule.DUPLICATE),
        (show_what_the_final_log_lacks, Rule.PHANTOM),
        (end_a_sync_too_early, Rule.SYNC),
        (push_after_lagged, Rule.LAGGED),
    ],
    ids=lambda value: value.__name__ if callable(value) else value.name,
)
def test_a_broken_promise_is_found(history: History, wrong: Callable[[History], None], rule: Rule) -> None:
    wrong(history)
    assert history.rules() == {rule}


def test_a_checker_without_members_refuses_to_say_that_all_is_well() -> None:
    checker = DeliveryChecker()
    checker.connected(ANNAS_PHONE, ANNA)
    checker.sent(ANNAS_PHONE, CHAT, message_id(1), row(1).digest)
    checker.acknowledged(ANNAS_PHONE, acknowledgement(1))
    with pytest.raises(ValueError, match="nobody joined chat 77"):
        checker.conclude()


def test_the_evidence_names_device_chat_and_message(history: History) -> None:
    lose_an_acknowledged_message(history)
    (violation,) = history.checker.conclude()
    assert str(violation).startswith("LOST: an acknowledged message is missing: device 21 never got chat 77 seq 1.4")


def test_more_violations_than_are_kept_are_still_counted() -> None:
    history = History()
    history.checker = DeliveryChecker(max_violations=3)
    history.checker.connected(BENS_PHONE, BEN)
    for counter in range(1, 11):
        history.deliver(BENS_PHONE, counter)
    assert len(history.checker.conclude()) == 3
    assert history.checker.lines()[-1] == "... and 7 more"
