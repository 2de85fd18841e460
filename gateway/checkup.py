"""What ``parley doctor`` says of a cluster's node, beyond its host: the store, the directory, the links, the shared keys.

Owns the questions that need a backend; part of the composition root. It changes nothing, and everything that is asked has
a bounded time to answer.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from gateway.backends import NameUnknown, link_addresses, link_keys, redis_settings, scylla_settings
from gateway.config import Config
from gateway.node import ports
from gateway.ops.findings import Finding

TIMEOUT_S = 60.0


async def examine(config: Config) -> list[Finding]:
    """Raises ConfigError."""
    from storage.redis import doctor as redis
    from storage.scylla import doctor as scylla

    scylla_given, redis_given = scylla_settings(config), redis_settings(config)
    findings = [*await _links(config), *_shared_keys(config)]
    with trio.move_on_after(TIMEOUT_S) as scope:
        findings += await scylla.examine(scylla_given)
        findings += await trio.to_thread.run_sync(redis.examine, redis_given, abandon_on_cancel=True)
    if scope.cancelled_caught:
        findings.append(Finding("servers", False, f"no answer within {TIMEOUT_S:g} s", "look at their logs"))
    return findings


async def _links(config: Config) -> list[Finding]:
    """Can the workers listen where the configuration says?"""
    cluster = config.cluster
    link_keys(config)
    try:
        advertised, bound = await link_addresses(cluster)
    except NameUnknown as error:
        return [Finding("links", False, str(error), "give an address, or a name that this host knows")]
    wanted = (
        [cluster.link_port + number for number in range(max(1, config.serve.workers))] if cluster.link_port else [0]
    )
    try:
        for port in wanted:
            ports.listen_alone(bound, port, "cluster.link_port").close()
    except ports.PortUnavailable as error:
        return [Finding("links", False, str(error), "stop what is there, or choose other ports")]
    where = f"{wanted[0]} to {wanted[-1]}" if cluster.link_port else "free ones"
    found = f"other nodes reach {advertised}, ports: {where}; {len(cluster.link_keys)} key(s)"
    return [Finding("links", True, found), *_loopback(advertised)]


def _loopback(advertised: str) -> Iterable[Finding]:
    if advertised.startswith("127.") or advertised == "::1":
        mend = "set cluster.host to an address of the network between the nodes"
        yield Finding("cluster.host", False, f"{advertised} is reached from this machine alone", mend, is_needed=False)


def _shared_keys(config: Config) -> Iterable[Finding]:
    auth, data = config.auth, config.serve.data
    for name, is_shared, file, effect in (
        ("auth.keys", bool(auth.keys), "auth.key", "tokens made for one node are refused at the others"),
        (
            *("auth.resume_secret", bool(auth.resume_secret or auth.resume_secret_file), "resume.key"),
            "clients that move to another node show their JWT again",
        ),
    ):
        found = (
            "is the same on every node, we trust"
            if is_shared
            else f"not set, {data}/{file} is this node's own: {effect}"
        )
        yield Finding(name, is_shared, found, f"give every node the same {name}, or the same {file}", is_needed=False)
