"""Thousands of schedules of everything that can go wrong, and proof that the simulation finds each rule that is taken out.

A schedule that breaks names its seed; ``python -m tests.simulation --seed N --trace`` tells what happened in it.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.simulation.batches import Job, run_all
from tests.simulation.rules import all_rules
from tests.simulation.world import LIVENESS, simulate

SEEDS = 800
SLOW_SEEDS = 6_000
GROUPS = 8
HUNT = 600
"""Schedules within which a rule that is missing must be found."""
SLOW_HUNT = 3_000

RARE = frozenset({"raise", "adopt-ids", "adopt-ts", "repair", "pointer", "epoch-ts", "head", "check-memory"})
"""Rules that a few schedules in a thousand need: hunted for longer, and not by every run."""

NEVER_FOUND = {
    "before": "a holder asks twice a second, so that only four lost answers in a row leave it with a late one",
    "check-base": "a chat that is not confirmed forms no batch: the head that moved too soon is seen by nobody",
    "adopt-same": "only a read that shows more or less than the one before, by an owner that lives on",
    "members-first": "only where member rows are lost and their owner ends before the next change",
    "pointer-ts": "the buckets' values rise as the clocks do, unless a clock is wrong by more than a takeover",
    "pointer-first": "the bucket is written with the rows, and one of the two must be lost alone",
    "pointer-again": "only where the bucket's raise was half written and its batch was not",
    "fence-ts": "no schedule has shown it, nor has one of the model that the rule comes from",
    "members-after": "no schedule has shown it, nor has one of the model that the rule comes from",
    "lookback": "a SEND must be late by more than its resend, and meet an owner that has forgotten the id",
}
"""Rules whose absence no schedule has shown yet, and what it would take."""

RULES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in RARE else [])
    for name in all_rules()
    if name not in NEVER_FOUND
]


def check(seeds: Iterable[int]) -> int:
    """SENDs answered."""
    answered = 0
    for verdict in run_all(Job(seed) for seed in seeds):
        answered += verdict.answered
        replay = f"python -m tests.simulation --seed {verdict.seed} --trace"
        assert not verdict.violations, f"{replay}: {verdict.violations[:3]}"
    return answered


@pytest.mark.parametrize("group", range(GROUPS))
def test_whatever_fails_no_promise_breaks_and_every_send_is_answered(group: int) -> None:
    assert check(range(group, SEEDS, GROUPS)) > 6 * SEEDS // GROUPS, "the schedules do nothing"


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_thousands_of_schedules_break_no_promise(group: int) -> None:
    check(range(SEEDS + group, SLOW_SEEDS, GROUPS))


def test_a_seed_is_a_schedule() -> None:
    one, other = simulate(5), simulate(5)
    assert one.agenda.now_s == other.agenda.now_s
    assert one.judge.claims == other.judge.claims
    assert [replica.keys() for replica in one.cluster.replicas] == [r.keys() for r in other.cluster.replicas]


@pytest.mark.parametrize("name", RULES)
def test_the_simulation_finds_a_rule_that_is_taken_out(name: str) -> None:
    hunt = SLOW_HUNT if name in RARE else HUNT
    for verdict in run_all(Job(seed, (name,)) for seed in range(hunt)):
        if any(one not in LIVENESS for one in verdict.violations):
            return
    pytest.fail(f"{hunt} schedules without “{all_rules()[name].sentence}” broke nothing")
