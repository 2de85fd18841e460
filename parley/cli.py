"""The command ``parley``: its verbs and options, and how a failure is told.

Owns the command line alone: each verb checks its arguments, imports what it needs (``parley token`` must not load a
server, nor ``parley serve`` a screen), and calls it. Invariant: what a person can mend is one line on standard error
that says the mend, with exit code 1 (could not be done) or 2 (was asked wrongly); a traceback is a bug of ours.
"""

# A command's parameters are its options: typer leaves no other way to say them.
# ruff: noqa: PLR0913

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import trio
import typer

from parley.faults import CommandError, UsageError
from parley.tokens import DEFAULT_TTL_S, Credential, Identity, Mint, identities, parse_ids, parse_list, read_credentials

if TYPE_CHECKING:
    from gateway.config import Config
    from parley.replay.cast import Cast

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7800
DEFAULT_DATA = Path("data")
INTERRUPTED = 130
"""128 + SIGINT, as shells count."""

app = typer.Typer(
    name="parley",
    help="A chat node that keeps every message it said it kept, and what people do with one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file; `parley serve --check` prints one.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, NAME=VALUE, as in --set cluster.node=2; may be repeated."),
]
DataDirectory = Annotated[Path | None, typer.Option("--data", help="The node's data directory; it holds the key.")]
Host = Annotated[str, typer.Option(help="Where the node is.")]
Port = Annotated[int, typer.Option(min=1, max=65_535, help="The node's port for clients.")]


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        try:
            print("parley", metadata.version("parley"))
        except metadata.PackageNotFoundError:
            print("parley, not installed: run from its sources")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and leave.")
    ] = False,
) -> None:
    del version  # the callback has acted on it


@app.command()
def serve(
    config: ConfigFile = None,
    data: DataDirectory = None,
    host: Annotated[str | None, typer.Option(help="Address that clients connect to.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port of the clients; 0 takes a free one.")] = None,
    ops_port: Annotated[int | None, typer.Option(help="TCP port of /metrics, /healthz, /readyz.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; 0 chooses.")] = None,
    settings: Settings = None,
    check: Annotated[bool, typer.Option("--check", help="Print the effective configuration and leave.")] = False,
) -> None:
    """Run a node on this machine until SIGTERM or Ctrl-C."""
    named = {
        "serve.data": None if data is None else str(data),
        "serve.host": host,
        "serve.port": port,
        "serve.ops_port": ops_port,
        "serve.workers": workers,
    }
    effective = _load(
        config, {**_assigned(settings), **{name: value for name, value in named.items() if value is not None}}
    )
    if check:
        from gateway.configfile import to_toml

        print(to_toml(effective), end="")
        return
    from gateway import app as node

    raise typer.Exit(node.serve(effective))


@app.command()
def token(
    user: Annotated[str, typer.Option(help="A user id, or a range A..B.")],
    device: Annotated[str, typer.Option(help="Device ids N[,M...]; each user of a range gets ids of their own.")],
    data: DataDirectory = None,
    config: ConfigFile = None,
    ttl: Annotated[int, typer.Option(min=1, help="Seconds until the tokens expire.")] = DEFAULT_TTL_S,
) -> None:
    """Print tokens, a line `user device token` each.

    A single user gets exactly the device ids given. User number i of a range (from 0) gets each of them plus i times
    (largest - smallest + 1), so that no two users share a device.
    """
    wanted = identities(parse_ids(user, "--user"), parse_list(device, "--device"))
    mint = _mint(data, config, ttl)
    for identity in wanted:
        credential = mint.sign(identity)
        print(credential.user_id, credential.device_id, credential.token)


@app.command()
def chat(
    user: Annotated[int | None, typer.Option(min=1, help="Who you are: a user id; the key makes the token.")] = None,
    device: Annotated[int | None, typer.Option(min=1, help="Your device id (the user id if not given).")] = None,
    token: Annotated[str | None, typer.Option(help="A token, instead of --user and --device.")] = None,
    peer: Annotated[int | None, typer.Option(min=1, help="Begin with this user.")] = None,
    chat: Annotated[int | None, typer.Option(min=1, help="Begin with this chat id.")] = None,
    group: Annotated[str | None, typer.Option(help="Begin with a group, made if need be: 'TITLE: A, B'.")] = None,
    name: Annotated[str, typer.Option("--as", help="What this screen calls you.")] = "you",
    follow: Annotated[bool, typer.Option("--follow", help="Lines: stay when the input ends.")] = False,
    data: DataDirectory = None,
    host: Host = DEFAULT_HOST,
    port: Port = DEFAULT_PORT,
) -> None:
    """Chat in the terminal. Where input or output is no terminal, each line is a message: made for scripts."""
    from parley.terminal.start import start
    from parley.terminal.target import Target, choose_chat

    beginning = choose_chat(peer, chat, group)
    credential = _own_token(token, user, device, data)
    start(Target(host, port, credential, name, beginning), follow=follow)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="The text file of WhatsApp's Export chat, of Android or iOS.")],
    speed: Annotated[float, typer.Option(min=0, help="Times as fast as it was; 0: as fast as possible.")] = 0.0,
    data: DataDirectory = None,
    token_file: Annotated[Path | None, typer.Option(help="Tokens as `parley token` prints them, not the key.")] = None,
    first_user: Annotated[int, typer.Option(min=1, help="User ids are taken from here on.")] = 1_000,
    first_device: Annotated[int, typer.Option(min=1, help="Device ids are taken from here on.")] = 2_000,
    host: Host = DEFAULT_HOST,
    port: Port = DEFAULT_PORT,
) -> None:
    """Send a chat export through a running node, read it back from another device, and compare.

    Makes a user per author and one group. System lines are sent by the group's creator, as kind 64. Exit code 1 on any
    difference.
    """
    from parley.replay.export import read_export
    from parley.replay.performance import Stage, perform
    from parley.replay.report import describe_export, describe_outcome, progress_bar
    from parley.replay.script import write_script

    export = read_export(file)
    script = write_script(export, speed)
    cast = _cast(export.authors(), token_file, data, (first_user, first_device))
    print(describe_export(file.name, export))
    with progress_bar(len(script)) as on_sent:
        outcome = trio.run(perform, script, cast, Stage(host, port, file.stem), on_sent)
    print(describe_outcome(outcome))
    if token_file is None:
        print(f"look at it: {_visit_of(cast.reader, outcome.chat_id, data, (host, port))}")
    if outcome.differences:
        raise CommandError("what was read back is not what was sent: see above")


