"""How a batch is seen while it runs: a bar on a terminal, log lines elsewhere. Both on standard error."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from math import prod
from typing import Any, Protocol, TextIO

from flows.pool import Event
from pipeline.echo import write_line
from pipeline.ledger import Ledger
from pipeline.receipts import Stage
from pipeline.show import speed

EVERY_SECONDS = 10.0
DRAW_SECONDS = 0.2
MOST_TROUBLES = 10
"""Lines about things that went wrong with one scene; its run directory and its result tell of all."""


class Watcher(Protocol):
    """Shows what happens: ``start`` once, with what each run has left to do, then a call for every event."""

    def start(self, ledgers: Sequence[Ledger]) -> None: ...

    def __call__(self, event: Event) -> None: ...


@contextmanager
def progress(stream: TextIO | None = None) -> Iterator[Watcher]:
    """Something that shows a batch while the context lasts."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield Lines(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    texts = [TextColumn(f"{{task.fields[{name}]}}") for name in ("blocks", "speed", "left")]
    columns = (TextColumn("{task.description}"), BarColumn(), *texts, TimeElapsedColumn())
    with Progress(*columns, console=Console(file=stream)) as bar:
        yield Bar(bar)


@contextmanager
def pixels_done(what: str, stream: TextIO | None = None) -> Iterator[Callable[[int, int], None]]:
    """Shows ``(done, all)`` pixels of one piece of work while the context lasts: a bar, or a line in ten seconds."""
    stream = stream or sys.stderr
    if not stream.isatty():
        told = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told >= EVERY_SECONDS:
                told = time.monotonic()
                write_line(stream, f"{what}: {done / total:.0%} of {total / 1e6:,.1f} Mpx")

        yield tell
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=stream)) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@dataclass
class Meter:
    """How far a batch is, and how fast: from its ledgers, and the receipts of this invocation.

    total, blocks      jobs and blocks of all scenes;  ``whole`` blocks are stitched with nothing missing
    remaining          jobs by stage
    done, busy, pixels what this invocation did, by stage: jobs, seconds of work; and pixels inferred
    """

    ledgers: InitVar[Sequence[Ledger]] = ()
    started: float = field(default_factory=time.monotonic)
    pixels: int = 0
    done: Counter[str] = field(default_factory=Counter)
    busy: dict[str, float] = field(default_factory=dict)
    total: int = 0
    blocks: int = 0
    whole: int = 0
    remaining: Counter[str] = field(default_factory=Counter)
    scenes: list[str] = field(default_factory=list)

    def __post_init__(self, ledgers: Sequence[Ledger]) -> None:
        self._seen: dict[str, tuple[int, Counter[Stage]]] = {}
        for ledger in ledgers:
            self._look(ledger)

    def _look(self, ledger: Ledger) -> None:
        """Bring the sums up to date for one run: there may be thousands of others, where nothing has happened."""
        uri = ledger.run.uri
        if uri not in self._seen:
            self.scenes.append(ledger.run.manifest.scene)
            self.total += ledger.total
            self.blocks += prod(ledger.run.grid.n_blocks)
        whole, left = self._seen.get(uri, (0, Counter[Stage]()))
        self.whole += ledger.whole - whole
        self.remaining.update(ledger.left)
        self.remaining.subtract(left)
        self._seen[uri] = (ledger.whole, ledger.left.copy())

    def add(self, event: Event) -> None:
        self._look(event.ledger)
        if event.receipt is None:
            return
        stage = event.job.stage
        self.done[stage] += 1
        self.busy[stage] = self.busy.get(stage, 0.0) + event.receipt.seconds.total
        if stage == "infer":
            self.pixels += event.ledger.run.grid.write(event.job.index).size

    @property
    def jobs(self) -> tuple[int, int]:
        """(done, all) of the batch; a job that failed is done with."""
        return self.total - sum(self.remaining.values()), self.total

    @property
    def blocks_text(self) -> str:
        """Blocks stitched whole, of all."""
        return f"{self.whole:,}/{self.blocks:,} blocks"

    @property
    def speed_text(self) -> str:
        """Pixels inferred a second, waits included."""
        return speed(self.pixels / 1e6 / max(time.monotonic() - self.started, 1e-9))

    @property
    def left_text(self) -> str:
        seconds = self.seconds_left
        return "" if seconds is None else f"{clock(seconds)} left"

    @property
    def seconds_left(self) -> float | None:
        """From the mean seconds of each stage so far, and how many jobs ran at once; None before the first infer."""
        if not self.done["infer"]:
            return None
        at_once = sum(self.busy.values()) / max(time.monotonic() - self.started, 1e-9)
        work = sum(self.busy[stage] / self.done[stage] * n for stage, n in self.remaining.items() if self.done[stage])
        return work / max(at_once, 1e-9)


