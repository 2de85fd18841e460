"""Who lives, by hand: every list and every age is given."""

from __future__ import annotations

import pytest

from gateway.protocol.identifiers import WorkerId
from storage.redis.lua import UP_MS
from storage.redis.records import Member, pack_member, stay_of, unpack_member
from storage.redis.roster import Roster, unpack_roster
from tests.cluster.directories import record

YOUNG, OLD = UP_MS - 1, UP_MS


def member(worker: int, incarnation: int = 1) -> Member:
    return Member(record(worker, incarnation), stay_of(worker, b"abcdefghij"))


def members(*workers: int) -> dict[WorkerId, Member]:
    return {WorkerId(worker): member(worker) for worker in workers}


def roster_of(*workers: int) -> Roster:
    roster = Roster()
    roster.take(members(*workers), {}, OLD)
    return roster


def test_the_listed_are_the_workers() -> None:
    roster = Roster()
    assert roster.take(members(1, 2), {}, OLD)
    assert roster.workers == {1: record(1), 2: record(2)}
    assert not roster.take(members(1, 2), {}, OLD)


@pytest.mark.parametrize(
    ("ended", "up_ms", "left"),
    [
        ({}, OLD, {1}),
        ({}, YOUNG, {1, 2}),
        ({2: 1}, YOUNG, {1}),
        ({2: 7}, YOUNG, {1}),
        ({2: 0}, YOUNG, {1, 2}),
        ({3: 1}, YOUNG, {1, 2}),
    ],
)
def test_a_worker_that_is_no_longer_listed_stays_while_it_may_come_back(
    ended: dict[WorkerId, int], up_ms: int, left: set[int]
) -> None:
    roster = roster_of(1, 2)
    roster.take(members(1), ended, up_ms)
    assert set(roster.workers) == left


def test_who_does_not_come_back_in_time_is_dropped_without_further_news() -> None:
    roster = roster_of(1, 2)
    roster.take(members(1), {}, YOUNG)
    assert not roster.grow_older(YOUNG)
    assert roster.grow_older(OLD)
    assert set(roster.workers) == {1}
    assert not roster.grow_older(OLD)


def test_a_later_life_takes_the_place_of_the_earlier() -> None:
    roster = roster_of(1, 2)
    roster.take({**members(1), WorkerId(2): member(2, 9)}, {}, YOUNG)
    assert roster.workers[WorkerId(2)].incarnation == 9


def test_only_the_stays_of_the_listed_are_live() -> None:
    roster = roster_of(1, 2)
    roster.take(members(1), {}, YOUNG)
    assert dict(roster.stays) == {stay_of(1, b"abcdefghij"): 1}


def test_a_member_is_read_as_it_was_written() -> None:
    packed = pack_member(record(1025, 2**52)._replace(is_draining=True, host_address="[::1]:7000"), b"0123456789")
    assert unpack_member(WorkerId(1025), packed) == Member(
        record(1025, 2**52)._replace(is_draining=True, host_address="[::1]:7000"), b"00010250123456789"
    )


def test_the_directorys_lists_are_read_without_its_own_fields() -> None:
    packed = pack_member(record(1), b"abcdefghij")
    listed, ended = unpack_roster([b"generation", b"x", b"w0000001", packed, b"up", b"5"], [b"0000002", b"%019d" % 7])
    assert (listed, ended) == (members(1), {2: 7})
    with pytest.raises(ValueError, match="invalid literal"):
        unpack_roster([b"w0000001", b"short"], [])
