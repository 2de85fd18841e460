from __future__ import annotations

import pytest

from storage.scylla.doctor import Readings, TableOptions, examine, judge
from storage.scylla.servers import Server
from storage.scylla.settings import ScyllaSettings
from tests.storage.scylla.executor.conftest import OpenExecutor

GOOD = Readings(
    server=Server(False, "5.0.5"),
    node_versions={"10.0.0.1": "5.0.5", "10.0.0.2": "5.0.5", "10.0.0.3": "5.0.5"},
    down=(),
    replication={"class": "org.apache.cassandra.locator.NetworkTopologyStrategy", "dc1": "3"},
    has_tablets=False,
    settings={"10.0.0.1": {"commitlog_sync": "group"}},
    tables=(TableOptions("messages", "SizeTieredCompactionStrategy", 864_000, 0, "BLOCKING"),),
)
MESSAGES = GOOD.tables[0]
SCYLLA = GOOD._replace(server=Server(True, "6.2.0"), tables=(MESSAGES._replace(read_repair=None),))


def bad(readings: Readings) -> list[tuple[str, bool]]:
    findings = [finding for finding in judge(readings, ScyllaSettings()) if not finding.is_good]
    assert all(finding.mend for finding in findings)
    return [(finding.subject, finding.is_needed) for finding in findings]


@pytest.mark.parametrize("readings", [GOOD, SCYLLA, GOOD._replace(replication=None, tables=())])
def test_a_cluster_that_has_all_is_good(readings: Readings) -> None:
    assert bad(readings) == []


@pytest.mark.parametrize(
    ("readings", "subject", "is_needed"),
    [
        (GOOD._replace(server=Server(False, "3.11.4")), "version", True),
        (GOOD._replace(node_versions={"a": "5.0.5", "b": "5.0.4"}), "version", False),
        (GOOD._replace(down=("10.0.0.2",)), "nodes", False),
        (GOOD._replace(replication={"class": "NetworkTopologyStrategy", "dc1": "3", "dc2": "2"}), "copies", True),
        (GOOD._replace(replication={"class": "SimpleStrategy", "replication_factor": "3"}), "replication", False),
        (
            GOOD._replace(settings={"a": {"commitlog_sync": "batch"}, "b": {"commitlog_sync": "periodic"}}),
            "commitlog_sync",
            True,
        ),
        (
            GOOD._replace(settings={"a": {"commitlog_sync": "batch", "minimum_timestamp_fail_threshold": "1d"}}),
            "minimum timestamps",
            True,
        ),
        (GOOD._replace(settings={"a": {"batch_size_warn_threshold": "5kib"}}), "batch warnings", False),
        (SCYLLA._replace(has_tablets=True), "tablets", True),
        (
            GOOD._replace(tables=(MESSAGES._replace(compaction="org.x.TimeWindowCompactionStrategy"),)),
            "messages: compaction",
            True,
        ),
        (GOOD._replace(tables=(MESSAGES._replace(gc_grace_s=3_600),)), "messages: gc_grace_seconds", True),
        (GOOD._replace(tables=(MESSAGES._replace(read_repair="NONE"),)), "messages: read_repair", True),
        (GOOD._replace(tables=(MESSAGES._replace(default_ttl_s=60),)), "messages: time to live", True),
    ],
)
def test_what_is_missing_is_the_one_finding_and_says_what_to_do(
    readings: Readings, subject: str, is_needed: bool
) -> None:
    assert bad(readings) == [(subject, is_needed)]


def test_tablets_are_good_where_conditional_writes_work_on_them() -> None:
    assert bad(SCYLLA._replace(server=Server(True, "2025.4.1"), has_tablets=True)) == []


async def test_a_single_node_is_told_what_it_lacks(open_executor: OpenExecutor, settings: ScyllaSettings) -> None:
    await open_executor()
    findings = {finding.subject: finding for finding in await examine(settings)}
    assert not findings["copies"].is_good
    assert findings["version"].is_good
    assert findings["replication"].is_good
    assert findings["minimum timestamps"].is_good
    assert "commitlog_sync" in findings


async def test_a_cluster_that_cannot_be_asked_is_the_one_finding(settings: ScyllaSettings) -> None:
    (finding,) = await examine(settings._replace(contact_points=("127.0.0.254",), port=9))
    assert not finding.is_good
    assert finding.is_needed
    assert "127.0.0.254:9" in finding.found
