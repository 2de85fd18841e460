"""A WhatsApp chat export (the text file of "Export chat"), as the messages that it holds.

Owns the way from the file's text to entries, and which lines belong together. Knows nothing of nodes and users.
Invariant: no line is lost. Entries tile the file: each begins where the one before it ended, and together they hold
every line, but for blank ones at the file's end.

Android writes ``31.12.20, 21:41 - Name: text``, iOS ``[31/12/2020, 21:41:05] Name: text``; a line without a stamp
goes on the message above it. A stamped line without an author is a system line ("Misty left"). What the file says is
an author is one: some phones write the group's name in front of the encryption notice, and nothing tells that from a
person.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from parley.faults import CommandError
from parley.replay.stamps import MARKS, DateOrder, Stamp, detect_order, find_stamp, moment_of

MAX_AUTHOR_CHARACTERS = 100
"""WhatsApp's names and subjects end at 100 characters, so a later colon is part of a system line's text."""

# English placeholders, Android's and iOS': elsewhere a media line is a text like any other, and is replayed just so.
_MEDIA = re.compile(
    r"<Media omitted>|<attached: .+>|.+ \(file attached\)"
    r"|(?:image|video|audio|sticker|GIF|document|Contact card|.+ document) omitted",
    re.IGNORECASE,
)


class ExportError(CommandError):
    """The file cannot be read as an export; the message says why, and what to do."""


class EntryKind(enum.Enum):
    TEXT = "text"
    MEDIA = "media"
    """A placeholder: the export has no file for it, or the file lies beside it."""
    SYSTEM = "system"
    """Said by the app, not by a person: no author."""


class Entry(NamedTuple):
    """One message or system line: ``lines`` of the file from line ``first_line`` (1-based) on."""

    first_line: int
    line_count: int
    moment: datetime | None
    """Local time of the phone that exported. None: lines in front of the first stamp."""
    author: str | None
    text: str
    kind: EntryKind


class Export(NamedTuple):
    entries: Sequence[Entry]
    order: DateOrder

    def authors(self) -> list[str]:
        """Everybody who says something, in the order of their first word."""
        return list(dict.fromkeys(entry.author for entry in self.entries if entry.author is not None))


def read_export(path: Path) -> Export:
    """Read and parse a file. ExportError: it cannot be read, is not UTF-8, or holds no stamped line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExportError(
            f"{path} is not UTF-8 text (byte {error.start}): unpack the .zip, and give the .txt in it"
        ) from error
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error
    try:
        return parse_export(text)
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error


def parse_export(text: str) -> Export:
    """Parse an export's text. ExportError when no line begins with a date and time as WhatsApp writes them."""
    lines = _split_lines(text)
    stamps = {number: stamp for number, line in enumerate(lines) if (stamp := find_stamp(line)) is not None}
    if not stamps:
        raise ExportError("no line begins with a date and time: is it the text file of WhatsApp's Export chat?")
    # An export begins with a message, so the first stamp is one; a later one of another layout was pasted into a text.
    layout = next(iter(stamps.values())).layout
    stamps = {number: stamp for number, stamp in stamps.items() if stamp.layout == layout}
    order = detect_order(list(stamps.values()))
    heads = {number: (stamp, at) for number, stamp in stamps.items() if (at := moment_of(stamp, order)) is not None}
    if not heads:
        raise ExportError("no line begins with a date that exists: is it the text file of WhatsApp's Export chat?")
    return Export(list(_entries(lines, heads)), order)


def _split_lines(text: str) -> list[str]:
    """Lines by LF or CRLF alone: str.splitlines would also cut a message at U+2028, VT or NEL."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _entries(lines: Sequence[str], heads: dict[int, tuple[Stamp, datetime]]) -> Iterator[Entry]:
    starts = sorted(heads)
    if starts[0] > 0:
        yield Entry(1, starts[0], None, None, "\n".join(lines[: starts[0]]), EntryKind.SYSTEM)
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        stamp, moment = heads[start]
        author, opening = _split_author(lines[start][stamp.end :])
        text = "\n".join([opening, *lines[start + 1 : end]])
        yield Entry(start + 1, end - start, moment, author, text, _kind_of(author, text))


def _split_author(rest: str) -> tuple[str | None, str]:
    """``Name: text`` -> (name, text); a system line -> (None, the whole of it)."""
    name, colon, text = rest.partition(":")
    # Only a colon before a space, or at the end of the line (a text that begins with a line break), ends a name.
    while colon and text and not text[0].isspace():
        more, colon, text = text.partition(":")
        name = f"{name}:{more}"
    author = name.strip(MARKS + " ")
    if not colon or not author or len(author) > MAX_AUTHOR_CHARACTERS or _has_open_quote(author):
        return None, rest
    return author, text[1:]


def _has_open_quote(name: str) -> bool:
    """``Misty changed the subject to “Gyms`` (before ``: part two”``) is the beginning of a system line, not a name."""
    return name.count('"') % 2 == 1 or name.count("“") != name.count("”")


def _kind_of(author: str | None, text: str) -> EntryKind:
    if author is None:
        return EntryKind.SYSTEM
    return EntryKind.MEDIA if _MEDIA.fullmatch(text.strip(MARKS + " ")) else EntryKind.TEXT
