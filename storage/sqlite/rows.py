"""Many rows as one parameter: a JSON array of arrays that SQLite takes apart.

Owns that form. It serves statements that write many rows at once: one execution, so one wait for the GIL, however many rows
there are (``appending.py`` says what more of them would cost). ``->>`` would read better; SQLite has it from 3.38 on, and
Python 3.11 is still found beside 3.37.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


def pack(rows: Sequence[object]) -> str:
    """The argument of ``json_each``: a list of integers, or of lists of integers and None."""
    return msgspec.json.encode(rows).decode()


def field(index: int, row: str = "value") -> str:
    """The SQL for one element of a row of ``json_each``."""
    return f"json_extract({row}, '$[{index}]')"


def fields(*indexes: int) -> str:
    return ", ".join(field(index) for index in indexes)
