"""What the clients' side needs of the rest of the worker.

Owns the seams alone: registration of sessions, requests to chats' owners, heads. Links and directories fulfil them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.chat.heads import HeadEntry
from gateway.chat.request import Request
from gateway.protocol.identifiers import ChatId, DeviceId, SessionId, UserId


class ChatRequests(Protocol):
    def request(self, chat_id: ChatId, request: Request) -> None:
        """Take a request to the chat's owner; whoever ends it answers it."""
        ...


class ChatHeads(Protocol):
    async def heads(
        self, device: tuple[int, int], session_id: int, chats: Sequence[tuple[int, bool]]
    ) -> dict[int, HeadEntry]:
        """Raises ProtocolError (MOVED)."""
        ...


class RegistryUnavailable(Exception):
    """A dependency's fault: the directory did not answer. Trying again is safe."""


class Admission(Protocol):
    """One session that asks to be the live one of its device."""

    user_id: UserId
    device_id: DeviceId
    session_id: SessionId
    resumed_from: SessionId
    expires_s: int


class SessionRegistry(Protocol):
    async def admit(self, asking: Sequence[Admission]) -> list[tuple[bool, bool, SessionId]]:
        """For each: (admitted, its resume token is outdated, the highest session id known of the device).

        Raises RegistryUnavailable.
        """
        ...

    async def renew(self, user_id: UserId, device_id: DeviceId, session_id: SessionId, expires_s: int) -> SessionId:
        """The session's credential ends at another time (Unix, s): its record must outlive it. Returns the highest session id
        known of the device: another than this one has replaced it. Raises RegistryUnavailable.
        """
        ...

    def dismiss(self, user_id: UserId, device_id: DeviceId, session_id: SessionId) -> None:
        """The session has ended."""
        ...
