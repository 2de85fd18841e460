"""What a doctor says of one thing: the host's, the store's and the directory's alike."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    subject: str
    is_good: bool
    found: str
    mend: str = ""
    is_needed: bool = True
    """False: the node serves without it, less well."""
