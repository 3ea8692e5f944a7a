"""What a run directory says of itself: counts read from receipts, never from a process."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from datetime import datetime
from math import prod
from typing import Any, Literal

from pipeline.ledger import all_jobs
from pipeline.receipts import STAGES, Failure, Job, Receipt, Stage
from pipeline.run import Run

Outcome = Literal["complete", "incomplete"]


@dataclass(frozen=True, slots=True)
class StageCount:
    """Jobs of one stage: done, all, failed for good; seconds spent in finished ones."""

    done: int
    total: int
    failed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a run.

    pixels           over stitched blocks: predicted, nodata, failed, ``class:<name>``; overlap (predicted by more than
                     one window) and disagree (of these: whose windows name different classes); over ingested
                     blocks: nonfinite (NaN and infinite, a part of nodata)
    windows_skipped  windows without a valid pixel
    failures         roots first: what was tried and failed, then what never ran because of it
    seconds          of work, over all workers; ``wall_seconds`` from the first receipt to the last, pauses included
    peak_bytes       largest resident set of a worker, its model included
    """

    scene: str
    run: str
    status: Outcome
    stages: dict[str, StageCount]
    windows_total: int
    windows_run: int
    windows_skipped: int
    pixels: dict[str, int]
    extent_pixels: int
    missing_blocks: tuple[str, ...]
    failures: tuple[Failure, ...]
    seconds: float
    wall_seconds: float
    peak_bytes: int
    workers: int
    mpx_per_second: float

    @property
    def roots(self) -> tuple[Failure, ...]:
        """Failures that are nobody else's consequence."""
        return tuple(f for f in self.failures if f.attempts)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["failures"] = [f.model_dump(mode="json") for f in self.failures]
        return data


def read_status(run: Run) -> Status:
    """Read every receipt of the run, one after the other."""
    sums, failures = _Sums(run), run.failures()
    for receipt in run.receipts():
        sums.add(receipt)
    stages = _stages(run, sums, failures)
    # the spool is scratch: once everything is ingested nobody asks for it
    complete = not sums.missing and all(s.done == s.total for stage, s in stages.items() if stage != "spool")
    busy = sums.seconds["infer"]
    return Status(
        scene=run.manifest.scene,
        run=run.uri,
        status="complete" if complete else "incomplete",
        stages=stages,
        windows_total=run.grid.n_windows,
        windows_run=sums.windows_run,
        windows_skipped=sums.windows_skipped,
        pixels=dict(sums.pixels),
        extent_pixels=prod(run.grid.extent),
        missing_blocks=tuple(job.name for job in sorted(sums.missing)),
        failures=tuple(sorted(failures, key=lambda f: (f.attempts == 0, STAGES.index(f.stage), f.index))),
        seconds=round(sum(sums.seconds.values()), 3),
        wall_seconds=sums.wall_seconds,
        peak_bytes=sums.peak_bytes,
        workers=len(sums.workers),
        mpx_per_second=round(sums.read_pixels / busy / 1e6, 6) if busy else 0.0,
    )


@dataclass
class _Sums:
    """What is kept of receipts: a large run has more of them than memory holds."""

    run: Run
    done: Counter[Stage] = field(default_factory=Counter)
    seconds: defaultdict[Stage, float] = field(default_factory=lambda: defaultdict(float))
    pixels: Counter[str] = field(default_factory=Counter)
    missing: list[Job] = field(default_factory=list)
    workers: set[str] = field(default_factory=set)
    windows_run: int = 0
    windows_skipped: int = 0
    read_pixels: int = 0
    peak_bytes: int = 0
    first: datetime | None = None
    last: datetime | None = None

    def add(self, receipt: Receipt) -> None:
        self.done[receipt.stage] += not receipt.missing
        self.seconds[receipt.stage] += receipt.seconds.total
        self.peak_bytes = max(self.peak_bytes, receipt.peak_bytes)
        if receipt.finished:
            self._stamp(datetime.fromisoformat(receipt.finished))
        if receipt.stage == "ingest":
            self.pixels["nonfinite"] += receipt.pixels.get("nonfinite", 0)
        elif receipt.stage == "infer":
            self._add_infer(receipt)
        elif receipt.stage == "stitch":
            self.pixels.update(receipt.pixels)
            if receipt.missing:
                self.missing.append(receipt.job)

    def _add_infer(self, receipt: Receipt) -> None:
        self.windows_run += receipt.windows_run
        self.windows_skipped += receipt.windows_skipped
        self.read_pixels += self.run.grid.write(receipt.index).size
        self.workers.add(receipt.worker)

    def _stamp(self, at: datetime) -> None:
        self.first = min(self.first or at, at)
        self.last = max(self.last or at, at)

    @property
    def wall_seconds(self) -> float:
        """Between the first and the last receipt, pauses between invocations included."""
        return (self.last - self.first).total_seconds() if self.first and self.last else 0.0


def _stages(run: Run, sums: _Sums, failures: list[Failure]) -> dict[str, StageCount]:
    totals = Counter(job.stage for job in all_jobs(run))
    failed = Counter(f.stage for f in failures)
    return {
        stage: StageCount(sums.done[stage], totals[stage], failed[stage], round(sums.seconds[stage], 3))
        for stage in STAGES
        if totals[stage]
    }
