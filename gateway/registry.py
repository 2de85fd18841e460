"""The directory, as the clients' side needs it: admission of sessions, and their end.

Owns the translation between a greeting and a registration. Knows no connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.cluster.directory import Directory, DirectoryUnavailable, Outcome, Registered, Registration
from gateway.net.ports import Admission, RegistryUnavailable
from gateway.protocol.identifiers import DeviceId, SessionId, UserId


class DirectoryRegistry:
    """A ``SessionRegistry``."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def admit(self, asking: Sequence[Admission]) -> list[tuple[bool, bool, SessionId]]:
        registrations = [
            Registration(a.user_id, a.device_id, a.session_id, a.resumed_from, a.expires_s) for a in asking
        ]
        try:
            results = await self._directory.register(registrations)
        except DirectoryUnavailable as error:
            raise RegistryUnavailable(str(error)) from error
        return [(r.outcome == Outcome.ACCEPTED, r.outcome == Outcome.RESUME_STALE, r.session_id) for r in results]

    def dismiss(self, user_id: UserId, device_id: DeviceId, session_id: SessionId) -> None:
        self._directory.unregister(user_id, device_id, session_id)

    async def renew(self, user_id: UserId, device_id: DeviceId, session_id: SessionId, expires_s: int) -> SessionId:
        """What is registered, registered again, with another end of its credential."""
        renewed = Registration(user_id, device_id, session_id, SessionId(0), expires_s)
        [result] = await self.register_again([renewed])
        return result.session_id

    async def register_again(self, registrations: Iterable[Registration]) -> list[Registered]:
        """After the directory was emptied. Raises RegistryUnavailable."""
        try:
            return await self._directory.register(list(registrations))
        except DirectoryUnavailable as error:
            raise RegistryUnavailable(str(error)) from error
