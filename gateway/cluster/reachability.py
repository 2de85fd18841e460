"""Is a peer's process gone? What our attempts to connect say about it.

Owns the evidence of one incarnation. Invariant: only a refusal is evidence. A host that does not answer may be cut off with its
process alive; a refusal comes from the living system of its host, which says that nobody listens there. A process listens
before anybody is told of it, until it ends, and its incarnation never comes back: so refusals that went on for
``REFUSED_S`` stay true. (A firewall that rejects, not drops, speaks as that system would: see docs/links.md.)
"""

from __future__ import annotations

REFUSED_S = 0.3
"""Longer than a listener takes to be replaced, shorter than anybody waits for a chat."""


class Reachability:
    __slots__ = ("_last_s", "_since_s")

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._last_s = 0.0

    def refused(self, now_s: float) -> None:
        if self._since_s is None:
            self._since_s = now_s
        self._last_s = now_s

    def not_refused(self) -> None:
        """A connection was accepted, or failed in a way that says nothing of the process."""
        self._since_s = None

    @property
    def is_gone(self) -> bool:
        return self._since_s is not None and self._last_s - self._since_s >= REFUSED_S
