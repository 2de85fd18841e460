"""What the documents say of the code, written from the code: `make docs`.

Owns the generated parts: between ``<!-- generated: NAME -->`` and ``<!-- end -->`` in a document, and
configs/embedded.toml. A test holds that running this changes nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import Metric

from gateway.cluster.links import LinkStatistics
from gateway.config import Config, Section
from gateway.configfile import settings, to_toml
from gateway.metrics import WorkerCollector, WorkerMetrics
from gateway.ops.figures import supervisor_families
from gateway.pump import Kernel
from storage.statistics import CommitStatistics

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED_HEAD = """\
# The defaults, written out: `parley serve` without a file means exactly this. `parley serve --check` prints what is in
# force. Written by `make docs`.

"""
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    rows = [f"| `{name}` | {_shown(default)} | {text} |" for name, default, text in settings()]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])


def metrics_table() -> str:
    rows = [f"| `{_name(family)}` | {family.type} | {family.documentation} |" for family in _families()]
    return "\n".join(["| figure | type | meaning |", "|---|---|---|", *rows])


PARTS: Mapping[str, Callable[[], str]] = {"settings": settings_table, "metrics": metrics_table}


def generate() -> Iterator[tuple[Path, str]]:
    """(file, what it should hold) of every file with generated parts."""
    yield ROOT / "configs" / "embedded.toml", EMBEDDED_HEAD + to_toml(Config())
    for document in sorted((ROOT / "docs").glob("*.md")):
        text = document.read_text(encoding="utf-8")
        if PART.search(text):
            yield document, PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[3]}", text)


def _shown(default: object) -> str:
    if isinstance(default, Section):
        return " ".join(f"{name} {getattr(default, name):,g}" for name in default.__struct_fields__)
    if isinstance(default, tuple):
        return ", ".join(map(str, default)) or "none"
    if isinstance(default, int | float):
        return f"{default:,g}" if isinstance(default, float) else f"{default:,}"
    return f"`{default}`" if default else "none"


def _families() -> Iterator[Metric]:
    kernel = Kernel(16)
    statistics = kernel.statistics()
    kernel.shutdown()
    commits = CommitStatistics().snapshot(queued_rows=0)
    yield from supervisor_families([], (), (0, 0))
    yield from WorkerCollector(
        WorkerMetrics(), kernel=lambda: statistics, store=lambda: commits, links=lambda: LinkStatistics(*[0] * 7)
    ).collect()


def _name(family: Metric) -> str:
    """As it is queried."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def main() -> int:
    for path, text in generate():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
