"""The full-screen chat: what the rows, the list of chats and the lines around them look like, and what the keys do.

Thin on purpose: it asks ``Conversation`` for state, ``rows`` for rows, and hands keys on. Invariant: everything here
runs outside of Trio (see ``host.py``), so it reads state and never calls the client: calls go through ``_post``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import trio
from prompt_toolkit.application import Application
from prompt_toolkit.application.current import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import ConditionalContainer, Dimension, HSplit, Layout, VSplit, Window
from prompt_toolkit.layout.controls import BufferControl, FormattedTextControl, UIContent, UIControl
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.mouse_events import MouseEvent, MouseEventType

from parley import Message
from parley.faults import UsageError
from parley.terminal.commands import WORDS, Command, OpenListed, parse
from parley.terminal.connection import ConnectionLine
from parley.terminal.conversation import Conversation
from parley.terminal.host import run_beside
from parley.terminal.panes import Scrollback, list_pane, status_line, title_line
from parley.terminal.rows import Fragments, Names
from parley.terminal.style import STYLE
from parley.terminal.target import Target
from parley.terminal.text import printable
from parley.terminal.visit import visit
from parley.unwrap import without_group

LIST_CELLS = 26
MIN_COLUMNS_FOR_LIST = 90
INPUT_ROWS = 5
MAX_NOTE_ROWS = 12
MAX_DRAWS_PER_S = 30
MAX_COMMANDS = 64
WHEEL_ROWS = 3


def run_screen(target: Target) -> None:
    """Chat on the whole terminal until the person leaves. Raises CommandError like ``visit``."""
    Screen(target).run()


class Pane(UIControl):
    """Rows computed for exactly the space there is."""

    def __init__(
        self, rows: Callable[[int, int], list[Fragments]], scroll: Callable[[int], None] | None = None
    ) -> None:
        self._rows = rows
        self._scroll = scroll

    def create_content(self, width: int, height: int) -> UIContent:
        rows = self._rows(width, height)
        return UIContent(get_line=lambda number: [*rows[number]], line_count=len(rows), show_cursor=False)

    def mouse_handler(self, mouse_event: MouseEvent) -> object:
        wheel = {MouseEventType.SCROLL_UP: -WHEEL_ROWS, MouseEventType.SCROLL_DOWN: WHEEL_ROWS}
        if self._scroll is None or mouse_event.event_type not in wheel:
            return NotImplemented
        self._scroll(wheel[mouse_event.event_type])
        return None


class Screen:
    """The Display with a terminal of its own."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._conversation: Conversation | None = None
        self._scrollback = Scrollback()
        self._connecting = ConnectionLine()
        self._note = ""
        self._token: trio.lowlevel.TrioToken | None = None
        self._leave = trio.Event()
        self._commands_in, self._commands = trio.open_memory_channel[Command](MAX_COMMANDS)
        self._input = Buffer(
            multiline=True,
            completer=WordCompleter([f"/{word}" for word in WORDS], sentence=True),
            on_text_changed=lambda _: self._typed(),
        )
        self._app: Application[None] = Application(
            layout=Layout(self._build(), focused_element=self._input),
            key_bindings=self._bindings(),
            style=STYLE,
            full_screen=True,
            mouse_support=True,
            min_redraw_interval=1 / MAX_DRAWS_PER_S,
        )

    def run(self) -> None:
        run_beside(self._app, self._main, self._quit)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with without_group():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tick)
                await visit(self._target, self, self._attend, self._leave)
                nursery.cancel_scope.cancel()

    async def _attend(self, conversation: Conversation) -> None:
        """Commands one after another, so that what is said goes to the chat that was opened before."""
        async for command in self._commands:
            await conversation.attempt(command)

    async def _tick(self) -> None:
        """Typing lapses and seconds count down without anybody's doing."""
        while True:
            await trio.sleep(1)
            self.changed()

    # Display

    def attach(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self.changed()

    def changed(self) -> None:
        self._app.invalidate()

    def said(self, message: Message) -> None:
        """It is in the view already."""

    def note(self, text: str) -> None:
        self._note = printable(text)
        self.changed()

    # Outside of Trio: keys and drawing

    def _post(self, call: Callable[[], object]) -> None:
        """Have something done inside the Trio run."""
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(call)

    def _quit(self) -> None:
        if self._token is None:
            self._leave.set()  # nobody waits for it yet, so it needs no run
        self._post(self._leave.set)

    def _submit(self) -> None:
        line = self._input.text
        try:
            command = parse(line)
            if command is not None:
                self._commands_in.send_nowait(command)
        except UsageError as error:
            self.note(str(error))
            return
        except trio.WouldBlock:
            self.note("still busy with the commands before: one moment")
            return
        self._note = ""
        self._input.reset(append_to_history=True)
        self._scrollback.follow()

    def _typed(self) -> None:
        text = self._input.text
        conversation = self._conversation
        if conversation is not None and not text.startswith("/"):
            self._post(lambda: conversation.type_in(bool(text)))

    def _scroll(self, rows: int) -> None:
        self._scrollback.scroll(rows)
        self._looked()

    def _page(self, pages: int) -> None:
        self._scrollback.page(pages)
        self._looked()

    def _follow(self) -> None:
        self._scrollback.follow()
        self._looked()

    def _looked(self) -> None:
        conversation = self._conversation
        if conversation is None:
            return
        conversation.is_looking = self._scrollback.is_at_end
        if conversation.is_looking:
            self._post(conversation.look)
        elif self._scrollback.is_at_start:
            self._post(conversation.page_back)

    def _switch(self, step: int) -> None:
        conversation = self._conversation
        if conversation is None or not conversation.roster.entries():
            return
        chat_ids = [entry.chat_id for entry in conversation.roster.entries()]
        current = conversation.roster.open_chat_id
        place = chat_ids.index(current) + step if current in chat_ids else 0
        with contextlib.suppress(trio.WouldBlock):
            self._commands_in.send_nowait(OpenListed(place % len(chat_ids) + 1))

    def _bindings(self) -> KeyBindings:
        keys = KeyBindings()
        is_empty = Condition(lambda: not self._input.text)

        def on(*names: str, when: Condition | bool = True) -> Callable[[Callable[[], None]], None]:
            def bind(action: Callable[[], None]) -> None:
                keys.add(*names, filter=when, eager=True)(lambda _: action())

            return bind

        on("c-c")(self._quit)
        on("<sigint>")(self._quit)
        on("c-d", when=is_empty)(self._quit)
        on("enter")(self._submit)
        on("escape", "enter")(lambda: self._input.insert_text("\n"))
        on("c-j")(lambda: self._input.insert_text("\n"))
        on("tab")(lambda: self._input.start_completion(insert_common_part=True))
        on("pageup")(lambda: self._page(-1))
        on("pagedown")(lambda: self._page(1))
        on("home", when=is_empty)(lambda: self._page(-1))
        on("end", when=is_empty)(self._follow)
        on("c-n")(lambda: self._switch(1))
        on("c-p")(lambda: self._switch(-1))
        on("c-r")(lambda: self._post(self._reconnect))
        return keys

    def _reconnect(self) -> None:
        if self._conversation is not None:
            self._conversation.client.reconnect()

    def _build(self) -> HSplit:
        is_wide = Condition(lambda: get_app().output.get_size().columns >= MIN_COLUMNS_FOR_LIST)
        prompt = BufferControl(self._input, input_processors=[BeforeInput("> ", style="class:prompt")])
        chats = VSplit(
            [
                Window(Pane(self._list_rows), width=LIST_CELLS),
                Window(width=1, char="│", style="class:border"),
            ]
        )
        notes = Window(
            FormattedTextControl(lambda: [("class:note", self._note)]),
            height=lambda: Dimension(max=MAX_NOTE_ROWS),
            wrap_lines=True,
            dont_extend_height=True,
        )
        return HSplit(
            [
                Window(Pane(self._title_row), height=1),
                VSplit([ConditionalContainer(chats, is_wide), Window(Pane(self._chat_rows, self._scroll))]),
                ConditionalContainer(notes, Condition(lambda: bool(self._note))),
                Window(Pane(self._status_row), height=1),
                Window(prompt, height=Dimension(min=1, max=INPUT_ROWS), wrap_lines=True, dont_extend_height=True),
            ]
        )

    def _title_row(self, width: int, _height: int) -> list[Fragments]:
        conversation = self._conversation
        view = conversation.view if conversation is not None else None
        names = conversation.names if conversation is not None else Names(0)
        return [title_line(view, names, time.monotonic(), width)]

    def _status_row(self, width: int, _height: int) -> list[Fragments]:
        conversation = self._conversation
        connection = conversation.connection if conversation is not None else self._connecting
        roster = conversation.roster if conversation is not None else None
        return [status_line(connection, roster, self._scrollback.is_at_end, time.monotonic(), width)]

    def _list_rows(self, width: int, height: int) -> list[Fragments]:
        return list_pane(self._conversation.roster, width, height) if self._conversation is not None else []

    def _chat_rows(self, width: int, height: int) -> list[Fragments]:
        if self._conversation is None or self._conversation.view is None:
            return []
        rows = self._scrollback.visible(self._conversation.view, self._conversation.names, width, height)
        # Short chats stand at the bottom, where the next message will be.
        return [*([("", "")] for _ in range(height - len(rows))), *rows]
