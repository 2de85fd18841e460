"""Whom to connect as, and which chat to begin with: the arguments of ``parley chat``, checked."""

from __future__ import annotations

from dataclasses import dataclass

from parley.faults import UsageError
from parley.terminal.commands import MakeGroup, parse_group


@dataclass(frozen=True, slots=True)
class Beginning:
    """At most one of the three; none: no chat is open at first."""

    peer: int | None = None
    chat_id: int | None = None
    group: MakeGroup | None = None


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    port: int
    token: str
    own_name: str
    beginning: Beginning


def choose_chat(peer: int | None, chat_id: int | None, group: str | None) -> Beginning:
    """Where to begin. UsageError when more than one place is given."""
    if sum(choice is not None for choice in (peer, chat_id, group)) > 1:
        raise UsageError("give one of --peer, --chat and --group: the others are an /open away")
    return Beginning(peer, chat_id, None if group is None else parse_group(group))
