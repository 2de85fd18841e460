"""When a figure does not count, and why."""

from __future__ import annotations

import pytest

from bench.figures import Histogram
from bench.usage import Usage, why_invalid, why_late, why_refused


def usage(*, generator: float, busiest: float) -> Usage:
    return Usage(10.0, generator, busiest + 0.1, busiest, 0.0)


@pytest.mark.parametrize(
    ("generator", "busiest", "is_valid"),
    [(0.5, 0.5, True), (0.95, 0.95, True), (0.5, 0.99, True), (0.95, 0.5, False)],
)
def test_a_busy_generator_beside_a_node_that_is_not_busy_is_invalid(
    generator: float, busiest: float, is_valid: bool
) -> None:
    assert (why_invalid(usage(generator=generator, busiest=busiest)) == []) is is_valid


def test_a_busy_generator_is_invalid_where_the_node_is_not_known() -> None:
    (reason,) = why_invalid(usage(generator=0.95, busiest=0.0), is_node_known=False)
    assert "--pid" in reason


@pytest.mark.parametrize(("late_us", "is_valid"), [(4_000, True), (9_000, False)])
def test_messages_that_leave_late_make_an_open_loop_invalid(late_us: int, is_valid: bool) -> None:
    lateness = Histogram()
    lateness.record(100, 90)
    lateness.record(late_us, 10)
    assert (why_late(lateness) == []) is is_valid


def test_refused_messages_make_a_run_invalid() -> None:
    assert why_refused({"400": 3})[0].startswith("the node refused 3 SENDs with 400")
