"""Who plays whom in a replay: a user and a device for every author, one user who makes the group, one device that
reads.

The devices of a replay are what ``parley token --user U..V --device D,D+1`` prints for its users: the first is the
one that is connected live, the second, of the creator alone, reads the chat back. Invariant: no two roles share a
device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from parley.faults import CommandError
from parley.tokens import Credential, Mint, identities

FIRST_USER = 1_000
FIRST_DEVICE = 2_000


class Cast(NamedTuple):
    """``creator`` makes the group and says the system lines; ``reader`` is another device of the same user."""

    creator: Credential
    reader: Credential
    authors: dict[str, Credential]

    def names(self) -> dict[int, str]:
        """What each user is called in the export."""
        return {credential.user_id: author for author, credential in self.authors.items()}


def mint_cast(authors: Sequence[str], mint: Mint, *, first_user: int, first_device: int) -> Cast:
    """Users from ``first_user`` on: the creator, then the authors in their order."""
    users = range(first_user, first_user + len(authors) + 1)
    return assign(authors, [mint.sign(identity) for identity in identities(users, [first_device, first_device + 1])])


def assign(authors: Sequence[str], credentials: Sequence[Credential]) -> Cast:
    """Give the roles to these credentials. CommandError when they are too few: a user per author, one more with two
    devices.
    """
    devices: dict[int, list[Credential]] = {}
    for credential in credentials:
        devices.setdefault(credential.user_id, []).append(credential)
    creator = next((user for user, own in devices.items() if len(own) > 1), None)
    if creator is None or len(devices) < len(authors) + 1:
        raise CommandError(
            f"{len(authors)} authors need tokens of {len(authors) + 1} users, one of them with two devices:"
            f" parley token --user {FIRST_USER}..{FIRST_USER + len(authors)} --device {FIRST_DEVICE},{FIRST_DEVICE + 1}"
        )
    others = [own[0] for user, own in devices.items() if user != creator]
    return Cast(devices[creator][0], devices[creator][1], dict(zip(authors, others, strict=False)))
