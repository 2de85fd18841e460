"""The commands of ``python -m bench``: options to plans, plans to results, results to an exit code.

Exit codes: 0 the figures count; 1 the node broke a delivery promise; 2 the figures are invalid; 3 it could not be run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench import connecting, messaging
from bench.closedloop import Duration
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
Acks = Annotated[bool, typer.Option("--acks/--no-acks", help="Receivers ACK every 200 ms, as clients do.")]

FAILED = (BenchError, CommandError)


def _common(
    workers: Annotated[int, typer.Option(min=1, help="Workers of the node that is started.")] = 1,
    connect: Annotated[str, typer.Option(help="HOST:PORT of a running node, instead of starting one.")] = "",
    tokens: Annotated[Path | None, typer.Option(help="With --connect: a file from `parley token`.")] = None,
    data: Annotated[Path | None, typer.Option(help="With --connect: the node's data directory, for its key.")] = None,
    ops_port: Annotated[int, typer.Option(help="With --connect: the node's operations port.")] = 0,
    pid: Annotated[int, typer.Option(help="With --connect: the supervisor's process id, for CPU and memory.")] = 0,
) -> Place:
    """The options of every command that runs against a node."""
    return Place(workers, connect, tokens, data, ops_port, pid)


def _closing(
    seed: Annotated[int | None, typer.Option(help="Repeats a run's choices.")] = None,
    json: Json = None,
) -> tuple[int, Path | None]:
    return (new_seed() if seed is None else seed, json)


def command(run: Callable[..., Result]) -> Callable[..., Result]:
    """Make ``run(header, target, **options)`` a command that also takes the options of ``_common`` and ``_closing``."""

    def invoke(**options: Any) -> None:
        place = _common(**{name: options.pop(name) for name in _parameters(_common)})
        seed, path = _closing(**{name: options.pop(name) for name in _parameters(_closing)})
        header = Header(run.__name__, options, seed, place.workers)
        _report(path, lambda: _run_at(place, seed, lambda found: run(header, found, **options)))

    own = list(_parameters(run).values())[2:]
    _register(run, invoke, [*own, *_parameters(_common).values(), *_parameters(_closing).values()])
    return run


def _run_at(place: Place, seed: int, run: Callable[[Target], Result]) -> Result:
    with target(place, seed) as found:
        return run(found)


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
def ceiling(seconds: Seconds = 3.0, json: Json = None) -> None:
    """What the generator can drive: fanout and pairs against a stand-in that stores nothing."""
    header = Header("ceiling", {"seconds": seconds}, 0, 1)

    def run() -> Result:
        with standin_target() as found:
            return messaging.run_ceiling(header, found, Load(16, 100, True, Duration(1.0, seconds)))

    _report(json, run)


@app.command()
def render(results: Annotated[list[Path], typer.Argument(help="Files that --json has written.")]) -> None:
    """Results as rows of the table in docs/benchmarks.md."""
    for path in results:
        typer.echo(markdown_row(read_json(path)))
