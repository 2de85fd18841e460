"""Trio beside the screen: both on one thread, so that drawing never races with what is drawn.

prompt_toolkit draws and reads keys on asyncio's loop, the client is Trio's. Trio runs as a guest of that loop (its
"guest mode"): rejected were a second thread (every view would need a lock) and an asyncio client (there would be two
clients). This is the only file that names asyncio.

Invariant: the Trio run has ended, and with it the visit, before ``run_beside`` returns or raises; the terminal is
restored first.
"""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from outcome import Outcome
from prompt_toolkit.application import Application


def run_beside(app: Application[None], main: Callable[[], Awaitable[None]], leave: Callable[[], None]) -> None:
    """Run the screen and ``main`` until ``main`` is over; then return, or raise what it raised.

    ``leave`` is called, once or more, outside of Trio, when ``main`` should come to an end: SIGTERM, SIGHUP, a lost
    terminal.
    """
    asyncio.run(_host(app, main, leave))


async def _host(app: Application[None], main: Callable[[], Awaitable[None]], leave: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[Outcome[Any]] = loop.create_future()

    def finish(outcome: Outcome[Any]) -> None:
        over.set_result(outcome)
        if app.is_running:
            app.exit()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, leave)
    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        run_sync_soon_not_threadsafe=loop.call_soon,
        done_callback=finish,
        host_uses_signal_set_wakeup_fd=True,
        restrict_keyboard_interrupt_to_checkpoints=True,
    )
    try:
        if not over.done():
            await app.run_async()
    except EOFError:
        pass  # the terminal is gone: there is nobody to tell
    except OSError as error:
        if error.errno != errno.EIO:  # so says a write to a terminal that is gone
            raise
    finally:
        leave()
        outcome = await over
    outcome.unwrap()
