"""The rules that the promises rest on, each to be taken out: the test of the test.

Owns the names, and how a rule is taken out: by patching the project's own classes for the time of one schedule. Production
code has no switches. What each one stands for is its sentence; where its code is: ``rules_of_serving.py`` and
``rules_of_storing.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Patches:
    """Attributes of real classes and modules, replaced and put back."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> Any:
        """The original."""
        original = owner.__dict__[name]
        self._replaced.append((owner, name, original))
        setattr(owner, name, value)
        return original.__func__ if isinstance(original, staticmethod) else original

    def undo(self) -> None:
        for owner, name, original in reversed(self._replaced):
            setattr(owner, name, original)
        self._replaced.clear()


class Rule(NamedTuple):
    name: str
    sentence: str
    take_out: Callable[[Patches], None]


def all_rules() -> dict[str, Rule]:
    from tests.simulation import rules_of_serving, rules_of_storing

    return {rule.name: rule for rule in (*rules_of_serving.RULES, *rules_of_storing.RULES)}


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Run what follows without these rules."""
    patches, rules = Patches(), all_rules()
    try:
        for name in names:
            rules[name].take_out(patches)
        yield
    finally:
        patches.undo()
