"""The delivery check of the hot benches: one comparison a message, for one device in one chat.

A bench knows that nothing is to be missed: its chats are new, its sessions stay connected. So what a device sees must
be one unbroken chain from the head at the start to the head at the end, and an unbroken chain that ends at the head
holds every message of it, once, in order (counters grow by one). ``delivery.DeliveryChecker`` judges the rest.
"""

from __future__ import annotations

from bench.violations import Rule, Violations, name_of
from gateway.protocol.identifiers import counter_of, epoch_of


class Chain:
    """What a device holds of a chat: everything from ``start`` to ``last``."""

    __slots__ = ("_found", "chat_id", "device_id", "last", "start")

    def __init__(self, device_id: int, chat_id: int, start: int, found: Violations) -> None:
        self.device_id = device_id
        self.chat_id = chat_id
        self.start = start
        self.last = start
        self._found = found

    def follow(self, prev_seq: int, seq: int) -> None:
        if prev_seq == self.last and seq == prev_seq + 1:
            self.last = seq
        elif seq > self.start:
            self._examine(prev_seq, seq)

    def _examine(self, prev_seq: int, seq: int) -> None:
        """The rare cases: a new epoch, or something wrong."""
        where = f"device {self.device_id}, chat {self.chat_id}: {name_of(seq)} (prev {name_of(prev_seq)})"
        if seq <= self.last:
            self._found.add(Rule.TWICE if seq == self.last else Rule.RISING, f"{where} after {name_of(self.last)}")
            return
        if counter_of(seq) != counter_of(prev_seq) + 1 or epoch_of(seq) < epoch_of(prev_seq):
            self._found.add(Rule.COUNTER, where)
        elif prev_seq != self.last:
            self._found.add(Rule.CHAIN, f"{where} after {name_of(self.last)}")
        self.last = seq

    def conclude(self, head: int) -> None:
        """All is quiet, and the newest acknowledged message is ``head``."""
        if self.last < head:
            evidence = f"device {self.device_id}, chat {self.chat_id}: has {name_of(self.last)} of {name_of(head)}"
            self._found.add(Rule.LOST, evidence)
