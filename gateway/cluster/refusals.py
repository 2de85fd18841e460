"""What went wrong between this process and others: counted always, logged so that a flood of it is a line now and then.

Owns the counts by reason and what was logged last. Invariant: the first failure of a kind is logged at once; every failure is
counted, and the next line of its kind says how many went without one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

import structlog

from gateway.cluster.handshake import Reason

LOG_EVERY_S = 5.0
MAX_KINDS = 1024
"""Pairs of reason and peer; the one that failed longest ago is forgotten, and may be logged again too soon."""

log = structlog.get_logger(__name__)


class Refusals:
    def __init__(self, now_s: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self._now_s = now_s
        self._kinds: OrderedDict[tuple[Reason, str], tuple[float, int]] = OrderedDict()
        """When it was logged, and how often it happened since."""

    def note(self, reason: Reason, peer: str, text: str) -> None:
        """``peer``: whom it concerns, as far as is known; an unproven peer's own words do not belong in it."""
        self.counts[reason.value] += 1
        kind, now_s = (reason, peer), self._now_s()
        logged_s, unlogged = self._kinds.get(kind, (now_s - LOG_EVERY_S, 0))
        is_due = now_s - logged_s >= LOG_EVERY_S
        self._kinds[kind] = (now_s, 0) if is_due else (logged_s, unlogged + 1)
        self._kinds.move_to_end(kind)
        if len(self._kinds) > MAX_KINDS:
            self._kinds.popitem(last=False)
        if is_due:
            log.warning("link_failed", reason=reason.value, peer=peer, detail=text, unlogged=unlogged)
