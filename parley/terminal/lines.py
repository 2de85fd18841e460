"""The chat as plain lines: standard input is sent, messages are printed. For pipes, scripts and dumb terminals.

Owns standard input and output. Messages go to stdout, one ``HH:MM name: text`` each (further lines of a message are
indented); everything else goes to stderr. Invariant: when the input ends, everything that was sent is durable, or the
exit code says not.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TextIO

import trio

from parley import Kind, Message, ParleyError, PendingSend
from parley.faults import CommandError
from parley.terminal.commands import Say, parse
from parley.terminal.conversation import Conversation
from parley.terminal.target import Target
from parley.terminal.text import printable
from parley.terminal.view import describe_change
from parley.terminal.visit import visit
from parley.unwrap import without_group

READ_BYTES = 65_536
MAX_LINE_BYTES = 1 << 20
MAX_WAITING = 100
"""Lines that wait for the server before the next one is read: a file is sent at the server's pace."""


class Printer:
    """The Display of lines. What was typed here is not echoed: whoever wrote it has it."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._conversation: Conversation | None = None
        self._typed_here: set[bytes] = set()

    def attach(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def changed(self) -> None:
        """Lines are printed once; nothing is drawn again."""

    def said(self, message: Message) -> None:
        if self._conversation is None or message.client_msg_id in self._typed_here:
            self._typed_here.discard(message.client_msg_id)
            return
        speaker = "" if message.kind == Kind.SYSTEM else f"{self._conversation.names[message.sender_id]}: "
        text = describe_change(message) if message.kind == Kind.SYSTEM else message.text
        first, *more = printable(text).split("\n")
        moment = datetime.fromtimestamp(message.time_ms / 1000, UTC).astimezone()
        self._print(self._out, "\n".join([f"{moment:%H:%M} {speaker}{first}", *(f"      {line}" for line in more)]))

    def note(self, text: str) -> None:
        self._print(self._err, text)

    def expect(self, pending: PendingSend) -> None:
        """A message was typed here."""
        self._typed_here.add(pending.client_msg_id)

    @staticmethod
    def _print(stream: TextIO, text: str) -> None:
        print(text, file=stream, flush=True)


async def run_lines(target: Target, *, follow: bool, input_fd: int = 0) -> None:
    """Chat by lines until the input ends (``follow``: until a signal). CommandError when a line could not be sent."""
    printer = Printer(sys.stdout, sys.stderr)
    leave = trio.Event()

    async def attend(conversation: Conversation) -> None:
        await _send_lines(conversation, printer, input_fd)
        if follow:
            await trio.sleep_forever()

    async def leave_on_signal() -> None:
        async for _ in signals:
            leave.set()

    with without_group(), trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave_on_signal)
            await visit(target, printer, attend, leave)
            nursery.cancel_scope.cancel()


async def _send_lines(conversation: Conversation, printer: Printer, input_fd: int) -> None:
    waiting: deque[PendingSend] = deque()
    failed = 0
    async for line in read_lines(input_fd):
        try:
            command = parse(line)
            if isinstance(command, Say):
                pending = conversation.say(command.text)
                printer.expect(pending)
                waiting.append(pending)
            elif command is not None:
                await conversation.execute(command)
        except (ParleyError, CommandError) as error:
            printer.note(str(error))
            failed += 1
        while len(waiting) > MAX_WAITING:
            failed += not await _is_sent(waiting.popleft())
    for pending in waiting:
        failed += not await _is_sent(pending)
    if failed:
        raise CommandError(f"{failed} of the lines failed, see above")


async def _is_sent(pending: PendingSend) -> bool:
    """Wait for it; the conversation says why not."""
    try:
        await pending.sent()
    except ParleyError:
        return False
    return True


async def read_lines(fd: int) -> AsyncIterator[str]:
    """The lines of a descriptor, without their ends, until it ends. Bytes that are no UTF-8 become U+FFFD.

    Waits by epoll and reads what is there, instead of a thread: a thread in a blocking read outlives the visit.
    CommandError for a line over MAX_LINE_BYTES.
    """
    rest = b""
    while chunk := await _read_some(fd):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")
        if len(rest) > MAX_LINE_BYTES:
            raise CommandError(f"a line of more than {MAX_LINE_BYTES:,} bytes: break it up")
    if rest:
        yield rest.decode("utf-8", "replace")


async def _read_some(fd: int) -> bytes:
    try:
        await trio.lowlevel.wait_readable(fd)
    except PermissionError:  # epoll's answer to a regular file, which never makes a reader wait
        await trio.lowlevel.checkpoint()
    try:
        return os.read(fd, READ_BYTES)
    except OSError:  # EIO: the terminal is gone
        return b""
