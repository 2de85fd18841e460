"""``python -m tests.servers COMMAND ...``: a command that needs a Cassandra and a Redis, with both of them started for it.

They are named to it as HOST:PORT in PARLEY_CASSANDRA and PARLEY_REDIS. Both are empty, and gone with the command. Its exit
status is returned; 3 if the servers cannot be had.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.servers import installing
from tests.servers.addresses import NoAddress
from tests.servers.cassandra import PATIENT, CassandraNode
from tests.servers.cassandra_settings import QUICK_TO_WRITE
from tests.servers.installing import ServerMissing
from tests.servers.redis import RedisServer

HEAP_MB = 3072

ROOMY = {
    "memtable": {"configurations": {"default": {"class_name": "TrieMemtable"}}},
    "memtable_allocation_type": "offheap_objects",
    "memtable_heap_space": "1GiB",
    "memtable_offheap_space": "4GiB",
    "commitlog_segment_size": "32MiB",
    "concurrent_writes": 256,
    "commitlog_sync_group_window": "1ms",
}
"""What tests make small, so that a bench of a minute or two is not one of a flush as well: a flush of 400 MB takes half of both
cores for three seconds. The memtable is that of Cassandra's own cassandra_latest.yaml."""

SHARE = 10
"""Its niceness towards other sessions' processes. It has fifty threads that want to run, the workers have one each: with equal
shares a worker waits longer for a core than it computes, and a message that passes two of them takes twice as long."""

MISSING = 3


def yield_cores(pid: int) -> None:
    """Linux shares the cores among sessions first, and a niceness counts within one. Where it does not, there is no such file."""
    with suppress(FileNotFoundError):
        Path(f"/proc/{pid}/autogroup").write_text(f"{SHARE}")


def main(command: Sequence[str]) -> int:
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="parley-servers-") as folder, ExitStack() as running:
        try:
            cassandra = CassandraNode(
                installing.find_cassandra(),
                Path(folder) / "cassandra",
                heap_mb=HEAP_MB,
                settings={**PATIENT, **ROOMY},
                machine=QUICK_TO_WRITE,
            )
            redis = RedisServer(installing.find_redis(), Path(folder))
            for server in (redis, cassandra):
                running.callback(server.close)
                server.start()
            yield_cores(cassandra.process.pid)
        except (ServerMissing, NoAddress) as error:
            print(f"{error}", file=sys.stderr)
            return MISSING
        places = {"PARLEY_CASSANDRA": cassandra.contact_point, "PARLEY_REDIS": f"{redis.host}:{redis.port}"}
        return subprocess.run(command, env={**os.environ, **places}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
