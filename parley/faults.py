"""What goes wrong for a person at the command line: one line that says the mend, and an exit code.

Owns the two errors that ``parley.cli`` prints instead of a traceback. Invariant: a message is one line.
"""

from __future__ import annotations


class CommandError(Exception):
    """The command was right, and could not be done. Exit code 1."""

    exit_code = 1


class UsageError(CommandError):
    """The command itself was wrong. Exit code 2."""

    exit_code = 2
