"""What documents say of the code is what the code says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_up_to_date() -> None:
    """If not: `make docs`."""
    files = list(generator().generate())
    assert {path.name for path, _ in files} >= {"embedded.toml", "cluster.toml", "operations.md"}
    for path, text in files:
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: run `make docs`"


def test_every_setting_and_figure_that_operations_names_exists() -> None:
    module = generator()
    known = module.settings_table() + module.metrics_table()
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for name in re.findall(
        r"`((?:serve|session|auth|limits|chat|outbox|store|cluster|directory)(?:\.\w+)+|parley_\w+)", text
    ):
        assert f"`{name}`" in known or name == "auth.key", name


def test_make_help_names_every_verb() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for verb in ("run", "test", "test-all", "check", "asan", "fuzz", "bench", "docs"):
        assert re.search(rf"make {verb} +\S", said), verb


def test_every_dependency_is_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dev"]]
    pinned += project["build-system"]["requires"]
    assert [entry for entry in pinned if "==" not in entry] == []
