"""Thousands of schedules of everything that can go wrong, and proof that the simulation finds each rule that is taken out.

A schedule that breaks names its seed; ``python -m tests.simulation --seed N --trace`` tells what happened in it.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.simulation.batches import Job, run_all
from tests.simulation.rules import all_rules
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.world import LIVENESS, simulate

SEEDS = 800
SLOW_SEEDS = 6_000
GROUPS = 8
HUNT = 600
"""Schedules within which a rule that is missing must be found."""
SLOW_HUNT = 3_000

RARE = frozenset({"adopt-ids", "adopt-ts", "head", "lookback"})
"""Rules that chance finds in one of 200 to 1,400 schedules: hunted for by the slow tests. Scripts show them in every run."""

NOT_FOUND = {
    "before": 600,
    "check-memory": 1_500,
    "check-base": 600,
    "adopt-same": 1_500,
    "members-after": 1_500,
    "fence-ts": 600,
    "pointer-first": 600,
    "pointer-again": 600,
    "repair": 1_500,
}
"""Rules whose absence chance has not shown, and in how many schedules. Scripts (``scenarios.py``) show the first five: each
needs three or four owners that die at the right moment, or a worker that is overtaken and hears just so much. The other four
break nothing by themselves, because another rule covers each (``COVERED`` says which and why); scripts show that both together
are needed."""

RULES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in RARE else [])
    for name in all_rules()
    if name not in NOT_FOUND
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
            check([verdict.seed])  # with the rule in place
            return
    pytest.fail(f"{hunt} schedules without “{all_rules()[name].sentence}” broke nothing")


def test_what_no_hunt_of_every_run_finds_a_script_shows() -> None:
    assert {rule for scenario in SCENARIOS for rule in scenario.rules} >= RARE | NOT_FOUND.keys()
