"""The shape of the code: which way imports go, how large files and functions are, what nothing is called."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("gateway", "storage", "parley", "bench")

MAX_FILE_LINES = {".py": 500, ".pyx": 800, ".pxd": 500, ".pyi": 500}
MAX_MEDIAN_FILE_LINES = 180
MAX_FUNCTION_LINES = 60
MAX_MEDIAN_FUNCTION_LINES = 10
MAX_PARAMETERS = 6

CONTRACTS = frozenset({"gateway/_framing_py.py:Kernel.__init__", "gateway/_framing.pyi:Kernel.__init__"})
"""May have more parameters: the kernel's settings, all but one by keyword."""

FORBIDDEN_NAMES = frozenset(
    {"manager", "helper", "helpers", "util", "utils", "common", "misc", "data", "info", "handle"}
)

PROTOCOL_NAMES = frozenset({"ChatInfo", "ChatInfoOk", "DataDirectoryInUse"})
"""CHAT_INFO is an op, and the data directory is called so by every server."""

LAYERS: dict[str, set[str]] = {
    # part: the parts that it may import, besides itself
    "gateway.protocol": set(),
    "gateway._framing": set(),
    "gateway.ports": {"gateway.protocol"},
    "gateway.config": set(),
    "gateway.logs": set(),
    "gateway.pump": {"gateway._framing"},
    "gateway.configfile": {"gateway.config"},
    "gateway.keyfiles": {"gateway.config"},
    "storage.api": {"gateway.protocol"},
    "storage.backends": {"storage.api", "gateway.protocol", "gateway.ports"},
    "gateway.metrics": {"gateway._framing", "gateway.cluster", "storage.api"},
    "gateway.chat": {"gateway.protocol", "storage.api"},
    "gateway.cluster": {
        *("gateway.protocol", "storage.api", "gateway.chat", "gateway._framing", "gateway.pump"),
        *("gateway.ports",),
    },
    "gateway.net": {
        *("gateway.protocol", "storage.api", "gateway.chat", "gateway._framing", "gateway.pump"),
        *("gateway.config", "gateway.metrics", "gateway.ports"),
    },
    "gateway.node": {"gateway.config", "gateway.protocol"},
    "gateway.ops": {"gateway.cluster", "gateway.metrics", "gateway.node", "gateway.ports", "gateway.protocol"},
    "gateway.host": {"gateway.config", "gateway.node", "gateway.ops", "gateway.ports"},
    "gateway.supervisor": {
        *("gateway.cluster", "gateway.config", "gateway.keyfiles", "gateway.node", "gateway.ops"),
        *("gateway.protocol", "gateway.pump"),
    },
    "gateway.worker": {
        *("gateway.protocol", "storage.api", "gateway.chat", "gateway.net", "gateway.cluster", "gateway.pump"),
        *("gateway.config", "gateway.metrics", "gateway.ports"),
    },
    "gateway.app": {
        *("gateway.cluster", "gateway.config", "gateway.keyfiles", "gateway.logs", "gateway.net", "gateway.node"),
        *("gateway.protocol", "gateway.supervisor", "gateway.worker", "storage.api", "storage.backends"),
        *("gateway.host", "gateway.metrics", "gateway.ops", "gateway.ports"),
    },
    "parley": {"gateway.protocol"},
    "parley.cli": {"parley", "gateway.app", "gateway.config", "gateway.configfile", "gateway.host", "gateway.keyfiles"},
    "bench": {"gateway.protocol", "gateway._framing", "parley", "bench.backends"},
    # a worker's directory and store, measured without the worker: no client speaks to them
    "bench.backends": {
        *("gateway.cluster", "gateway.ports", "gateway.protocol", "gateway.pump", "storage.api", "storage.backends"),
    },
}

PARTS = {
    "gateway.backends": "gateway.app",
    "gateway.checkup": "gateway.app",
    "gateway.departures": "gateway.worker",
    "gateway.node_directory": "gateway.supervisor",
    "gateway.registry": "gateway.worker",
    # what a backend fulfils, or is made of: the directory's and the shared limits' ports, a doctor's finding, a promise
    "gateway.cluster.directory": "gateway.ports",
    "gateway.cluster.gathering": "gateway.ports",
    "gateway.cluster.promise": "gateway.ports",
    "gateway.net.limits": "gateway.ports",
    "gateway.ops.findings": "gateway.ports",
    "storage.batches": "storage.backends",
    "storage.clocks": "storage.api",
    "storage.completions": "storage.backends",
    "storage.memory": "storage.backends",
    "storage.redis": "storage.backends",
    "storage.scylla": "storage.backends",
    "storage.slot_rows": "storage.backends",
    "storage.sqlite": "storage.backends",
    "storage.statistics": "storage.backends",
}
"""Modules that count as a part that is not named as they are."""


