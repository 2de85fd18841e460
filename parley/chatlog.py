"""The order of one chat on this device: what was shown, what is held back, where something is missing.

Pure: no I/O, no clock. It must not know how a hole is read, nor what an entry means to the application.

Invariant: entries leave ``take`` and ``fill`` in rising seq, each once; an entry leaves only when everything visible
before it has left, was declared absent by a complete page of HISTORY, or was skipped on purpose.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple

from parley.events import LogEvent

MAX_HELD = 256
"""Entries of one chat that wait behind a hole. What comes beyond is not kept: the log has it."""


class Entry(NamedTuple):
    seq: int
    prev_seq: int
    event: LogEvent


class Hole(NamedTuple):
    """The bounds to ask HISTORY for (exclusive), and the seq up to which nothing is missing once that is complete."""

    after_seq: int
    before_seq: int | None
    closes_at: int


class ChatLog:
    """``shown`` is None while it is not known where this device stands in the chat: everything is then held until
    ``settle``.
    """

    __slots__ = ("_gap_after", "_held", "_noted", "shown")

    def __init__(self, shown: int | None = None) -> None:
        self.shown = shown
        self._held: list[Entry] = []
        self._noted = 0  # something up to this seq exists that is neither shown nor held
        self._gap_after: int | None = None

    @property
    def held_count(self) -> int:
        return len(self._held)

    def add(self, entry: Entry) -> None:
        """A message came, in whatever order. A repeated one is dropped."""
        if self.shown is not None and entry.seq <= self.shown:
            return
        if any(entry.seq == other.seq for other in self._held):
            return
        insort(self._held, entry, key=_seq_of)
        if len(self._held) > MAX_HELD:
            self.note(self._held.pop().seq)

    def note(self, seq: int) -> None:
        """Something up to ``seq`` exists and is not here: the server left it out, or there was no room for it."""
        self._noted = max(self._noted, seq)

    def note_gap(self, after_seq: int, before_seq: int) -> None:
        """GAP, to be filled: messages between the two exist and were not sent."""
        self.note(before_seq - 1)
        if self.shown is None and (self._gap_after is None or after_seq < self._gap_after):
            self._gap_after = after_seq

    def skip_gap(self, before_seq: int) -> bool:
        """GAP, not to be filled: go on at ``before_seq``. False if that place was passed already."""
        if self.shown is not None and self.shown >= before_seq - 1:
            return False
        self.shown = before_seq - 1
        self._held = [entry for entry in self._held if entry.seq >= before_seq]
        return True

    def settle(self, head_seq: int = 0) -> None:
        """Nothing older than what came will come by itself. A log that did not know its place takes it from the oldest
        gap or predecessor that was named, else from ``head_seq``: everything up to there is the server's record of what
        this device has.
        """
        if self.shown is None:
            named = [] if self._gap_after is None else [self._gap_after]
            named += [entry.prev_seq for entry in self._held[:1]]
            self.shown = min(named, default=head_seq)

    def take(self) -> list[Entry]:
        """What may be shown now."""
        if self.shown is None:
            return []
        count = 0
        for entry in self._held:
            if entry.prev_seq > self.shown:
                break
            self.shown = max(self.shown, entry.seq)
            count += 1
        ready, self._held = self._held[:count], self._held[count:]
        return ready

    @property
    def hole(self) -> Hole | None:
        """What to read next from the log; None if nothing is known to be missing. Ask after ``take``."""
        if self.shown is None:
            return None
        if self._held:
            first = self._held[0]
            return Hole(self.shown, first.seq, first.prev_seq)
        if self._noted > self.shown:
            return Hole(self.shown, None, self._noted)
        return None

    def fill(self, hole: Hole, page: Sequence[Entry], is_complete: bool) -> list[Entry]:
        """A page of HISTORY for ``hole``, oldest first. Gives what may be shown now; more pages may be due."""
        shown = hole.after_seq if self.shown is None else self.shown
        ready = [entry for entry in page if entry.seq > shown]
        if ready:
            shown = ready[-1].seq
        self.shown = max(shown, hole.closes_at) if is_complete else shown
        self._held = [entry for entry in self._held if entry.seq > shown]
        return ready + self.take()


def _seq_of(entry: Entry) -> int:
    return entry.seq
