"""What deploy/ says is what the program takes, and what the documents call by name exists."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import Config
from gateway.configfile import load, parse_assignment
from parley.cli import run
from tests.operations.test_documents import generator

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CLUSTER = ROOT / "configs" / "cluster.toml"


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def nodes_of_compose() -> dict[str, list[str]]:
    """The command of each node, as on this machine."""
    services = compose()["services"]
    return {
        name: [word.replace("/etc/parley/", f"{CLUSTER.parent}/") for word in service["command"]]
        for name, service in services.items()
        if service.get("image") == "parley"
    }


def overrides(command: list[str]) -> dict[str, object]:
    return dict(parse_assignment(word.removeprefix("--set=")) for word in command if word.startswith("--set="))


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "parley.service")
    return parser["Service"]


# ------------------------------------------------------------------------------------------------- the cluster's file


def test_the_cluster_file_is_a_cluster_of_any_number_of_nodes() -> None:
    for node in (1, 2, 1023):
        config = load(CLUSTER, {"cluster.node": node})
        assert config.cluster.node == node
        assert (config.store.backend, config.directory.backend) == ("scylla", "redis")


def test_the_cluster_file_differs_from_the_defaults_in_what_makes_a_cluster_alone() -> None:
    config, defaults = load(CLUSTER), Config()
    assert (config.serve, config.session, config.limits) == (defaults.serve, defaults.session, defaults.limits)
    assert (config.chat, config.outbox) == (defaults.chat, defaults.outbox)
    assert (config.store.scylla, config.directory.redis) == (defaults.store.scylla, defaults.directory.redis)


def test_the_files_head_names_the_files_that_it_reads() -> None:
    config = load(CLUSTER)
    named = {config.auth.keys[0].secret_file, config.auth.resume_secret_file, config.cluster.link_keys[0].secret_file}
    made = re.search(r"for name in ([\w ]+);", CLUSTER.read_text())
    assert made is not None
    assert named == {f"secrets/{name}.key" for name in made[1].split()}


# ------------------------------------------------------------------------------------------------------------ compose


def test_every_node_of_compose_is_told_what_serve_takes(capsys: pytest.CaptureFixture[str]) -> None:
    commands = nodes_of_compose()
    assert len(commands) == 2
    for command in commands.values():
        assert run([*command, "--check"]) == 0, capsys.readouterr().err


def test_nodes_of_compose_have_numbers_and_names_of_their_own() -> None:
    numbers: list[object] = []
    for name, command in nodes_of_compose().items():
        given = overrides(command)
        assert given["cluster.host"] == name
        numbers.append(given["cluster.node"])
    assert set(numbers) == {1, 2}


def test_nodes_of_compose_differ_in_nothing_else() -> None:
    one, two = (
        {word for word in command if not word.startswith("--set=cluster.")} for command in nodes_of_compose().values()
    )
    assert one == two


def test_what_nodes_of_compose_rely_on_is_there_and_watched() -> None:
    services = compose()["services"]
    for name, command in nodes_of_compose().items():
        given = overrides(command)
        assert given["directory.redis.host"] in services
        assert set(given["store.scylla.contact_points"]) <= set(services)  # type: ignore[call-overload]
        assert set(services[name]["depends_on"]) <= set(services)
    volumes = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert {volume for volume in volumes if not volume.startswith(".")} <= set(compose()["volumes"])
    assert all((DEPLOY / volume).exists() for volume in volumes if volume.startswith("."))


def test_a_node_of_compose_is_stopped_no_sooner_than_it_has_drained() -> None:
    for name in nodes_of_compose():
        grace_s = int(compose()["services"][name]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= Config().serve.drain_timeout_s + 15


def test_the_image_has_what_the_nodes_are_told_to_read() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert "COPY configs /etc/parley" in text
    copied = {Path(word).name for line in re.findall(r"COPY (.+) \S+\n", text) for word in line.split()}
    for package in ("gateway", "storage", "parley", "pyproject.toml", "setup.py"):
        assert package in copied


# --------------------------------------------------------------------------------------------------------- prometheus


def test_prometheus_asks_every_node_at_its_operations_port() -> None:
    [job] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    [group] = job["static_configs"]
    assert sorted(group["targets"]) == [f"{name}:{Config().serve.ops_port}" for name in sorted(nodes_of_compose())]


def alarms() -> Iterator[str]:
    for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield from re.findall(r"parley_\w+", rule["expr"])


@pytest.mark.parametrize("figure", sorted(set(alarms())))
def test_an_alarm_names_a_figure_that_there_is(figure: str) -> None:
    assert f"`{figure.removesuffix('_bucket')}`" in generator().metrics_table()


# --------------------------------------------------------------------------------------------------------- the system


def test_the_unit_starts_what_the_program_takes(capsys: pytest.CaptureFixture[str]) -> None:
    service = unit()
    for key in ("ExecStart", "ExecStartPre"):
        program, *words = shlex.split(service[key])
        assert Path(program).name == "parley"
        words = [word.replace("/etc/parley/node.toml", str(CLUSTER)) for word in words if word != "--check"]
        assert run([*words, "--check"]) == 0, capsys.readouterr().err


def test_the_unit_has_files_for_its_connections_and_time_for_its_drain() -> None:
    service = unit()
    assert int(service["LimitNOFILE"]) >= 1 << 20
    assert int(service["TimeoutStopSec"]) >= Config().serve.drain_timeout_s + 15
    assert service["KillMode"] == "mixed"  # else systemd tells the workers too, which then drain each alone


def test_the_units_data_directory_is_one_that_it_may_write() -> None:
    service = unit()
    data = shlex.split(service["ExecStart"])[-1]
    assert data == f"/var/lib/{service['StateDirectory']}"


def test_every_sysctl_says_why() -> None:
    is_explained, found = False, []
    for line in (DEPLOY / "90-parley.conf").read_text().splitlines():
        if line.startswith("#"):
            is_explained = True
        elif line:
            name, _, value = line.partition(" = ")
            assert re.fullmatch(r"\d+( \d+)*", value), line
            assert is_explained, f"{name} has no reason"
            found.append(name.removeprefix("-"))
            is_explained = name == "net.ipv4.tcp_rmem"  # and its twin
    assert {"fs.nr_open", "fs.file-max", "net.core.somaxconn"} <= set(found)
