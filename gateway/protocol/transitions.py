"""What may come when: the states of a session, the one table of transitions, and the class of every op of a client.

This file owns the order of things and nothing else: it does not read frames, and does not know which end it runs at.

Invariant: a session moves only along ``TRANSITIONS``. A step without an entry is a mistake of whoever took it.

Theory of operation
===================

Rule 1: the table does not know which end it describes. A step names who takes it (HELLO is the client's, WELCOME the
server's), so both ends of a connection run the same table over the same steps; ``Session`` only finds out, from its
side, whether a step is being sent or received.

Rule 2: the order of steps is that of the wire as this end saw it. The ends may differ for a moment (the client is in
CLOSING while the server's last push travels), which is why CLOSING takes every step and stays.

The states::

    GREETING --HELLO--> AUTHENTICATING --WELCOME--> LIVE --CLOSE or a last ERROR--> CLOSING --end--> CLOSED
                            |    ^
                   REFUSAL  v    |  HELLO
                          REGREETING

REFUSAL is an ERROR that answers HELLO and leaves the connection open: 204 most of all. A client may have sent frames
behind the refused HELLO already. They are neither lost nor an offence: the server keeps some of them until WELCOME.
That is the difference between REGREETING and GREETING, where everything but HELLO is refused.

While a HELLO is being judged a server must not take further frames: ``Session.next_event`` says PAUSED, and a kernel
that cuts frames by itself holds them back.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from gateway.protocol.frames import IGNORABLE
from gateway.protocol.messages import CLIENT_OPS, SERVER_OPS

if TYPE_CHECKING:
    from collections.abc import Mapping


class Side(enum.Enum):
    CLIENT = enum.auto()
    SERVER = enum.auto()


class State(enum.Enum):
    GREETING = enum.auto()
    AUTHENTICATING = enum.auto()
    REGREETING = enum.auto()
    LIVE = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


class Step(enum.Enum):
    """What happens on a connection, as the table sees it."""

    HELLO = enum.auto()
    REQUEST = enum.auto()
    """Any other op of a client, PING, PONG and unknown ones among them."""
    CLIENT_CLOSE = enum.auto()
    WELCOME = enum.auto()
    REFUSAL = enum.auto()
    """An ERROR before WELCOME that leaves the connection open."""
    PUSH = enum.auto()
    """Any other op of a server, replies among them."""
    SERVER_END = enum.auto()
    """The server's CLOSE, or an ERROR that ends the connection."""
    END = enum.auto()
    """The stream ended, from whichever end."""


_ALL_OF_PEERS = dict.fromkeys(Step, State.CLOSING) | {Step.END: State.CLOSED}

TRANSITIONS: Mapping[State, Mapping[Step, State]] = {
    State.GREETING: {
        Step.HELLO: State.AUTHENTICATING,
        Step.SERVER_END: State.CLOSING,
        Step.END: State.CLOSED,
    },
    State.AUTHENTICATING: {
        Step.REQUEST: State.AUTHENTICATING,
        Step.CLIENT_CLOSE: State.CLOSING,
        Step.WELCOME: State.LIVE,
        Step.REFUSAL: State.REGREETING,
        Step.SERVER_END: State.CLOSING,
        Step.END: State.CLOSED,
    },
    State.REGREETING: {
        Step.HELLO: State.AUTHENTICATING,
        Step.REQUEST: State.REGREETING,
        Step.CLIENT_CLOSE: State.CLOSING,
        Step.SERVER_END: State.CLOSING,
        Step.END: State.CLOSED,
    },
    State.LIVE: {
        Step.REQUEST: State.LIVE,
        Step.CLIENT_CLOSE: State.CLOSING,
        Step.PUSH: State.LIVE,
        Step.SERVER_END: State.CLOSING,
        Step.END: State.CLOSED,
    },
    State.CLOSING: _ALL_OF_PEERS,
    State.CLOSED: {Step.END: State.CLOSED},
}
"""The whole truth about order. What is not here is a mistake of whoever took the step."""


def transition(state: State, step: Step) -> State | None:
    """Where ``step`` leads from ``state``; None: it may not be taken there."""
    return TRANSITIONS[state].get(step)


# ------------------------------------------------------------------------------------------- ops from a client

LINK_OPS = range(0x80, 0x100)
"""Spoken between workers only; from a client they are unknown, IGNORABLE or not."""


class OpClass(enum.Enum):
    """What a server does with an op that a client sent."""

    CLIENT = enum.auto()
    """One of ours: read it."""
    IGNORE = enum.auto()
    """Unknown and marked IGNORABLE: skip the frame."""
    UNKNOWN = enum.auto()
    """Answer UNKNOWN_OP, if the frame has a rid."""


def _classify(op: int, *, is_ignorable: bool) -> OpClass:
    if op in CLIENT_OPS:
        return OpClass.CLIENT
    if op in SERVER_OPS or op in LINK_OPS or not is_ignorable:
        return OpClass.UNKNOWN
    return OpClass.IGNORE


_CLASS_OF_OP = tuple((_classify(op, is_ignorable=False), _classify(op, is_ignorable=True)) for op in range(0x100))


def classify_client_op(op: int, flags: int) -> OpClass:
    """How a server treats an op from a client once the session is live. ``op``: 0 … 255."""
    return _CLASS_OF_OP[op][flags & IGNORABLE]
