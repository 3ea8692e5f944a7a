"""Pyramids against plain loops, and the scene against a reader of OME-NGFF that is not ours."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from flows.serial import SerialEngine
from pipeline import plan, pyramid
from pipeline.mode import most_frequent
from pipeline.ngff import describe_scene, georeference
from pipeline.run import Run
from pipeline.sources import open_source
from pipeline.status import read_status
from tests.fakes import CoordinateModel, IdentityModel, fake_spec
from tests.runs import ArraySource, drive, make_run, make_worker
from tiling import Frame

SHAPES = arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7)


def halved(labels: NDArray[Any]) -> NDArray[Any]:
    return most_frequent(labels, (2,) * labels.ndim, (254, 255))


def cells(array: NDArray[Any]) -> Any:
    """Index of each coarse pixel, and the fine pixels it covers."""
    for index in product(*(range(-(-n // 2)) for n in array.shape)):
        yield index, array[tuple(slice(2 * i, 2 * i + 2) for i in index)].ravel()


@given(st.data(), SHAPES, st.sampled_from(["uint8", "int16", "float32"]))
@settings(max_examples=60)
def test_mean_is_over_valid_pixels_only(data: st.DataObject, shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    image = rng.integers(0, 200, shape).astype(dtype)
    valid = rng.random(shape) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    if dtype == "float32":
        image[~valid] = np.nan
    small = pyramid.mean_halved(image, valid)
    assert small.dtype == image.dtype
    for (index, values), (_, ok) in zip(cells(image), cells(valid), strict=True):
        expected = values[ok].mean(dtype=np.float64) if ok.any() else (np.nan if dtype == "float32" else 0)
        if dtype != "float32":
            expected = np.rint(expected)
        np.testing.assert_allclose(small[index], expected, rtol=1e-6)


@pytest.fixture
def small_pyramids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pyramids end at 16 pixels, so that small scenes have levels, whose far shards are thin."""
    monkeypatch.setattr(plan, "COARSEST", 16)


SCENES: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    "2-D": ((97, 70), {"window": (16,), "overlap": (4,), "block": (24,)}, 4),
    "3-D": ((9, 37, 20), {"window": (4, 8, 8), "overlap": (2, 2, 2), "block": (4, 12, 6)}, 3),
    "slices": ((5, 33, 41), {"window": (1, 16, 16), "overlap": (0, 4, 4), "block": (2, 12, 24)}, 3),
}


def made(tmp_path: Path, case: str, dtype: str = "uint8") -> tuple[Run, ArraySource]:
    extent, windows, _ = SCENES[case]
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 200, (3, *extent)).astype(dtype)
    source = ArraySource(pixels, rng.random(extent) > 0.2)
    spec = fake_spec(4, 3, ndim=2 if case == "slices" else len(extent))
    run = make_run(tmp_path, source, spec, **windows)
    describe_scene(run)
    drive(run, SerialEngine(make_worker(source, CoordinateModel(spec))))
    assert read_status(run).status == "complete"
    return run, source


@pytest.mark.usefixtures("small_pyramids")
@pytest.mark.parametrize(
    ("case", "dtype"), [("2-D", "uint8"), ("2-D", "float32"), ("3-D", "float32"), ("slices", "uint8")]
)
def test_every_level_halves_the_one_below_it(tmp_path: Path, case: str, dtype: str) -> None:
    run, source = made(tmp_path, case, dtype)
    assert run.manifest.layout.levels == SCENES[case][2]
    labels = np.asarray(run.array("labels")[...])
    image = source.pixels
    assert source.valid is not None
    valid = np.broadcast_to(source.valid, image.shape)
    for level in range(1, run.manifest.layout.levels):
        labels = halved(labels)
        image = np.stack([pyramid.mean_halved(c, v) for c, v in zip(image, valid, strict=True)])
        valid = np.isfinite(image)
        np.testing.assert_array_equal(np.asarray(run.array("labels", level)[...]), labels)
        np.testing.assert_array_equal(np.asarray(run.array("image", level)[...]), image)