def clock(seconds: float) -> str:
    """``0:00:07``, ``26:03:00``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


@dataclass
class Troubles:
    """Sentences about what went wrong, each once: not what only follows from it, and not without end."""

    told: Counter[str] = field(default_factory=Counter)

    def of(self, event: Event) -> str | None:
        if event.kind == "done" or (event.kind == "failed" and event.ledger.hopeless(event.job)):
            return None
        run = event.ledger.run
        self.told[run.uri] += 1
        if self.told[run.uri] > MOST_TROUBLES:
            last = self.told[run.uri] == MOST_TROUBLES + 1
            return f"{run.manifest.scene}: more went wrong; `seamline status {run.uri}` tells" if last else None
        what = {"retry": "will be tried again", "failed": "failed", "healed": "healed"}[event.kind]
        return f"{run.manifest.scene}: {event.job} {what}: {event.message}"


@dataclass
class Lines:
    """A line in ten seconds, one at the end, and one for everything that goes wrong."""

    stream: TextIO
    meter: Meter = field(default_factory=Meter)
    troubles: Troubles = field(default_factory=Troubles)
    told: float = field(default_factory=time.monotonic)

    def start(self, ledgers: Sequence[Ledger]) -> None:
        self.meter, self.told = Meter(tuple(ledgers)), time.monotonic()

    def __call__(self, event: Event) -> None:
        self.meter.add(event)
        if trouble := self.troubles.of(event):
            self._print(trouble)
        (done, total), now = self.meter.jobs, time.monotonic()
        if done == total:
            self._print(f"{self.meter.blocks_text}, {self.meter.speed_text}, {clock(now - self.meter.started)}")
        elif now - self.told >= EVERY_SECONDS:
            self.told = now
            parts = (f"{done / total:.0%}", self.meter.blocks_text, self.meter.speed_text, self.meter.left_text)
            self._print(", ".join(filter(None, parts)))

    def _print(self, text: str) -> None:
        write_line(self.stream, text)


class Bar:
    """One bar for the batch: blocks, megapixels a second, time left."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.meter, self.troubles = Meter(), Troubles()
        self.task: Any = None
        self.drawn = 0.0

    def start(self, ledgers: Sequence[Ledger]) -> None:
        self.meter = Meter(tuple(ledgers))
        if any(ledger.remaining for ledger in ledgers):
            self._draw()

    def __call__(self, event: Event) -> None:
        self.meter.add(event)
        if trouble := self.troubles.of(event):
            self.bar.console.print(trouble, markup=False, highlight=False)
        done, total = self.meter.jobs
        if done == total or time.monotonic() - self.drawn >= DRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        done, total = self.meter.jobs
        scenes = self.meter.scenes
        shown = {
            "description": scenes[0] if len(scenes) == 1 else f"{len(scenes)} scenes",
            "completed": done,
            "total": total,
            "blocks": self.meter.blocks_text,
            "speed": self.meter.speed_text,
            "left": self.meter.left_text if done < total else "",
        }
        if self.task is None:
            self.task = self.bar.add_task(**shown)
        else:
            self.bar.update(self.task, **shown)
