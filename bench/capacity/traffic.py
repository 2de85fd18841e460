"""Messages: what goes from worker to worker, in frames and bytes, and what the workers' CPU makes of it."""

from __future__ import annotations

from typing import NamedTuple

from bench.capacity.chance import events_per_s, expected_distinct
from bench.capacity.region import Region
from gateway.protocol.frames import encode
from gateway.protocol.messages import Ack, Cursor, Msg, Op, Receipt, Send, Sent

# Of gateway/cluster/wire.py and routing.py, which a bench may not import; a test compares them.
LINK_HEAD_BYTES = 12
REQUEST_HEAD_BYTES = 26
PUSH_HEAD_BYTES = 12
RECIPIENT_BYTES = 16
ACKNOWLEDGEMENT_BYTES = 16
MARK_BYTES = 22
_ID = 1 << 62
_SEQ = (1 << 40) + 100_000
_TIME_MS = 1_700_000_000_000


class Frames(NamedTuple):
    """Sizes of client frames, in bytes."""

    send: int
    sent: int
    msg: int
    ack: int
    receipt: int


class LinkFrames(NamedTuple):
    """Between different workers, per message."""

    forwards: float
    answers: float
    copies: float
    marks: float
    receipts: float

    @property
    def total(self) -> float:
        return sum(self)


class LinkRates(NamedTuple):
    """Of the whole region, per second, acknowledgements of the pushes included."""

    frames: float
    acknowledgements: float
    bytes: float
    """Packets' heads included: at these rates every frame is a packet of its own."""


def client_frames(region: Region) -> Frames:
    body = b"." * int(region.body_bytes)
    send = Send(_ID, b"i" * 16, 0, body)
    message = Msg(_ID, _SEQ, _SEQ - 1, _ID, _ID, _TIME_MS, 0, body, b"i" * 16)
    return Frames(
        send=len(encode(Op.SEND, send, rid=1)),
        sent=len(encode(Op.SENT, Sent(_ID, _SEQ, _TIME_MS, False, _SEQ - 1), rid=1)),
        msg=len(encode(Op.MSG, message)),
        ack=len(encode(Op.ACK, Ack([Cursor(_ID, _SEQ)]))),
        receipt=len(encode(Op.RECEIPT, Receipt(_ID, 0, _SEQ, _ID))),
    )


def elsewhere(region: Region) -> float:
    """The probability that one worker of all is not a given one."""
    return 1 - 1 / region.workers


def copies(region: Region, recipients: float) -> float:
    """Of a message, from its owner to other workers: one for each that holds a recipient."""
    return expected_distinct(region.workers, recipients) * elsewhere(region)


def link_frames(region: Region) -> LinkFrames:
    away = elsewhere(region)
    direct = 1 - region.group_share
    marks = 1 + region.read_share
    return LinkFrames(
        forwards=away,
        answers=away,
        copies=direct * copies(region, 1) + region.group_share * copies(region, region.group_recipients),
        marks=region.recipients * marks * away,
        receipts=direct * marks * away,
    )


def link_rates(region: Region) -> LinkRates:
    frames, sizes = link_frames(region), client_frames(region)
    pairs = region.workers * (region.workers - 1)
    pushes_per_pair = region.messages_per_s * frames.copies / pairs if pairs else 0.0
    acknowledgements = pairs * events_per_s(pushes_per_pair, region.tick_s)
    packet = LINK_HEAD_BYTES + 1.5 * region.packet_bytes
    per_message = (
        frames.forwards * (REQUEST_HEAD_BYTES + sizes.send)
        + frames.answers * sizes.sent
        + frames.copies * (PUSH_HEAD_BYTES + sizes.msg)
        + region.recipients * elsewhere(region) * RECIPIENT_BYTES
        + frames.marks * (REQUEST_HEAD_BYTES + MARK_BYTES)
        + frames.receipts * (PUSH_HEAD_BYTES + RECIPIENT_BYTES + sizes.receipt)
        + frames.total * packet
    )
    acknowledgement = packet + ACKNOWLEDGEMENT_BYTES
    return LinkRates(
        frames=region.messages_per_s * frames.total + acknowledgements,
        acknowledgements=acknowledgements,
        bytes=region.messages_per_s * per_message + acknowledgements * acknowledgement,
    )


def share_between_nodes(region: Region) -> float:
    """Of what goes between workers: what leaves the node."""
    return (region.workers - region.workers_per_node) / max(1.0, region.workers - 1)


def client_bytes_per_s(region: Region) -> tuple[float, float]:
    """(in, out) of the whole region: messages, answers, marks and receipts, each in a packet of its own."""
    sizes, packet = client_frames(region), 1.5 * region.packet_bytes
    marks = region.deliveries_per_s * (1 + region.read_share)
    receipts = region.messages_per_s * (1 - region.group_share) * (1 + region.read_share)
    received = region.messages_per_s * (sizes.send + packet) + marks * (sizes.ack + packet)
    sent = (
        region.messages_per_s * (sizes.sent + packet)
        + region.deliveries_per_s * (sizes.msg + packet)
        + receipts * (sizes.receipt + packet)
    )
    return received, sent


def extra_copies(region: Region) -> float:
    """Per message: those beyond the one that a direct message has (and that ``message_us`` holds already)."""
    return max(0.0, link_frames(region).copies - copies(region, 1))


def extra_marks(region: Region) -> float:
    """Per message: those of a group's members, beyond the one of a direct chat's."""
    return max(0.0, region.recipients - 1) * (1 + region.read_share)
