"""A worker's figures: cheap to count, told in Prometheus' words when somebody asks.

Owns what is counted by Python code and the names of all figures, the kernel's and the store's included. It must not
know who serves them: ``gateway/ops/scrape.py`` merges the texts. Counting is an attribute and an addition; families
are built at a scrape only.

prometheus_client's own Counter costs a lock and two calls for each increment, and its multiprocess mode leaves a
killed worker's file to break later scrapes: hence plain numbers here and one custom collector per worker.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from gateway._framing import KernelStatistics
    from gateway.cluster.links import LinkStatistics
    from storage.api import StoreStatistics

DELIVERY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LOOP_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class StoreFigures(NamedTuple):
    """Of a store that is elsewhere. Totals, but for ``in_flight`` and ``waiting``, which are of now."""

    requests: int
    statements: int
    timeouts: int
    refusals: int
    in_flight: int
    waiting: int
    shared_reads: int


class DirectoryFigures(NamedTuple):
    """Of a directory that is elsewhere. Totals, but for ``is_up`` and ``waiting``, which are of now."""

    is_up: bool
    waiting: int
    commands: int
    lives: int
    timeouts: int
    errors: int
    refused: int


class Histogram:
    """Observations by bucket; ``bounds`` are the inclusive upper ends, rising, without infinity."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, n: int = 1) -> None:
        """``n`` observations of the same value, for the price of one."""
        self._counts[bisect_left(self._bounds, value)] += n
        self.total += value * n

    @property
    def count(self) -> int:
        return sum(self._counts)

    def buckets(self) -> dict[float, int]:
        """Cumulative, infinity last."""
        return dict(zip((*self._bounds, float("inf")), accumulate(self._counts), strict=True))


class WorkerMetrics:
    """What Python code counts. Attributes are written directly; they only rise, but ``actors``, ``slots``, ``node_links``."""

    __slots__ = (
        *("actor_evictions", "actor_loads", "actors", "auth_failures", "deliveries", "delivery_seconds", "duplicates"),
        *("belief_lapses", "node_links", "slots"),
        *("errors", "forwarded", "lagged", "loop_lag_seconds", "rate_limited", "replaced", "requests", "sends"),
        *("sessions", "slow_consumers"),
    )

    def __init__(self) -> None:
        self.auth_failures: Counter[str] = Counter()
        """By reason, a few fixed words."""
        self.errors: Counter[int] = Counter()
        """By code, as sent in ERROR and CLOSE."""
        self.requests: Counter[str] = Counter()
        """By op's name."""
        self.rate_limited: Counter[str] = Counter()
        """By limit's name."""
        self.sends = self.duplicates = self.deliveries = self.forwarded = 0
        self.sessions = self.lagged = self.slow_consumers = self.replaced = 0
        self.actors = self.actor_loads = self.actor_evictions = 0
        self.slots = self.belief_lapses = self.node_links = 0
        self.delivery_seconds = Histogram(DELIVERY_SECONDS)
        """From received by a worker to flushed by the kernel of the receiver's worker."""
        self.loop_lag_seconds = Histogram(LOOP_LAG_SECONDS)


class Sources(NamedTuple):
    """What a worker's parts count. They are called at a scrape, on the Trio thread; None: there is no such part."""

    kernel: Callable[[], KernelStatistics] | None = None
    store: Callable[[], StoreStatistics] | None = None
    links: Callable[[], LinkStatistics] | None = None
    store_requests: Callable[[], StoreFigures] | None = None
    directory: Callable[[], DirectoryFigures] | None = None


NOTHING_ELSE = Sources()


class WorkerCollector(Collector):
    """Families of one worker."""

    def __init__(self, metrics: WorkerMetrics, sources: Sources = NOTHING_ELSE) -> None:
        self._metrics = metrics
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        sources = self._sources
        yield from _own_families(self._metrics)
        if sources.kernel is not None:
            yield from _kernel_families(sources.kernel())
        if sources.store is not None:
            yield from _store_families(sources.store())
        if sources.store_requests is not None:
            yield from _store_request_families(sources.store_requests())
        if sources.links is not None:
            yield from _link_families(sources.links())
        if sources.directory is not None:
            yield from _directory_families(sources.directory())