def sources(*suffixes: str) -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in suffixes and "__pycache__" not in path.parts:
                yield path


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def part_of(module: str) -> str | None:
    """The part that a module belongs to; None: it is none of ours, or a bare package."""
    if module.startswith("gateway._framing"):
        return "gateway._framing"
    names = [module[: match.start()] for match in re.finditer(r"\.|$", module)]
    for name in reversed(names):
        if name in PARTS or name in LAYERS:
            return PARTS.get(name, name)
    return None


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[tuple[str, Function]]:
    """(file:Class.name, function), nested ones included."""

    def below(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            name = f"{prefix}{child.name}" if isinstance(child, Function | ast.ClassDef) else prefix
            if isinstance(child, Function):
                yield name, child
            yield from below(child, f"{name}." if name != prefix else prefix)

    place = f"{path.relative_to(ROOT).as_posix()}:"
    return below(ast.parse(path.read_text(encoding="utf-8")), place)


def lines_of(function: Function) -> int:
    """From def to its end, without the docstring."""
    body = function.body
    has_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = (body[0].end_lineno or 0) - body[0].lineno + 1 if has_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def is_command(path: str, function: Function) -> bool:
    """A command of a command line: its parameters are its options, and typer leaves no other way to say them."""
    return path.startswith(("parley/cli.py", "bench/cli.py")) and bool(function.decorator_list)


def parameters_of(function: Function) -> int:
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([argument for argument in given if argument.arg not in ("self", "cls", "task_status")])


@pytest.mark.parametrize("path", list(sources(".py")), ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    own = part_of(name_of(path))
    if own is None:
        assert name_of(path) in PACKAGES, f"{name_of(path)} belongs to no layer: give it one"
        return
    wrong = {module for module in imports(path) if part_of(module) not in {None, own, *LAYERS[own]}}
    assert not wrong


def test_the_layers_have_no_circle_but_counting() -> None:
    """Figures know the shapes of the cluster's statistics, and the cluster knows nothing of figures."""
    order: list[str] = []
    left = {part: set(below) for part, below in LAYERS.items()}
    while free := [part for part, below in left.items() if below <= set(order)]:
        order += free
        for part in free:
            del left[part]
    assert not left


def test_only_the_composition_root_names_backends() -> None:
    for path in sources(".py"):
        if part_of(name_of(path)) not in ("gateway.app", "storage.backends", "bench.backends"):
            assert "storage.backends" not in {part_of(module) for module in imports(path)}, path


def test_nothing_imports_asyncio_or_mocks() -> None:
    """But the screen: prompt_toolkit runs on asyncio, as a guest of Trio."""
    for path in [*sources(".py"), *sorted((ROOT / "tests").rglob("*.py"))]:
        found = {"asyncio", "unittest.mock", "mock"} & set(imports(path))
        assert not found or path.parent == ROOT / "parley" / "terminal", path


def test_files_have_one_idea() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*MAX_FILE_LINES)}
    assert {path.name: length for path, length in lengths.items() if length > MAX_FILE_LINES[path.suffix]} == {}
    assert statistics.median(length for length in lengths.values() if length) < MAX_MEDIAN_FILE_LINES


def test_functions_are_short_and_take_few_parameters() -> None:
    found = [entry for path in sources(".py") for entry in functions(path)]
    assert {name: lines_of(function) for name, function in found if lines_of(function) > MAX_FUNCTION_LINES} == {}
    calls = {name: parameters_of(function) for name, function in found if not is_command(name, function)}
    assert {name: count for name, count in calls.items() if count > MAX_PARAMETERS and name not in CONTRACTS} == {}
    assert statistics.median(lines_of(function) for _, function in found) <= MAX_MEDIAN_FUNCTION_LINES


def test_modules_and_classes_have_names_that_say_something() -> None:
    for path in sources(".py", ".pyx", ".pyi"):
        assert path.stem.strip("_") not in FORBIDDEN_NAMES, path
    for path in sources(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                words = {word.lower() for word in re.findall(r"[A-Z][a-z]*", node.name)}
                assert not words & FORBIDDEN_NAMES or node.name in PROTOCOL_NAMES, f"{path}: {node.name}"


def test_every_module_says_what_it_is() -> None:
    for path in sources(".py"):
        text = path.read_text(encoding="utf-8")
        assert not text.strip() or ast.get_docstring(ast.parse(text)), path
