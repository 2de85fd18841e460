"""The parts of the screen as rows and lines of styled text: the visible piece of a chat, the list, the lines around
them.

Pure, but for remembering where the person has scrolled to. Knows neither keys nor the terminal.
"""

from __future__ import annotations

from prompt_toolkit.utils import get_cwidth

from parley.terminal.connection import ConnectionLine
from parley.terminal.roster import UNKNOWN, Roster, RosterEntry
from parley.terminal.rows import Fragments, Names, Row, rows_of
from parley.terminal.text import one_line
from parley.terminal.view import ChatView


class Scrollback:
    """Which rows of a chat are on show. Follows the newest until scrolled back; then stays where it is, by the bottom
    row's key, whatever comes above or below.
    """

    def __init__(self) -> None:
        self._bottom: tuple[bytes, int] | None = None
        self._drawn: tuple[int, int, int] | None = None
        self._rows: list[Row] = []
        self._height = 1

    @property
    def is_at_end(self) -> bool:
        return self._bottom is None

    @property
    def is_at_start(self) -> bool:
        """Nothing is above what was shown last: time to read further back."""
        return self._end() <= self._height

    def visible(self, view: ChatView, names: Names, width: int, height: int) -> list[Fragments]:
        """The rows on show now, at most ``height``, the bottom one last."""
        drawn = (id(view), view.version, width)
        if drawn != self._drawn:
            if self._drawn is not None and self._drawn[0] != id(view):
                self._bottom = None
            self._rows, self._drawn = rows_of(view, names, width), drawn
        self._height = max(1, height)
        end = self._end()
        return [row.fragments for row in self._rows[max(0, end - height) : end]]

    def scroll(self, rows: int) -> None:
        """Towards the past (negative) or the newest (positive)."""
        end = min(max(self._end() + rows, min(self._height, len(self._rows))), len(self._rows))
        self._bottom = None if end >= len(self._rows) else self._rows[end - 1].key

    def page(self, pages: int) -> None:
        self.scroll(pages * max(1, self._height - 2))

    def follow(self) -> None:
        """Back to the newest."""
        self._bottom = None

    def _end(self) -> int:
        if self._bottom is not None:
            for index in range(len(self._rows) - 1, -1, -1):
                if self._rows[index].key == self._bottom:
                    return index + 1
            # Another width wraps a message into fewer rows: the last one left of it.
            for index in range(len(self._rows) - 1, -1, -1):
                if self._rows[index].key[0] == self._bottom[0]:
                    return index + 1
        return len(self._rows)


def list_pane(roster: Roster, width: int, height: int) -> list[Fragments]:
    """The list of chats, numbered for /open #N."""
    return [_list_row(number, entry, roster, width) for number, entry in enumerate(roster.entries()[:height], 1)]


def _list_row(number: int, entry: RosterEntry, roster: Roster, width: int) -> Fragments:
    unread = "" if not entry.unread else "•" if entry.unread == UNKNOWN else str(min(entry.unread, 999))
    label = one_line(f"{number} {entry.name}", max(1, width - len(unread) - 1))
    style = "class:list.open" if entry.chat_id == roster.open_chat_id else "class:list"
    gap = " " * max(1, width - get_cwidth(label) - len(unread))
    return [(style, label + gap), ("class:list.unread", unread)]


def title_line(view: ChatView | None, names: Names, now_s: float, width: int) -> Fragments:
    """What chat this is, and who is typing."""
    if view is None:
        return _filled("class:title", " Parley: /open USER begins a chat, /help lists the rest", width)
    typing = [names[user_id] for user_id in view.typists(now_s)]
    if view.is_direct:
        title = f" {names[view.peer] if view.peer is not None else 'chat'}"
        note = "  is typing…" if typing else ""
    else:
        title = f" {view.title or 'group'} ({len(view.members)})"
        verb = "is" if len(typing) == 1 else "are"
        note = f"  {', '.join(typing[:3])} {verb} typing…" if typing else ""
    return _filled("class:title", title + note, width)


def status_line(
    connection: ConnectionLine, roster: Roster | None, is_at_end: bool, now_s: float, width: int
) -> Fragments:
    """The connection's state, what waits elsewhere, and where the person is."""
    style = "class:status" if connection.is_connected else "class:status.bad"
    parts = [connection.describe(now_s)]
    unread = roster.unread_elsewhere() if roster is not None else 0
    if unread:
        parts.append(f"{unread} other {'chat has' if unread == 1 else 'chats have'} news")
    if not is_at_end:
        parts.append("scrolled back: End returns")
    return _filled(style, " " + " · ".join(parts), width)


def _filled(style: str, text: str, width: int) -> Fragments:
    # one_line folds spaces: the leading one is put back.
    line = " " + one_line(text, max(1, width - 1))
    return [(style, line + " " * max(0, width - get_cwidth(line)))]
