"""Why a node cannot serve, in one line for the operator.

Owns the family's root alone; each error lives where it is found. A wrong configuration is a ``ConfigError`` of its
own.
"""

from __future__ import annotations


class CannotServe(Exception):
    """The message is one line: what is wrong, and the mend. Neither our bug nor a client's fault."""
