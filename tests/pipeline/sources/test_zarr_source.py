"""Zarr v2 and v3 and OME-Zarr 0.4 and 0.5 against zarr itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipeline.errors import SourceError
from pipeline.sources import open_source
from tiling import Box, Frame

SIZES = {"t": 1, "c": 3, "z": 5, "y": 23, "x": 17}


def pixels_of(axes: str, dtype: str = "uint16") -> Any:
    return np.random.default_rng(2).integers(0, 999, tuple(SIZES[a] for a in axes)).astype(dtype)


def store(path: Path, pixels: Any, zarr_format: int = 3, **options: Any) -> Any:
    chunks = tuple(min(n, 8) for n in pixels.shape)
    array = zarr.create_array(
        str(path), shape=pixels.shape, dtype=pixels.dtype, chunks=chunks, zarr_format=zarr_format, **options
    )
    array[...] = pixels
    return array


def ome(axes: str, version: str, **extra: Any) -> dict[str, Any]:
    kinds = {"t": "time", "c": "channel"}
    named = [{"name": a, "type": kinds.get(a, "space"), **({"unit": "micrometer"} if a in "zyx" else {})} for a in axes]
    steps = {"t": 1.0, "c": 1.0, "z": 2.0, "y": 0.5, "x": 0.25}
    transforms = [{"type": "scale", "scale": [steps[a] for a in axes]}]
    image = {"axes": named, "datasets": [{"path": "0", "coordinateTransformations": transforms}], **extra}
    return {"ome": {"version": version, "multiscales": [image]}} if version == "0.5" else {"multiscales": [image]}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("axes", "in_place"), [("yx", True), ("cyx", True), ("zyx", True), ("czyx", True), ("yxc", False), ("tczyx", False)]
)
def test_axes_by_name(tmp_path: Path, check_boxes: Any, zarr_format: int, axes: str, in_place: bool) -> None:
    pixels, path = pixels_of(axes), tmp_path / "a.zarr"
    named = {"dimension_names": tuple(axes)} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": list(axes)}}
    store(path, pixels, zarr_format, **named)
    source = open_source(str(path))
    spatial = "".join(a for a in "zyx" if a in axes)
    whole = pixels.transpose(
        *(axes.index(a) for a in axes if a not in "czyx"), *(axes.index(a) for a in "czyx" if a in axes)
    )
    whole = whole.reshape(-1, *(SIZES[a] for a in spatial))
    assert source.info.frame.axes == tuple(spatial)
    assert source.info.array_uri == (str(path) if in_place else None)
    check_boxes(source, whole, np.ones(whole.shape[1:], bool))
    source.close()


@pytest.mark.parametrize(
    ("shape", "chunks", "in_place"),
    [
        ((9000, 9000), (512, 512), True),
        ((9000, 9000), (2048, 2048), True),
        ((9000, 9000), (4096, 4096), False),  # a block of 2048 that lies across four of them decodes 16 times itself
        ((9000, 9000), (9000, 9000), False),
        ((9000, 9000), (1, 9000), False),  # whole rows, for a block of a fifth of them
        ((1500, 1500), (1500, 1500), True),  # a block is the whole scene
        ((3, 9000, 9000), (3, 512, 512), True),
        ((12, 9000, 9000), (12, 512, 512), False),  # twelve are decoded where three are asked for
        ((64, 2048, 2048), (64, 64, 64), True),
        ((64, 2048, 2048), (1, 2048, 2048), False),
    ],
)
def test_only_chunks_that_blocks_can_use_are_read_in_place(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], in_place: bool
) -> None:
    axes = ("y", "x") if len(shape) == 2 else ("c" if shape[0] < 60 else "z", "y", "x")
    zarr.create_array(str(tmp_path / "a.zarr"), shape=shape, chunks=chunks, dtype="u1", dimension_names=axes)
    assert (open_source(str(tmp_path / "a.zarr")).info.array_uri is not None) == in_place


def test_names_that_mean_the_same(tmp_path: Path, check_boxes: Any) -> None:
    pixels = pixels_of("cyx")
    store(tmp_path / "a.zarr", pixels, dimension_names=("band", "Latitude", "lon"))
    source = open_source(str(tmp_path / "a.zarr"))
    check_boxes(source, pixels)
    source.close()


@pytest.mark.parametrize(("axes", "said"), [("yx", "(y, x)"), ("zyx", "(z, y, x)"), ("czyx", "(c, z, y, x)")])
def test_unnamed_axes_are_decided_and_said(tmp_path: Path, check_boxes: Any, axes: str, said: str) -> None:
    pixels = pixels_of(axes)
    store(tmp_path / "a.zarr", pixels)
    source = open_source(str(tmp_path / "a.zarr"))
    assert f"its axes have no names and are taken as {said}" in source.info.notes
    check_boxes(source, pixels if "c" in axes else pixels[None])
    source.close()


def test_big_endian_and_sharded(tmp_path: Path, check_boxes: Any) -> None:
    pixels = pixels_of("yx", ">u2")
    store(tmp_path / "v2.zarr", pixels, 2)
    source = open_source(str(tmp_path / "v2.zarr"))
    assert source.info.array_uri is None
    check_boxes(source, pixels.astype("=u2")[None])
    source.close()
    array = zarr.create_array(str(tmp_path / "v3.zarr"), shape=(23, 17), dtype="uint8", chunks=(4, 4), shards=(16, 16))
    array[...] = pixels.astype("uint8")
    source = open_source(str(tmp_path / "v3.zarr"))
    assert source.info.tile == (4, 4)
    check_boxes(source, pixels.astype("uint8")[None])
    source.close()


@pytest.mark.parametrize(("version", "zarr_format"), [("0.4", 2), ("0.5", 3)])
@pytest.mark.parametrize("axes", ["tczyx", "czyx", "cyx"])
def test_ome_zarr(tmp_path: Path, check_boxes: Any, version: str, zarr_format: int, axes: str) -> None:
    path, pixels = tmp_path / "a.ome.zarr", pixels_of(axes)
    shift = [{"type": "translation", "translation": [10.0 if a == "y" else 0.0 for a in axes]}]
    group = zarr.create_group(
        str(path), zarr_format=zarr_format, attributes=ome(axes, version, coordinateTransformations=shift)
    )
    group.create_array("0", data=pixels)
    group.create_array("1", data=pixels[..., ::2, ::2])
    source = open_source(str(path))
    info = source.info
    spatial = "zyx" if "z" in axes else "yx"
    assert (info.name, info.format, info.frame.unit, info.frame.anchor) == ("a", "ome-zarr", "um", "centre")
    assert info.frame.spacing == tuple({"z": 2.0, "y": 0.5, "x": 0.25}[a] for a in spatial)
    assert info.frame.world((0,) * len(spatial))[-2] == 10.0
    assert (info.array_uri is None) == ("t" in axes)
    check_boxes(source, pixels.reshape(3, *(SIZES[a] for a in spatial)))
    source.close()


def test_geozarr_places_a_map(tmp_path: Path) -> None:
    attributes = {"spatial:transform": [0.5, 0.0, 500000.0, 0.0, -0.5, 5e6], "proj:code": "EPSG:32632"}
    store(tmp_path / "a.zarr", pixels_of("yx"), dimension_names=("y", "x"), attributes=attributes)
    source = open_source(str(tmp_path / "a.zarr"))
    frame = source.info.frame
    assert (frame.unit, frame.anchor, frame.spacing) == ("m", "corner", (0.5, 0.5))
    np.testing.assert_allclose(frame.world((2, 4)), (5e6 - 1, 500002))
    assert "UTM zone 32N" in str(frame.crs)
    source.close()


def test_own_frame_is_read_back_whole(tmp_path: Path) -> None:
    frame = Frame(("y", "x"), ((-0.4, 0.3, 7.0), (0.3, 0.4, 9.0)), "m", None, "corner")
    attributes = {**ome("yx", "0.5"), "seamline": {"frame": frame.to_json()}}
    group = zarr.create_group(str(tmp_path / "a.zarr"), attributes=attributes)
    group.create_array("0", data=pixels_of("yx"))
    source = open_source(str(tmp_path / "a.zarr"))
    assert source.info.frame == frame
    source.close()


def test_validity_beside_the_image_is_a_mask(tmp_path: Path) -> None:
    group = zarr.create_group(str(tmp_path / "a.zarr"), attributes=ome("cyx", "0.5"))
    group.create_array("0", data=pixels_of("cyx"))
    valid = np.random.default_rng(0).integers(0, 2, (23, 17)).astype("uint8")
    group.create_group("valid").create_array("0", data=valid)
    source = open_source(str(tmp_path / "a.zarr"))
    assert source.info.masked
    assert source.info.array_uri is None
    np.testing.assert_array_equal(source.read(Box((3, 2), (20, 11)), (0, 2))[1], valid[3:20, 2:11] != 0)
    source.close()


def test_cf_fill_value_is_nodata(tmp_path: Path) -> None:
    pixels = pixels_of("yx")
    pixels[4, 5] = 7777
    store(tmp_path / "a.zarr", pixels, attributes={"_FillValue": 7777})
    for rule, n_invalid in (("source", 1), ("none", 0)):
        source = open_source(str(tmp_path / "a.zarr"), nodata=rule)  # type: ignore[arg-type]
        assert (~source.read(Box.of_shape((23, 17)), (0,))[1]).sum() == n_invalid
        source.close()


def test_a_time_series_is_refused(tmp_path: Path) -> None:
    store(tmp_path / "a.zarr", np.zeros((4, 23, 17), "u1"), dimension_names=("time", "y", "x"))
    with pytest.raises(SourceError, match=r"a time series of 4 points \(axes time, y, x\); save each time point"):
        open_source(str(tmp_path / "a.zarr"))


def test_axes_without_meaning_are_refused(tmp_path: Path) -> None:
    store(tmp_path / "a.zarr", np.zeros((4, 23, 17), "u1"), dimension_names=("foo", "y", "x"))
    with pytest.raises(SourceError, match=r"axes foo, y, x; they must be named y and x"):
        open_source(str(tmp_path / "a.zarr"))


def test_a_group_of_several_arrays_lists_them(tmp_path: Path) -> None:
    group = zarr.create_group(str(tmp_path / "a.zarr"))
    for name in ("left", "right"):
        group.create_array(name, data=pixels_of("yx"))
    with pytest.raises(SourceError, match=r"no OME-Zarr image; it holds arrays left, right: name one"):
        open_source(str(tmp_path / "a.zarr"))
    source = open_source(str(tmp_path / "a.zarr/left"))
    assert source.info.name == "a-left"
    source.close()


def test_level_zero_that_is_missing(tmp_path: Path) -> None:
    zarr.create_group(str(tmp_path / "a.zarr"), attributes=ome("yx", "0.5"))
    with pytest.raises(SourceError, match=r"names level 0 at '0', which cannot be opened"):
        open_source(str(tmp_path / "a.zarr"))


def test_broken_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/zarr.json").write_text("{")
    with pytest.raises(SourceError, match=r"cannot open .*a\.zarr as zarr"):
        open_source(str(tmp_path / "a.zarr"))


def test_a_truncated_chunk_is_named_with_its_box(tmp_path: Path) -> None:
    store(tmp_path / "a.zarr", pixels_of("yx"))
    chunk = tmp_path / "a.zarr/c/1/0"
    chunk.write_bytes(chunk.read_bytes()[:10])
    source = open_source(str(tmp_path / "a.zarr"))
    source.read(Box((0, 0), (8, 8)), (0,))
    with pytest.raises(SourceError, match=r"cannot read box \[4:12, 0:8\] of .*a\.zarr"):
        source.read(Box((4, 0), (12, 8)), (0,))
    source.close()
