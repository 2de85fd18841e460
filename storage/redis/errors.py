"""What goes wrong with a Redis, in our words; no error of a driver leaves this folder.

All of it is a dependency's fault. Whatever a directory's caller sees is the port's DirectoryUnavailable.
"""

from __future__ import annotations

import re

UNFIT = frozenset({"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "NOAUTH", "WRONGPASS", "NOPERM"})
"""Codes of a server that will not serve us as it is: a connection to it is of no use now."""

_WRAPPED = re.compile(r"-(OOM|READONLY|MISCONF|NOREPLICAS)\b")


class RedisUnavailable(Exception):
    """No answer, or none that helps. What was asked may have been done."""


class RedisProtocolError(RedisUnavailable):
    """The server sent what is no RESP3: the connection is of no use any more."""


class ErrorReply(RedisUnavailable):
    """The server's own words. ``code``: the first of them, also of an error inside a script."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        wrapped = _WRAPPED.search(text)
        self.code = wrapped.group(1) if wrapped else text.partition(" ")[0]

    @property
    def is_unfit(self) -> bool:
        return self.code in UNFIT

    @property
    def moved_to(self) -> tuple[str, int] | None:
        """Of MOVED: where a Redis Cluster keeps our slot. An empty host is the one that said it."""
        words = str(self).split(" ")
        if self.code != "MOVED" or len(words) < 3:
            return None
        host, _, port = words[2].rpartition(":")
        return (host, int(port)) if port.isdigit() else None
