"""The bot of docs/client.md is the one in docs/examples, and does what the page says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import trio
import trio.testing

from gateway.protocol import messages as wire
from gateway.protocol.messages import Op
from tests.client.scripted import Network, connected

DOCS = Path(__file__).parents[2] / "docs"
BOT = DOCS / "examples" / "echo_bot.py"


@pytest.fixture
def bot() -> ModuleType:
    spec = importlib.util.spec_from_file_location("echo_bot", BOT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_bot_as_it_is() -> None:
    assert BOT.read_text().rstrip() in (DOCS / "client.md").read_text()


async def test_the_bot_answers_a_message_under_the_same_id_when_it_is_shown_again(
    bot: ModuleType, autojump_clock: trio.testing.MockClock
) -> None:
    ids = []
    for _ in range(2):  # the second time as after a crash before the acknowledgement
        async with connected(Network()) as (client, peer), trio.open_nursery() as nursery:
            nursery.start_soon(bot.echo, client)
            await peer.push(11, 10)
            asked = await peer.find(Op.SEND)
            assert isinstance(asked.body, wire.Send)
            assert asked.body.body == b"I heard: message 11"
            ids.append(asked.body.client_msg_id)
            nursery.cancel_scope.cancel()
    assert ids[0] == ids[1]


async def test_the_bot_does_not_answer_itself(bot: ModuleType, autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(bot.echo, client)
        await peer.push(11, 10)
        await peer.store(await peer.find(Op.SEND), 12, 11)
        with trio.move_on_after(10):
            await peer.find(Op.SEND)
            pytest.fail("the bot answered its own message")
        nursery.cancel_scope.cancel()
