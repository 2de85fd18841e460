"""Percentiles of many durations in little memory: a histogram with logarithmic buckets.

After HdrHistogram (http://hdrhistogram.org): 64 buckets an octave, so that a percentile is within 1.6 % of the true
value, at most 4,096 counters, and recording is an addition. Keeping every sample (8 bytes each, sorted in the end)
would cost the generator a second of sorting for ten million deliveries. Values are microseconds.
"""

from __future__ import annotations

_SUB_BITS = 6
_SUB = 1 << _SUB_BITS


def _index_of(value: int) -> int:
    if value < _SUB:
        return value
    shift = value.bit_length() - _SUB_BITS - 1
    return (shift << _SUB_BITS) + (value >> shift)


def _upper_edge(index: int) -> int:
    if index < _SUB:
        return index
    shift = (index >> _SUB_BITS) - 1
    return ((index - (shift << _SUB_BITS) + 1) << shift) - 1


class Histogram:
    """Durations in microseconds."""

    def __init__(self) -> None:
        self._counts = [0] * (_SUB * 40)
        self.count = 0
        self.max_us = 0

    def record(self, value_us: int, n: int = 1) -> None:
        if value_us < 0:
            raise ValueError(f"a duration of {value_us} us")
        self._counts[_index_of(value_us)] += n
        self.count += n
        self.max_us = max(self.max_us, value_us)

    def percentile_us(self, percent: float) -> int:
        """The value that ``percent`` of the durations do not exceed, rounded up by 1.6 % at most; 0 of nothing."""
        if percent >= 100:
            return self.max_us
        wanted, seen = self.count * percent / 100, 0
        for index, n in enumerate(self._counts):
            seen += n
            if n and seen >= wanted:
                return min(_upper_edge(index), self.max_us)
        return 0

    def milliseconds(self, *percents: float) -> dict[str, float]:
        """``{"p50_ms": ..., "max_ms": ...}``, to three digits behind the point."""
        figures = {f"p{percent:g}_ms": self.percentile_us(percent) / 1000 for percent in percents}
        return {**figures, "max_ms": self.max_us / 1000}
