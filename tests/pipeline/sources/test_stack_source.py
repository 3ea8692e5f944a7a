"""Multi-page TIFFs against tifffile."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from pipeline.errors import SourceError
from pipeline.sources import open_source
from tiling import Box

Z, Y, X = 7, 53, 41


def volume(*shape: int, dtype: str = "uint16") -> Any:
    return np.random.default_rng(3).integers(0, 60000, shape or (Z, Y, X)).astype(dtype)


LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 5, "compression": "zlib"},
    "tiles": {"tile": (16, 32), "compression": "zlib", "predictor": True},
    "big-endian": {"byteorder": ">", "rowsperstrip": 8},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages_of_one_shape_are_a_volume(tmp_path: Path, check_boxes: Any, layout: str) -> None:
    pixels, path = volume(), tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None, **LAYOUTS[layout])
    source = open_source(str(path))
    assert source.info.format == "tiff-stack"
    assert source.info.frame.axes == ("z", "y", "x")
    check_boxes(source, pixels[None], np.ones(pixels.shape, bool))
    assert source.info.tile[0] == 1
    assert "its pages are taken as slices along z, in file order" in source.info.notes
    source.close()


def test_one_page_opens_as_a_raster(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", volume(Y, X))
    source = open_source(str(tmp_path / "a.tif"))
    assert (source.info.format, source.info.shape) == ("geotiff", (Y, X))
    source.close()


@pytest.mark.parametrize("axes", ["CZYX", "ZCYX"])
def test_ome_axes_channels_and_spacing(tmp_path: Path, check_boxes: Any, axes: str) -> None:
    shape = tuple({"C": 2, "Z": Z, "Y": Y, "X": X}[a] for a in axes)
    pixels, path = volume(*shape), tmp_path / "a.ome.tif"
    metadata = {
        "axes": axes,
        "Channel": {"Name": ["dapi", "gfp"]},
        "PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.75,
        "PhysicalSizeZ": 2000,
        "PhysicalSizeZUnit": "nm",
    }
    tifffile.imwrite(path, pixels, metadata=metadata, tile=(16, 16), photometric="minisblack")
    source = open_source(str(path))
    info = source.info
    assert (info.name, info.format, info.channels) == ("a", "ome-tiff", ("dapi", "gfp"))
    assert (info.frame.spacing, info.frame.unit, info.frame.anchor) == ((2, 0.75, 0.5), "um", "centre")
    check_boxes(source, np.moveaxis(pixels, axes.index("C"), 0))
    source.close()


def test_ome_plane_without_z_is_two_dimensional(tmp_path: Path, check_boxes: Any) -> None:
    pixels = volume(3, Y, X)
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata={"axes": "CYX"}, photometric="minisblack")
    source = open_source(str(tmp_path / "a.ome.tif"))
    assert source.info.channels == ("channel 1", "channel 2", "channel 3")
    check_boxes(source, pixels)
    source.close()


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_pages_of_colour_with_alpha(tmp_path: Path, check_boxes: Any, planar: str) -> None:
    pixels = volume(Z, Y, X, 4, dtype="uint8")
    pixels[..., 3] = np.where(pixels[..., 3] > 60, 255, 0)
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 1)
    options: Any = {"photometric": "rgb", "extrasamples": ["unassalpha"], "planarconfig": planar, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", stored, rowsperstrip=9, compression="zlib", **options)
    source = open_source(str(tmp_path / "a.tif"))
    assert source.info.channels == ("red", "green", "blue")
    assert source.info.masked
    check_boxes(source, np.moveaxis(pixels[..., :3], -1, 0), pixels[..., 3] != 0)
    source.close()


def test_imagej_hyperstack_with_spacing(tmp_path: Path, check_boxes: Any) -> None:
    pixels = volume(Z, 2, Y, X)
    metadata = {"axes": "ZCYX", "spacing": 2.5, "unit": "um"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata=metadata, resolution=(1 / 0.5, 1 / 0.25))
    source = open_source(str(tmp_path / "a.tif"))
    assert (source.info.frame.spacing, source.info.frame.unit) == ((2.5, 0.25, 0.5), "um")
    check_boxes(source, np.moveaxis(pixels, 1, 0))
    source.close()


def test_a_stack_under_one_header_is_read_past_it(tmp_path: Path, check_boxes: Any) -> None:
    pixels = volume()
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", contiguous=True, bigtiff=False, software="x")
    tifffile.imwrite(tmp_path / "b.tif", pixels, imagej=True, metadata={"axes": "ZYX"}, truncate=True)
    for name in ("a.tif", "b.tif"):
        source = open_source(str(tmp_path / name))
        check_boxes(source, pixels[None])
        source.close()


def test_em_volume_has_all_its_slices(shared_data: Path, check_boxes: Any) -> None:
    path = shared_data / "em_flyem_medulla/em_image_z000-199.tif"
    source = open_source(str(path))
    assert source.info.shape == (200, 250, 250)
    check_boxes(source, tifffile.imread(path)[None], n=4)
    source.close()


def test_a_time_series_is_refused_with_the_cure(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", volume(5, Y, X), metadata={"axes": "TYX"}, photometric="minisblack")
    with pytest.raises(SourceError, match=r"time series of 5 points .*save each time point as a file of its own"):
        open_source(str(tmp_path / "a.ome.tif"))


def test_two_axes_of_pages_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", volume(3, 5, Y, X), photometric="minisblack", metadata={"axes": "QZYX"})
    with pytest.raises(SourceError, match=r"axes QZYX of \(3, 5, 53, 41\); only Z, C, Y, X can be read"):
        open_source(str(tmp_path / "a.tif"))


def test_a_stack_cut_between_pages_is_no_shorter_stack(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, volume(), photometric="minisblack", compression="zlib", metadata=None)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        SourceError, match=r"a\.tif is truncated or damaged after page \d: the next should begin at byte"
    ):
        open_source(str(path))


def test_a_damaged_page_is_named_with_its_box(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, volume(), photometric="minisblack", compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        start, length = tiff.pages[4].dataoffsets[0], tiff.pages[4].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[start + 2 : start + length] = bytes(length - 2)
    path.write_bytes(data)
    source = open_source(str(path))
    source.read(Box((0, 0, 0), (4, Y, X)), (0,))
    with pytest.raises(SourceError, match=r"cannot read box \[3:5, 0:53, 0:41\] of .*a\.tif"):
        source.read(Box((3, 0, 0), (5, Y, X)), (0,))
    source.close()


def test_pixels_past_the_end_are_an_error_not_zeros(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "tifffile")
    path = tmp_path / "b.tif"
    tifffile.imwrite(path, volume(), imagej=True, metadata={"axes": "ZYX"}, truncate=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"b\.tif says it holds 7 planes but 1 can be read; it is truncated"):
        open_source(str(path))
