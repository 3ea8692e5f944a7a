"""Ingest: what is stored, what is counted, and scenes that are read where they lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flows.serial import SerialEngine
from pipeline import ingest, plan, pyramid, spool
from pipeline.histogram import Histogram
from pipeline.ngff import describe_scene
from pipeline.pixels import read_image
from pipeline.run import CONSTANTS
from pipeline.status import read_status
from tests import killed
from tests.fakes import CoordinateModel, IdentityModel, fake_spec
from tests.runs import ArraySource, drive, labels_of, make_run, make_worker, segment
from tests.strategies import any_grids
from tiling import Box, Grid

WINDOWS = {"window": (12,), "overlap": (4,), "block": (16,)}


def noise(dtype: str, shape: tuple[int, ...] = (2, 50, 39)) -> NDArray[Any]:
    rng = np.random.default_rng(3)
    return (rng.normal(100, 30, shape) if dtype == "float32" else rng.integers(0, 5000, shape)).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_the_scenes_histograms_are_those_of_the_whole_image(tmp_path: Path, dtype: str) -> None:
    pixels = noise(dtype)
    valid = np.random.default_rng(4).random(pixels.shape[1:]) > 0.3
    spec = fake_spec(3, 2, normalisation={"kind": "percentile", "low": 2, "high": 98})
    run = segment(tmp_path, ArraySource(pixels, valid), CoordinateModel(spec), **WINDOWS)
    merged = ingest.merge_histograms(run)
    assert merged == tuple(Histogram.of(c[valid], dtype) for c in pixels)
    (constants,) = run.constants()
    low, high = (np.array([np.quantile(c[valid], q) for c in pixels]) for q in (0.02, 0.98))
    tolerance = 0 if dtype == "uint16" else 1 / 100  # floats are binned to 7 bits of mantissa
    np.testing.assert_allclose(constants.shift, low, rtol=tolerance + 1e-9)
    np.testing.assert_allclose(np.add(constants.shift, constants.scale), high, rtol=tolerance + 1e-9)
    assert run.store.exists(CONSTANTS)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", ">u2", ">f4"])
def test_pixels_are_stored_as_they_were_and_reach_the_model_as_their_values(tmp_path: Path, dtype: str) -> None:
    pixels = (np.arange(50 * 39) % 7).reshape(1, 50, 39).astype(dtype)
    run = segment(tmp_path, ArraySource(pixels), IdentityModel(fake_spec(7)), **WINDOWS)
    stored = run.array("image")
    assert stored.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(np.asarray(stored[...]), pixels)
    np.testing.assert_array_equal(labels_of(run), pixels[0])


def test_every_pixel_is_read_once_in_whole_blocks(tmp_path: Path) -> None:
    source = ArraySource(noise("uint8", (1, 50, 39)))
    run = segment(tmp_path, source, CoordinateModel(fake_spec(2)), **WINDOWS)
    assert sorted(b.start for b in source.reads) == sorted(run.grid.write(j).start for j in run.grid.blocks())
    assert sum(b.size for b in source.reads) == 50 * 39


@given(any_grids(), st.integers(1, 40), st.integers(1, 5000))
def test_slabs_cover_a_scene_in_order_in_whole_tiles(grid: Grid, rows: int, limit: int) -> None:
    shape = grid.extent
    row = prod(shape[1:])
    boxes = spool.slab_boxes(shape, (rows, *shape[1:]), row, limit)
    assert boxes[0].start == (0,) * len(shape)
    assert [b.stop[0] for b in boxes[:-1]] == [b.start[0] for b in boxes[1:]]
    assert boxes[-1].stop == shape
    for box in boxes[:-1]:
        assert box.shape[0] % rows == 0
        assert box.shape[0] == rows or box.shape[0] * row <= limit


# in place -------------------------------------------------------------------------------------------------


@dataclass
class ZarrSource(ArraySource):
    """The same array, which also lies on disk and need not be copied."""

    uri: str = ""

    @property
    def info(self) -> Any:
        return replace(super().info, array_uri=self.uri)


@pytest.mark.parametrize("with_channels", [True, False])
def test_a_scene_that_is_read_in_place_gives_the_same_answer(
    tmp_path: Path, with_channels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "COARSEST", 16)
    pixels = noise("uint16", (3 if with_channels else 1, 50, 39))
    uri = str(tmp_path / "lies.zarr")
    zarr.create_array(uri, data=pixels if with_channels else pixels[0], chunks="auto")
    bands = "3,1" if with_channels else None
    spec = fake_spec(3, 2 if with_channels else 1)
    runs = []
    for source in (ArraySource(pixels), ZarrSource(pixels, uri=uri)):
        run = make_run(tmp_path / type(source).__name__, source, spec, bands=bands, **WINDOWS)
        describe_scene(run)
        drive(run, SerialEngine(make_worker(source, CoordinateModel(spec))))
        assert read_status(run).status == "complete"
        runs.append(run)
    copied, in_place = runs
    assert (copied.manifest.layout.image, in_place.manifest.layout.image) == ("copy", "in-place")
    assert not Path(in_place.uri, "scene.zarr/0").exists()
    np.testing.assert_array_equal(labels_of(in_place), labels_of(copied))
    for level in (1, 2):
        a, b = (np.asarray(run.array("image", level)[...]) for run in runs)
        np.testing.assert_array_equal(a, b)
    box = Box((3, 5), (20, 30))
    np.testing.assert_array_equal(read_image(in_place, box), read_image(copied, box))
    for run in runs:
        yaozarrs.validate_zarr_store(str(Path(run.uri, "scene.zarr")))


def test_a_small_scene_is_copied_so_that_viewers_find_an_image(tmp_path: Path) -> None:
    pixels = noise("uint8", (1, 50, 39))
    uri = str(tmp_path / "lies.zarr")
    zarr.create_array(uri, data=pixels[0])
    source = ZarrSource(pixels, uri=uri)
    run = make_run(tmp_path, source, fake_spec(2), **WINDOWS)
    describe_scene(run)
    drive(run, SerialEngine(make_worker(source, CoordinateModel(fake_spec(2)))))
    assert run.manifest.layout.image == "copy"
    yaozarrs.validate_zarr_store(str(Path(run.uri, "scene.zarr")))


# sequential sources, killed -------------------------------------------------------------------------------


def test_killed_while_spooling_gives_the_same_bytes(tmp_path: Path) -> None:
    killed.drive_to_end(tmp_path / "whole", 0.0, "sequential")
    expected = killed.planned(tmp_path / "whole", "sequential")
    for pause in (0.02, 0.05, 0.1):
        process = killed.start_driver(tmp_path / "killed", 0.002, "sequential")
        process.join(pause)
        process.kill()
        process.join()
    killed.drive_to_end(tmp_path / "killed", 0.0, "sequential")
    run = killed.planned(tmp_path / "killed", "sequential")
    assert read_status(run).status == "complete"
    for name in ("image", "valid", "labels", "confidence"):
        np.testing.assert_array_equal(np.asarray(run.array(name)[...]), np.asarray(expected.array(name)[...]))


def test_shards_of_a_level_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of the wrong shape would leave a hole that reads as fill value."""
    monkeypatch.setattr(plan, "COARSEST", 16)
    run = make_run(tmp_path, ArraySource(noise("uint8", (1, 50, 39))), fake_spec(2), **WINDOWS)
    with pytest.raises(ValueError, match=r"shard \(1, 2\) of labels has shape \(16, 7\), not \(16, 16\)"):
        run.write("labels", (1, 2), np.zeros((16, 16), np.uint8))
    data = np.random.default_rng(0).integers(0, 9, (16, 7)).astype(np.uint8)
    (output,) = run.write("labels", (1, 2), data).values()
    assert output.n_bytes == run.store.size("scene.zarr/labels/mask/0/c/1/2")
    read = np.asarray(run.array("labels")[...])
    np.testing.assert_array_equal(read[16:32, 32:], data)
    assert (np.delete(read[16:32], np.s_[32:], axis=1) == 255).all()
    assert list(pyramid.shards(run, 1))
