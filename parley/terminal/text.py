"""Other people's text on this person's terminal: made harmless, and cut into rows by display width.

Pure. Invariant: what leaves ``printable`` holds no control character but the line feed, and nothing that reorders the
text around it; a row of ``wrap`` is never wider than asked (unless one character alone is).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from prompt_toolkit.utils import get_cwidth

# C0 and C1 (escape sequences begin there) and the marks that override or isolate direction. Plain left-to-right and
# right-to-left marks stay: text in Arabic or Hebrew needs them, and they cannot reach beyond their own line.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LINE_ENDS = re.compile("\r\n|[\r\u2028\u2029\x85\x0b\x0c]")


def printable(text: str) -> str:
    """``text`` with line ends as LF, tabs as spaces, and everything that a terminal would act on as U+FFFD."""
    return _HARMFUL.sub("\ufffd", _LINE_ENDS.sub("\n", text).replace("\t", "    "))


def one_line(text: str, width: int) -> str:
    """``text`` on one row of at most ``width`` cells, cut with an ellipsis."""
    flat = " ".join(printable(text).split())
    if get_cwidth(flat) <= width:
        return flat
    return _prefix(flat, max(0, width - 1)) + "…"


def wrap(text: str, width: int) -> list[str]:
    """The rows of a printable text; at least one. Breaks after a space where there is one, else anywhere."""
    return [row for line in text.split("\n") for row in _wrap_line(line, max(1, width))]


def _wrap_line(line: str, width: int) -> Iterator[str]:
    while get_cwidth(line) > width:
        head = _prefix(line, width) or line[0]
        is_between_words = line.startswith(" ", len(head))
        cut = len(head) if is_between_words else head.rfind(" ") + 1 or len(head)
        yield line[:cut].rstrip(" ")
        line = line[cut:].lstrip(" ")
        if not line:
            return
    yield line


def _prefix(text: str, width: int) -> str:
    """The longest beginning of at most ``width`` cells."""
    used = 0
    for index, character in enumerate(text):
        used += get_cwidth(character)
        if used > width:
            return text[:index]
    return text
