"""One visit to a node: connect, open the chat that was asked for, stay until the person leaves, take leave.

Owns the lifetime of the client and of the tasks around it, the same for the screen and for lines. Invariant: however
a visit ends, the server is told (CLOSE 0), unless it does not take that within GRACE_S.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from parley import CannotConnect, Client, Options, ParleyError, Refused, connect
from parley.faults import CommandError
from parley.terminal.conversation import Conversation, Display, group_key
from parley.terminal.rows import Names
from parley.terminal.target import Target
from parley.unwrap import without_group

GRACE_S = 3.0

Attend = Callable[[Conversation], Awaitable[None]]
"""What is done while the visit lasts: it ends when this returns, or when ``leave`` is set."""


async def visit(target: Target, display: Display, attend: Attend, leave: trio.Event) -> None:
    """Raises CommandError, in one line, when the node cannot be reached, refuses, or signs this device out.

    ``leave`` may be set at any time, while connecting too.
    """
    entered = trio.Event()
    with without_group():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_in_time, leave, entered, nursery.cancel_scope)
            await _visit(target, display, attend, leave, entered)
            nursery.cancel_scope.cancel()


async def _end_in_time(leave: trio.Event, entered: trio.Event, scope: trio.CancelScope) -> None:
    await leave.wait()
    if entered.is_set():
        await trio.sleep(GRACE_S)
    scope.cancel()


async def _visit(target: Target, display: Display, attend: Attend, leave: trio.Event, entered: trio.Event) -> None:
    # A screen pages back by itself: without fill_gaps a long absence costs one page, not all that was missed.
    options = Options(agent="parley chat", fill_gaps=False)
    try:
        async with connect(target.host, target.port, target.token, options=options) as client:
            entered.set()
            failure = await _stay(client, target, display, attend, leave)
    except CannotConnect as error:
        raise CommandError(
            f"no node answers at {target.host}:{target.port} ({error}): start `parley serve`, or give --host and --port"
        ) from error
    except Refused as error:
        raise CommandError(
            f"the node refuses: {error}; it needs a token by `parley token` with this node's key"
        ) from error
    if failure is not None:
        raise failure


async def _stay(
    client: Client, target: Target, display: Display, attend: Attend, leave: trio.Event
) -> CommandError | None:
    failures: list[CommandError] = []

    async def guarded(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except CommandError as failure:
            failures.append(failure)
        except ParleyError as error:
            failures.append(CommandError(str(error)))
        leave.set()

    async with trio.open_nursery() as nursery:
        conversation = Conversation(client, display, Names(client.user_id, target.own_name), nursery, leave)
        display.attach(conversation)

        async def begin() -> None:
            # The list comes first: it says up to where each chat was read, and messages count as unread from there.
            await conversation.refresh_roster()
            nursery.start_soon(guarded, conversation.run)
            await _open_target(conversation, target)
            nursery.start_soon(guarded_naming)
            await attend(conversation)

        async def guarded_naming() -> None:
            try:
                await conversation.name_direct_chats()
            except ParleyError as error:
                display.note(f"cannot read the list of chats: {error}")

        nursery.start_soon(guarded, begin)
        await leave.wait()
        nursery.cancel_scope.cancel()
    return failures[0] if failures else None


async def _open_target(conversation: Conversation, target: Target) -> None:
    client, beginning = conversation.client, target.beginning
    if beginning.peer is not None:
        await conversation.open(await client.open_chat(beginning.peer))
    elif beginning.chat_id is not None:
        await conversation.open(beginning.chat_id)
    elif beginning.group is not None:
        group = beginning.group
        key = group_key(client.user_id, group)
        chat_id, _ = await client.create_group(group.title, group.user_ids, client_chat_id=key)
        await conversation.open(chat_id)
