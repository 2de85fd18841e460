"""How the directory's values are written: fixed-width texts that Lua can cut and compare.

Owns the layouts, which ``lua.py`` repeats in its offsets. Numbers are decimal digits with leading zeros, never Lua
numbers: those are doubles and lose a session id above 2^53; and digits of one width compare as the numbers do, in every
locale (Redis sets one, and Lua compares by it). Binary would be half as long, and would not compare.

- A worker's *stay* (17): worker 7, tag 10. The tag is drawn anew whenever all locations of that worker are void.
- A device (85): device 19, sign 1 (``+`` connected, ``-`` was), stay 17, session 19, floor of resume 19, expiry 10.
  A user's value is its devices in a row.
- A worker's record: incarnation 19, tag 10, draining 1, then address, NUL, host address.
- A registration (68): ``R``, device 19, session 19, resumed from 19, expiry 10. Its end (39): ``U``, device 19, session 19.
- A replaced session (76): user 19, device 19, old session 19, new session 19.

Invariant: what does not have its layout is nobody's: it is left out, and written over by the next registration.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.cluster.directory import Location, Registration, Replaced, WorkerRecord
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId

ID_DIGITS = 19
EXPIRY_LIMIT = 10**10 - 1
TAG_CHARS = 10
DEVICE_BYTES = 85

_DEVICE = slice(0, 19)
_SIGN = 19
_STAY = slice(20, 37)
_SESSION = slice(37, 56)
_CONNECTED = ord("+")


class Member(NamedTuple):
    """A worker as the directory lists it."""

    record: WorkerRecord
    stay: bytes


class Keys:
    """The names under one prefix. The braces keep all of them in one slot of a Redis Cluster."""

    def __init__(self, prefix: str) -> None:
        root = b"{%b}:" % prefix.encode()
        self.cluster = root + b"cluster"
        self.alive = root + b"alive"
        self.ended = root + b"ended"
        self.news = root + b"news"
        self.user = root + b"u:"
        self.channel = root + b"to:"
        self.rate = root + b"rate:"

    def of_user(self, user_id: int) -> bytes:
        return b"%b%019d" % (self.user, user_id)

    def user_of(self, key: bytes) -> UserId | None:
        """None: the key is no user's."""
        return UserId(int(key[-ID_DIGITS:])) if key.startswith(self.user) else None

    def channel_of(self, worker: int) -> bytes:
        return b"%b%07d" % (self.channel, worker)


def stay_of(worker: int, tag: bytes) -> bytes:
    return b"%07d%b" % (worker, tag)


def pack_member(record: WorkerRecord, tag: bytes) -> bytes:
    head = b"%019d%b%d" % (record.incarnation, tag, record.is_draining)
    return b"%b%b\0%b" % (head, record.address.encode(), record.host_address.encode())


def unpack_member(worker: WorkerId, packed: bytes) -> Member:
    """Raises ValueError."""
    address, _, host_address = packed[30:].decode().partition("\0")
    record = WorkerRecord(worker, int(packed[:19]), address, packed[29:30] == b"1", host_address)
    return Member(record, stay_of(worker, packed[19:29]))


def pack_registration(wanted: Registration) -> bytes:
    _, device, session, resumed_from, expires_s = wanted
    return b"R%019d%019d%019d%010d" % (device, session, resumed_from, max(0, min(expires_s, EXPIRY_LIMIT)))


def pack_ending(device: int, session: int) -> bytes:
    return b"U%019d%019d" % (device, session)


def connected(value: bytes) -> list[tuple[bytes, Location]]:
    """(stay, location) of each connected device of a user's value."""
    found: list[tuple[bytes, Location]] = []
    if len(value) % DEVICE_BYTES:
        return found
    for at in range(0, len(value), DEVICE_BYTES):
        if value[at + _SIGN] == _CONNECTED:
            device = value[at : at + DEVICE_BYTES]
            stay = device[_STAY]
            place = Location(DeviceId(int(device[_DEVICE])), WorkerId(int(stay[:7])), SessionId(int(device[_SESSION])))
            found.append((stay, place))
    return found


def unpack_replaced(packed: bytes) -> Replaced:
    """Raises ValueError."""
    user, device, old, new = (int(packed[at : at + ID_DIGITS]) for at in range(0, 4 * ID_DIGITS, ID_DIGITS))
    return Replaced(UserId(user), DeviceId(device), SessionId(old), SessionId(new))
