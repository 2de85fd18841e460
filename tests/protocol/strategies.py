"""Messages by chance: any value that a field's type and the protocol's number range allow."""

from __future__ import annotations

import types
import typing
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from gateway.protocol import messages as m
from gateway.protocol.frames import MAX_DEPTH

if TYPE_CHECKING:
    import msgspec

numbers = st.integers(0, (1 << 63) - 1)
binaries = st.binary(max_size=20)
texts = st.text(max_size=8)

_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: numbers,
    bool: st.booleans(),
    bytes: binaries,
    str: texts,
    type(None): st.none(),
}

ALL_TYPES = sorted(
    {*m.CLIENT_OPS.values(), *m.SERVER_OPS.values(), *m.OK_FIELDS.values(), m.SystemBody},
    key=lambda type_: type_.__name__,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


details = st.recursive(
    st.none() | st.booleans() | numbers | texts | binaries,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
).filter(lambda value: _depth(value) < MAX_DEPTH)


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    if hint is Any:
        return details
    if hint in _SCALARS:
        return _SCALARS[hint]
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType | typing.Union:
            return st.one_of([of_type(argument) for argument in arguments])
        case origin if origin is list:
            return st.lists(of_type(arguments[0]), max_size=4)
        case origin if origin is dict:
            return st.dictionaries(of_type(arguments[0]), of_type(arguments[1]), max_size=4)
    return st.builds(hint, **{name: of_type(field) for name, field in typing.get_type_hints(hint).items()})


messages: st.SearchStrategy[msgspec.Struct] = st.one_of([of_type(type_) for type_ in ALL_TYPES])
