"""The heads of many chats of one user at once: what SYNC and CHAT_LIST ask a chat's owner.

Owns the promise behind SYNC: a head is named to a session's worker only after that worker is among the places to which
the chat's messages go, so that whatever is newer than the head comes live. No chat is loaded for it: heads of chats that
nobody writes to are read from the store in one go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from gateway.chat.actor import REPEAT_MS
from gateway.chat.actors import Actors
from gateway.chat.ports import Tenure
from gateway.chat.queries import NO_MARK
from gateway.protocol.identifiers import ChatId, epoch_of
from storage.api import MessageStore, slot_of


class HeadsWish(msgspec.Struct, array_like=True, gc=False):
    user_id: int
    device_id: int
    chats: list[tuple[int, int]]
    """(chat, 1 if the device has set its record of this chat itself, else 0)."""


class HeadEntry(msgspec.Struct, array_like=True, gc=False):
    chat_id: int
    head_seq: int
    time_ms: int
    cursor_seq: int
    """What the device has acknowledged and the store may not know yet; 0: nothing."""
    read_seq: int
    """Likewise the user's read mark."""


class HeadsOk(msgspec.Struct, array_like=True, gc=False):
    entries: list[HeadEntry]


async def read_heads(actors: Actors, store: MessageStore, tenures: Mapping[int, Tenure], wish: HeadsWish) -> HeadsOk:
    """Heads of chats whose slots this worker holds, under these tenures by slot. Raises StoreError, SlotLost."""
    device = (wish.user_id, wish.device_id)
    for chat_id, is_set in wish.chats:
        if is_set:
            actors.marks.forget_cursor(device, chat_id)
    cold = [ChatId(chat_id) for chat_id, _ in wish.chats if actors.loaded(ChatId(chat_id)) is None]
    stored = await store.heads({chat_id: tenures[slot_of(chat_id)].epoch for chat_id in cold}) if cold else {}
    for chat_id, head in stored.items():
        tenure = tenures[slot_of(chat_id)]
        if tenure.is_inherited and epoch_of(head.seq) < tenure.epoch and head.time_ms > actors.now_ms() - REPEAT_MS:
            actors.wake(chat_id, tenure)
    return HeadsOk([_entry(actors, device, ChatId(chat_id), stored) for chat_id, _ in wish.chats])


def _entry(
    actors: Actors, device: tuple[int, int], chat_id: ChatId, stored: Mapping[ChatId, Sequence[int]]
) -> HeadEntry:
    user_id = device[0]
    actor = actors.loaded(chat_id)  # again: it may have been loaded while the store was read, and know more
    cursor = actors.marks.pending_cursor(device, chat_id)
    if actor is not None:
        mark = actor.marks.get(user_id, NO_MARK)
        return HeadEntry(chat_id, actor.head, actor.head_time_ms, cursor, mark.read_seq)
    head_seq, time_ms = stored.get(chat_id, (0, 0))
    pending = actors.marks.pending_watermark(chat_id, user_id)
    return HeadEntry(chat_id, head_seq, time_ms, cursor, pending.read_seq if pending else 0)
