"""A configuration on paper: TOML and the command line to ``Config``, and ``Config`` to TOML.

Owns the way in and the way out. It must not know any setting by name: what is secret is marked so. The way in is
stricter than TOML: an unknown key is an error that names the nearest known one. What ``to_toml`` prints, ``load``
reads as the same configuration, but for hidden secrets, which it refuses.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from gateway.config import Config, ConfigError, Section, check

HIDDEN = "(hidden)"
"""Stands for a secret in a printed configuration."""

Tree = dict[str, Any]


def load(path: Path | None = None, overrides: Mapping[str, object] | None = None) -> Config:
    """The file (None: nothing but defaults), then ``overrides`` by dotted name: ``{"serve.port": 7801}``.

    An override of None is none. Raises ConfigError, of one line.
    """
    tree = _read(path) if path is not None else {}
    source = str(path) if path is not None else "configuration"
    for name, value in (overrides or {}).items():
        if value is not None:
            _put(tree, name.split("."), value)
    _refuse_unknown(tree, Config, source)
    try:
        config = msgspec.convert(tree, Config)
        check(config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_readable(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    for where in _hidden(config, ""):
        raise ConfigError(
            f"{source}: {where}: a secret is {HIDDEN}, as it is printed: put the real one in, or name a file"
        )
    return config


def parse_assignment(text: str) -> tuple[str, object]:
    """``name=value`` as of a command line: an override. The value is TOML, or else a string as it is. ConfigError."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text}: write NAME=VALUE, as in --set cluster.node=2")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value


def to_toml(config: Config) -> str:
    """The effective configuration, every setting with its meaning; inline secrets are hidden."""
    return "\n".join(_table(config, "")).strip() + "\n"


def settings(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, object, str]]:
    """Every setting as (dotted name, default, description), in the order of the file. NODEFAULT: it must be given."""
    for name, kind, description in _fields(section):
        if not _is_plain_table(section, name, kind):
            yield f"{prefix}{name}", _default(section, name), description
        if issubclass(kind, Section):
            below = settings(kind, f"{prefix}{name}.")
            yield from (setting for setting in below if setting[1] is not msgspec.NODEFAULT)


# ---------------------------------------------------------------------------------------------------- in


def _read(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; print one to start from with `parley serve --check`") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _refuse_unknown(tree: Tree, section: type[Section], where: str, prefix: str = "") -> None:
    kinds = {name: kind for name, kind, _ in _fields(section)}
    for key, value in tree.items():
        if key not in kinds:
            raise ConfigError(f"{where}: unknown setting {prefix}{key}{_suggestion(key, kinds, prefix)}")
        for table in value if isinstance(value, list) else [value]:
            if isinstance(table, dict) and issubclass(kinds[key], Section):
                _refuse_unknown(table, kinds[key], where, f"{prefix}{key}.")


def _suggestion(key: str, kinds: Mapping[str, type], prefix: str) -> str:
    near = difflib.get_close_matches(key, kinds, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {prefix}{near[0]}?"
    elsewhere = [name for name, _, _ in settings() if name.rpartition(".")[2] == key]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return f"; known here: {', '.join(kinds)}"


def _put(tree: Tree, path: list[str], value: object) -> None:
    for name in path[:-1]:
        below = tree.setdefault(name, {})
        if not isinstance(below, dict):
            return  # the conversion says that it is no table
        tree = below
    tree[path[-1]] = value


def _readable(error: msgspec.ValidationError) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.serve.port`" with the place first."""
    problem, _, place = str(error).partition(" - at `")
    name = place.rstrip("`").removeprefix("$").removeprefix(".")
    return f"{name}: {problem}" if name else problem


# --------------------------------------------------------------------------------------------------- out


def _table(section: Section, prefix: str) -> Iterator[str]:
    """Plain settings first, then the tables below: TOML cannot return to a table."""
    below: list[str] = []
    for name, kind, description in _fields(type(section)):
        value = getattr(section, name)
        if _is_plain_table(type(section), name, kind):
            below += ["", f"# {description}", f"[{prefix}{name}]", *_table(value, f"{prefix}{name}.")]
        elif isinstance(value, tuple) and issubclass(kind, Section):
            below += [line for entry in value for line in ("", f"[[{prefix}{name}]]", *_table(entry, ""))]
        elif value or not _is_listed(type(section)):
            shown = HIDDEN if value and is_secret(type(section), name) else value
            yield f"{name} = {_value(shown)}  # {description}"
    yield from below


def _hidden(section: Section, prefix: str) -> Iterator[str]:
    """The tables in which a secret is what ``to_toml`` writes in its place."""
    for name, _, _ in _fields(type(section)):
        value = getattr(section, name)
        for below in value if isinstance(value, tuple) else (value,):
            if isinstance(below, Section):
                yield from _hidden(below, f"{prefix}{name}.")
        if value == HIDDEN and is_secret(type(section), name):
            yield prefix.removesuffix(".")


def _value(value: object) -> str:
    if isinstance(value, Section):
        return f"{{ {', '.join(f'{name} = {_value(getattr(value, name))}' for name in value.__struct_fields__)} }}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return json.dumps(value, ensure_ascii=False)  # TOML's integers, booleans and basic strings are JSON's


# ------------------------------------------------------------------------------------------- reflection


def _fields(section: type[Section]) -> Iterator[tuple[str, type, str]]:
    """(name, type, description). The type of a tuple's elements stands for the tuple."""
    hints = get_type_hints(section, include_extras=True)
    for name in section.__struct_fields__:
        kind, meta = get_args(hints[name])
        if get_origin(kind) is tuple:
            kind = get_args(kind)[0]
        yield name, kind if isinstance(kind, type) else str, meta.description


def is_secret(section: type[Section], name: str) -> bool:
    """Is the setting marked as one that is not to be seen?"""
    _, meta = get_args(get_type_hints(section, include_extras=True)[name])
    return bool((meta.extra or {}).get("is_secret"))


def _is_listed(section: type[Section]) -> bool:
    """One of several tables of a name, which says only what it has."""
    return _without_arguments(section) is None


def _is_plain_table(section: type[Section], name: str, kind: type) -> bool:
    """A table whose settings have defaults of their own; not a rate, which is one setting, nor a list of tables."""
    return issubclass(kind, Section) and _default(section, name) == _without_arguments(kind)


def _without_arguments(kind: type[Section]) -> Section | None:
    return kind() if len(kind.__struct_defaults__) == len(kind.__struct_fields__) else None


def _default(section: type[Section], name: str) -> object:
    info = next(field for field in msgspec.structs.fields(section) if field.name == name)
    return info.default_factory() if info.default_factory is not msgspec.NODEFAULT else info.default
