"""The values that the kernel and its twin share: event numbers, sweep reasons, statistics, the one error.

It must not know how either works. Invariant: a caller sees the same objects whichever of the two it runs on.
"""

from __future__ import annotations

from typing import NamedTuple

ACCEPTED, CLOSED, DRAINED, TOO_SHORT, TOO_LARGE = 256, 257, 258, 259, 260
GREETING_EXPIRED, SILENT, STALLED = 1, 2, 3

Event = tuple[int, int, int, bytes]
"""(ConnId, op or event number, tag, body)."""


class KernelFull(Exception):
    """``adopt`` beyond ``max_connections``; the socket stays the caller's."""


class KernelStatistics(NamedTuple):
    connections: int
    accepted: int
    refused: int
    closed: int
    frames_in: int
    bytes_in: int
    frames_out: int
    bytes_out: int
    auto_replies: int
    recv_calls: int
    send_calls: int
    outbox_bytes: int
    input_bytes: int
    muted: int
    dropped_frames: int
    slab_bytes: int
    accept_failures: int
