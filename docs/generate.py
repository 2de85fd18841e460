"""What the documents say of the code, written from the code: `make docs`.

Owns the generated parts: between ``<!-- generated: NAME -->`` and ``<!-- end -->`` in a document, configs/embedded.toml and
configs/cluster.toml. A test holds that running this changes nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
from prometheus_client.core import Metric

from bench.capacity import page as capacity
from gateway.cluster.links import LinkStatistics
from gateway.config import AuthKey, ClusterConfig, Config, LinkKeyConfig, Section
from gateway.configfile import settings, to_toml
from gateway.metrics import DirectoryFigures, Sources, StoreFigures, WorkerCollector, WorkerMetrics
from gateway.ops.figures import supervisor_families
from gateway.pump import Kernel
from storage.statistics import CommitStatistics

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED_HEAD = """\
# The defaults, written out: `parley serve` without a file means exactly this. `parley serve --check` prints what is in
# force. Written by `make docs`.

"""
CLUSTER_HEAD = """\
# One node of a cluster over ScyllaDB (or Apache Cassandra) and Redis. Every node may have this same file: what differs is said
# on its command line, here for a second node on the same machine:
#
#   parley serve -c configs/cluster.toml --set cluster.node=2 --data data2 --port 7801 --ops-port 7881
#
# To be made before, once, and copied to every node's secrets/ (read relative to the working directory):
#
#   mkdir -m 700 secrets; for name in auth link resume; do openssl rand -hex 32 | tr -d '\\n' > secrets/$name.key; done
#
# On machines of their own, nodes need cluster.host (their own address), serve.host and the addresses of the servers. On a
# store of a single server: store.scylla.replication_factor = 1. Written by `make docs`.

"""
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    rows = [f"| `{name}` | {_shown(default)} | {text} |" for name, default, text in settings()]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])


def metrics_table() -> str:
    rows = [f"| `{_name(family)}` | {family.type} | {family.documentation} |" for family in _families()]
    return "\n".join(["| figure | type | meaning |", "|---|---|---|", *rows])


PARTS: Mapping[str, Callable[[], str]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    **capacity.parts(),
}


def generate() -> Iterator[tuple[Path, str]]:
    """(file, what it should hold) of every file with generated parts."""
    yield ROOT / "configs" / "embedded.toml", EMBEDDED_HEAD + to_toml(Config())
    yield ROOT / "configs" / "cluster.toml", CLUSTER_HEAD + to_toml(cluster_config())
    for document in sorted((ROOT / "docs").glob("*.md")):
        text = document.read_text(encoding="utf-8")
        if PART.search(text):
            yield document, PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[3]}", text)


def cluster_config() -> Config:
    """What a cluster's node says beyond the defaults."""
    defaults = Config()
    return msgspec.structs.replace(
        defaults,
        auth=msgspec.structs.replace(
            defaults.auth,
            keys=(AuthKey("local", secret_file="secrets/auth.key"),),  # noqa: S106
            resume_secret_file="secrets/resume.key",  # noqa: S106
        ),
        cluster=ClusterConfig(
            node=1,
            host="127.0.0.1",
            link_keys=(LinkKeyConfig("first", secret_file="secrets/link.key"),),  # noqa: S106
        ),
        store=msgspec.structs.replace(defaults.store, backend="scylla"),
        directory=msgspec.structs.replace(defaults.directory, backend="redis"),
    )


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
    sources = Sources(
        kernel=lambda: statistics,
        store=lambda: commits,
        links=lambda: LinkStatistics(0, 0, 0, 0, 0, 0, 0),
        store_requests=lambda: StoreFigures(*[0] * 7),
        directory=lambda: DirectoryFigures(False, *[0] * 6),
    )
    yield from WorkerCollector(WorkerMetrics(), sources).collect()


def _name(family: Metric) -> str:
    """As it is queried."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def main() -> int:
    for path, text in generate():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
