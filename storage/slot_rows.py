"""When a slot's row is still what its next owner saw: the comparison of every backend's compare-and-set."""

from __future__ import annotations

from gateway.protocol.identifiers import WorkerId
from storage.api import SlotRow

NEVER = SlotRow(0, WorkerId(0), 0, True)
"""Of a slot that nobody ever acquired, which has no row."""


def is_as_seen(stored: SlotRow | None, seen: SlotRow | None) -> bool:
    """A missing row and one of epoch 0 are the same."""
    return stored == seen or max((stored or NEVER).epoch, (seen or NEVER).epoch) == 0
