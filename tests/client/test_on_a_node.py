"""The same client and a real node."""

from __future__ import annotations

import trio

import parley
from tests.client.scripted import next_of, next_seqs
from tests.nodes import NodeProcess

TIMEOUT_S = 60.0
COUNT = 100


async def test_a_slow_reader_and_a_new_device_see_every_message_once_in_order(node: NodeProcess) -> None:
    few = parley.Options(max_events=8)
    with trio.fail_after(TIMEOUT_S):
        async with (
            parley.connect(node.host, node.port, node.token(9101, 91010)) as sender,
            parley.connect(node.host, node.port, node.token(9102, 91020), options=few) as slow,
        ):
            chat_id = await sender.open_chat(slow.user_id)
            sent = [(await sender.send(chat_id, f"message {number}")).seq for number in range(COUNT)]
            assert await next_seqs(slow, COUNT) == sent
            assert [message.seq async for message in slow.history(chat_id, after=0)] == sent
        async with parley.connect(node.host, node.port, node.token(9102, 91021)) as new:
            assert await next_seqs(new, COUNT) == sent


async def test_a_device_goes_on_where_it_stopped(node: NodeProcess) -> None:
    store = parley.MemoryClientStore()
    with trio.fail_after(TIMEOUT_S):
        async with parley.connect(node.host, node.port, node.token(9103, 91030)) as sender:
            chat_id = await sender.open_chat(9104)
            await sender.send(chat_id, "first")
            async with parley.connect(node.host, node.port, node.token(9104, 91040), store=store) as client:
                assert (await next_of(client, parley.MessageReceived)).message.text == "first"
            await sender.send(chat_id, "second")
            async with parley.connect(node.host, node.port, node.token(9104, 91040), store=store) as client:
                assert (await next_of(client, parley.Connected)).is_resumed
                assert (await next_of(client, parley.MessageReceived)).message.text == "second"
