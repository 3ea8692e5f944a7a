"""Runs over arrays in memory with fake models: the whole pipeline without a file format or a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.pool import Engine, Event, Order, run_jobs
from flows.serial import SerialEngine
from pipeline.ledger import Ledger
from pipeline.models.base import Model
from pipeline.models.spec import ModelSpec
from pipeline.plan import Hardware, make_plan
from pipeline.run import Run, create_run
from pipeline.settings import Settings
from pipeline.sources.base import SourceInfo
from pipeline.worker import Worker
from tiling import Box, Frame

HARDWARE = Hardware(device="cpu", threads=1, memory_bytes=8 << 30)
AXES = {2: ("y", "x"), 3: ("z", "y", "x")}


@dataclass
class ArraySource:
    """A source over an array ``(C, *spatial)``; ``reads`` keeps the boxes that were asked for."""

    pixels: NDArray[Any]
    valid: NDArray[np.bool_] | None = None
    access: str = "random"
    reads: list[Box] = field(default_factory=list)

    @property
    def info(self) -> SourceInfo:
        shape = self.pixels.shape[1:]
        channels = tuple(f"channel {c}" for c in range(len(self.pixels)))
        return SourceInfo(
            uri="memory:scene",
            name="scene",
            format="array",
            shape=shape,
            dtype=self.pixels.dtype,
            channels=channels,
            frame=Frame.pixels(AXES[len(shape)]),
            nodata=(None,) * len(channels),
            tile=tuple(min(16, e) for e in shape),
            fingerprint="none",
            access=self.access,  # type: ignore[arg-type]
        )

    def read(self, box: Box, channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        self.reads.append(box)
        pixels = self.pixels[list(channels)][(slice(None), *box.slices())]
        valid = np.ones(box.shape, bool) if self.valid is None else self.valid[box.slices()].copy()
        return pixels, valid

    def close(self) -> None:
        return


def make_run(folder: Path, source: ArraySource, spec: ModelSpec, **settings: Any) -> Run:
    """Plan and create a run under ``folder``."""
    chosen = Settings(model=("fake",), out=str(folder), **settings)
    plan = make_plan(chosen, source.info, spec, ("0" * 64,), HARDWARE, scene=source.info.name)
    return create_run(str(folder), plan.manifest)


def make_worker(source: ArraySource, model: Model) -> Worker:
    return Worker("test", load=lambda _: model, open_source=lambda _: source)


class ShuffledEngine(SerialEngine):
    """Takes several orders and runs a random one of them next."""

    def __init__(self, worker: Worker, seed: int) -> None:
        super().__init__(worker)
        self.rng = np.random.default_rng(seed)

    def room(self) -> int:
        return 5 - len(self._orders)

    def submit(self, order: Order) -> None:
        self._orders.insert(int(self.rng.integers(len(self._orders) + 1)), order)


def drive(
    run: Run, engine: Engine, *, attempts: int = 2, on_event: Callable[[Event], None] = lambda _: None
) -> tuple[Ledger, dict[str, BaseException]]:
    ledger = Ledger(run)
    given_up = run_jobs([ledger], engine, attempts=attempts, on_event=on_event, tick=0.05)
    return ledger, given_up


def segment(folder: Path, source: ArraySource, model: Model, **settings: Any) -> Run:
    """The whole way, in this process."""
    run = make_run(folder, source, model.spec, **settings)
    drive(run, SerialEngine(make_worker(source, model)))
    return run


def labels_of(run: Run) -> NDArray[Any]:
    return np.asarray(run.array("labels")[...])
