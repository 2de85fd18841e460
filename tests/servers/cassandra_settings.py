"""What a Cassandra of the tests is configured with: its cassandra.yaml, its log, its Java options.

Owns no process. Invariant: a node writes only below its own folder, listens only on its own loopback address, and has put
a row on the disk before it acknowledges it, as in production. The rest is to start fast and to stay small.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.servers.addresses import free_hosts

NATIVE_PORT = 9042
STORAGE_PORT = 7000

LOGBACK = """<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %date{HH:mm:ss.SSS} [%thread] %logger{0} - %msg%n</pattern></encoder>
  </appender>
  <logger name="org.apache.cassandra.config" level="WARN"/>
  <logger name="org.apache.cassandra.db" level="WARN"/>
  <logger name="org.apache.cassandra.io" level="WARN"/>
  <logger name="org.apache.cassandra.net" level="WARN"/>
  <logger name="org.apache.cassandra.service.NativeTransportService" level="WARN"/>
  <logger name="org.apache.cassandra.transport.PipelineConfigurator" level="WARN"/>
  <root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
"""

# Cassandra's own conf/jvm17-server.options: what it reaches for in the JDK.
EXPORTS = (
    *("java.base/jdk.internal.misc", "java.base/java.lang.ref", "java.sql/java.sql", "jdk.unsupported/sun.misc"),
    *("java.management.rmi/com.sun.jmx.remote.internal.rmi", "java.rmi/sun.rmi.registry", "java.rmi/sun.rmi.server"),
    *("jdk.compiler/com.sun.tools.javac.file", "jdk.attach/sun.tools.attach"),
)
OPENS = (
    *("java.base/java.io", "java.base/java.lang", "java.base/java.lang.module", "java.base/java.lang.reflect"),
    *("java.base/java.util", "java.base/sun.nio.ch", "java.base/jdk.internal.loader", "java.base/jdk.internal.math"),
    *("java.base/jdk.internal.module", "java.base/jdk.internal.ref", "java.base/jdk.internal.reflect"),
    *("java.base/jdk.internal.util.jar", "jdk.compiler/com.sun.tools.javac"),
    "jdk.management/com.sun.management.internal",
)


class Place(NamedTuple):
    """Where a node is: the address by which others know it, the one it listens on, and whom it asks for the others."""

    host: str
    listen_host: str
    seeds: tuple[str, ...]

    @classmethod
    def alone(cls) -> Place:
        host = free_hosts(1, (NATIVE_PORT, STORAGE_PORT))[0]
        return cls(host, host, (host,))


def configuration(folder: Path, place: Place, overrides: Mapping[str, object]) -> str:
    """A cassandra.yaml; JSON is YAML. ``overrides`` are settings of the caller's, None takes one out."""
    seeds = ",".join(f"{seed}:{STORAGE_PORT}" for seed in place.seeds)
    simple_seeds = "org.apache.cassandra.locator.SimpleSeedProvider"
    settings: dict[str, object] = {
        "cluster_name": "parley-tests",
        "listen_address": place.listen_host,
        "broadcast_address": place.host,
        "rpc_address": place.listen_host,
        "broadcast_rpc_address": place.host,
        "storage_port": STORAGE_PORT,
        "native_transport_port": NATIVE_PORT,
        "seed_provider": [{"class_name": simple_seeds, "parameters": [{"seeds": seeds}]}],
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "endpoint_snitch": "SimpleSnitch",
        "num_tokens": 1,
        "auto_bootstrap": False,
        "authenticator": "AllowAllAuthenticator",
        "authorizer": "AllowAllAuthorizer",
        "data_file_directories": [str(folder / "data")],
        "commitlog_directory": str(folder / "commitlog"),
        "saved_caches_directory": str(folder / "saved_caches"),
        "hints_directory": str(folder / "hints"),
        "cdc_raw_directory": str(folder / "cdc"),
        "commitlog_sync": "group",
        "commitlog_sync_group_window": "2ms",
        "commitlog_segment_size": "8MiB",
        "commitlog_disk_access_mode": "legacy",
        "hinted_handoff_enabled": True,
        "hints_flush_period": "1s",
        "memtable_heap_space": "64MiB",
        "file_cache_size": "32MiB",
        "key_cache_size": "0MiB",
        "auto_snapshot": False,
    }
    settings |= overrides
    return json.dumps({name: value for name, value in settings.items() if value is not None}, indent=1)


QUICK_TO_START = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""One compiler tier costs 6.3 s of CPU to start, both cost 8.3 s; the serial collector is the smallest."""

QUICK_TO_WRITE = ("-XX:+UseParallelGC", "-Xmn600m")
"""For benches: all of the compiler, and the collector that costs least (G1 writes 0.87 times the rows on two cores)."""


def java_options(
    folder: Path, jars: Path, heap_mb: int, ring_delay_ms: int, machine: Sequence[str] = QUICK_TO_START
) -> list[str]:
    """For Java 17. ``machine``: its collector and compiler."""
    properties = {
        "cassandra.config": f"file://{folder}/cassandra.yaml",
        "cassandra.storagedir": str(folder),
        "cassandra-foreground": "yes",
        "cassandra.ring_delay_ms": str(ring_delay_ms),
        "cassandra.skip_wait_for_gossip_to_settle": "0",
        "cassandra.consistent.rangemovement": "false",  # nodes of one cluster start at the same time
        "cassandra.shutdown_announce_in_ms": "0",
        "logback.configurationFile": f"{folder}/logback.xml",
        "java.io.tmpdir": str(folder),
        "jdk.attach.allowAttachSelf": "true",
        "io.netty.tryReflectionSetAccessible": "true",
    }
    return [
        *(f"-Xms{heap_mb}m", f"-Xmx{heap_mb}m", *machine),
        *("-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData"),
        *(f"--add-exports={package}=ALL-UNNAMED" for package in EXPORTS),
        *(f"--add-opens={package}=ALL-UNNAMED" for package in OPENS),
        *(f"-D{name}={value}" for name, value in properties.items()),
        *(f"-javaagent:{agent}" for agent in sorted(jars.glob("jamm-*.jar"))),
    ]
