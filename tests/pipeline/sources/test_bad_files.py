"""Files that cannot be read whole are errors that say which, where and what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr
from affine import Affine

from pipeline.errors import SourceChangedError, SourceError
from pipeline.sources import check_unchanged, fingerprint_of, open_source
from tiling import Box

SHAPE = (300, 211)
FORMATS: dict[str, dict[str, Any]] = {
    "a.tif": {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
    "strips.tif": {"driver": "GTiff", "compress": "lzw"},
    "jpeg.tif": {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "jpeg"},
    "a.jpg": {"driver": "JPEG"},
    "a.jp2": {"driver": "JP2OpenJPEG"},
}


def write(path: Path, **profile: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (3, *SHAPE), dtype=np.uint8)
    size = {"height": SHAPE[0], "width": SHAPE[1], "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32632", transform=Affine(2, 0, 9, 0, -2, 9), **size, **profile) as data:
        data.write(pixels)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_file_opens_but_names_the_box_it_cannot_read(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, **FORMATS[name])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    source = open_source(str(path))
    with pytest.raises(SourceError, match=rf"cannot read box \[200:300, 0:211\] of .*{name}: \S"):
        source.read(Box((200, 0), SHAPE), (0, 1, 2))
    source.close()


def test_complex_pixels_of_any_kind_are_refused(tmp_path: Path) -> None:
    for dtype in ("complex_int16", "complex64"):
        size = {"height": 3, "width": 4, "count": 1, "transform": Affine(2, 0, 9, 0, -2, 9)}
        with rasterio.open(tmp_path / "sar.tif", "w", driver="GTiff", dtype=dtype, **size):
            pass
        with pytest.raises(SourceError, match=rf"sar\.tif has {dtype} pixels, which are not real numbers; store the"):
            open_source(str(tmp_path / "sar.tif"))


def test_what_a_library_stumbles_over_is_an_error_of_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif", **FORMATS["a.tif"])

    def stumble(*_: object) -> None:
        raise KeyError("a tag")

    monkeypatch.setattr("pipeline.sources.raster_meta.frame_of", stumble)
    with pytest.raises(SourceError, match=r"cannot open .*a\.tif: KeyError: 'a tag'; is the file damaged\?"):
        open_source(str(path))


def test_the_good_part_of_a_cut_file_still_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", **FORMATS["a.tif"])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.9)])
    source = open_source(str(path))
    assert source.read(Box((0, 0), (64, 64)), (0, 1, 2))[1].all()
    source.close()


def test_a_cut_png_is_not_completed_with_noise(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", driver="PNG")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with pytest.raises(SourceError, match=r"a\.png is truncated: a PNG without its end marker; fetch the file again"):
        open_source(str(path))


@pytest.mark.parametrize("name", ["a.tif", "a.nii.gz", "a.png"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match=rf"{name} is empty \(0 bytes\); fetch the file again"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.tif", "a.jpg", "a.vrt"])
def test_text_named_as_an_image(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Access denied")
    with pytest.raises(SourceError, match=rf"cannot open .*{name}: not an image in a format that is read here"):
        open_source(str(tmp_path / name))


def test_the_projects_own_broken_slide(shared_data: Path) -> None:
    with pytest.raises(
        SourceError, match=r"cannot open .*broken_not_a_tiff\.svs: not an image in a format that is read"
    ):
        open_source(str(shared_data / "wsi_cmu1/broken_not_a_tiff.svs"))


def test_a_tiff_header_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0")
    with pytest.raises(SourceError, match=r"a\.tif"):
        open_source(str(tmp_path / "a.tif"))


def test_images_without_pixels(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(0, 5), chunks=(1, 5), dtype="u1")
    with pytest.raises(SourceError, match=r"a\.zarr has no pixels: extent \(0, 5\), 1 channels"):
        open_source(str(tmp_path / "a.zarr"))
    (tmp_path / "a.vrt").write_text('<VRTDataset rasterXSize="5" rasterYSize="0"></VRTDataset>')
    with pytest.raises(SourceError, match=r"cannot open .*a\.vrt"):
        open_source(str(tmp_path / "a.vrt"))


def test_dicom_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "slice").write_bytes(bytes(128) + b"DICM" + bytes(100))
    with pytest.raises(SourceError, match=r"is DICOM, which is not read; convert the series to NIfTI first"):
        open_source(str(tmp_path / "slice"))


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is a folder and no zarr store"):
        open_source(str(tmp_path))


def test_a_path_that_could_be_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"bucket/a\.tif does not exist \(did you mean s3://bucket/a\.tif\?\)"):
        open_source("bucket/a.tif")
    assert not list(tmp_path.iterdir())


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", driver="GTiff")
    before = fingerprint_of(str(path))
    check_unchanged(str(path), before)
    stamp = path.stat()
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(SourceChangedError, match=rf"a\.tif changed since it was planned \(fingerprint {before}, now"):
        check_unchanged(str(path), before)
    path.unlink()
    with pytest.raises(SourceChangedError, match=r"changed since it was planned, and no longer opens"):
        check_unchanged(str(path), before)


def test_a_changed_member_of_a_mosaic_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", driver="GTiff")
    (tmp_path / "v.vrt").write_text(
        f'<VRTDataset rasterXSize="{SHAPE[1]}" rasterYSize="{SHAPE[0]}"><VRTRasterBand dataType="Byte" band="1">'
        '<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    before = fingerprint_of(str(tmp_path / "v.vrt"))
    check_unchanged(str(tmp_path / "v.vrt"), before)
    os.utime(tmp_path / "a.tif", (1, 1))
    with pytest.raises(SourceChangedError, match=r"v\.vrt changed since it was planned"):
        check_unchanged(str(tmp_path / "v.vrt"), before)


def test_a_changed_chunk_of_a_store_is_noticed(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(9, 5), chunks=(3, 5), dtype="u1")
    array[...] = 1
    before = fingerprint_of(str(tmp_path / "a.zarr"))
    check_unchanged(str(tmp_path / "a.zarr"), before)
    array[4, 4] = 2
    with pytest.raises(SourceChangedError, match=r"a\.zarr changed since it was planned"):
        check_unchanged(str(tmp_path / "a.zarr"), before)
