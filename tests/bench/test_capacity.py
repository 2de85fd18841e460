"""The arithmetic of a region: its inputs are the code's, its formulas hold against throws of dice, its claims hold."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bench.capacity import chance, connections, cpu, directory, store, traffic
from bench.capacity.page import TABLES, markdown
from bench.capacity.region import Region, inputs, with_inputs
from bench.cli import app
from bench.faults import BenchError
from bench.report import EXIT_FAILED
from gateway.chat import marks
from gateway.chat.request import Mark
from gateway.cluster import belief, links, locations
from gateway.cluster.directory import WorkerRecord
from gateway.cluster.placement import Placement
from gateway.cluster.wire import acked_frame, link_frame, push_frame
from gateway.config import SessionConfig
from gateway.protocol.frames import encode_body
from gateway.protocol.identifiers import WorkerId
from storage.api import RESEND_DAYS, SLOTS
from storage.redis import lua
from storage.redis.records import pack_member
from storage.scylla import statements
from storage.scylla.grouping import MAX_GROUP_ROWS, Call, Grouping, Unit
from storage.scylla.settings import ScyllaSettings

REGION = Region()


def at(nodes: int) -> Region:
    """So many nodes of the same load."""
    scale = nodes / REGION.nodes
    return replace(
        REGION, nodes=nodes, connections=REGION.connections * scale, messages_per_s=REGION.messages_per_s * scale
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slots", SLOTS),
        ("slots_per_part", statements.SLOTS_PER_PART),
        ("parts_per_read", statements.KEYS_PER_READ),
        ("belief_questions_per_s", 1 / belief.ASK_EVERY_S),
        ("write_behind_s", marks.RECEIPT_PERIOD_S * marks.WRITES_PER_RECEIPTS),
        ("linger_s", ScyllaSettings().linger_s),
        ("replicas", ScyllaSettings().replication_factor),
        ("located_users", locations.MAX_USERS),
        ("tick_s", links.TICK_S),
        ("worker_beats_per_s", 1 / lua.BEAT_S),
        ("resend_days", RESEND_DAYS),
        ("keepalive_s", SessionConfig().keepalive_default_s),
    ],
)
def test_an_input_that_is_a_constant_of_the_code_has_its_value(name: str, value: float) -> None:
    assert getattr(REGION, name) == pytest.approx(value)


def test_link_frames_are_as_large_as_the_wire_makes_them() -> None:
    message = b"m" * 150
    assert len(link_frame(0x80, 1, b"")) == traffic.LINK_HEAD_BYTES
    head = traffic.LINK_HEAD_BYTES + traffic.PUSH_HEAD_BYTES
    assert len(push_frame(7, [(1, 2), (3, 4)], message)) == head + 2 * traffic.RECIPIENT_BYTES + len(message)
    assert len(acked_frame(1, 1)) == traffic.LINK_HEAD_BYTES + traffic.ACKNOWLEDGEMENT_BYTES
    assert abs(len(encode_body(Mark(1 << 62, 1 << 41, 1 << 41))) - traffic.MARK_BYTES) <= 6


def test_a_workers_record_is_as_large_as_the_directory_makes_it() -> None:
    record = WorkerRecord(
        WorkerId(100 << 10 | 16), 1, "/var/lib/parley/run/16-12345678.sock", False, "10.20.30.40:7916"
    )
    assert len(pack_member(record, b"t" * 10)) + len("w102416") == pytest.approx(REGION.roster_record_bytes, abs=25)


@given(places=st.integers(1, 500), things=st.integers(0, 500))
def test_different_places_are_never_more_than_places_or_things(places: int, things: int) -> None:
    expected = chance.expected_distinct(places, things)
    assert 0 <= expected <= min(places, things) + 1e-6


@pytest.mark.parametrize(("places", "things"), [(1, 5), (48, 255), (160, 255), (1600, 255), (1600, 10)])
def test_the_expected_number_of_different_places_is_the_simulated_one(places: int, things: int) -> None:
    simulated = chance.simulated_distinct(places, things, rounds=200, seed=3)
    assert chance.expected_distinct(places, things) == pytest.approx(simulated, rel=0.02)


def test_the_simulated_spread_of_slots_is_that_of_the_real_placement() -> None:
    placement = Placement([WorkerRecord(WorkerId(number), 1, "", False) for number in range(1, 101)])
    held = Counter(placement.owner_of(slot) for slot in range(SLOTS))
    fullest, empty = chance.simulated_shares(100, SLOTS, rounds=10, seed=1)
    assert max(held.values()) * 100 / SLOTS == pytest.approx(fullest, abs=0.15)
    assert (len(held) < 100) == (empty > 0)


@given(rate=st.floats(0.001, 1000), fold_s=st.floats(0.001, 1000))
def test_folding_leaves_at_most_what_there_was_and_one_per_period(rate: float, fold_s: float) -> None:
    assert 0 < chance.events_per_s(rate, fold_s) <= min(rate, 1 / fold_s) * (1 + 1e-9)


def test_a_direct_message_costs_as_many_link_frames_on_ten_nodes_as_on_a_thousand() -> None:
    few, many = (traffic.link_frames(replace(at(nodes), group_share=0.0)).total for nodes in (10, 1000))
    assert many == pytest.approx(few, rel=0.01)


def test_the_copies_of_a_group_message_end_at_the_size_of_the_group() -> None:
    counts = [traffic.copies(at(nodes), REGION.group_recipients) for nodes in (3, 10, 100, 1000)]
    assert counts == sorted(counts)
    assert 250 < counts[-1] < REGION.group_recipients


def test_links_grow_with_the_square_of_the_nodes() -> None:
    few, many = (connections.link_load(at(nodes)).in_region for nodes in (10, 100))
    assert many == pytest.approx(100 * few, rel=0.01)


def test_a_request_holds_as_many_rows_as_the_store_allows() -> None:
    assert store.MAX_ROWS == MAX_GROUP_ROWS


def test_one_worker_forwards_nothing_and_copies_nothing() -> None:
    alone = replace(REGION, nodes=1, workers_per_node=1)
    assert traffic.link_frames(alone).total == 0
    assert traffic.link_rates(alone).bytes == 0


def test_look_ups_follow_the_moves_where_messages_are_many() -> None:
    usual = directory.directory_load(REGION).lookups
    assert directory.directory_load(replace(REGION, messages_per_s=4e6)).lookups == pytest.approx(usual, rel=0.05)
    assert directory.directory_load(replace(REGION, session_s=900)).lookups == pytest.approx(2 * usual, rel=0.05)


def test_a_worker_that_cannot_keep_all_its_places_looks_up_what_it_forgot() -> None:
    few = directory.directory_load(replace(REGION, nodes=10))
    assert few.located_per_worker > REGION.located_users
    assert few.lookups > 10 * directory.directory_load(REGION).lookups


def test_requests_of_a_small_cluster_are_full_and_those_of_a_large_one_hold_a_row_each() -> None:
    small = Region(nodes=1, workers_per_node=2, scylla_nodes=1, replicas=1, messages_per_s=20_000, scylla_tokens=1)
    assert store.appends(small).rows_per_request > 30
    assert store.appends(REGION).rows_per_request < 1.3


def test_rows_of_one_coordinator_meet_as_often_as_in_the_real_grouping() -> None:
    draw = random.Random(5)
    grouping = Grouping(lambda key: draw.sample(range(24), 3))
    call = Call(lambda error: None)
    for _ in range(30):
        call.expect(1)
        assert grouping.add(Unit(call, b"", []), 0.0) is None
    assert len(grouping.pop_all()) == pytest.approx(chance.expected_groups(30, 24, 3), rel=0.25)


@given(things=st.integers(1, 300))
def test_one_coordinator_collects_more_than_one_set_of_replicas(things: int) -> None:
    assert store.by_nothing(REGION, things) <= store.by_coordinator(REGION, things) + 1e-9
    assert store.by_coordinator(REGION, things) <= store.by_replica_set(REGION, things) + 1e-9


def test_a_node_s_cores_are_the_sum_of_their_parts() -> None:
    used = cpu.node_cores(REGION)
    assert used.total == pytest.approx(sum(used))
    assert min(used) > 0


def test_every_input_says_its_source() -> None:
    for each in inputs(REGION):
        assert each.source.startswith(("given", "assumed", "the code: ", "measured: ", "published: ")), each


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_as_many_cells_in_every_row_as_in_its_head(name: str) -> None:
    lines = markdown(TABLES[name](REGION)).splitlines()
    assert len(lines) > 3
    assert len({line.count("|") for line in lines}) == 1


def test_other_numbers_can_be_put_in() -> None:
    assert with_inputs(["nodes=200", "group_share=0"]) == replace(REGION, nodes=200.0, group_share=0.0)
    printed = CliRunner().invoke(app, ["capacity", "node", "--set", "connections=300"])
    assert (printed.exit_code, "| connections | 3 |" in printed.output) == (0, True)


@pytest.mark.parametrize(("setting", "said"), [("nodez=3", "did you mean nodes"), ("nodes=many", "INPUT=NUMBER")])
def test_an_input_that_is_none_is_refused_with_the_mend(setting: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        with_inputs([setting])
    refused = CliRunner().invoke(app, ["capacity", "--set", setting])
    assert (refused.exit_code, said in refused.output) == (EXIT_FAILED, True)
