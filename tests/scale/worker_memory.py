"""Segments a GeoTIFF with a cheap model in a process of its own and prints what its memory did, as JSON.

Memory is counted above a base that is warmed up: libraries loaded, threads started, GDAL's bounded cache full.

python tests/scale/worker_memory.py SCENE.tif FOLDER K BLOCK
"""

from __future__ import annotations

import gc
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from flows.pool import Event, run_jobs
from flows.serial import SerialEngine
from pipeline.ledger import Ledger
from pipeline.memory import one_arena, plan_memory, trim
from pipeline.models.spec import ModelSpec
from pipeline.plan import Hardware, make_plan
from pipeline.run import Run, create_run
from pipeline.settings import Settings
from pipeline.sources import open_source
from pipeline.sources.base import GDAL_CACHE_BYTES
from pipeline.worker import Worker

HARDWARE = Hardware(device="cpu", threads=1, memory_bytes=16 << 30)


class CheapModel:
    """K scores from the grey value alone: what costs memory is then the pipeline."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.levels = torch.linspace(0, 255, spec.n_scores).reshape(1, -1, 1, 1)

        self.out = torch.empty(0)

    def scores(self, pixels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        shape = (len(pixels), self.spec.n_scores, *pixels.shape[2:])
        if self.out.shape != shape:  # one buffer: a real network's activations belong to the warmed-up base
            self.out = torch.empty(shape)
        torch.sub(pixels[:, :1], self.levels, out=self.out)
        return self.out.abs_().div_(-255).add_(1).clamp_(0, 1)


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS now, VmHWM the peak since it was reset."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match.group(1)) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def prepare(scene: str, folder: str, n_classes: int, block: int) -> Run:
    spec = ModelSpec.of(
        {
            "name": "cheap",
            "classes": [f"class {k}" for k in range(n_classes)],
            "channels": ["grey"],
            "normalisation": {"kind": "scale", "factor": 1.0},
        },
        "worker_memory",
    )
    settings = Settings(model=("cheap",), out=folder, window=(640,), overlap=(128,), block=(block,))
    info = open_source(scene).info
    plan = make_plan(settings, info, spec, ("0" * 64,), HARDWARE, scene=info.name)
    return create_run(folder, plan.manifest)


def warm_up(n_classes: int, block: int) -> None:
    """Load every library and start every thread, on 4 x 4 blocks of noise; closing the source empties GDAL's cache.

    Fewer blocks leave threads and buffers for later.
    """
    with tempfile.TemporaryDirectory() as scratch:
        small, side = str(Path(scratch) / "small.tif"), 4 * block
        pixels = np.random.default_rng(0).integers(0, 255, (1, side, side)).astype(np.uint8)
        shape = {"height": side, "width": side, "count": 1, "dtype": "uint8", "tiled": True}
        transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
        with rasterio.open(small, "w", driver="GTiff", crs="EPSG:32633", transform=transform, **shape) as f:
            f.write(pixels)
        del pixels
        engine = SerialEngine(Worker("warm", load=lambda run: CheapModel(run.manifest.spec)))
        run_jobs([Ledger(prepare(small, scratch, n_classes, block))], engine)
        engine.close()
    gc.collect()
    trim()


def fill_cache(scene: str, block: int) -> Any:
    """Fill GDAL's cache, of bounded size, from the scene: small scenes would else never come to use all of it."""
    held, read = rasterio.open(scene), 0
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES):
        for y in range(0, held.height, block):
            for x in range(0, held.width, block):
                if read < 2 * GDAL_CACHE_BYTES:
                    read += held.read(1, window=Window(x, y, block, block)).nbytes
    trim()
    return held


def measure(scene: str, folder: str, n_classes: int, block: int) -> dict[str, Any]:
    warm_up(n_classes, block)
    run = prepare(scene, folder, n_classes, block)
    held = fill_cache(scene, block)
    base = status("VmRSS")
    peaks: dict[str, int] = {}
    reset_peak()

    def note(event: Event) -> None:
        peaks[event.job.stage] = max(peaks.get(event.job.stage, 0), status("VmHWM") - base)
        reset_peak()

    engine = SerialEngine(Worker("measured", load=lambda run: CheapModel(run.manifest.spec)))
    run_jobs([Ledger(run)], engine, on_event=note)
    engine.close()
    held.close()
    plan = plan_memory(run.manifest)
    return {
        "peaks": peaks,
        "peak": max(peaks.values()),
        "planned": {
            "ingest": plan.ingest,
            "infer": plan.infer,
            "stitch": plan.stitch,
            "pyramid": plan.pyramid,
            "cache": plan.cache,
        },
        "planned_peak": plan.peak - plan.cache,
        "base": base,
        "failures": len(run.failures()),
    }


if __name__ == "__main__":
    one_arena()
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
