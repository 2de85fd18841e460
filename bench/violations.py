"""What the delivery checks report: the rule that was broken, and the evidence in one line.

Owns the names of the rules and a bounded list of what was found. It must not know how anything is checked. Invariant:
every violation is counted, however many there are; only the evidence of the first ``limit`` is kept.
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import NamedTuple

from gateway.protocol.identifiers import counter_of, epoch_of


class Rule(enum.Enum):
    LOST = "an acknowledged message is missing"
    TWICE = "a message is there twice"
    CONTENT = "a message has other content than was sent"
    INVENTED = "a message that nobody sent"
    ORDER = "two accounts of one place in a log differ"
    RISING = "a session was shown a lower seq after a higher one"
    CHAIN = "prev_seq does not name the previous message"
    COUNTER = "a counter did not grow by one, or an epoch fell"
    DUPLICATE = "a resend was not answered as the message that it repeats"
    PHANTOM = "a view showed what the final log lacks"
    SYNC = "a SYNC ended before all was sent"
    LAGGED = "a live message came between LAGGED and the next SYNC"
    ENDED = "a session ended that nobody ended"
    LATE = "a message did not arrive in time"


class Violation(NamedTuple):
    rule: Rule
    evidence: str

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.rule.value}: {self.evidence}"


class Violations:
    """A list of violations with a bound on what it keeps."""

    def __init__(self, limit: int = 200) -> None:
        self._limit = limit
        self.kept: list[Violation] = []
        self.counts: Counter[Rule] = Counter()

    def add(self, rule: Rule, evidence: str) -> None:
        self.counts[rule] += 1
        if len(self.kept) < self._limit:
            self.kept.append(Violation(rule, evidence))

    def __len__(self) -> int:
        return self.counts.total()

    def lines(self, limit: int = 20) -> list[str]:
        shown = [str(violation) for violation in self.kept[:limit]]
        hidden = len(self) - len(shown)
        return [*shown, f"... and {hidden} more"] if hidden else shown


def name_of(seq: int) -> str:
    """A seq as a person reads it: epoch.counter."""
    return f"{epoch_of(seq)}.{counter_of(seq)}"