@pytest.mark.usefixtures("small_pyramids")
def test_shards_are_covered_by_their_children(tmp_path: Path) -> None:
    run = make_run(tmp_path, ArraySource(np.zeros((1, 97, 70), np.uint8)), fake_spec(2), **SCENES["2-D"][1])
    assert list(pyramid.shards(run, 1)) == list(product(range(3), range(2)))
    assert list(pyramid.shards(run, 3)) == [(0, 0)]
    for level in (1, 2, 3):
        below = list(pyramid.shards(run, level - 1))
        assert sorted(c for s in pyramid.shards(run, level) for c in pyramid.children(run, level, s)) == below


@pytest.mark.usefixtures("small_pyramids")
def test_a_lost_shard_of_a_level_heals(tmp_path: Path) -> None:
    run, source = made(tmp_path, "2-D")
    whole = {e.key: run.store.get(e.key) for e in run.store.list("scene.zarr")}
    for key in ("scene.zarr/labels/mask/1/c/1/0", "scene.zarr/2/c/0/0/0"):
        assert key in whole
        Path(run.uri, key).write_bytes(b"cut")
    ledger, _ = drive(run, SerialEngine(make_worker(source, CoordinateModel(run.manifest.spec))))
    assert {job.index for job in ledger.lost} == {(1, 1, 0), (2, 0, 0)}
    assert {e.key: run.store.get(e.key) for e in run.store.list("scene.zarr")} == whole


# for other readers ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pyramids")
@pytest.mark.parametrize("case", ["2-D", "3-D"])
def test_the_scene_is_ome_ngff_and_its_mask_a_label_image(tmp_path: Path, case: str) -> None:
    run, source = made(tmp_path, case)
    root = Path(run.uri, "scene.zarr")
    for path in ("", "labels/mask", "valid", "confidence", "disagreement"):
        yaozarrs.validate_zarr_store(str(root / path))
    group = zarr.open_group(str(root), mode="r")
    ome: Any = group.attrs["ome"]
    paths = [d["path"] for d in ome["multiscales"][0]["datasets"]]
    assert paths == [str(n) for n in range(SCENES[case][2])]
    np.testing.assert_array_equal(np.asarray(group["0"][...]), source.pixels)  # type: ignore[index]
    assert group["0"].metadata.dimension_names == ("c", *run.manifest.frame.axes)  # type: ignore[union-attr]
    assert zarr.open_group(str(root / "labels"), mode="r").attrs["ome"] == {"version": "0.5", "labels": ["mask"]}
    about: Any = zarr.open_group(str(root / "labels/mask"), mode="r").attrs["ome"]
    mask = about["image-label"]
    colors = {c["label-value"]: c["rgba"] for c in mask["colors"]}
    assert colors[254] == colors[255] == [0, 0, 0, 0]
    assert [colors[n] for n in range(4)] == [[*c.rgb, 255] for c in run.manifest.spec.classes]
    assert mask["source"] == {"image": "../../"}


@pytest.mark.usefixtures("small_pyramids")
def test_describing_a_scene_twice_changes_no_byte(tmp_path: Path) -> None:
    run, _ = made(tmp_path, "2-D")
    documents = list(Path(run.uri).rglob("zarr.json"))
    before = {p: p.read_bytes() for p in documents}
    describe_scene(run)
    assert {p: p.read_bytes() for p in documents} == before


def test_a_coarse_pixel_lies_amid_the_fine_ones_it_covers(tmp_path: Path) -> None:
    """A coarse pixel's centre is the mean of the centres of the fine ones it covers."""
    pixels = np.zeros((1, 1100, 40), np.uint8)
    run = make_run(tmp_path, ArraySource(pixels), fake_spec(2), window=(64,), overlap=(0,), block=(512,))
    describe_scene(run)
    ome = json.loads(Path(run.uri, "scene.zarr/zarr.json").read_text())["attributes"]["ome"]
    datasets = ome["multiscales"][0]["datasets"]
    assert [d["coordinateTransformations"] for d in datasets] == [
        [{"type": "scale", "scale": [1.0, 1.0, 1.0]}, {"type": "translation", "translation": [0.0, 0.0, 0.0]}],
        [{"type": "scale", "scale": [1.0, 2.0, 2.0]}, {"type": "translation", "translation": [0.0, 0.5, 0.5]}],
        [{"type": "scale", "scale": [1.0, 4.0, 4.0]}, {"type": "translation", "translation": [0.0, 1.5, 1.5]}],
    ]


