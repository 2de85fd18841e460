"""Reaching a Redis: TCP, TLS or a Unix socket.

Owns the way to a stream of bytes; knows nothing of what travels on it. Errors are OSError, ssl.SSLError among them, or
Trio's; the caller bounds the time.
"""

from __future__ import annotations

import socket
import ssl

import trio

from storage.redis.settings import RedisSettings

Address = tuple[str, int]

KEEPALIVE_S = 15


def tls_context(settings: RedisSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.tls_ca_path or None)
    context.check_hostname = settings.is_tls_hostname_checked
    if settings.tls_certificate_path:
        context.load_cert_chain(settings.tls_certificate_path, settings.tls_key_path or None)
    return context


async def dial(settings: RedisSettings, address: Address) -> trio.abc.Stream:
    """A connected stream to ``address`` (host, port), unless the settings name a Unix socket."""
    if settings.unix_path:
        return await trio.open_unix_socket(settings.unix_path)
    stream = await trio.open_tcp_stream(*address)
    # A machine that went away without a word is found by the commands' own time-outs; this is for a connection that idles.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    if not settings.is_tls:
        return stream
    tls = trio.SSLStream(stream, tls_context(settings), server_hostname=address[0], https_compatible=True)
    try:
        await tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return tls
