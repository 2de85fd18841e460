"""What a replay sends, message by message, and when.

Pure. Texts go out as they stand in the export, media lines with their placeholder, system lines as a kind of the
application's own, said by the group's creator: so nothing of the export is lost, and its order is compared whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from parley import Kind, Message
from parley.faults import CommandError
from parley.replay.cast import Cast
from parley.replay.comparison import Spoken
from parley.replay.export import Entry, Export

SYSTEM_LINE_KIND = 64
"""The application's first kind; the protocol's own system messages (4) can only come from the server."""

SYSTEM_SPEAKER = "(system line)"
MAX_BODY_BYTES = 65_536 - 256
"""What every node takes: the least max_frame that the protocol lets it grant, less the room for the other fields."""


class Cue(NamedTuple):
    """One message to send: ``after_s`` from the replay's beginning at the latest cue's moment, 0 when there is no
    speed.
    """

    entry: Entry
    spoken: Spoken
    after_s: float


def write_script(export: Export, speed: float) -> list[Cue]:
    """Every entry as a cue. ``speed`` times as fast as it was (60: an hour a minute); 0: without waiting.
    CommandError for a text that no message can hold.
    """
    for entry in export.entries:
        size = len(entry.text.encode())
        if size > MAX_BODY_BYTES:
            raise CommandError(
                f"line {entry.first_line}: a message of {size:,} bytes, at most {MAX_BODY_BYTES:,} go: cut it in two"
            )
    waits = _waits(export.entries, speed)
    return [Cue(entry, _spoken(entry), after_s) for entry, after_s in zip(export.entries, waits, strict=True)]


def heard(messages: Sequence[Message], cast: Cast) -> list[Spoken]:
    """What was read back, in the words of the export; the server's own messages (who was added) are left out."""
    names = cast.names()
    return [
        Spoken(
            SYSTEM_SPEAKER
            if message.kind == SYSTEM_LINE_KIND
            else names.get(message.sender_id, str(message.sender_id)),
            message.kind,
            message.text,
        )
        for message in messages
        if message.kind != Kind.SYSTEM
    ]


def _spoken(entry: Entry) -> Spoken:
    if entry.author is None:
        return Spoken(SYSTEM_SPEAKER, SYSTEM_LINE_KIND, entry.text)
    return Spoken(entry.author, Kind.CONTENT, entry.text)


def _waits(entries: Sequence[Entry], speed: float) -> Iterator[float]:
    """Seconds from the first moment to each entry's; a clock that was set back makes nobody wait twice."""
    first: datetime | None = None
    after_s = 0.0
    for entry in entries:
        if entry.moment is not None and speed:
            first = first or entry.moment
            after_s = max(after_s, (entry.moment - first).total_seconds() / speed)
        yield after_s
