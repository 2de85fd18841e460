"""What a person sees of a replay: the bar while it runs, the summary after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from parley.replay.export import EntryKind, Export
from parley.replay.performance import Outcome

MAX_DIFFERENCES_SHOWN = 10


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal; gives the function that moves it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("messages"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("replaying", total=total)
        yield lambda sent: progress.update(task, completed=sent)


def describe_export(name: str, export: Export) -> str:
    """One line on what was found in the file."""
    kinds = Counter(entry.kind for entry in export.entries)
    order = export.order.name.lower().replace("_", "-")
    return (
        f"{name}: {len(export.entries):,} messages by {len(export.authors()):,} authors"
        f" ({kinds[EntryKind.MEDIA]:,} of media, {kinds[EntryKind.SYSTEM]:,} system lines), dates are {order}"
    )


def describe_outcome(outcome: Outcome) -> str:
    """The summary: what was sent how fast, what was read back, and how it differs."""
    rate = outcome.sent / outcome.seconds if outcome.seconds else 0.0
    verdict = f"{len(outcome.differences):,} differences" if outcome.differences else "no difference"
    lines = [
        f"sent {outcome.sent:,} messages in {outcome.seconds:.2f} s ({rate:,.0f}/s), each durable before the next",
        f"read back {outcome.read:,} from another device: {verdict}",
    ]
    lines += [f"  {difference}" for difference in outcome.differences[:MAX_DIFFERENCES_SHOWN]]
    hidden = len(outcome.differences) - MAX_DIFFERENCES_SHOWN
    return "\n".join(lines + ([f"  … and {hidden:,} more"] if hidden > 0 else []))
