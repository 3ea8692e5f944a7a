"""What a run directory says of itself: counts read from receipts, never from a process."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from math import prod
from typing import Any, Literal

from pipeline.ledger import all_jobs
from pipeline.receipts import STAGES, Failure, Receipt
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
    """Read every receipt of the run."""
    receipts, failures = list(run.receipts()), run.failures()
    pixels: Counter[str] = Counter()
    for receipt in receipts:
        if receipt.stage == "stitch":
            pixels.update(receipt.pixels)
        elif receipt.stage == "ingest":
            pixels["nonfinite"] += receipt.pixels.get("nonfinite", 0)
    infers = [r for r in receipts if r.stage == "infer"]
    missing = tuple(r.job.name for r in receipts if r.stage == "stitch" and r.missing)
    stages = _stages(run, receipts, failures)
    # the spool is scratch: once everything is ingested nobody asks for it
    complete = not missing and all(s.done == s.total for stage, s in stages.items() if stage != "spool")
    busy = sum(r.seconds.total for r in infers)
    read = sum(run.grid.write(r.index).size for r in infers)
    return Status(
        scene=run.manifest.scene,
        run=run.uri,
        status="complete" if complete else "incomplete",
        stages=stages,
        windows_total=run.grid.n_windows,
        windows_run=sum(r.windows_run for r in infers),
        windows_skipped=sum(r.windows_skipped for r in infers),
        pixels=dict(pixels),
        extent_pixels=prod(run.grid.extent),
        missing_blocks=missing,
        failures=tuple(sorted(failures, key=lambda f: (f.attempts == 0, STAGES.index(f.stage), f.index))),
        seconds=round(sum(r.seconds.total for r in receipts), 3),
        wall_seconds=_wall(receipts),
        peak_bytes=max((r.peak_bytes for r in receipts), default=0),
        workers=len({r.worker for r in infers}),
        mpx_per_second=round(read / busy / 1e6, 6) if busy else 0.0,
    )


def _stages(run: Run, receipts: list[Receipt], failures: list[Failure]) -> dict[str, StageCount]:
    totals = Counter(job.stage for job in all_jobs(run))
    done = Counter(r.stage for r in receipts if not r.missing)
    failed = Counter(f.stage for f in failures)
    seconds: Counter[str] = Counter()
    for receipt in receipts:
        seconds[receipt.stage] += receipt.seconds.total  # type: ignore[assignment]
    return {
        stage: StageCount(done[stage], totals[stage], failed[stage], round(float(seconds[stage]), 3))
        for stage in STAGES
        if totals[stage]
    }


def _wall(receipts: list[Receipt]) -> float:
    """Seconds between the first and the last receipt, pauses between invocations included."""
    stamps = sorted(datetime.fromisoformat(r.finished) for r in receipts if r.finished)
    return (stamps[-1] - stamps[0]).total_seconds() if stamps else 0.0
