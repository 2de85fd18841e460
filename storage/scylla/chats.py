"""Chats and their members: making them once, completing what another began, reading.

Owns the tables ``chats``, ``members``, ``chats_by_user``, ``direct`` and ``created``. A chat is founded by one conditional write
of its key (the pair; the creator and their id); everything else follows from what that row says, so whoever finds it can
write the rest again. The chat's own row comes last: where it is, the others are at a quorum, and who finds a chat that is
whole writes nothing.

Rows of members know small timestamps only (the counter of the row that changed them), so a founding (counter 0) that is
completed years later undoes nothing.

Not seen: two foundings of different keys at the same time under the same chat id. Ids are drawn from 2^63.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from storage.api import Chat, ChatKind, Member, Membership, MembershipChange, StoreConflict, StoreTimedOut
from storage.scylla.parallel import chunks, for_each
from storage.scylla.ports import Executor, Statement, Value, Write
from storage.scylla.rows import chat_of, member_writes, pack_changes, unpack_changes
from storage.scylla.statements import (
    FOUND_DIRECT,
    FOUND_GROUP,
    KEYS_PER_READ,
    PUT_CHAT,
    READ_CHAT,
    READ_CHATS,
    READ_CHATS_BY_USER,
    READ_CREATED,
    READ_DIRECT,
    READ_MEMBERS,
)


def direct_chat(low: int, high: int, chat_id: int) -> MembershipChange:
    chat = Chat(chat_id, ChatKind.DIRECT, "", 1, 0)
    return MembershipChange(chat, [Member(user_id, 0, 0, 0, 0) for user_id in (low, high)])


class Chats:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    # ----------------------------------------------------------------------------------------------- founding

    async def create_direct(self, low: int, high: int, chat_id: int) -> int:
        found: list[Any] = await self._executor.read(READ_DIRECT, low, high)
        if not found:
            await self._check_free(chat_id)
            found = await self._found(Write(FOUND_DIRECT, (low, high, chat_id)), READ_DIRECT, (low, high))
        stored_id: int = found[0][0]
        await self._complete(direct_chat(low, high, stored_id))
        return stored_id

    async def create_group(self, creator: int, client_chat_id: bytes, founding: MembershipChange) -> Chat:
        key = (creator, client_chat_id)
        found: list[Any] = await self._executor.read(READ_CREATED, *key)
        if not found:
            chat_id = founding.chat.chat_id
            await self._check_free(chat_id)
            write = Write(FOUND_GROUP, (*key, chat_id, pack_changes([founding])))
            found = await self._found(write, READ_CREATED, key)
        (first,) = unpack_changes(bytes(found[0][1]))
        return await self._complete(first)

    async def _found(self, write: Write, read: Statement, key: tuple[Value, ...]) -> list[Any]:
        """The key's row, ours or an earlier one. An outcome that is unknown is asked for: the serial read ends what was under
        way. Nothing there: it may still come, so that the call is unknown as a whole."""
        try:
            await self._executor.decide([write])
        except StoreTimedOut:
            rows = await self._executor.read_serially(read, *key)
            if not rows:
                raise
            return rows
        return await self._executor.read_serially(read, *key)

    async def _check_free(self, chat_id: int) -> None:
        if await self._executor.read(READ_CHAT, chat_id):
            raise StoreConflict(f"chat id {chat_id} is taken")

    async def _complete(self, founding: MembershipChange) -> Chat:
        """The chat as it is now."""
        rows = await self._executor.read(READ_CHAT, founding.chat.chat_id)
        chat = chat_of(rows[0]) if rows else None
        if chat is not None:
            return chat
        await self._executor.write(member_writes(founding))
        await self._executor.write([Write(PUT_CHAT, (*founding.chat, founding.chat.changed_counter))])
        return founding.chat

    # ------------------------------------------------------------------------------------------------ reading

    async def chat(self, chat_id: int) -> Chat | None:
        rows = await self._executor.read(READ_CHAT, chat_id)
        return chat_of(rows[0]) if rows else None

    async def members(self, chat_id: int) -> list[Member]:
        """All that ever were in, by user."""
        rows: list[Any] = await self._executor.read(READ_MEMBERS, chat_id)
        return [Member._make(row) for row in rows]

    async def chats_of(self, user_id: int) -> list[Membership]:
        """By chat. One whose founding was not completed is not there yet."""
        rows: list[Any] = await self._executor.read(READ_CHATS_BY_USER, user_id)
        members = {chat_id: Member(user_id, *rest) for chat_id, *rest in rows}

        async def read_chats(chat_ids: Sequence[int]) -> list[Any]:
            return await self._executor.read(READ_CHATS, tuple(chat_ids))

        parts = await for_each(read_chats, chunks(sorted(members), KEYS_PER_READ))
        chats = [chat for part in parts for chat in map(chat_of, part) if chat is not None]
        return [Membership(chat, members[chat.chat_id]) for chat in sorted(chats)]
