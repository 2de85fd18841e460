"""The directory of a cluster: a worker's view of it over Redis."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

import trio

from bench.backends.asking import KEPT_S
from gateway.cluster.directory import Directory
from storage.redis.directory import RedisDirectory
from storage.redis.settings import RedisSettings


@contextlib.asynccontextmanager
async def redis_directory(host: str, port: int) -> AsyncIterator[Directory]:
    """Before ``join``, under a prefix of its own, whose keys outlive it by minutes. ``join`` waits for nobody."""
    prefix = f"bench-{secrets.token_hex(4)}"
    settings = RedisSettings(host=host, port=port, prefix=prefix, location_ttl_s=KEPT_S, settle_s=0)
    directory = RedisDirectory(settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        yield directory
        nursery.cancel_scope.cancel()
