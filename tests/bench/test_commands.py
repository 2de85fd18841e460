"""The benches against a stand-in for a node: right where it does right, and never silent where it does wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.closedloop import Duration
from bench.connecting import Crowd, Watch, run_connect, run_idle
from bench.faults import BenchError
from bench.messaging import Load, Pairs, run_ceiling, run_fanout, run_pairs, run_rate
from bench.report import EXIT_FAILED, EXIT_VIOLATION, Header, Result, markdown_row, read_json
from bench.target import Place, Target, standin_target, target
from bench.violations import Rule

HEADER = Header("test", {"pairs": 3, "both": False}, 7, 1)
LOAD = Load(window=4, body_bytes=100, do_ack=True, duration=Duration(0.05, 0.2, drain_s=0.5))


@pytest.fixture
def standin() -> Iterator[Target]:
    with standin_target() as found:
        yield found


def fanout(found: Target) -> Result:
    return run_fanout(HEADER, found, 5, LOAD)


def pairs(found: Target) -> Result:
    return run_pairs(HEADER, found, Pairs(3), LOAD)


def pairs_that_both_send(found: Target) -> Result:
    return run_pairs(HEADER, found, Pairs(3, do_both_send=True), LOAD)


def pairs_beside_idle_ones(found: Target) -> Result:
    return run_pairs(HEADER, found, Pairs(2, idle=10, is_relative=True), LOAD)


def rate(found: Target) -> Result:
    return run_rate(HEADER, found, 2, 2000.0, LOAD)


def connect(found: Target) -> Result:
    return run_connect(HEADER, found, Crowd(50, 8, is_resuming=False))


def connect_by_resume_token(found: Target) -> Result:
    return run_connect(HEADER, found, Crowd(50, 8, is_resuming=True))


def idle(found: Target) -> Result:
    return run_idle(HEADER, found, Watch(20, 0.2))


MESSAGING = [fanout, pairs, pairs_that_both_send, pairs_beside_idle_ones, rate]


@pytest.mark.parametrize("run", [*MESSAGING, connect, connect_by_resume_token, idle])
def test_a_bench_of_a_right_node_finds_no_violation(standin: Target, run: Callable[[Target], Result]) -> None:
    result = run(standin)
    assert (result.violations, result.evidence) == (0, [])
    assert next(iter(result.figures.values())) > 0 or run is idle


def test_every_message_of_an_open_loop_is_sent_and_delivered(standin: Target) -> None:
    load = LOAD._replace(duration=Duration(0.0, 0.5, drain_s=5))
    assert run_rate(HEADER, standin, 10, 1000.0, load).figures["messages_per_s"] == 1000.0


def test_idle_connections_are_all_pinged_and_all_answered(standin: Target) -> None:
    figures = run_idle(HEADER, standin, Watch(20, 0.2)).figures
    assert figures["pings"] >= 20
    assert figures["pongs"] == figures["pings"]


def test_idle_is_invalid_where_the_node_does_not_tell_who_answers_pings(standin: Target) -> None:
    assert "who answered the PINGs is not known" in run_idle(HEADER, standin, Watch(5, 0.1)).invalid[-1]


@pytest.mark.parametrize(
    ("run", "fault", "rules"),
    [
        *((run, "garble", {Rule.CONTENT}) for run in MESSAGING),
        (pairs, "repeat", {Rule.TWICE}),
        (pairs, "skip", {Rule.COUNTER}),
        (pairs, "lose", {Rule.CHAIN, Rule.LOST}),
        (fanout, "lose", {Rule.CHAIN, Rule.LOST}),
    ],
)
def test_a_bench_finds_what_a_node_does_wrong(run: Callable[[Target], Result], fault: str, rules: set[Rule]) -> None:
    with standin_target(fault) as found:
        result = run(found)
    assert result.exit_code == EXIT_VIOLATION
    assert any(line.startswith(f"{rule.name}:") for rule in rules for line in result.evidence)


def test_the_ceiling_names_what_a_second_of_the_generator_can_do() -> None:
    with standin_target() as found:
        result = run_ceiling(HEADER, found, LOAD._replace(duration=Duration(0.05, 0.2)))
    assert result.figures["received_per_cpu_s"] > 0
    assert result.invalid == []


# ---- the command line


def invoke(*arguments: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, list(arguments))
    return outcome.exit_code, outcome.output


def tokens_of(found: Target, n: int, path: Path) -> Path:
    path.write_text("".join(f"{user} {device} {token}\n" for user, device, token in found.credentials(n)))
    return path


def test_a_command_writes_its_whole_result_as_json(standin: Target, tmp_path: Path) -> None:
    host, port = standin.cluster.addresses[0]
    tokens, json = tokens_of(standin, 6, tmp_path / "tokens"), tmp_path / "result.json"
    place = [
        "--connect",
        f"{host}:{port}",
        "--tokens",
        str(tokens),
        "--pid",
        str(standin.cluster.nodes[0].pid),
        "--seed",
        "5",
    ]
    exit_code, output = invoke(
        "pairs", "--pairs", "3", "--seconds", "0.2", "--warmup", "0.1", "--json", str(json), *place
    )
    result = read_json(json)
    assert exit_code == result.exit_code, output
    assert (result.command, result.seed, result.options["pairs"], result.violations) == ("pairs", 5, 3, 0)
    assert {"cpu", "cores", "kernel", "python"} <= result.machine.keys()
    assert {"generator_cores", "node_cores", "elsewhere_cores"} <= result.cost.keys()
    assert "messages_per_s" in output


def test_a_violation_ends_a_command_with_exit_code_1(tmp_path: Path) -> None:
    with standin_target("garble") as found:
        host, port = found.cluster.addresses[0]
        place = ["--connect", f"{host}:{port}", "--tokens", str(tokens_of(found, 2, tmp_path / "tokens"))]
        exit_code, output = invoke("pairs", "--pairs", "1", "--seconds", "0.2", "--warmup", "0.1", *place)
    assert exit_code == EXIT_VIOLATION
    assert "VIOLATION CONTENT" in output


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (["--connect", "127.0.0.1:1"], "needs --tokens"),
        (["--connect", "somewhere"], "write HOST:PORT"),
    ],
)
def test_a_bench_that_cannot_be_run_says_why_in_one_line(arguments: list[str], mend: str) -> None:
    exit_code, output = invoke("pairs", *arguments)
    assert exit_code == EXIT_FAILED
    assert mend in output
    assert output.count("\n") == 1


def test_too_few_credentials_are_an_error_that_says_how_many(standin: Target, tmp_path: Path) -> None:
    host, port = standin.cluster.addresses[0]
    place = Place(connect=(f"{host}:{port}",), tokens=tokens_of(standin, 3, tmp_path / "tokens"))
    with target(place, 0) as found, pytest.raises(BenchError, match="4 credentials are needed and only 3 left"):
        found.credentials(4)


def test_a_result_is_rendered_as_a_row_of_the_documentation(standin: Target) -> None:
    row = markdown_row(pairs(standin))
    assert row.startswith("| `python -m bench test --pairs 3 --no-both` | messages_per_s ")
    assert row.count("|") == 6
