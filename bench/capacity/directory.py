"""The directory: look-ups that the caches do not save, news of who moved, registrations; and how many Redis servers that is.

The model: a chat's owner keeps the places of the chat's members until the directory says that one has moved, and asks
again with the next message. So of every pair (user, worker that writes to him), the state goes back and forth: known
until a move, unknown until a message.
"""

from __future__ import annotations

from typing import NamedTuple

from bench.capacity.chance import expected_distinct
from bench.capacity.region import Region


class DirectoryLoad(NamedTuple):
    """Per second, of the whole region, unless said otherwise."""

    trackers: float
    """Workers that keep a user's places."""
    located_per_worker: float
    """Users whose places a worker keeps."""
    hit_rate: float
    lookups: float
    invalidations: float
    registrations: float
    """Scripts: a session's begin and its end."""
    beats: float
    commands: float
    servers: float
    """Redis processes at one core each."""
    memory_bytes: float
    tracked_keys: float


def directory_load(region: Region) -> DirectoryLoad:
    trackers = expected_distinct(region.workers, region.active_chats)
    pairs = region.connections * trackers
    moves_per_s = 2 / region.session_s
    messages_per_s = region.deliveries_per_s / pairs
    located = pairs / region.workers
    forgotten = max(0.0, 1 - region.located_users / located) if located else 0.0
    saved = messages_per_s / (messages_per_s + moves_per_s) * (1 - forgotten)
    lookups = region.deliveries_per_s * (1 - saved)
    registrations = 2 * region.connections / region.session_s
    beats = region.workers * region.worker_beats_per_s
    commands = lookups + registrations + beats
    return DirectoryLoad(
        trackers=trackers,
        located_per_worker=located,
        hit_rate=saved,
        lookups=lookups,
        invalidations=min(lookups, region.connections * moves_per_s * trackers),
        registrations=registrations,
        beats=beats,
        commands=commands,
        servers=commands / region.redis_per_s,
        memory_bytes=region.connections * region.user_key_bytes,
        tracked_keys=region.connections,
    )
