"""The commands of ``python -m bench``: options to plans, plans to results, results to an exit code.

Exit codes: 0 the figures count; 1 the node broke a delivery promise; 2 the figures are invalid; 3 it could not be run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from bench import connecting, lookups, messaging, spreading, storing
from bench.capacity import page
from bench.capacity.region import with_inputs
from bench.closedloop import Duration
from bench.cluster import CASSANDRA_PORT, Backends, Shape, parse_hosts, parse_shape
from bench.faults import BenchError
from bench.messaging import Load
from bench.report import (
    EXIT_FAILED,
    EXIT_VIOLATION,
    Header,
    Result,
    markdown_row,
    new_seed,
    print_table,
    read_json,
    write_json,
)
from bench.target import Place, Target, standin_target, target
from gateway.protocol.errors import ProtocolError
from parley.faults import CommandError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Count = Annotated[int, typer.Option(min=1)]
Seconds = Annotated[float, typer.Option(min=0.1, help="Time measured.")]
Warmup = Annotated[float, typer.Option(min=0, help="Seconds before the measuring.")]
Window = Annotated[int, typer.Option(min=1, help="Messages of a sender that are under way at once.")]
Body = Annotated[int, typer.Option(min=8, help="Bytes of a message's body.")]
Json = Annotated[Path | None, typer.Option(help="Write the whole result there.")]
StoreName = Annotated[
    str, typer.Option(envvar="PARLEY_STORE", help="sqlite, memory, or scylla (with --cassandra and --redis).")
]
Cassandra = Annotated[
    str, typer.Option(envvar="PARLEY_CASSANDRA", help="HOST:PORT of ScyllaDB or Cassandra, several with commas.")
]
Redis = Annotated[str, typer.Option(envvar="PARLEY_REDIS", help="HOST:PORT of the directory's Redis.")]
Keyspace = Annotated[str, typer.Option(help="Made if it is missing, and left there.")]
Acks = Annotated[bool, typer.Option("--acks/--no-acks", help="Receivers ACK every 200 ms, as clients do.")]

FAILED = (BenchError, CommandError)
T = TypeVar("T")


def _backends(
    store: StoreName = "sqlite",
    cassandra: Cassandra = "",
    redis: Redis = "",
    keyspace: Keyspace = "parley_bench",
) -> Backends:
    """What the nodes that are started stand on."""
    return Backends(store, cassandra, redis, keyspace)


def _shape(
    nodes: Annotated[int, typer.Option(min=1, max=1023, help="Nodes that are started.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Workers of each node that is started.")] = 1,
) -> Shape:
    return Shape(nodes, workers)


def _running(
    connect: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT of a running node, instead of starting one; once for each.")
    ] = None,
    tokens: Annotated[Path | None, typer.Option(help="With --connect: a file from `parley token`.")] = None,
    data: Annotated[Path | None, typer.Option(help="With --connect: a node's data directory, for its key.")] = None,
    ops_port: Annotated[list[int] | None, typer.Option(help="With --connect: the operations port of each.")] = None,
    pid: Annotated[
        list[int] | None, typer.Option(help="With --connect: the supervisor's process id of each, for CPU and memory.")
    ] = None,
) -> Place:
    """The nodes that run already, if any."""
    return Place(
        connect=tuple(connect or ()), tokens=tokens, data=data, ops_ports=tuple(ops_port or ()), pids=tuple(pid or ())
    )


PLACE = (_shape, _backends, _running)
"""Whose options say where a command runs."""


def _closing(
    seed: Annotated[int | None, typer.Option(help="Repeats a run's choices.")] = None,
    json: Json = None,
) -> tuple[int, Path | None]:
    return (new_seed() if seed is None else seed, json)


def command(run: Callable[..., Result]) -> Callable[..., Result]:
    """Make ``run(header, target, **options)`` a command that also takes the options of ``PLACE`` and ``_closing``."""

    def invoke(**options: Any) -> None:
        place = _taken(_running, options)._replace(shape=_taken(_shape, options), backends=_taken(_backends, options))
        seed, path = _taken(_closing, options)
        header = Header(run.__name__, {**options, **place.options()}, seed, place.shape.workers)
        _report(path, lambda: _run_at(place, seed, lambda found: run(header, found, **options)))

    own = list(_parameters(run).values())[2:]
    beside = [parameter for part in (*PLACE, _closing) for parameter in _parameters(part).values()]
    _register(run, invoke, [*own, *beside])
    return run


def _run_at(place: Place, seed: int, run: Callable[[Target], Result]) -> Result:
    with target(place, seed) as found:
        return run(found)


def _taken(part: Callable[..., T], options: dict[str, Any]) -> T:
    """What the part makes of its options, which are taken out."""
    return part(**{name: options.pop(name) for name in _parameters(part)})


def _register(run: Callable[..., Result], invoke: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> None:
    """Typer reads the signature: give it the joined one, instead of writing eight options at every command."""
    invoke.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    invoke.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(run.__name__, help=run.__doc__)(invoke)


def _parameters(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """By name, annotations resolved, all by keyword."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return {each.name: each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters}


