"""From a view to rows of styled text: day separators, names, wrapped messages, marks.

Pure: the same view, width and time zone give the same rows. Styles are class names; ``screen.py`` says what they look
like. Invariant: no row is wider than ``width``, and every row has a key that names its place while others come and
go.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, tzinfo
from typing import NamedTuple

from prompt_toolkit.utils import get_cwidth

from parley.terminal.text import one_line, printable, wrap
from parley.terminal.view import ChatView, Mark, Post

Fragments = list[tuple[str, str]]

TIME_CELLS = 6
NAME_CELLS = 12
COLOURS = 6
SIGNS = {Mark.PENDING: "…", Mark.FAILED: "✗", Mark.SENT: "✓", Mark.DELIVERED: "✓✓", Mark.READ: "✓✓"}
_MIN_TEXT_CELLS = 10
_MARK_CELLS = 3


class Row(NamedTuple):
    key: tuple[bytes, int]
    """(a post's own bytes, which row of it)."""
    fragments: Fragments


class Names:
    """What users are called here: their ids, oneself by the name given."""

    def __init__(self, me: int, own_name: str = "you") -> None:
        self._own = {me: own_name}

    def __getitem__(self, user_id: int) -> str:
        return self._own.get(user_id, str(user_id))


def rows_of(view: ChatView, names: Names, width: int, zone: tzinfo | None = None) -> list[Row]:
    """All rows of a chat, oldest first. ``zone`` None: the machine's."""
    rows: list[Row] = []
    day: date | None = None
    speaker: int | None = None
    for post in view.shown():
        moment = datetime.fromtimestamp(post.time_ms / 1000, zone)
        key = post.client_msg_id if post.seq == 0 else post.seq.to_bytes(8, "big")
        if moment.date() != day:
            day, speaker = moment.date(), None
            rows.append(Row((key, -1), [("class:day", _centred(f" {moment:%A, %-d %B %Y} ", width, "─"))]))
        if post.is_notice:
            speaker = None
            lines = _notice(post, moment, width)
        else:
            name = names[post.sender_id] if post.sender_id != speaker else ""
            speaker = post.sender_id
            lines = _message(view, post, f"{moment:%H:%M}", name, width)
        rows.extend(Row((key, number), line) for number, line in enumerate(lines))
    return rows


def _notice(post: Post, moment: datetime, width: int) -> Iterator[Fragments]:
    for line in wrap(printable(f"{moment:%H:%M} {post.text}"), max(1, width - 2)):
        yield [("class:notice", _centred(line, width, " "))]


def _message(view: ChatView, post: Post, time: str, name: str, width: int) -> Iterator[Fragments]:
    indent = TIME_CELLS + NAME_CELLS + 1
    if width - indent < _MIN_TEXT_CELLS:  # a very narrow screen: the text below the name
        indent = 0
        yield [("class:time", time + " "), (_name_style(view, post), one_line(name or "", max(0, width - TIME_CELLS)))]
    lines = wrap(_said(post), max(1, width - indent - _MARK_CELLS))
    for number, line in enumerate(lines):
        fragments: Fragments = []
        if indent and number == 0:
            label = one_line(name, NAME_CELLS)
            fragments.append(("class:time", f"{time} "))
            fragments.append((_name_style(view, post), label + " " * (NAME_CELLS - get_cwidth(label) + 1)))
        elif indent:
            fragments.append(("", " " * indent))
        fragments.append(("class:deleted" if post.is_deleted else "class:text", line))
        if number == len(lines) - 1:
            fragments += _mark(view.mark_of(post))
        yield fragments
    for line in _footer(post, max(1, width - indent)):
        yield [("", " " * indent), ("class:failed" if post.failure else "class:notice", line)]


def _said(post: Post) -> str:
    if post.is_deleted:
        return "deleted"
    return printable(post.text) + (" (edited)" if post.is_edited else "")


def _mark(mark: Mark | None) -> Fragments:
    return [] if mark is None else [(f"class:mark.{mark.name.lower()}", f" {SIGNS[mark]}")]


def _footer(post: Post, width: int) -> Iterator[str]:
    if post.failure:
        yield one_line(f"not sent: {post.failure}", width)
    if post.reactions:
        yield one_line(" ".join(post.reactions.values()), width)


def _name_style(view: ChatView, post: Post) -> str:
    return "class:name.own" if post.sender_id == view.me else f"class:name.{post.sender_id % COLOURS}"


def _centred(text: str, width: int, fill: str) -> str:
    text = text if get_cwidth(text) <= width else one_line(text, width)
    left = (width - get_cwidth(text)) // 2
    return fill * left + text + fill * (width - get_cwidth(text) - left)
