"""The identifiers of the protocol, and the arithmetic of a seq.

A seq is ``epoch (23 bits) << 40 | counter (40 bits)``: the epoch names one tenure of a chat's owner, the counter the
row in the log. Clients only compare seqs; the server alone takes them apart, with the functions below.
"""

from __future__ import annotations

from typing import NewType

UserId = NewType("UserId", int)
DeviceId = NewType("DeviceId", int)
ChatId = NewType("ChatId", int)
SessionId = NewType("SessionId", int)
Seq = NewType("Seq", int)
Epoch = NewType("Epoch", int)
ConnId = NewType("ConnId", int)
WorkerId = NewType("WorkerId", int)

ID_LIMIT = 1 << 63
"""Ids, seqs and times lie below this."""

COUNTER_BITS = 40
COUNTER_MASK = (1 << COUNTER_BITS) - 1
EPOCH_LIMIT = 1 << 23

WORKER_BITS = 10


def worker_of(node: int, number: int) -> WorkerId:
    """The id of a node's worker, unique in a cluster; ``number`` from 1 on, node 0: a node without a cluster."""
    return WorkerId(node << WORKER_BITS | number)


def node_of(worker_id: int) -> int:
    return worker_id >> WORKER_BITS


def seq_of(epoch: int, counter: int) -> Seq:
    return Seq(epoch << COUNTER_BITS | counter)


def epoch_of(seq: int) -> Epoch:
    return Epoch(seq >> COUNTER_BITS)


def counter_of(seq: int) -> int:
    return seq & COUNTER_MASK
