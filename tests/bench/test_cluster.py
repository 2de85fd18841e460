"""Several nodes as one: what they are started with, how clients are spread over them, what their work adds up to."""

from __future__ import annotations

import itertools
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cluster import BENCH_CONFIG, Backends, Cluster, Shape, SharedSettings, parse_host, parse_shape, serve
from bench.faults import BenchError
from bench.generator import EVEN_AFTER, Generator, shuffled
from bench.node import Node
from bench.target import Place, target
from bench.work import ROWS, SENDS, Work
from gateway.configfile import load

SCYLLA = Backends("scylla", "127.0.0.5:9142,127.0.0.6:9142", "127.0.0.7", "bench_it")


def test_nodes_of_a_cluster_get_settings_that_a_node_takes(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    settings = SharedSettings(SCYLLA, "name", "s" * 32)
    config.write_text(BENCH_CONFIG.read_text() + settings.toml_of(3))
    loaded = load(config)
    assert (loaded.cluster.node, loaded.store.backend, loaded.directory.backend) == (3, "scylla", "redis")
    assert (loaded.store.scylla.contact_points, loaded.store.scylla.port) == (("127.0.0.5", "127.0.0.6"), 9142)
    assert (loaded.store.scylla.keyspace, loaded.directory.redis.host) == ("bench_it", "127.0.0.7")


@pytest.mark.parametrize("store", ["sqlite", "memory"])
def test_a_node_alone_gets_settings_that_a_node_takes(store: str, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(BENCH_CONFIG.read_text() + SharedSettings(Backends(store), "name", "s" * 32).toml_of(1))
    loaded = load(config, {"serve.workers": 1})
    assert (loaded.cluster.node, loaded.store.backend) == (0, store)


@pytest.mark.parametrize(
    ("shape", "backends", "mend"),
    [
        (Shape(2, 1), Backends(), "--store scylla"),
        (Shape(1, 1), Backends("scylla"), "needs --cassandra"),
        (Shape(1, 1), Backends("oracle"), "one of sqlite, memory, scylla"),
        (Shape(1, 1), Backends("scylla", "a:1,b:2", "c:3"), "one port"),
    ],
)
def test_nodes_that_cannot_be_started_are_refused_with_the_mend(shape: Shape, backends: Backends, mend: str) -> None:
    with pytest.raises(BenchError, match=mend), serve(shape, backends):
        pass


@pytest.mark.parametrize("text", ["", "2", "2x", "x4", "0x4", "2x4x1"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="NODESxWORKERS"):
        parse_shape(text)


def test_a_shape_is_read_as_it_is_written() -> None:
    assert str(parse_shape("2x4")) == "2x4"
    assert (parse_host("redis", 6379), parse_host("redis:1", 6379)) == (("redis", 6379), ("redis", 1))


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    yield made
    for listener in made:
        listener.close()


def test_clients_are_spread_evenly_over_the_nodes(listeners: list[socket.socket]) -> None:
    clients = Generator([listener.getsockname()[:2] for listener in listeners], 256)
    for _ in range(2 * EVEN_AFTER):
        clients.connect()
    for listener in listeners:
        listener.settimeout(5)
        accepted = [listener.accept()[0] for _ in range(EVEN_AFTER)]
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        for connection in accepted:
            connection.close()
    clients.close()


def test_the_order_of_the_nodes_is_always_the_same_and_neighbours_meet_in_every_way() -> None:
    addresses = [("127.0.0.1", 1), ("127.0.0.1", 2)]
    first, again = (list(itertools.islice(shuffled(addresses), 200)) for _ in range(2))
    assert first == again
    pairs = Counter(zip(first[::2], first[1::2], strict=True))
    assert len(pairs) == 4
    assert min(pairs.values()) > 10


def test_running_nodes_are_given_one_by_one_with_as_many_ports() -> None:
    place = Place(connect=("127.0.0.1:1", "127.0.0.1:2"), ops_ports=(3,), data=Path("/nowhere"))
    with pytest.raises(BenchError, match="--ops-port is given 1 times for 2 nodes"), target(place, 0):
        pass


def test_a_cluster_is_known_when_each_of_its_nodes_is() -> None:
    known, unknown = Node(("127.0.0.1", 1), 0, 1, None), Node(("127.0.0.1", 2), 0, 0, None)
    assert Cluster((known,)).is_known
    assert not Cluster((known, unknown)).is_known
    assert Cluster((known, unknown)).metrics() == {}


# ------------------------------------------------------------------------------------------------- work


def test_work_is_divided_by_messages_and_by_rows_of_the_time_between() -> None:
    before = Work(10.0, ((SENDS, 100.0), (ROWS, 50.0), ("parley_link_frames_total", 7.0)))
    after = Work(12.0, ((SENDS, 10_100.0), (ROWS, 20_050.0), ("parley_link_frames_total", 30_007.0)))
    assert after.since(before).figures(acknowledged=1) == {
        "cpu_us_per_message": 200.0,
        "cpu_us_per_row": 100.0,
        "link_frames_per_message": 3.0,
    }


def test_messages_are_the_generators_where_the_nodes_do_not_count_them() -> None:
    assert Work(2.0).figures(acknowledged=1000) == {"cpu_us_per_message": 2000.0}


def test_a_cost_that_is_not_known_is_not_zero() -> None:
    assert Work().figures(acknowledged=1000) == {}
