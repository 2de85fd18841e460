"""``rows``: what the store's client costs a worker, per row that is stored, at a given rate."""

from __future__ import annotations

import trio

from bench.backends.appending import RowsPlan, Stored, StoreError, append_rows
from bench.faults import BenchError
from bench.figures import Histogram
from bench.report import Header, Result, finish

__all__ = ["RowsPlan", "run_rows"]


def run_rows(header: Header, plan: RowsPlan) -> Result:
    stored = _measure(plan)
    times = Histogram()
    for latency_ns in stored.latencies_ns:
        times.record(latency_ns // 1000)
    rows = max(1, stored.rows)
    figures = {
        "client_cpu_us_per_row": stored.cpu_s * 1e6 / rows,
        "rows_per_s": stored.rows / stored.seconds,
        "statements_per_row": stored.statements / rows,
        "rows_per_request": rows / max(1, stored.requests),
        **times.milliseconds(50, 99),
    }
    invalid = [f"{stored.skipped} rows were due and could not wait: the store is slower"] if stored.skipped else []
    cost = {"seconds": round(stored.seconds, 3), "client_cores": round(stored.cpu_s / stored.seconds, 3)}
    return finish(header, figures, cost, (0, []), invalid)


def _measure(plan: RowsPlan) -> Stored:
    try:
        return trio.run(append_rows, plan)
    except* (StoreError, trio.TooSlowError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise BenchError(f"the store: {error}") from group
