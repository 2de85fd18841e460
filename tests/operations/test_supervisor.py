"""The supervisor over real processes: ready, restarts, draining, pages, workers that misbehave."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from gateway.node.restarts import MAX_FAILED_STARTS
from gateway.supervisor import WorkersFailed
from tests.operations.nodes import PATIENCE_S, Node

Samples = dict[tuple[str, str], float]
Start = Callable[..., Awaitable[Node]]


def samples(text: str) -> Samples:
    """By name and worker."""
    return {
        (sample.name, sample.labels.get("worker", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def metrics(node: Node) -> Samples:
    status, text = await node.get("/metrics")
    assert status == 200
    return samples(text)


async def wait(event: trio.Event) -> None:
    with trio.fail_after(PATIENCE_S):
        await event.wait()


@pytest.fixture
async def start(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Start]:
    """Start a node; whatever happens to it, it has ended with the test."""
    nodes: list[Node] = []

    async def begin(behaviour: str = "serve", **options: float) -> Node:
        node = Node(tmp_path, behaviour, **options)  # type: ignore[arg-type]
        nodes.append(node)
        await nursery.start(node.run)
        return node

    yield begin
    nursery.cancel_scope.cancel()


async def test_ready_is_said_when_every_worker_is_and_readyz_agrees(start: Start) -> None:
    node = await start()
    assert await node.get("/readyz") == (503, "not ready: worker 1, 2\n")
    assert not node.ready.is_set()
    await wait(node.ready)
    assert await node.get("/readyz") == (200, "ready\n")
    assert await node.get("/healthz") == (200, "ok\n")


async def test_metrics_of_all_workers_come_under_one_port_with_a_label_each(start: Start) -> None:
    node = await start()
    await wait(node.ready)
    found = await metrics(node)
    assert found["parley_sends_total", "1"] == 100
    assert found["parley_sends_total", "2"] == 200
    assert found["parley_worker_up", "1"] == found["parley_worker_up", "2"] == 1
    assert found["parley_workers", ""] == 2


async def test_a_killed_worker_is_restarted_as_a_later_incarnation_and_counted(start: Start) -> None:
    node = await start()
    started = await node.reports.until("started", 2)
    await wait(node.ready)
    first = next(report for report in started if report["worker"] == 1)
    os.kill(first["pid"], signal.SIGKILL)
    [again] = await node.reports.until("started")
    assert again["worker"] == 1
    assert again["pid"] != first["pid"]
    assert again["incarnation"] > max(report["incarnation"] for report in started)
    assert (await metrics(node))["parley_worker_restarts_total", "1"] == 1


async def test_a_hung_worker_costs_a_scrape_its_own_series_alone(start: Start) -> None:
    node = await start()
    started = await node.reports.until("started", 2)
    await wait(node.ready)
    hung = next(report["pid"] for report in started if report["worker"] == 2)
    os.kill(hung, signal.SIGSTOP)
    try:
        found = await metrics(node)
    finally:
        os.kill(hung, signal.SIGCONT)
    assert found["parley_sends_total", "1"] == 100
    assert ("parley_sends_total", "2") not in found
    assert (found["parley_worker_up", "1"], found["parley_worker_up", "2"]) == (1, 0)


@pytest.mark.parametrize("behaviour", ["mute", "babble"])
async def test_a_worker_that_answers_nothing_readable_is_shown_as_not_up(start: Start, behaviour: str) -> None:
    node = await start(behaviour, workers=1)
    await wait(node.ready)
    assert (await metrics(node))["parley_worker_up", "1"] == 0


async def test_workers_that_fail_at_every_start_end_the_node_with_one_line(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE_S), pytest.raises(WorkersFailed, match="worker 1 ended again and again"):
        await Node(tmp_path, "fail", workers=1).run()


async def test_workers_that_wait_for_their_servers_are_started_again_and_again(start: Start) -> None:
    node = await start("wait", workers=1)
    await node.reports.until("started", MAX_FAILED_STARTS + 1)
    assert await node.get("/readyz") == (503, "not ready: worker 1\n")
    assert not node.ended.is_set()


async def test_a_worker_that_was_stopped_is_ended_and_started_again(start: Start) -> None:
    node = await start(hung_timeout_s=3.0)
    started = await node.reports.until("started", 2)
    await wait(node.ready)
    hung = next(report for report in started if report["worker"] == 2)
    os.kill(hung["pid"], signal.SIGSTOP)
    [again] = await node.reports.until("started")
    assert again["worker"] == 2
    assert again["incarnation"] > hung["incarnation"]
    assert not Path(f"/proc/{hung['pid']}").exists()


async def test_a_worker_that_answers_no_scrape_but_lives_is_left_alone(start: Start) -> None:
    node = await start("mute", workers=1, hung_timeout_s=3.0)
    await wait(node.ready)
    for _ in range(5):  # a second each: the scrape waits so long for it
        assert (await metrics(node))["parley_worker_restarts_total", "1"] == 0


async def test_draining_asks_every_worker_and_ends_when_they_have(start: Start) -> None:
    node = await start()
    await wait(node.ready)
    node.supervisor.drain()
    await node.reports.until("drained", 2)
    await wait(node.ended)


async def test_while_draining_the_node_is_not_ready_and_restarts_nobody(start: Start) -> None:
    node = await start("stay")
    started = await node.reports.until("started", 2)
    await wait(node.ready)
    node.supervisor.drain()
    await node.reports.until("asked to drain", 2)
    assert await node.get("/readyz") == (503, "draining\n")
    for report in started:
        os.kill(report["pid"], signal.SIGKILL)
    await wait(node.ended)


async def test_a_second_request_to_end_ends_workers_that_stay(start: Start) -> None:
    node = await start("stay")
    await wait(node.ready)
    node.supervisor.drain()
    await node.reports.until("asked to drain", 2)
    assert not node.ended.is_set()
    node.supervisor.kill()
    await wait(node.ended)


async def test_workers_that_stay_too_long_lose_their_lifeline(start: Start) -> None:
    node = await start("stay", patience_s=0.0)
    await wait(node.ready)
    node.supervisor.drain()
    await node.reports.until("lifeline cut", 2)
    await wait(node.ended)


async def test_draining_before_ready_ends_the_workers_that_start(start: Start) -> None:
    node = await start()
    node.supervisor.drain()
    await wait(node.ended)
    assert not node.ready.is_set()


async def test_nothing_of_a_node_is_left_in_its_run_directory(start: Start) -> None:
    node = await start()
    await wait(node.ready)
    node.supervisor.drain()
    await wait(node.ended)
    assert [path.name for path in (node.data / "run").iterdir()] == ["supervisor.lock"]
