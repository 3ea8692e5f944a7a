"""Promise 3: peak memory above the loaded model follows from the plan and does not grow with the scene.

Run by hand, `make scale`: about half an hour and 15 GB of disk. Results: docs/scale.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

pytestmark = [pytest.mark.scale, pytest.mark.timeout(3 * 3600)]

REPOSITORY = Path(__file__).parents[2]
N_CLASSES, BLOCK = 3, 2048


def write_scene(path: Path, side: int) -> None:
    """A tiled grey GeoTIFF of ``side`` squared, streamed: one textured tile, repeated."""
    ramp = np.add.outer(np.arange(512) // 3, np.arange(512) // 2) % 128
    noise = np.random.default_rng(0).integers(0, 8, (512, 512)) * 16
    tile = ((ramp + noise) % 256).astype(np.uint8)
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    tiling = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "lzw", "BIGTIFF": "IF_SAFER"}
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    with (
        rasterio.Env(GDAL_CACHEMAX=64 << 20),
        rasterio.open(path, "w", **profile, **tiling, transform=transform) as target,
    ):
        for y in range(0, side, 512):
            rows = np.tile(tile, (1, -(-side // 512)))[: min(512, side - y), :side]
            target.write(rows, 1, window=Window(0, y, side, len(rows)))


def measured(tmp_path: Path, side: int) -> dict[str, Any]:
    scene = tmp_path / f"scene_{side}.tif"
    write_scene(scene, side)
    script = Path(__file__).parent / "worker_memory.py"
    done = subprocess.run(
        [sys.executable, str(script), str(scene), str(tmp_path / "runs"), str(N_CLASSES), str(BLOCK)],
        capture_output=True, text=True, check=False, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_peak_memory_is_planned_and_does_not_grow_with_the_scene(tmp_path: Path, capsys: Any) -> None:
    results = {}
    for side in (8192, 32768, 65536):
        results[side] = measured(tmp_path, side)
        with capsys.disabled():
            sys.stdout.write(f"\n{side}: {json.dumps(results[side])}")
    # at 8192 there are 4 x 4 blocks already: some have neighbours on every side, as in the larger scenes
    peaks = [r["peak"] for r in results.values()]
    assert max(peaks) <= 1.10 * min(peaks), peaks
    for side, result in results.items():
        assert result["failures"] == 0
        assert abs(result["peak"] - result["planned_peak"]) <= 0.15 * result["planned_peak"], (side, result)
