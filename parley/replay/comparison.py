"""What was sent beside what was read back: message by message, author, text and order.

Pure, and linear in the number of messages. Invariant: no difference means that both sides are equal, element by
element.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

EXCERPT_CHARACTERS = 60


class Spoken(NamedTuple):
    """A message as both sides know it."""

    author: str
    kind: int
    text: str

    def __str__(self) -> str:
        excerpt = self.text if len(self.text) <= EXCERPT_CHARACTERS else self.text[:EXCERPT_CHARACTERS] + "…"
        return f"{self.author}: {excerpt!r}"


class Difference(NamedTuple):
    """``position`` counts from 1, in what was sent, or, for what was never sent, in what was read."""

    position: int
    description: str

    def __str__(self) -> str:
        return f"message {self.position}: {self.description}"


def compare(sent: Sequence[Spoken], read: Sequence[Spoken]) -> list[Difference]:
    """Every difference: messages missing from ``read``, messages that nobody sent, and those out of order.

    A changed message is one missing and one that nobody sent. The order is compared of what both sides hold, so that
    one lost message is one difference, not a shift of all that follow.
    """
    if list(sent) == list(read):
        return []
    kept_sent, missing = _without(sent, Counter(sent) - Counter(read))
    kept_read, foreign = _without(read, Counter(read) - Counter(sent))
    differences = [Difference(position, f"is missing: {spoken}") for position, spoken in missing]
    differences += [Difference(position, f"was read, and nobody sent it: {spoken}") for position, spoken in foreign]
    for (position, expected), (_, found) in zip(kept_sent, kept_read, strict=True):
        if expected != found:
            differences.append(Difference(position, f"out of order: expected {expected}, read {found}"))
    return differences


_Numbered = tuple[int, Spoken]


def _without(messages: Sequence[Spoken], surplus: Counter[Spoken]) -> tuple[list[_Numbered], list[_Numbered]]:
    """Split into what both sides hold and the surplus, each message with its position. Of equal ones the last are
    surplus.
    """
    kept: list[_Numbered] = []
    taken: list[_Numbered] = []
    for position in range(len(messages), 0, -1):
        spoken = messages[position - 1]
        if surplus[spoken] > 0:
            surplus[spoken] -= 1
            taken.append((position, spoken))
        else:
            kept.append((position, spoken))
    return kept[::-1], taken[::-1]
