"""Scripts of what chance hardly ever finds: each holds with the rules in place, and breaks without those that it is about.

``python -m tests.simulation --script NAME --trace`` tells what happens in one.
"""

from __future__ import annotations

import pytest

from tests.simulation.rules import without
from tests.simulation.scenarios import COVERED, SCENARIOS, Scenario
from tests.simulation.scene import violations_of
from tests.simulation.world import LIVENESS


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: "+".join(scenario.rules))
def test_a_script_breaks_without_its_rules_and_not_with_one_of_them(scenario: Scenario) -> None:
    assert violations_of(scenario.script) == []
    for kept in scenario.rules:
        with without(*(rule for rule in scenario.rules if rule != kept)):
            assert violations_of(scenario.script) == [], f"{kept} alone does not prevent it"
    with without(*scenario.rules):
        assert set(violations_of(scenario.script)) - LIVENESS, "nothing broke"


def test_a_rule_that_another_covers_is_shown_together_with_it() -> None:
    pairs = {rule for scenario in SCENARIOS if len(scenario.rules) > 1 for rule in scenario.rules}
    shown_alone = {scenario.rules[0] for scenario in SCENARIOS if len(scenario.rules) == 1}
    assert COVERED.keys() <= pairs - shown_alone
