"""What tests of chats ask all the time."""

from __future__ import annotations

from gateway.protocol.frames import decode
from gateway.protocol.messages import ChatChange, ChatChangeOk, ChatInfo, ChatInfoOk, Kind, Msg, Op, SystemBody
from tests.node.wire import Wire

ASKED_AT_MOST = 2000


def change(wire: Wire, chat_id: int, **fields: object) -> int:
    answer = wire.request(Op.CHAT_CHANGE, ChatChange(chat_id, **fields))  # type: ignore[arg-type]
    assert isinstance(answer, ChatChangeOk)
    return answer.version


def info(wire: Wire, chat_id: int) -> ChatInfoOk:
    answer = wire.request(Op.CHAT_INFO, ChatInfo(chat_id))
    assert isinstance(answer, ChatInfoOk)
    return answer


def system(row: Msg) -> SystemBody:
    assert (row.kind, row.sender_device, row.client_msg_id) == (Kind.SYSTEM, 0, bytes(16))
    return decode(SystemBody, row.body)


def chains(rows: list[Msg], before: int = 0) -> bool:
    """Each names the one before it."""
    return [row.prev_seq for row in rows] == [before, *(row.seq for row in rows[:-1])]


def wait_for_read(wire: Wire, chat_id: int, user_id: int, seq: int) -> bool:
    """Marks are folded for 100 ms before their owner hears them."""
    return any(
        entry.read_seq >= seq
        for _ in range(ASKED_AT_MOST)
        for entry in info(wire, chat_id).members
        if entry.user_id == user_id
    )
