"""A message as JSON, and back: fields by name, bytes as hex, integers above 2^53 - 1 as decimal strings."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec

from gateway.protocol import messages

SAFE_INTEGER = (1 << 53) - 1


def to_meaning(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: to_meaning(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return int(value) if value <= SAFE_INTEGER else str(value)
    if isinstance(value, dict):
        return {str(key): to_meaning(item) for key, item in value.items()}
    return [to_meaning(item) for item in value]


def from_meaning(type_: Any, meaning: Any) -> Any:
    """The message of ``type_`` that a vector's meaning describes."""
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if origin in (types.UnionType, typing.Union):
        return _from_union(arguments, meaning)
    if origin is list:
        return [from_meaning(arguments[0], item) for item in meaning]
    if origin is dict:
        return {int(key): from_meaning(arguments[1], item) for key, item in meaning.items()}
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return _from_fields(type_, meaning)
    if type_ is bytes:
        return bytes.fromhex(meaning)
    return int(meaning) if type_ is int else meaning


def _from_union(arguments: tuple[Any, ...], meaning: Any) -> Any:
    if meaning is None:
        return None
    (only,) = [argument for argument in arguments if argument is not type(None)]
    return from_meaning(only, meaning)


def _from_fields(type_: type[msgspec.Struct], meaning: dict[str, Any]) -> msgspec.Struct:
    hints = typing.get_type_hints(type_)
    if type_ is messages.Hello:
        # The one field whose type depends on another: a JWT is text, a resume token is bytes.
        hints["credential"] = str if meaning["auth_kind"] == "jwt" else bytes
    return type_(**{name: from_meaning(hints[name], item) for name, item in meaning.items()})
