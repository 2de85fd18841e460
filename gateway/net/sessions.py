"""The live sessions of this worker: one small object each, found by connection and by device.

Owns who is connected here. It sends nothing and decides nothing. Invariant: at most one live session per (user, device),
the one with the highest session_id.

Memory is the point: an idle phone costs one Session, two dictionary entries and the kernel's slot. What most sessions
never need (receipts kept back, a SYNC under way) is None until needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.protocol.identifiers import DeviceId, SessionId, UserId

if TYPE_CHECKING:
    from gateway.net.replies import Replies
    from gateway.net.syncing import SyncRun


class Session:
    __slots__ = (
        "_replies",
        "conn",
        "device_id",
        "expires_s",
        "is_active",
        "is_lagged",
        "kept_receipts",
        "session_id",
        "sync",
        "throttled_until_s",
        "user_id",
        "window",
    )

    def __init__(self, conn: int, ids: tuple[UserId, DeviceId, SessionId], expires_s: int, replies: Replies) -> None:
        self.conn = conn
        self.user_id, self.device_id, self.session_id = ids
        self.expires_s = expires_s
        self.window = 0
        self.is_active = True
        self.is_lagged = False
        """It was told LAGGED, and gets no MSG until its next SYNC."""
        self.kept_receipts: dict[tuple[int, int, int], bytes] | None = None
        self.sync: SyncRun | None = None
        self.throttled_until_s = 0.0
        self._replies = replies

    def answer(self, rid: int, op: int, payload: bytes) -> None:
        """One reply on this session's connection (the ``Origin`` of its requests)."""
        self._replies.answer(self, rid, op, payload)


class SessionTable:
    """See the module. Most users have one device here, so a user's entry is the session itself, or a tuple of several."""

    def __init__(self) -> None:
        self._by_conn: dict[int, Session] = {}
        self._by_user: dict[UserId, Session | tuple[Session, ...]] = {}
        self.next_expiry_s: float = float("inf")
        """No session expires before."""

    def __len__(self) -> int:
        return len(self._by_conn)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_conn.values()))

    def of_conn(self, conn: int) -> Session | None:
        return self._by_conn.get(conn)

    def of_device(self, user_id: int, device_id: int) -> Session | None:
        entry = self._by_user.get(user_id)  # type: ignore[call-overload]
        if type(entry) is Session:
            return entry if entry.device_id == device_id else None
        for session in entry or ():
            if session.device_id == device_id:
                found: Session = session
                return found
        return None

    def add(self, session: Session) -> None:
        """The device's earlier session, if any, must have been removed."""
        self._by_conn[session.conn] = session
        entry = self._by_user.get(session.user_id)
        if entry is None:
            self._by_user[session.user_id] = session
        else:
            self._by_user[session.user_id] = (*(entry if isinstance(entry, tuple) else (entry,)), session)
        self.next_expiry_s = min(self.next_expiry_s, session.expires_s)

    def renew(self, session: Session, expires_s: int) -> None:
        """Another credential: its end may come sooner, too."""
        session.expires_s = expires_s
        self.next_expiry_s = min(self.next_expiry_s, expires_s)

    def remove(self, session: Session) -> bool:
        """False: it was gone already."""
        if self._by_conn.get(session.conn) is not session:
            return False
        del self._by_conn[session.conn]
        entry = self._by_user[session.user_id]
        rest = tuple(s for s in entry if s is not session) if isinstance(entry, tuple) else ()
        if not rest:
            del self._by_user[session.user_id]
        else:
            self._by_user[session.user_id] = rest[0] if len(rest) == 1 else rest
        return True

    def expired(self, now_s: float) -> list[Session]:
        """Sessions whose credential ended by ``now_s``. Looks at all of them only when one may have."""
        if now_s < self.next_expiry_s:
            return []
        self.next_expiry_s = min(
            (s.expires_s for s in self._by_conn.values() if s.expires_s > now_s), default=float("inf")
        )
        return [session for session in self._by_conn.values() if session.expires_s <= now_s]
