"""The workers' figures as one exposition.

Owns the merge: the same family of several workers becomes one, its samples told apart by a ``worker`` label. It must
not know where texts come from, nor any family by name. A text that cannot be read costs its own worker's series,
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from gateway.metrics import exposition


class TextUnreadable(Exception):
    """A worker answered with something else than Prometheus' text."""


def parse(text: bytes) -> list[Metric]:
    """The families of one worker. Raises TextUnreadable."""
    try:
        return list(text_string_to_metric_families(text.decode()))
    except (ValueError, KeyError, IndexError) as error:
        raise TextUnreadable(str(error)) from error


def merge(families_of: Mapping[int, Iterable[Metric]], own: Iterable[Metric]) -> bytes:
    """``own``: the supervisor's families, as they are."""
    merged: dict[str, Metric] = {}
    for worker, families in sorted(families_of.items()):
        for family in families:
            known = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            known.samples += [_labelled(sample, worker) for sample in family.samples]
    return exposition(_Ready([*own, *merged.values()]))


def _labelled(sample: Sample, worker: int) -> Sample:
    return sample._replace(labels={"worker": str(worker), **sample.labels})


class _Ready(Collector):
    """Families that are made already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
