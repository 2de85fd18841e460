"""A replay on a running node: connect everybody, make the group, send, read back from another device, compare.

Owns the connections. Invariant: the chat's order is the export's. Each message is sent when the one before it is
durable: pipelining even one author's run of messages would let one that is refused for now (rate, overload) be
overtaken by the next; and exports change author every other message, so little would be won.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import NamedTuple

import trio

from parley import CannotConnect, ChatChange, Client, Message, Options, ParleyError, Refused, connect
from parley.faults import CommandError
from parley.replay.cast import Cast
from parley.replay.comparison import Difference, compare
from parley.replay.script import SYSTEM_LINE_KIND, Cue, heard
from parley.tokens import Credential
from parley.unwrap import without_group

MAX_TITLE_BYTES = 256
MAX_IDS_AT_ONCE = 500
PAGE = 200


class Stage(NamedTuple):
    """Where a replay takes place: the node's address, and the title of the group to make."""

    host: str
    port: int
    title: str


class Outcome(NamedTuple):
    chat_id: int
    sent: int
    seconds: float
    """From the first SEND to the last SENT."""
    read: int
    differences: list[Difference]


async def perform(script: list[Cue], cast: Cast, stage: Stage, on_sent: Callable[[int], None]) -> Outcome:
    """Replay ``script`` and compare. ``on_sent`` is told how many are durable. CommandError when the node does not do
    it.
    """
    try:
        with without_group():
            async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
                creator = await stack.enter_async_context(_connect(cast.creator, stage))
                voices: dict[str, Client] = {}
                for author, credential in cast.authors.items():
                    voices[author] = await stack.enter_async_context(_connect(credential, stage))
                for client in (creator, *voices.values()):
                    nursery.start_soon(_listen, client)
                chat_id = await _make_group(creator, stage.title, [client.user_id for client in voices.values()])
                seconds = await _speak(script, chat_id, creator, voices, on_sent)
                read = await _read_back(cast.reader, stage, chat_id)
                nursery.cancel_scope.cancel()
    except CannotConnect as error:
        raise CommandError(f"no node answers at {stage.host}:{stage.port} ({error}): start `parley serve`") from error
    except Refused as error:
        raise CommandError(f"the node refuses: {error}") from error
    except ParleyError as error:
        raise CommandError(f"the replay broke off: {error}") from error
    said = heard(read, cast)
    return Outcome(chat_id, len(script), seconds, len(said), compare([cue.spoken for cue in script], said))


def _connect(credential: Credential, stage: Stage) -> AbstractAsyncContextManager[Client]:
    return connect(stage.host, stage.port, credential.token, options=Options(agent="parley replay"))


async def _listen(client: Client) -> None:
    """Take what comes, as a phone does: what nobody takes is never acknowledged."""
    async for _ in client.events():
        pass


async def _make_group(creator: Client, title: str, user_ids: list[int]) -> int:
    chat_id, _ = await creator.create_group(_cut(title), user_ids[:MAX_IDS_AT_ONCE])
    for start in range(MAX_IDS_AT_ONCE, len(user_ids), MAX_IDS_AT_ONCE):
        await creator.change_chat(ChatChange(chat_id, add=user_ids[start : start + MAX_IDS_AT_ONCE]))
    return chat_id


def _cut(title: str) -> str:
    return title.encode()[:MAX_TITLE_BYTES].decode(errors="ignore") or "replay"


async def _speak(
    script: list[Cue], chat_id: int, creator: Client, voices: dict[str, Client], on_sent: Callable[[int], None]
) -> float:
    """Everybody says their part in turn; the seconds that it took."""
    began = trio.current_time()
    for number, cue in enumerate(script, 1):
        if cue.after_s:
            await trio.sleep_until(began + cue.after_s)
        voice = creator if cue.spoken.kind == SYSTEM_LINE_KIND else voices[cue.spoken.author]
        await voice.send(chat_id, cue.spoken.text, kind=cue.spoken.kind)
        on_sent(number)
    return trio.current_time() - began


async def _read_back(reader: Credential, stage: Stage, chat_id: int) -> list[Message]:
    """The whole log, oldest first, from a device that has heard none of it."""
    async with _connect(reader, stage) as client:
        return [message async for message in client.history(chat_id, after=0, page=PAGE)]
