"""The servers that other tests stand on: they start, answer, fall silent, die, come back, and leave nothing behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hiredis
import pytest

from tests.servers import cql
from tests.servers.cassandra import CassandraNode
from tests.servers.cassandra_cluster import CassandraCluster
from tests.servers.fixtures import required
from tests.servers.installing import Cassandra, ServerMissing
from tests.servers.processes import ServerFailed, ServerProcess
from tests.servers.redis import RedisServer
from tests.servers.toxiproxy import Proxy, Toxiproxy

SHORT_S = 0.3
PATIENCE_S = 20.0


def make_table(node: CassandraNode, keyspace: str, replicas: int) -> str:
    replication = f"{{'class': 'SimpleStrategy', 'replication_factor': {replicas}}}"
    node.query(f"CREATE KEYSPACE {keyspace} WITH replication = {replication}")
    node.query(f"CREATE TABLE {keyspace}.kept (id int PRIMARY KEY, text text)")
    return f"{keyspace}.kept"


def test_a_cassandra_node_keeps_its_rows_when_it_is_killed(installed_cassandra: Cassandra, tmp_path: Path) -> None:
    node = CassandraNode(installed_cassandra, tmp_path / "node")
    node.start()
    try:
        table = make_table(node, "kept", replicas=1)
        node.query(f"INSERT INTO {table} (id, text) VALUES (1, 'still here') IF NOT EXISTS")
        node.restart()
        assert b"still here" in node.query(f"SELECT text FROM {table}")
    finally:
        node.close()


def test_a_paused_cassandra_node_is_silent_until_it_is_resumed(cassandra: CassandraNode) -> None:
    cassandra.pause()
    with pytest.raises(cql.QueryFailed):
        cassandra.query("SELECT key FROM system.local", timeout_s=SHORT_S)
    cassandra.resume()
    assert b"local" in cassandra.query("SELECT key FROM system.local")


def test_a_refused_statement_raises_what_the_node_says(cassandra: CassandraNode) -> None:
    with pytest.raises(cql.QueryFailed, match="nowhere"):
        cassandra.query("SELECT * FROM nowhere.at_all")


def test_a_cluster_serves_a_quorum_without_one_node_and_is_healed(
    cassandra_cluster: CassandraCluster, keyspace: str
) -> None:
    one, two, three = cassandra_cluster.nodes
    table = make_table(one, keyspace, replicas=3)
    cassandra_cluster.wait_until_agreed()
    three.pause()
    two.query(f"INSERT INTO {table} (id, text) VALUES (1, 'by two of three') IF NOT EXISTS", cql.QUORUM)
    three.kill()
    cassandra_cluster.heal()
    assert b"by two of three" in three.query(f"SELECT text FROM {table}", cql.ALL)


def test_a_node_that_hears_nothing_from_its_peers_finds_no_quorum_and_they_find_one(
    cassandra_cluster: CassandraCluster, keyspace: str
) -> None:
    one, _, three = cassandra_cluster.nodes
    write = f"INSERT INTO {make_table(one, keyspace, replicas=3)} (id, text) VALUES (1, 'text')"
    cassandra_cluster.wait_until_agreed()
    three.peers.silence("upstream")
    one.query(write, cql.QUORUM)
    with pytest.raises(cql.QueryFailed, match="timed out"):
        three.query(write, cql.QUORUM)
    cassandra_cluster.heal()
    three.query(write, cql.ALL)


def test_clients_are_cut_off_from_a_node_that_its_peers_still_reach(
    cassandra_cluster: CassandraCluster, keyspace: str
) -> None:
    one, _, three = cassandra_cluster.nodes
    table = make_table(one, keyspace, replicas=3)
    cassandra_cluster.wait_until_agreed()
    three.clients.refuse()
    assert not three.is_answering()
    one.query(f"INSERT INTO {table} (id, text) VALUES (1, 'text')", cql.ALL)


def test_a_restarted_redis_is_empty_and_on_the_same_port(redis_server: RedisServer) -> None:
    redis_server.command("SET", "key", "value")
    port = redis_server.port
    redis_server.restart()
    assert (redis_server.port, redis_server.command("GET", "key")) == (port, None)


def test_a_redis_that_was_told_to_keeps_its_keys(make_redis: Callable[..., RedisServer]) -> None:
    server = make_redis(appendonly="yes", appendfsync="always")
    server.command("SET", "key", "value")
    server.restart()
    assert server.command("GET", "key") == "value"


def test_a_paused_redis_is_silent_until_it_is_resumed(redis_server: RedisServer) -> None:
    redis_server.pause()
    with socket.create_connection((redis_server.host, redis_server.port)) as connection:
        connection.sendall(b"PING\r\n")
        connection.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        redis_server.resume()
        connection.settimeout(PATIENCE_S)
        assert connection.recv(64) == b"+PONG\r\n"


def test_a_full_redis_refuses_writes_until_it_is_healed(redis_server: RedisServer) -> None:
    redis_server.limit_memory()
    with pytest.raises(hiredis.ReplyError, match="OOM"):
        redis_server.command("SET", "key", "value")
    redis_server.heal()
    assert redis_server.command("SET", "key", "value") == "OK"


def test_a_redis_closes_the_connections_of_its_clients(redis_server: RedisServer) -> None:
    with socket.create_connection((redis_server.host, redis_server.port), PATIENCE_S) as connection:
        connection.sendall(b"SUBSCRIBE channel\r\n")
        assert connection.recv(64)
        redis_server.drop_clients()
        assert connection.recv(64) == b""


def test_a_proxy_passes_bytes_until_it_is_silenced_one_way(toxiproxy: Toxiproxy, redis_server: RedisServer) -> None:
    proxy = toxiproxy.proxy(redis_server.host, redis_server.port)
    with socket.create_connection((proxy.host, proxy.port), PATIENCE_S) as connection:
        connection.sendall(b"SET key passed\r\n")
        assert connection.recv(64) == b"+OK\r\n"
        proxy.silence("downstream")
        connection.sendall(b"INCR heard\r\n")
        connection.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            connection.recv(64)
    assert redis_server.command("GET", "heard") == "1"


def answer_to_ping(proxy: Proxy, timeout_s: float) -> bytes:
    """Empty: no connection, or no answer in time."""
    try:
        with socket.create_connection((proxy.host, proxy.port), timeout_s) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64)
    except (TimeoutError, ConnectionError):
        return b""


@pytest.mark.parametrize("harm", ["silence", "refuse", "reset"])
def test_a_healed_proxy_is_found_at_the_same_address(
    toxiproxy: Toxiproxy, redis_server: RedisServer, harm: str
) -> None:
    proxy = toxiproxy.proxy(redis_server.host, redis_server.port)
    getattr(proxy, harm)()
    with (
        pytest.raises((TimeoutError, ConnectionError)),
        socket.create_connection((proxy.host, proxy.port), SHORT_S) as connection,
    ):
        connection.sendall(b"PING\r\n")
        if not connection.recv(64):
            raise ConnectionResetError
    proxy.heal()
    with socket.create_connection((proxy.host, proxy.port), PATIENCE_S) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(64) == b"+PONG\r\n"


def test_a_server_that_does_not_start_says_its_last_words(tmp_path: Path) -> None:
    server = ServerProcess("broken", ["/bin/sh", "-c", "echo no such option; exit 3"], tmp_path)
    with pytest.raises(ServerFailed, match=r"broken ended with status 3[^$]*no such option"):
        server.start(lambda: False, PATIENCE_S)
    assert not server.is_running


def test_servers_end_with_the_process_that_started_them_even_if_it_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, signal; from tests.servers.processes import ServerProcess;"
        "server = ServerProcess('child', ['/bin/sh', '-c', 'echo started; exec sleep 600'], pathlib.Path(sys.argv[1]));"
        "server.start(lambda: 'started' in server.tail(), 20); print(server.pid, flush=True); signal.pause()"
    )
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        parent.send_signal(signal.SIGKILL)
    has_ended, _, _ = select.select([watch], [], [], PATIENCE_S)  # a pidfd is readable when its process has ended
    os.close(watch)
    assert has_ended


@pytest.mark.parametrize(("no_skip", "outcome"), [("0", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_missing_server_skips_its_tests_or_fails_them_where_nothing_may_be_skipped(
    monkeypatch: pytest.MonkeyPatch, no_skip: str, outcome: type[Exception]
) -> None:
    def find() -> None:
        raise ServerMissing("no such server here")

    monkeypatch.setenv("PARLEY_NO_SKIP", no_skip)
    with pytest.raises(outcome, match="no such server here"):
        required(find)
