"""Percentiles from logarithmic buckets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Histogram

DURATIONS = st.lists(st.integers(0, 10**9), min_size=1, max_size=300)


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(values=DURATIONS, percent=st.floats(0.1, 100))
def test_a_percentile_is_the_exact_one_rounded_up_by_less_than_two_percent(values: list[int], percent: float) -> None:
    exact = sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
    assert exact <= filled(values).percentile_us(percent) <= exact * 1.016


@given(values=DURATIONS)
def test_the_maximum_is_exact(values: list[int]) -> None:
    assert filled(values).percentile_us(100) == max(values)


def test_many_at_once_count_as_many() -> None:
    histogram = Histogram()
    histogram.record(10, 99)
    histogram.record(500, 1)
    assert (histogram.count, histogram.percentile_us(99), histogram.percentile_us(99.5)) == (100, 10, 500)


def test_nothing_recorded_is_zero() -> None:
    assert Histogram().milliseconds(50, 99.9) == {"p50_ms": 0, "p99.9_ms": 0, "max_ms": 0}


def test_a_negative_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 us"):
        Histogram().record(-1)