@app.command()
def doctor(config: ConfigFile = None, data: DataDirectory = None, settings: Settings = None) -> None:
    """Say how many connections this machine can hold, what bounds it, and the commands that raise it.

    Of a cluster: also whether its store, its directory and its links are what a node needs.
    """
    from gateway import app as node

    effective = _load(config, {**_assigned(settings), **({} if data is None else {"serve.data": str(data)})})
    raise typer.Exit(node.doctor(effective))


def _load(path: Path | None, overrides: dict[str, Any]) -> Config:
    from gateway.config import ConfigError
    from gateway.configfile import load

    try:
        return load(path, overrides)
    except ConfigError as error:
        raise UsageError(str(error)) from error


def _assigned(settings: list[str] | None) -> dict[str, Any]:
    from gateway.config import ConfigError
    from gateway.configfile import parse_assignment

    try:
        return dict(map(parse_assignment, settings or ()))
    except ConfigError as error:
        raise UsageError(str(error)) from error


def _mint(data: Path | None, config: Path | None, ttl_s: int) -> Mint:
    """The key of a configuration, if one is named that has keys; else the data directory's own."""
    if config is None:
        return Mint.of(data or DEFAULT_DATA, ttl_s=ttl_s)
    from gateway.config import ConfigError
    from gateway.keyfiles import verification_keys

    effective = _load(config, {"serve.data": None if data is None else str(data)})
    if not effective.auth.keys:
        return Mint.of(Path(effective.serve.data), ttl_s=ttl_s)
    try:
        keys = verification_keys(effective.auth, Path(effective.serve.data))
    except ConfigError as error:
        raise CommandError(str(error)) from error
    for key in keys:
        if key.algorithm == "HS256":
            return Mint(key.material, kid=key.kid, ttl_s=ttl_s)
    raise CommandError(f"{config} names public keys alone: ask for tokens where their private keys are")


def _own_token(token: str | None, user: int | None, device: int | None, data: Path | None) -> str:
    if token is not None:
        if user is not None or device is not None:
            raise UsageError("--token says already who you are: leave out --user and --device")
        return token
    if user is None:
        raise UsageError("say who you are: --user N (with the node's --data), or --token T")
    return Mint.of(data or DEFAULT_DATA).sign(Identity(user, device if device is not None else user)).token


def _cast(authors: list[str], token_file: Path | None, data: Path | None, first: tuple[int, int]) -> Cast:
    from parley.replay.cast import assign, mint_cast

    if token_file is not None:
        return assign(authors, read_credentials(token_file))
    mint = Mint.of(data or DEFAULT_DATA)
    return mint_cast(authors, mint, first_user=first[0], first_device=first[1])


def _visit_of(reader: Credential, chat_id: int, data: Path | None, address: tuple[str, int]) -> str:
    """The command that shows a chat, with no more options than it needs."""
    words = f"parley chat --user {reader.user_id} --device {reader.device_id} --chat {chat_id}"
    if address != (DEFAULT_HOST, DEFAULT_PORT):
        words += f" --host {address[0]} --port {address[1]}"
    return words + (f" --data {data}" if data is not None else "")


def run(arguments: list[str] | None = None) -> int:
    """One command; its exit code. Prints what went wrong."""
    try:
        code = app(arguments, prog_name="parley", standalone_mode=False)
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:  # the command line itself
        return _fail(f"{error.format_message()} (see parley --help)", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has enough. The interpreter's own last flush must not complain about it either.
        sys.stdout = None
        return 1
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print("parley:", " ".join(message.split()), file=sys.stderr)
    return code


def main() -> None:
    sys.exit(run())


if __name__ == "__main__":
    main()
