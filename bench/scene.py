"""The scene of a bench: who is connected, and which chats they share. Made through the protocol itself.

Owns the set-up and nothing of the measuring. Every chat comes with the head that it has before the first message: where
the chains of its members begin.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from bench.generator import Generator
from bench.session import Session, request_all
from gateway.protocol.messages import ChatCreate, ChatCreateOk, ChatInfo, ChatInfoOk, ChatOpen, ChatOpenOk, Op


class Chat(NamedTuple):
    chat_id: int
    head_seq: int
    senders: Sequence[Session]
    members: Sequence[Session]
    """All of them, the senders too."""


def open_pairs(generator: Generator, sessions: Sequence[Session], *, do_both_send: bool) -> list[Chat]:
    """Neighbours in ``sessions`` become pairs; the first of each sends."""
    pairs = list(zip(sessions[::2], sessions[1::2], strict=True))
    opened = request_all(generator, [(a, Op.CHAT_OPEN, ChatOpen(b.user_id)) for a, b in pairs], ChatOpenOk)
    heads = _heads(generator, [(a, ok.chat_id) for (a, _), ok in zip(pairs, opened, strict=True)])
    return [
        Chat(ok.chat_id, head, pair if do_both_send else pair[:1], pair)
        for pair, ok, head in zip(pairs, opened, heads, strict=True)
    ]


def create_group(generator: Generator, sender: Session, members: Sequence[Session]) -> Chat:
    """One group of ``members`` and the sender, who is its creator."""
    create = ChatCreate(secrets.token_bytes(16), "fan-out", [member.user_id for member in members])
    (created,) = request_all(generator, [(sender, Op.CHAT_CREATE, create)], ChatCreateOk)
    (head,) = _heads(generator, [(sender, created.chat_id)])
    return Chat(created.chat_id, head, [sender], [sender, *members])


def _heads(generator: Generator, chats: Sequence[tuple[Session, int]]) -> list[int]:
    asked = [(session, Op.CHAT_INFO, ChatInfo(chat_id)) for session, chat_id in chats]
    return [reply.head_seq for reply in request_all(generator, asked, ChatInfoOk)]