AFFINE = ((-3.0, 0.1, 0.0, 40.0), (0.0, 0.5, 0.2, -7.0), (0.3, 0.0, 0.7, 2.0))


@pytest.mark.usefixtures("small_pyramids")
@pytest.mark.parametrize("matrix", [((3.0, 0, 0, 40.0), (0, 0.5, 0, -7.0), (0, 0, 0.7, 2.0)), AFFINE])
def test_a_volume_says_where_it_lies_and_how_it_is_turned(tmp_path: Path, matrix: Any) -> None:
    frame = Frame(("z", "y", "x"), matrix, "mm", None, "centre")

    class Placed(ArraySource):
        @property
        def info(self) -> Any:
            return replace(super().info, frame=frame)

    source = Placed(np.zeros((1, 9, 37, 20), np.uint8))
    run = make_run(tmp_path, source, fake_spec(4, 1, ndim=3), **SCENES["3-D"][1])
    describe_scene(run)
    for path in ("scene.zarr", "scene.zarr/labels/mask"):
        again = open_source(str(Path(run.uri, path)))
        assert again.info.frame == frame
        yaozarrs.validate_zarr_store(str(Path(run.uri, path)))
        ome: Any = zarr.open_group(str(Path(run.uri, path)), mode="r").attrs["ome"]
        for level, dataset in enumerate(ome["multiscales"][0]["datasets"]):
            scale, shift = (t[t["type"]][-3:] for t in dataset["coordinateTransformations"])
            coarse = frame.downsampled((2**level,) * 3)
            np.testing.assert_allclose(scale, np.linalg.norm(np.asarray(coarse.matrix)[:, :3], axis=0))
            if frame.is_axis_aligned:
                np.testing.assert_allclose(shift, coarse.world((0, 0, 0)))


def test_a_map_says_where_it_lies_as_gdal_writes_it() -> None:
    # y = -10 row + 1 col + 5000 and x = 2 row + 10 col + 300; GDAL's order is (x; y) over (col, row, 1)
    frame = Frame(("y", "x"), ((-10.0, 1.0, 5000.0), (2.0, 10.0, 300.0)), "m", "EPSG:32632")
    told = georeference(frame, (7, 9))
    assert told["spatial:transform"] == [10.0, 2.0, 300.0, 1.0, -10.0, 5000.0]
    assert told["spatial:shape"] == [7, 9]
    assert told["proj:wkt2"] == "EPSG:32632"
    assert georeference(Frame.pixels(("y", "x")), (7, 9)) == {}


def test_a_pyramid_over_a_failed_block_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "COARSEST", 16)
    source = ArraySource(np.arange(60 * 60).reshape(1, 60, 60).astype(np.uint16) % 5)

    class Fails(IdentityModel):
        def scores(self, pixels: Any, valid: Any) -> Any:
            raise RuntimeError("no")

    spec = fake_spec(5)
    run = make_run(tmp_path, source, spec, window=(16,), overlap=(4,), block=(24,))
    drive(run, SerialEngine(make_worker(source, Fails(spec))), attempts=1)
    assert (np.asarray(run.array("labels", 1)[...]) == 255).all()
    assert read_status(run).status == "incomplete"
    drive(run, SerialEngine(make_worker(source, IdentityModel(spec))))
    assert read_status(run).status == "complete"
    np.testing.assert_array_equal(np.asarray(run.array("labels", 1)[...]), halved(source.pixels[0].astype(np.uint8)))