def _report(path: Path | None, run: Callable[[], Result]) -> None:
    """Run, print, write, and end with the exit code."""
    try:
        result = run()
    except FAILED as error:
        Console(stderr=True).print(f"[red]FAILED[/] {error}", soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_FAILED) from error
    except ProtocolError as error:
        Console(stderr=True).print(f"[red]VIOLATION[/] the node sent what cannot be read: {error}", soft_wrap=True)
        raise typer.Exit(EXIT_VIOLATION) from error
    if path is not None:
        write_json(result, path)
    print_table(result, Console())
    raise typer.Exit(result.exit_code)


@command
def idle(header: Header, found: Target, connections: Count = 15_000, seconds: Seconds = 30.0) -> Result:
    """Memory of idle, authenticated connections, and who answers their PINGs."""
    return connecting.run_idle(header, found, connecting.Watch(connections, seconds))


@command
def connect(
    header: Header,
    found: Target,
    connections: Count = 30_000,
    in_flight: Annotated[int, typer.Option(min=1, max=4096, help="Connections before their WELCOME at once.")] = 64,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Log in with resume tokens, not JWTs.")] = False,
) -> Result:
    """Logins a second: TCP connect, HELLO with a JWT, WELCOME."""
    return connecting.run_connect(header, found, connecting.Crowd(connections, in_flight, resume))


@command
def fanout(  # noqa: PLR0913 - a parameter is an option of the command
    header: Header,
    found: Target,
    receivers: Count = 256,
    window: Window = 16,
    body_bytes: Body = 100,
    seconds: Seconds = 10.0,
    warmup: Warmup = 2.0,
    acks: Acks = True,
) -> Result:
    """One sender, one group: deliveries a second, each message durable first."""
    load = Load(window, body_bytes, acks, Duration(warmup, seconds))
    return messaging.run_fanout(header, found, receivers, load)


@command
def pairs(  # noqa: PLR0913
    header: Header,
    found: Target,
    pairs: Count = 50,
    window: Window = 16,
    body_bytes: Body = 100,
    seconds: Seconds = 10.0,
    warmup: Warmup = 2.0,
    acks: Acks = True,
    both: Annotated[bool, typer.Option("--both/--no-both", help="Both of a pair send.")] = False,
    idle: Annotated[int, typer.Option(min=0, help="Idle connections beside.")] = 0,
    relative: Annotated[
        bool, typer.Option("--relative/--no-relative", help="With --idle: measure without them too, before and after.")
    ] = False,
) -> Result:
    """Direct chats, closed loop: durable messages a second, and SENT's latency."""
    load = Load(window, body_bytes, acks, Duration(warmup, seconds))
    return messaging.run_pairs(header, found, messaging.Pairs(pairs, both, idle, relative), load)


@command
def rate(  # noqa: PLR0913
    header: Header,
    found: Target,
    pairs: Count = 500,
    rate: Annotated[float, typer.Option(min=1, help="Messages a second, all pairs together.")] = 2000.0,
    body_bytes: Body = 100,
    seconds: Seconds = 15.0,
    warmup: Warmup = 3.0,
    acks: Acks = True,
) -> Result:
    """Direct chats, open loop: latency from the moment a message was due to its arrival at the peer."""
    load = Load(1, body_bytes, acks, Duration(warmup, seconds))
    return messaging.run_rate(header, found, pairs, rate, load)


