"""Why a bench could not be run at all: not a violation of the node's, and not an invalid figure."""

from __future__ import annotations


class BenchError(Exception):
    """One line that says what was in the way, and the mend where there is one."""
