"""Which rows share a request."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.api import StoreConflict, StoreError, StoreTimedOut, StoreUnavailable
from storage.scylla.binding import Bound
from storage.scylla.grouping import MAX_GROUP_BYTES, MAX_GROUP_ROWS, MAX_UNIT_BYTES, Call, Group, Grouping, Unit, cut

REPLICAS = {b"a": "ABC", b"b": "BCD", b"c": "CDE", b"x": "XYZ", b"none": ""}


def row(size_bytes: int = 100) -> Bound:
    return Bound(None, [], size_bytes)  # type: ignore[arg-type]


def unit(key: bytes, rows: int = 1, row_bytes: int = 100) -> Unit:
    return Unit(Call(lambda error: None), key, [row(row_bytes)] * rows)


def group_all(units: Sequence[Unit]) -> list[Group]:
    grouping = Grouping(lambda key: tuple(REPLICAS[key]))
    filled = [grouping.add(one, 0.0) for one in units]
    return [group for group in filled if group is not None] + grouping.pop_all()


def test_a_unit_joins_a_group_whose_coordinator_is_one_of_its_replicas() -> None:
    groups = group_all([unit(b"b"), unit(b"a"), unit(b"c"), unit(b"x")])
    assert [(group.coordinator, len(group.units)) for group in groups] == [("B", 2), ("C", 1), ("X", 1)]


def test_without_any_replicas_known_all_share_a_request() -> None:
    assert [group.coordinator for group in group_all([unit(b"none"), unit(b"none")])] == [None]


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(REPLICAS)), st.integers(1, 100), st.sampled_from([50, 500, 5_000])),
        max_size=60,
    )
)
def test_no_unit_is_split_or_lost_and_no_shared_request_is_above_the_bounds(made: list[tuple[bytes, int, int]]) -> None:
    units = [unit(*one) for one in made]
    groups = group_all(units)
    assert sorted(map(id, units)) == sorted(id(one) for group in groups for one in group.units)
    for group in groups:
        assert group.row_count == sum(len(one.rows) for one in group.units)
        if len(group.units) > 1:
            assert group.row_count <= MAX_GROUP_ROWS
            assert group.size_bytes <= MAX_GROUP_BYTES
        for one in group.units:
            assert group.coordinator is None or group.coordinator in REPLICAS[one.key]


@given(st.lists(st.integers(1, 2 * MAX_UNIT_BYTES), min_size=1, max_size=20))
def test_one_partitions_rows_are_cut_only_where_a_request_cannot_hold_them(sizes: list[int]) -> None:
    rows = [row(size) for size in sizes]
    units = cut(Call(lambda error: None), {b"a": rows})
    assert [one for unit in units for one in unit.rows] == rows
    if sum(sizes) <= MAX_UNIT_BYTES:
        assert len(units) == 1
    for one in units:
        assert one.size_bytes <= MAX_UNIT_BYTES or len(one.rows) == 1


UNAVAILABLE, TIMED_OUT, CONFLICT = StoreUnavailable("x"), StoreTimedOut("x"), StoreConflict("x")


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ([None, None], None),
        ([UNAVAILABLE, UNAVAILABLE], StoreUnavailable),
        ([TIMED_OUT, None], StoreTimedOut),
        ([UNAVAILABLE, TIMED_OUT], StoreTimedOut),
        ([UNAVAILABLE, None], StoreTimedOut),
        ([None, UNAVAILABLE], StoreTimedOut),
        ([None, CONFLICT], StoreConflict),
        ([TIMED_OUT, CONFLICT], StoreConflict),
    ],
)
def test_a_call_is_unavailable_only_if_nothing_of_it_was_sent(
    ends: list[StoreError | None], verdict: type[StoreError] | None
) -> None:
    heard: list[StoreError | None] = []
    call = Call(heard.append)
    call.expect(len(ends))
    for end in ends:
        assert not heard
        call.unit_ended(end)
    assert [type(error) if error else None for error in heard] == [verdict]
