"""The head of an exported line: the date and time in front of a message, in the styles that phones write.

Owns how a stamp looks and which of its numbers is the day. Knows nothing of authors and texts. Invariant: one export
was written by one phone in one go, so one layout and one order of day, month and year hold for the whole file.

An export never says its date order (``3/4/20``). It is found over the whole file: the order under which the fewest
stamps are no date, or earlier than the one before; and among equals, the custom of the layout.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
"""Direction marks (and a stray byte order mark), which phones put before stamps, around numbers and before
placeholders.
"""

# Spaces between the parts are any Unicode space: iOS 17 and Android 14 put U+202F before AM and PM.
_STAMP = re.compile(
    rf"""[{MARKS}]*
    (?P<bracket>\[)?
    (?P<first>\d{{1,4}}) (?P<separator>[./-])\s? (?P<second>\d{{1,2}}) (?P=separator)\s? (?P<third>\d{{1,4}}) \.?
    (?:[,،]\s*|\s+)
    (?P<hour>\d{{1,2}}) [:.] (?P<minute>\d\d) (?:[:.](?P<second_of_minute>\d\d))?
    (?:\s*(?P<meridiem>[AaPp])\.?\s?[Mm]\.?)?
    (?(bracket)[{MARKS}]*\](?:\s|$)|\s[-–](?:\s|$))
    [{MARKS}]*
    """,
    re.VERBOSE,
)


class DateOrder(enum.Enum):
    """Which of a date's three numbers is what: the places of year, month and day."""

    DAY_MONTH_YEAR = (2, 1, 0)
    MONTH_DAY_YEAR = (2, 0, 1)
    YEAR_MONTH_DAY = (0, 1, 2)


class Layout(NamedTuple):
    """What all stamps of one export have in common. A line of another layout is quoted text, not a new message."""

    is_bracketed: bool
    separator: str
    has_seconds: bool
    is_12_hour: bool


class Stamp(NamedTuple):
    """A stamp as it was found: ``numbers`` are the date's, in the order written; ``end`` is where the line goes on."""

    layout: Layout
    numbers: tuple[int, int, int]
    digits: tuple[int, int, int]
    clock: tuple[int, int, int]
    end: int


def find_stamp(line: str) -> Stamp | None:
    """The stamp at the beginning of a line, if there is one. Whether it is a date depends on the order:
    ``moment_of``.
    """
    found = _STAMP.match(line)
    if found is None:
        return None
    dates = (found["first"], found["second"], found["third"])
    meridiem = found["meridiem"]
    hour = int(found["hour"])
    if meridiem is not None and 1 <= hour <= 12:
        hour = hour % 12 + (12 if meridiem in "Pp" else 0)
    return Stamp(
        layout=Layout(
            is_bracketed=found["bracket"] is not None,
            separator=found["separator"],
            has_seconds=found["second_of_minute"] is not None,
            is_12_hour=meridiem is not None,
        ),
        numbers=(int(dates[0]), int(dates[1]), int(dates[2])),
        digits=(len(dates[0]), len(dates[1]), len(dates[2])),
        clock=(hour, int(found["minute"]), int(found["second_of_minute"] or 0)),
        end=found.end(),
    )


def moment_of(stamp: Stamp, order: DateOrder) -> datetime | None:
    """The local time that a stamp says under ``order``; None when it is none (a 31st of February, an hour 25)."""
    year_at, month_at, day_at = order.value
    year_digits = stamp.digits[year_at]
    if year_digits not in (2, 4) or stamp.digits[day_at] > 2 or stamp.digits[month_at] > 2:
        return None
    year = stamp.numbers[year_at] + (2000 if year_digits == 2 else 0)
    try:
        # An export never names its phone's time zone.
        return datetime(year, stamp.numbers[month_at], stamp.numbers[day_at], *stamp.clock)  # noqa: DTZ001
    except ValueError:
        return None


def detect_order(stamps: Sequence[Stamp]) -> DateOrder:
    """The order of day, month and year that fits the stamps of one layout best. There must be a stamp."""
    layout = stamps[0].layout
    # Month first is the custom of the slash with a 12-hour clock (en-US) alone; a tie goes to the day everywhere else.
    custom = [DateOrder.DAY_MONTH_YEAR, DateOrder.MONTH_DAY_YEAR, DateOrder.YEAR_MONTH_DAY]
    if layout.separator == "/" and layout.is_12_hour:
        custom[:2] = reversed(custom[:2])
    return min(custom, key=lambda order: _misfits(stamps, order))


def _misfits(stamps: Sequence[Stamp], order: DateOrder) -> int:
    """How many stamps are no date under ``order``, and how often time runs backwards over those that are.

    Both weigh the same: either happens by itself (a quoted stamp, a clock that was set back), and neither often.
    """
    moments = [moment for stamp in stamps if (moment := moment_of(stamp, order)) is not None]
    backwards = sum(later < earlier for earlier, later in pairwise(moments))
    return len(stamps) - len(moments) + backwards
