"""Figures: counted plainly, told in Prometheus' words, merged over workers."""

from __future__ import annotations

import re

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.cluster.links import LinkStatistics
from gateway.metrics import (
    DirectoryFigures,
    Histogram,
    Sources,
    StoreFigures,
    WorkerCollector,
    WorkerMetrics,
    exposition,
    gauge,
)
from gateway.ops.scrape import TextUnreadable, merge, parse
from gateway.pump import Kernel
from storage.statistics import CommitStatistics

BASE_UNITS = ("_seconds", "_bytes", "_total", "_rows")


def collector(metrics: WorkerMetrics) -> WorkerCollector:
    commits = CommitStatistics()
    commits.count_commit(rows=50, seconds=0.004)
    kernel = Kernel(16)
    statistics = kernel.statistics()
    kernel.shutdown()
    sources = Sources(
        kernel=lambda: statistics,
        store=lambda: commits.snapshot(queued_rows=7),
        links=lambda: LinkStatistics(1, 2, 3, 4, 5, 6, 7, 8, {"proof": 9}),
        store_requests=lambda: StoreFigures(11, 12, 13, 14, 15, 16, 17),
        directory=lambda: DirectoryFigures(True, 21, 22, 23, 24, 25, 26),
    )
    return WorkerCollector(metrics, sources)


def values(text: bytes) -> dict[str, float]:
    """By name and labels, as they stand in the text."""
    lines = [line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


def families(text: bytes) -> list[Metric]:
    return list(text_string_to_metric_families(text.decode()))


def test_what_was_counted_is_told() -> None:
    metrics = WorkerMetrics()
    metrics.sends += 3
    metrics.auth_failures["expired"] += 2
    metrics.errors[300] += 1
    metrics.delivery_seconds.observe(0.004, n=256)
    found = values(exposition(collector(metrics)))
    assert found["parley_sends_total"] == 3
    assert found['parley_auth_failures_total{reason="expired"}'] == 2
    assert found['parley_errors_total{code="300"}'] == 1
    assert found['parley_delivery_seconds_bucket{le="0.005"}'] == 256
    assert found["parley_delivery_seconds_sum"] == pytest.approx(1.024)
    assert found["parley_commit_rows_count"] == 1
    assert found["parley_commit_rows_sum"] == 50
    assert found["parley_commit_queue_rows"] == 7
    assert found["parley_connections"] == 0
    assert found["parley_link_handshakes_total"] == 8
    assert found['parley_link_failures_total{reason="proof"}'] == 9


def test_names_follow_prometheus() -> None:
    """Prefix, lower case, base units, _total for what only rises."""
    for family in families(exposition(collector(WorkerMetrics()))):
        assert re.fullmatch(r"parley_[a-z_]+", family.name), family.name
        assert not re.search(r"_(ms|us|kb|mb|count|sum)$", family.name), family.name
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.0, 0.01), (0.01, 0.01), (0.011, 0.1), (0.1, 0.1), (0.2, float("inf"))]
)
def test_a_bucket_includes_its_upper_end(value: float, bucket: float) -> None:
    histogram = Histogram((0.01, 0.1))
    histogram.observe(value)
    assert next(bound for bound, count in histogram.buckets().items() if count) == bucket
    assert histogram.count == 1


def test_observing_many_at_once_is_observing_each() -> None:
    once, many = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    for _ in range(3):
        once.observe(1.5)
    many.observe(1.5, n=3)
    assert (once.buckets(), once.total) == (many.buckets(), many.total)


def test_workers_figures_become_one_family_with_a_label_each() -> None:
    texts = {}
    for worker, sends in ((2, 20), (1, 10)):
        metrics = WorkerMetrics()
        metrics.sends = sends
        metrics.errors[400] = worker
        texts[worker] = parse(exposition(collector(metrics)))
    merged = merge(texts, [gauge("parley_workers", "how many", 2)])
    found = values(merged)
    assert found['parley_sends_total{worker="1"}'] == 10
    assert found['parley_sends_total{worker="2"}'] == 20
    assert found['parley_errors_total{code="400",worker="2"}'] == 2
    assert found["parley_workers"] == 2
    names = [family.name for family in families(merged)]
    assert len(names) == len(set(names))


def test_merging_changes_nothing_but_the_label() -> None:
    metrics = WorkerMetrics()
    metrics.delivery_seconds.observe(0.3)
    alone = exposition(collector(metrics))
    merged = merge({4: parse(alone)}, [])
    assert values(re.sub(rb',?worker="4"', b"", merged).replace(b"{}", b"")) == values(alone)


@pytest.mark.parametrize("text", [b"a { b = nonsense", b"\xff\xfe", b"parley_sends_total many"])
def test_a_text_that_is_none_is_said_to_be_unreadable(text: bytes) -> None:
    with pytest.raises(TextUnreadable):
        parse(text)