def exposition(collector: Collector) -> bytes:
    """The collector's families as Prometheus' text (0.0.4), from a registry of its own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


# ----------------------------------------------------------------------------------------------- families


def _own_families(metrics: WorkerMetrics) -> Iterator[Metric]:
    yield counter("parley_sessions", "sessions begun (WELCOME)", metrics.sessions)
    yield counters("parley_auth_failures", "credentials refused", "reason", metrics.auth_failures)
    yield counters("parley_requests", "requests by op", "op", metrics.requests)
    yield counters("parley_errors", "ERROR and CLOSE by code", "code", metrics.errors)
    yield counters("parley_rate_limited", "requests and connections refused by a rate", "limit", metrics.rate_limited)
    yield counter("parley_sends", "messages accepted and durable", metrics.sends)
    yield counter("parley_duplicate_sends", "resends recognised", metrics.duplicates)
    yield counter("parley_forwarded_requests", "requests that another worker's chats answered", metrics.forwarded)
    yield counter("parley_deliveries", "MSG frames queued to connections", metrics.deliveries)
    yield histogram("parley_delivery_seconds", "SEND received to MSG flushed", metrics.delivery_seconds)
    yield counter("parley_lagged_sessions", "sessions told LAGGED", metrics.lagged)
    yield counter("parley_slow_consumers", "sessions ended with 402", metrics.slow_consumers)
    yield counter("parley_replaced_sessions", "sessions ended by a newer one of the device", metrics.replaced)
    yield histogram("parley_loop_lag_seconds", "a timer's delay: what any task has to wait", metrics.loop_lag_seconds)
    yield gauge("parley_actors", "chats in memory", metrics.actors)
    yield counter("parley_actor_loads", "chats read from the store", metrics.actor_loads)
    yield counter("parley_actor_evictions", "chats that left memory", metrics.actor_evictions)
    yield gauge("parley_slots", "slots that are owned, of 16,384 in the cluster", metrics.slots)
    yield counter(
        "parley_belief_lapses", "times that a slot was silent: the store did not confirm it", metrics.belief_lapses
    )
    yield gauge("parley_node_links", "workers of other nodes with whom there is a link", metrics.node_links)


def _kernel_families(kernel: KernelStatistics) -> Iterator[Metric]:
    yield gauge("parley_connections", "open connections, links included", kernel.connections)
    yield counter("parley_accepts", "connections accepted", kernel.accepted)
    yield counter("parley_refused_connections", "connections beyond the bound", kernel.refused)
    yield counter("parley_accept_failures", "accepts that failed, for want of file descriptors", kernel.accept_failures)
    yield counter("parley_closed_connections", "connections ended", kernel.closed)
    yield counters("parley_frames", "frames", "direction", {"in": kernel.frames_in, "out": kernel.frames_out})
    yield counters("parley_network_bytes", "bytes", "direction", {"in": kernel.bytes_in, "out": kernel.bytes_out})
    yield counters(
        "parley_socket_calls", "system calls", "call", {"recv": kernel.recv_calls, "send": kernel.send_calls}
    )
    yield counter("parley_pongs", "PINGs answered by the kernel", kernel.auto_replies)
    yield gauge("parley_outbox_bytes", "bytes waiting for slow readers", kernel.outbox_bytes)
    yield gauge("parley_input_bytes", "bytes of frames not yet whole or not yet taken", kernel.input_bytes)
    yield gauge("parley_muted_connections", "connections that get no pushes until their next SYNC", kernel.muted)
    yield counter("parley_dropped_frames", "frames that a full outbox did not take", kernel.dropped_frames)
    yield gauge("parley_kernel_slab_bytes", "memory of the connection table", kernel.slab_bytes)


def _store_families(store: StoreStatistics) -> Iterator[Metric]:
    yield _histogram("parley_commit_rows", "rows per commit", store.batch_size_buckets, float(store.rows))
    yield _histogram("parley_commit_seconds", "time of a commit", store.commit_seconds_buckets, store.commit_seconds)
    yield counter("parley_commit_lock_wait_seconds", "time waiting for other writers", store.lock_wait_seconds)
    yield gauge("parley_commit_queue_rows", "rows waiting to be committed", store.queued_rows)
    yield counter("parley_store_errors", "store calls that failed", store.errors)


def _store_request_families(store: StoreFigures) -> Iterator[Metric]:
    """Of a store that is elsewhere."""
    yield counter("parley_store_requests", "requests to the shared store", store.requests)
    yield counter("parley_store_statements", "rows and questions in them", store.statements)
    yield counter("parley_store_timeouts", "requests whose outcome is unknown", store.timeouts)
    yield counter("parley_store_refusals", "calls refused at a bound, nothing was sent", store.refusals)
    yield gauge("parley_store_in_flight", "requests that wait for their answer", store.in_flight)
    yield gauge("parley_store_waiting", "calls that wait to be sent", store.waiting)
    yield counter("parley_store_shared_reads", "reads answered by another's", store.shared_reads)


def _directory_families(directory: DirectoryFigures) -> Iterator[Metric]:
    """Of a directory that is elsewhere."""
    yield gauge("parley_directory_up", "is there a connection to the shared directory", float(directory.is_up))
    yield counter("parley_directory_connections", "connections that were made and greeted", directory.lives)
    yield counter("parley_directory_commands", "commands to the shared directory", directory.commands)
    yield gauge("parley_directory_waiting", "commands that wait for their answer", directory.waiting)
    yield counter("parley_directory_timeouts", "connections cut for an answer that did not come", directory.timeouts)
    yield counter("parley_directory_errors", "commands answered with an error", directory.errors)
    yield counter("parley_directory_refusals", "commands that were not sent", directory.refused)


def _link_families(links: LinkStatistics) -> Iterator[Metric]:
    yield gauge("parley_link_connections", "connections to other processes, of any node", links.connections)
    yield gauge("parley_link_requests_outstanding", "requests on links that wait for their answer", links.outstanding)
    yield counter("parley_link_frames", "frames sent on links", links.sent)
    yield counter("parley_link_refused_frames", "frames that no link took", links.refused)
    yield counter("parley_link_lost_pushes", "pushes among them: their receivers were told LAGGED", links.lost_pushes)
    yield counter("parley_link_breaks", "connections to other processes that broke", links.broken)
    yield counter("parley_link_handshakes", "connections whose ends came to know each other", links.handshakes)
    yield counters("parley_link_failures", "connections to other processes that failed", "reason", links.failures)


def counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_text, value=value)


def gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


def counters(name: str, help_text: str, label: str, values: Mapping[str, int] | Mapping[int, int]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([str(key)], value)
    return family


def histogram(name: str, help_text: str, observed: Histogram) -> Metric:
    return _histogram(name, help_text, observed.buckets(), observed.total)


def _histogram(name: str, help_text: str, buckets: Mapping[float, int], total: float) -> Metric:
    bounds = [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in buckets.items()]
    return HistogramMetricFamily(name, help_text, buckets=bounds, sum_value=total)
