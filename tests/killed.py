"""A driver that can be killed: a slow fake model over a scene in memory, in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
from torch import Tensor

from flows.serial import SerialEngine
from pipeline.models.spec import ModelSpec
from pipeline.run import Run
from tests.fakes import CoordinateModel, fake_spec
from tests.runs import ArraySource, drive, make_run, make_worker

SETTINGS = {"window": (16, 16), "overlap": (4, 4), "block": (24, 24), "batch": 2}


@dataclass(frozen=True)
class SlowModel:
    """Another model's scores, after ``seconds``."""

    inner: CoordinateModel
    seconds: float

    @property
    def spec(self) -> ModelSpec:
        return self.inner.spec

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.inner.scores(pixels, valid)


def scene(access: str = "random", extent: tuple[int, int] = (147, 99)) -> ArraySource:
    """35 blocks of 24 x 24 if not told otherwise, some of them thin; constants come from the pixels."""
    rng = np.random.default_rng(11)
    valid = rng.random(extent) > 0.1
    return ArraySource(rng.integers(0, 1000, (1, *extent)).astype(np.uint16), valid, access)


def model(seconds: float = 0.0) -> SlowModel:
    spec = fake_spec(4, normalisation={"kind": "percentile", "low": 1, "high": 99})
    return SlowModel(CoordinateModel(spec), seconds)


def planned(folder: Path, access: str = "random") -> Run:
    return make_run(folder, scene(access), model().spec, **SETTINGS)


def drive_to_end(folder: Path, seconds: float, access: str = "random") -> None:
    """What the killed process runs."""
    drive(planned(folder, access), SerialEngine(make_worker(scene(access), model(seconds))))


def start_driver(folder: Path, seconds: float, access: str = "random") -> ForkServerProcess:
    """A process forked from one that has imported all this and has no thread yet: it starts in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=drive_to_end, args=(folder, seconds, access), daemon=True)
    process.start()
    return process