@app.command()
def spread(  # noqa: PLR0913
    few: Annotated[str, typer.Option(help="NODESxWORKERS of one side.")] = "1x2",
    many: Annotated[str, typer.Option(help="NODESxWORKERS of the other.")] = "2x4",
    pairs: Count = 200,
    rate: Annotated[float, typer.Option(min=1, help="Messages a second, on either side.")] = 1000.0,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each side, in turns.")] = 3,
    body_bytes: Body = 100,
    seconds: Seconds = 10.0,
    warmup: Warmup = 2.0,
    store: StoreName = "scylla",
    cassandra: Cassandra = "",
    redis: Redis = "",
    seed: Annotated[int | None, typer.Option(help="Repeats a run's choices.")] = None,
    json: Json = None,
) -> None:
    """What a message costs on many workers and nodes, relative to few: CPU of all workers, the same open loop on both."""
    sides = {"few": few, "many": many, "pairs": pairs, "rate": rate, "rounds": rounds, "body_bytes": body_bytes}
    options = {**sides, "seconds": seconds, "warmup": warmup, "store": store}
    header = Header("spread", options, new_seed() if seed is None else seed, 0)
    load = Load(1, body_bytes, True, Duration(warmup, seconds))

    def run() -> Result:
        plan = spreading.Plan(parse_shape(few), parse_shape(many), pairs, rate, rounds)
        return spreading.run_spread(header, Backends(store, cassandra, redis), plan, load)

    _report(json, run)


@app.command("lookups")
def look_up(  # noqa: PLR0913
    redis: Redis = "",
    users: Count = 10_000,
    tasks: Annotated[int, typer.Option(min=1, help="Askers at once.")] = 100,
    users_per_call: Annotated[int, typer.Option(min=1, help="Users whom each of them asks for at once.")] = 1,
    seconds: Seconds = 5.0,
    warmup: Warmup = 1.0,
    seed: Annotated[int | None, typer.Option(help="Repeats a run's choices.")] = None,
    json: Json = None,
) -> None:
    """Where are these users? A worker's directory, asked without its cache of locations."""
    chosen = new_seed() if seed is None else seed
    options = {"users": users, "tasks": tasks, "users_per_call": users_per_call, "seconds": seconds, "warmup": warmup}
    plan = lookups.Plan(users, tasks, users_per_call, warmup, seconds, chosen)
    _report(json, lambda: lookups.run_lookups(Header("lookups", options, chosen, 1), redis, plan))


@app.command()
def rows(  # noqa: PLR0913
    cassandra: Cassandra,
    chats: Count = 200,
    rate: Annotated[float, typer.Option(min=1, help="Rows a second, all chats together.")] = 5000.0,
    body_bytes: Body = 100,
    seconds: Seconds = 10.0,
    warmup: Warmup = 2.0,
    keyspace: Keyspace = "parley_bench",
    json: Json = None,
) -> None:
    """Rows into the store without a worker around it: CPU of its client per row, and how many share a request."""
    options = {"chats": chats, "rate": rate, "body_bytes": body_bytes, "seconds": seconds, "warmup": warmup}

    def run() -> Result:
        hosts, port = parse_hosts(cassandra, CASSANDRA_PORT)
        plan = storing.RowsPlan(tuple(hosts), port, keyspace, chats, rate, body_bytes, warmup, seconds)
        return storing.run_rows(Header("rows", options, 0, 1), plan)

    _report(json, run)


@app.command()
def ceiling(seconds: Seconds = 3.0, json: Json = None) -> None:
    """What the generator can drive: fanout and pairs against a stand-in that stores nothing."""
    header = Header("ceiling", {"seconds": seconds}, 0, 1)

    def run() -> Result:
        with standin_target() as found:
            return messaging.run_ceiling(header, found, Load(16, 100, True, Duration(1.0, seconds)))

    _report(json, run)


@app.command()
def capacity(
    tables: Annotated[list[str] | None, typer.Argument(help="Which; all if none is named.")] = None,
    put: Annotated[
        list[str] | None, typer.Option("--set", help="INPUT=NUMBER, for any line of the table `inputs`.")
    ] = None,
) -> None:
    """A region on paper: the tables of docs/capacity.md for numbers of your own. Measures nothing."""
    try:
        region = with_inputs(put or ())
        chosen = {name: page.TABLES[name] for name in tables or page.TABLES}
    except (BenchError, KeyError) as error:
        Console(stderr=True).print(f"[red]FAILED[/] {error}; tables: {', '.join(page.TABLES)}", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from error
    for name, make in chosen.items():
        typer.echo(f"{name}\n\n{page.markdown(make(region))}\n")


@app.command()
def render(results: Annotated[list[Path], typer.Argument(help="Files that --json has written.")]) -> None:
    """Results as rows of the table in docs/benchmarks.md."""
    for path in results:
        typer.echo(markdown_row(read_json(path)))
