"""The chain check of the hot benches."""

from __future__ import annotations

import pytest

from bench.chain import Chain
from bench.violations import Rule, Violations
from gateway.protocol.identifiers import seq_of


def rules_of(steps: list[tuple[int, int]], *, start: int = 0, head: int | None = None) -> list[Rule]:
    """The violations of a device that sees ``steps`` of (prev_seq, seq), and should end at ``head``."""
    found = Violations()
    chain = Chain(21, 77, start, found)
    for prev_seq, seq in steps:
        chain.follow(prev_seq, seq)
    if head is not None:
        chain.conclude(head)
    return [violation.rule for violation in found.kept]


ONE, TWO, THREE, FOUR = (seq_of(1, counter) for counter in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("steps", "start", "head", "rules"),
    [
        pytest.param([(ONE, TWO), (TWO, THREE)], ONE, THREE, [], id="an unbroken chain"),
        pytest.param([(0, ONE)], 0, ONE, [], id="the first message of a chat"),
        pytest.param([(0, ONE), (ONE, TWO)], ONE, TWO, [], id="a message of before the start"),
        pytest.param([(ONE, seq_of(5, 2))], ONE, seq_of(5, 2), [], id="a new epoch"),
        pytest.param([(TWO, THREE)], ONE, THREE, [Rule.CHAIN], id="a message left out"),
        pytest.param([(ONE, TWO), (ONE, TWO)], ONE, TWO, [Rule.TWICE], id="a message twice"),
        pytest.param([(ONE, TWO), (TWO, THREE), (ONE, TWO)], ONE, THREE, [Rule.RISING], id="an old message again"),
        pytest.param([(ONE, THREE)], ONE, THREE, [Rule.COUNTER], id="a counter left out"),
        pytest.param([(seq_of(2, 1), TWO)], seq_of(2, 1), None, [], id="an older epoch is below the start"),
        pytest.param([(ONE, TWO)], ONE, FOUR, [Rule.LOST], id="the end is missing"),
    ],
)
def test_a_chain_is_unbroken_or_says_where(
    steps: list[tuple[int, int]], start: int, head: int | None, rules: list[Rule]
) -> None:
    assert rules_of(steps, start=start, head=head) == rules


def test_one_gap_is_one_violation_and_the_chain_goes_on_from_there() -> None:
    assert rules_of([(TWO, THREE), (THREE, FOUR)], start=ONE, head=FOUR) == [Rule.CHAIN]
