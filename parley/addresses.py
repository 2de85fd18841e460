"""Where to connect: the given address, and for one round those that a GOAWAY named, in their order.

It must not know sessions. A stream is opened by a function that the caller may replace.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import trio

from parley.errors import CannotConnect
from parley.options import Options

Address: TypeAlias = tuple[str, int]

OpenStream: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""``await open_stream(host, port)`` gives a connected byte stream, before TLS. Raises OSError."""


def parsed(addresses: Iterable[str]) -> list[Address]:
    """``host:port`` or ``[v6]:port`` as pairs; what is neither is left out, since the given address still stands."""
    pairs = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        if host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16:
            pairs.append((host.strip("[]"), int(port)))
    return pairs


class Dialer:
    def __init__(self, address: Address, options: Options, open_stream: OpenStream | None) -> None:
        self._address = address
        self._options = options
        self._open_stream = open_stream or trio.open_tcp_stream
        self._next: list[Address] = []

    def prefer(self, addresses: list[Address]) -> None:
        """Try these first, each once."""
        self._next = list(addresses)

    async def dial(self) -> trio.abc.Stream:
        """A connected stream, TLS done. Raises CannotConnect when no address answers."""
        addresses, self._next = [*self._next, self._address], []
        for address in addresses[:-1]:
            try:
                return await self._dial(address)
            except CannotConnect:
                continue
        return await self._dial(addresses[-1])

    async def _dial(self, address: Address) -> trio.abc.Stream:
        host, port = address
        timeout_s = self._options.connect_timeout_s
        try:
            with trio.fail_after(timeout_s):
                stream = await self._open_stream(host, port)
                if self._options.tls is None:
                    return stream
                return await self._secured(stream, self._options.tls, host)
        except trio.TooSlowError:
            raise CannotConnect(f"{host}:{port} does not answer within {timeout_s:g} s") from None
        except (OSError, trio.BrokenResourceError) as error:
            raise CannotConnect(f"cannot connect to {host}:{port}: {error}") from error

    async def _secured(self, stream: trio.abc.Stream, tls: ssl.SSLContext, host: str) -> trio.abc.Stream:
        secure = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secure
