"""Making chats, and listing them."""

from __future__ import annotations

import pytest
import trio

from gateway.protocol.identifiers import ChatId, UserId
from storage.api import Chat, Member, Membership, Store, StoreConflict
from tests.storage.backends import Stores
from tests.storage.logs import CHAT, HIGH, LOW, id_of

GROUP = Chat(CHAT, 1, "Ünïcode títle ✨", 1, 0)
MEMBERS = [Member(LOW, 1, 0, 0, 0), Member(HIGH, 0, 0, 0, 0)]


async def test_a_direct_chat_has_both_as_members_from_the_start(stores: Stores) -> None:
    assert await stores.one.create_direct(LOW, HIGH, CHAT) == CHAT
    members = [Member(LOW, 0, 0, 0, 0), Member(HIGH, 0, 0, 0, 0)]
    assert await stores.other.read_chat(CHAT) == (Chat(CHAT, 0, "", 1, 0), members)


async def test_all_who_open_a_direct_chat_at_once_get_the_same_one(stores: Stores) -> None:
    got: list[ChatId] = []

    async def open_direct(store: Store, chat_id: int) -> None:
        got.append(await store.create_direct(LOW, HIGH, ChatId(chat_id)))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(open_direct, stores[number % 2], CHAT + number)
    assert len(got) == 20
    (chat_id,) = set(got)
    assert [membership.chat.chat_id for membership in await stores.one.chats_of(LOW)] == [chat_id]


async def test_other_pairs_get_other_chats(store: Store) -> None:
    pairs = [(1, 2), (1, 3), (2, 3)]
    for number, (low, high) in enumerate(pairs):
        assert await store.create_direct(UserId(low), UserId(high), ChatId(CHAT + number)) == CHAT + number
    assert len(await store.chats_of(UserId(1))) == 2


async def test_a_chat_id_that_is_taken_is_a_conflict_and_the_other_chat_stays_as_it_is(stores: Stores) -> None:
    await stores.one.create_group(LOW, id_of(1), GROUP, MEMBERS)
    with pytest.raises(StoreConflict):
        await stores.other.create_direct(UserId(5), UserId(6), CHAT)
    with pytest.raises(StoreConflict):
        await stores.other.create_group(UserId(5), id_of(2), GROUP._replace(title="mine"), [])
    assert await stores.one.read_chat(CHAT) == (GROUP, MEMBERS)
    assert await stores.one.create_direct(UserId(5), UserId(6), ChatId(CHAT + 1)) == CHAT + 1


async def test_a_group_is_read_back_as_it_was_made(stores: Stores) -> None:
    assert await stores.one.create_group(LOW, id_of(1), GROUP, MEMBERS) == GROUP
    assert await stores.other.read_chat(CHAT) == (GROUP, MEMBERS)


async def test_a_group_is_made_once_for_a_creator_and_client_chat_id(stores: Stores) -> None:
    await stores.one.create_group(LOW, id_of(1), GROUP, MEMBERS)
    again = Chat(CHAT + 1, 1, "another title", 1, 0)
    assert await stores.other.create_group(LOW, id_of(1), again, MEMBERS[:1]) == GROUP
    assert await stores.other.read_chat(ChatId(CHAT + 1)) is None
    assert await stores.other.create_group(HIGH, id_of(1), again, MEMBERS) == again
    assert await stores.other.create_group(LOW, id_of(2), again._replace(chat_id=CHAT + 2), []) is not None


async def test_a_group_of_1024_members_is_made_whole(store: Store) -> None:
    members = [Member(user_id, 0, 0, 0, 0) for user_id in range(1, 1025)]
    await store.create_group(LOW, id_of(1), GROUP, members)
    assert await store.read_chat(CHAT) == (GROUP, members)


async def test_a_chat_that_does_not_exist_reads_as_none(store: Store) -> None:
    assert await store.read_chat(CHAT) is None


async def test_chats_of_lists_left_chats_too_and_nobody_elses(stores: Stores) -> None:
    left = Member(HIGH, 0, 5, 9, 9)
    await stores.one.create_direct(LOW, HIGH, ChatId(CHAT + 1))
    await stores.one.create_group(LOW, id_of(1), GROUP, [MEMBERS[0], left])
    await stores.one.create_group(LOW, id_of(2), GROUP._replace(chat_id=CHAT + 2), MEMBERS[:1])
    assert sorted(await stores.other.chats_of(HIGH)) == [
        Membership(GROUP, left),
        Membership(Chat(CHAT + 1, 0, "", 1, 0), Member(HIGH, 0, 0, 0, 0)),
    ]
    assert await stores.other.chats_of(UserId(404)) == []
