"""How a run is seen while it goes: a bar on a terminal, log lines elsewhere. Both on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from flows.pool import Event
from pipeline.scenes import Batch

EVERY_SECONDS = 10.0
EVERY_SHARE = 0.05


@contextmanager
def progress(batch: Batch, stream: TextIO | None = None) -> Iterator[Callable[[Event], None]]:
    """A handler of events that shows them while the context lasts."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield Lines(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} jobs"),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream)) as bar:
        yield Bar(bar)


@dataclass
class Meter:
    """Megapixels inferred and when that began, of one run."""

    pixels: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, event: Event) -> None:
        if event.receipt is not None and event.job.stage == "infer":
            self.pixels += event.ledger.run.grid.write(event.job.index).size

    @property
    def speed(self) -> str:
        return f"{self.pixels / 1e6 / max(time.monotonic() - self.started, 1e-9):.2f} Mpx/s"


@dataclass
class Lines:
    """A line for every 20th of a run, at most one in ten seconds, and for everything that goes wrong."""

    stream: TextIO
    meters: dict[str, Meter] = field(default_factory=dict)
    told: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        scene, uri = event.ledger.run.manifest.scene, event.ledger.run.uri
        meter = self.meters.setdefault(uri, Meter())
        meter.add(event)
        if event.kind != "done":
            self._print(f"{scene}: {event.kind} {event.job}: {event.message}")
            return
        total = event.ledger.total
        share, now = 1 - event.ledger.remaining / total, time.monotonic()
        before, at = self.told.get(uri, (0.0, 0.0))
        if event.ledger.remaining == 0 or (share - before >= EVERY_SHARE and now - at >= EVERY_SECONDS):
            self.told[uri] = (share, now)
            self._print(f"{scene}: {total - event.ledger.remaining}/{total} jobs, {share:.0%}, {meter.speed}")

    def _print(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()


class Bar:
    """One bar a run."""

    def __init__(self, bar: object) -> None:
        from rich.progress import Progress, TaskID

        assert isinstance(bar, Progress)
        self.bar = bar
        self.tasks: dict[str, TaskID] = {}
        self.meters: dict[str, Meter] = {}

    def __call__(self, event: Event) -> None:
        uri, scene = event.ledger.run.uri, event.ledger.run.manifest.scene
        meter = self.meters.setdefault(uri, Meter())
        meter.add(event)
        if uri not in self.tasks:
            self.tasks[uri] = self.bar.add_task(scene, total=event.ledger.total, speed="")
        if event.kind != "done":
            self.bar.console.print(f"{scene}: {event.kind} {event.job}: {event.message}", markup=False)
        completed = event.ledger.total - event.ledger.remaining
        self.bar.update(self.tasks[uri], completed=completed, speed=meter.speed)
