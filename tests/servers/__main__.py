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
from contextlib import ExitStack
from pathlib import Path

from tests.servers import installing
from tests.servers.addresses import NoAddress
from tests.servers.cassandra import PATIENT, CassandraNode
from tests.servers.cassandra_settings import QUICK_TO_WRITE
from tests.servers.installing import ServerMissing
from tests.servers.redis import RedisServer

HEAP_MB = 1536
"""Twice what tests give it: a bench writes for minutes."""

ROOMY = {
    "memtable_heap_space": None,
    "commitlog_segment_size": "32MiB",
    "concurrent_writes": 256,
    "commitlog_sync_group_window": "1ms",
}
"""What tests make small: a flush of the memtable every few seconds would be measured too."""

MISSING = 3


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
        except (ServerMissing, NoAddress) as error:
            print(f"{error}", file=sys.stderr)
            return MISSING
        places = {"PARLEY_CASSANDRA": cassandra.contact_point, "PARLEY_REDIS": f"{redis.host}:{redis.port}"}
        return subprocess.run(command, env={**os.environ, **places}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
