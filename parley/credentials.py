"""What the client proves its identity with: a resume token while it is good, else a JWT, renewed by its source.

It must not know connections. Invariant: a token that was refused is not offered again unless nothing newer can be had.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from parley.errors import TokenUnavailable

TokenSource: TypeAlias = Callable[[], Awaitable[str]]
"""An async function that returns a JWT for this device. It may raise TokenUnavailable or OSError: asked again later."""


class Credentials:
    def __init__(self, token: str | TokenSource, resume_token: bytes | None) -> None:
        self._source = None if isinstance(token, str) else token
        self._token = token if isinstance(token, str) else None
        self._obtained_at = trio.current_time()
        self.resume_token = resume_token

    @property
    def has_source(self) -> bool:
        return self._source is not None

    @property
    def token_age_s(self) -> float:
        """How long ago the JWT was obtained: one that is refused while young would not be improved by another at
        once.
        """
        return trio.current_time() - self._obtained_at

    def discard_token(self) -> None:
        """The server refused it. Without a source there is nothing else, so it stays."""
        if self._source is not None:
            self._token = None

    async def token(self) -> str:
        """The JWT, from the source if there is none. Raises TokenUnavailable."""
        if self._token is None:
            self._token = await self._renewed()
        return self._token

    async def renewed(self) -> str:
        """A new JWT from the source, or the old one if there is none. Raises TokenUnavailable."""
        self.discard_token()
        return await self.token()

    async def _renewed(self) -> str:
        if self._source is None:
            raise TokenUnavailable("there is no token, and no source of one")
        try:
            token = await self._source()
        except OSError as error:
            raise TokenUnavailable(str(error)) from error
        self._obtained_at = trio.current_time()
        return token
