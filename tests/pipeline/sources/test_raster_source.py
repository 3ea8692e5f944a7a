"""Rasters against rasterio, on images whose rows cannot be mistaken for columns."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from pipeline.errors import SourceError
from pipeline.sources import open_source
from tiling import Box

SHAPE = (53, 37)
UTM = Affine(0.5, 0, 500000, 0, -0.5, 5_000_000)


def image(dtype: str = "uint8", channels: int = 3) -> NDArray[Any]:
    return np.random.default_rng(1).integers(1, 100, (channels, *SHAPE)).astype(dtype)


def write(path: Path, pixels: NDArray[Any], after: Callable[[Any], None] | None = None, **profile: Any) -> str:
    count, height, width = pixels.shape
    base = {"driver": "GTiff", "crs": "EPSG:32632", "transform": UTM, "dtype": pixels.dtype}
    with rasterio.open(path, "w", **{**base, **profile, "count": count, "height": height, "width": width}) as data:
        data.write(pixels)
        if after:
            after(data)
    return str(path)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("tiled", [True, False])
def test_a_box_is_a_slice_of_the_whole(tmp_path: Path, check_boxes: Any, dtype: str, tiled: bool) -> None:
    pixels = image(dtype)
    layout = {"tiled": True, "blockxsize": 16, "blockysize": 32} if tiled else {"tiled": False, "blockysize": 5}
    source = open_source(write(tmp_path / "a.tif", pixels, compress="deflate", **layout))
    check_boxes(source, pixels, np.ones(SHAPE, bool))
    assert source.info.tile == ((32, 16) if tiled else (5, 37))
    assert source.info.access == "random"
    assert len(source.info.channels) == 3
    source.close()


@pytest.mark.parametrize(
    ("width", "layout", "access", "tile"),
    [
        (8200, {"compress": "deflate", "blockysize": 3}, "sequential", (3, 8200)),
        (8200, {"blockysize": 3}, "random", (3, 8200)),
        (8192, {"compress": "deflate", "blockysize": 3}, "random", (3, 8192)),
        (8200, {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}, "random", (7, 16)),
    ],
)
def test_wide_compressed_strips_are_decoded_once(
    tmp_path: Path, check_boxes: Any, width: int, layout: dict[str, Any], access: str, tile: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1, 7, width), dtype=np.uint8)
    source = open_source(write(tmp_path / "a.tif", pixels, **layout))
    assert (source.info.access, source.info.tile) == (access, tile)
    check_boxes(source, pixels, n=3)
    source.close()


def test_frame_agrees_with_rasterio_even_when_rotated(tmp_path: Path) -> None:
    rotated = UTM @ Affine.rotation(30) if hasattr(Affine, "__matmul__") else UTM * Affine.rotation(30)
    uri = write(tmp_path / "a.tif", image(), transform=rotated)
    source = open_source(uri)
    frame = source.info.frame
    with rasterio.open(uri) as data:
        x, y = data.transform @ (7, 11) if hasattr(Affine, "__matmul__") else data.transform * (7, 11)
        assert rasterio.crs.CRS.from_wkt(frame.crs) == data.crs
    np.testing.assert_allclose(frame.world((11, 7)), (y, x), rtol=1e-12)
    assert (frame.unit, frame.anchor) == ("m", "corner")
    np.testing.assert_allclose(frame.spacing, (0.5, 0.5))
    assert not frame.is_axis_aligned
    source.close()


@pytest.mark.parametrize(
    ("crs", "unit"), [("EPSG:4326", "degree"), ("EPSG:2263", "us-ft"), ("EPSG:3857", "m"), (None, "unknown")]
)
def test_unit_comes_from_the_crs(tmp_path: Path, crs: str | None, unit: str) -> None:
    source = open_source(write(tmp_path / "a.tif", image(), crs=crs))
    assert source.info.frame.unit == unit
    assert any("unit of its lengths is unknown" in n for n in source.info.notes) == (crs is None)
    source.close()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # written without one on purpose
def test_without_georeference_lengths_are_pixels(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.tif", image(), crs=None, transform=Affine.identity()))
    assert (source.info.frame.unit, source.info.frame.crs, source.info.frame.spacing) == ("px", None, (1, 1))
    source.close()


@pytest.mark.parametrize(("rule", "nodata"), [("source", 7.0), ("none", None), (9.0, 9.0)])
def test_nodata_is_the_files_or_as_told(tmp_path: Path, check_boxes: Any, rule: Any, nodata: float | None) -> None:
    pixels = image()
    pixels[0, :5], pixels[2, 10:20] = 7, 9
    source = open_source(write(tmp_path / "a.tif", pixels, nodata=7), nodata=rule)
    assert source.info.nodata == (nodata,) * 3
    everything = Box.of_shape(SHAPE)
    for channels in [(0,), (1,), (0, 1, 2), (2,)]:
        _, valid = source.read(everything, channels)
        chosen = pixels[list(channels)]
        expected = np.ones(SHAPE, bool) if nodata is None else (chosen != nodata).all(axis=0)
        np.testing.assert_array_equal(valid, expected)
    source.close()


def test_nan_and_infinite_pixels_are_not_valid(tmp_path: Path) -> None:
    pixels = image("float32", 2)
    pixels[0, 3, 4], pixels[1, 5, 6], pixels[0, 7, 8], pixels[1, 9, 9] = np.nan, np.inf, -np.inf, -9999
    source = open_source(write(tmp_path / "a.tif", pixels, nodata=-9999))
    stored, valid = source.read(Box.of_shape(SHAPE), (0, 1))
    assert {tuple(map(int, p)) for p in np.argwhere(~valid)} == {(3, 4), (5, 6), (7, 8), (9, 9)}
    np.testing.assert_array_equal(stored, pixels)
    source.close()


def test_float32_nodata_written_in_full_precision_still_matches(tmp_path: Path) -> None:
    pixels = image("float32", 1)
    pixels[0, 1, 2] = np.float32(-3.4028234663852886e38)
    source = open_source(write(tmp_path / "a.tif", pixels, nodata=-3.4028234663852886e38))
    assert (~source.read(Box.of_shape(SHAPE), (0,))[1]).sum() == 1
    source.close()


def test_nodata_that_cannot_occur_is_said(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.tif", image()), nodata=-9999.0)
    assert "nodata -9999 cannot occur in uint8 pixels, so it marks none" in source.info.notes
    assert source.read(Box.of_shape(SHAPE), (0,))[1].all()
    source.close()


def test_alpha_is_a_mask_and_joins_nodata(tmp_path: Path, check_boxes: Any) -> None:
    pixels = image(channels=4)
    pixels[3] = 255
    pixels[3, :4], pixels[1, 20] = 0, 7
    pixels[3, 5] = 1  # nearly transparent is still data

    source = open_source(write(tmp_path / "a.tif", pixels, photometric="RGB", alpha="YES"), nodata=7.0)
    assert source.info.channels == ("red", "green", "blue")
    assert source.info.masked
    assert any("alpha: a mask" in note for note in source.info.notes)
    _, valid = source.read(Box.of_shape(SHAPE), (0, 1, 2))
    expected = (pixels[3] != 0) & (pixels[:3] != 7).all(axis=0)
    assert not expected[:4].any()
    assert not expected[20].any()
    np.testing.assert_array_equal(valid, expected)
    source.close()


@pytest.mark.parametrize("internal", [True, False])
def test_mask_bands_inside_and_beside_the_file(tmp_path: Path, internal: bool) -> None:
    mask = np.full(SHAPE, 255, np.uint8)
    mask[10:20, 3:9] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        uri = write(tmp_path / "a.tif", image(), lambda data: data.write_mask(mask))
    assert Path(f"{uri}.msk").exists() != internal
    source = open_source(uri)
    assert source.info.masked
    np.testing.assert_array_equal(source.read(Box.of_shape(SHAPE), (1,))[1], mask != 0)
    np.testing.assert_array_equal(source.read(Box((9, 2), (21, 8)), (0, 2))[1], (mask != 0)[9:21, 2:8])
    source.close()


def test_names_come_from_descriptions_then_colours_then_numbers(tmp_path: Path) -> None:
    def describe(data: Any) -> None:
        data.colorinterp = (ColorInterp.red, ColorInterp.nir, ColorInterp.undefined, ColorInterp.undefined)
        data.set_band_description(3, "swir 2")

    source = open_source(write(tmp_path / "a.tif", image(channels=4), describe))
    assert source.info.channels == ("red", "nir", "swir 2", "band 4")
    source.close()


def test_scale_and_palette_are_not_applied_and_said(tmp_path: Path) -> None:
    def scale(data: Any) -> None:
        data.scales, data.offsets = (0.1,), (5.0,)
        data.write_colormap(1, {0: (1, 2, 3, 255)})

    pixels = image(channels=1)
    source = open_source(write(tmp_path / "a.tif", pixels, scale))
    np.testing.assert_array_equal(source.read(Box.of_shape(SHAPE), (0,))[0], pixels)
    notes = " ".join(source.info.notes)
    assert "scale and offset of bands [1] are not applied" in notes
    assert "has a palette: its indices are read" in notes
    source.close()


def test_bands_of_several_dtypes_are_promoted_and_said(tmp_path: Path, check_boxes: Any) -> None:
    a, b = image("uint8", 1), image("int16", 1) - 200
    write(tmp_path / "a.tif", a)
    write(tmp_path / "b.tif", b)
    vrt = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{n}"><SimpleSource><SourceFilename relativeToVRT="1">{name}'
        f"</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for n, (kind, name) in enumerate([("Byte", "a.tif"), ("Int16", "b.tif")], start=1)
    )
    path = tmp_path / "both.vrt"
    path.write_text(f'<VRTDataset rasterXSize="{SHAPE[1]}" rasterYSize="{SHAPE[0]}">{vrt}</VRTDataset>')
    source = open_source(str(path))
    check_boxes(source, np.concatenate([a.astype("int16"), b]), np.ones(SHAPE, bool))
    assert "bands of int16, uint8 are read as int16" in source.info.notes
    assert source.info.fingerprint.startswith("3f-")
    source.close()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # PNG and JPEG carry none
@pytest.mark.parametrize(("driver", "suffix", "kind"), [("PNG", "png", "png"), ("JPEG", "jpg", "jpeg")])
def test_sequential_formats_say_so(tmp_path: Path, check_boxes: Any, driver: str, suffix: str, kind: str) -> None:
    uri = write(tmp_path / f"a.{suffix}", image(), driver=driver, crs=None, transform=Affine.identity())
    with rasterio.open(uri) as data:
        whole = data.read()
    source = open_source(uri)
    assert (source.info.format, source.info.access, source.info.tile) == (kind, "sequential", (1, SHAPE[1]))
    check_boxes(source, whole, np.ones(SHAPE, bool))
    source.close()


def test_jpeg2000_is_random_by_tiles(tmp_path: Path, check_boxes: Any) -> None:
    pixels = image("uint16", 1)
    uri = write(
        tmp_path / "a.jp2", pixels, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES", BLOCKXSIZE=32, BLOCKYSIZE=32
    )
    source = open_source(uri)
    assert (source.info.format, source.info.access, source.info.tile[0]) == ("jpeg2000", "random", 32)
    check_boxes(source, pixels, np.ones(SHAPE, bool))
    source.close()


@pytest.mark.parametrize("shape", [(1, 61), (61, 1), (1, 1)])
def test_images_one_pixel_high_or_wide(tmp_path: Path, check_boxes: Any, shape: tuple[int, int]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(1, *shape)
    source = open_source(write(tmp_path / "a.tif", pixels))
    check_boxes(source, pixels, np.ones(shape, bool))
    source.close()


REAL = [
    ("geo_misc/landsat_bahamas_rgb_utm18.tif", "geotiff", (718, 791), ("red", "green", "blue"), "m"),
    ("floods_sen1floods11/s1/Nigeria_812045_S1Hand.tif", "geotiff", (512, 512), ("VV", "VH"), "degree"),
    ("spacenet_samples/vegas_pan_uint16.tif", "geotiff", (1300, 1300), ("gray",), "degree"),
    ("aerial_dubai/mosaics/tile1_3_union_rgb.vrt", "vrt", (3545, 3897), ("red", "green", "blue"), "px"),
    ("nuclei_dsb2018/images/abd8dde78f8d37b6.png", "png", (256, 320), ("red", "green", "blue"), "px"),
    ("wsi_cmu1/CMU-1-Small-Region.svs", "geotiff", (2967, 2220), ("red", "green", "blue"), "um"),
    ("buildings_oam/chips_as_found/OAM-386690-220242-19.tif", "jpeg", (512, 512), ("red", "green", "blue"), "degree"),
]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of the oracle
@pytest.mark.parametrize(("name", "kind", "shape", "channels", "unit"), REAL)
def test_real_rasters(
    shared_data: Path, name: str, kind: str, shape: tuple[int, int], channels: Any, unit: str
) -> None:
    path = shared_data / name
    source = open_source(str(path))
    info = source.info
    assert (info.format, info.shape, info.channels, info.frame.unit) == (kind, shape, channels, unit)
    box = Box((17, 23), (min(shape[0], 240), min(shape[1], 251)))
    pixels, valid = source.read(box, tuple(range(len(channels))))
    with rasterio.open(path) as data:
        bands = data.indexes[: len(channels)]
        window = rasterio.windows.Window(23, 17, box.shape[1], box.shape[0])
        np.testing.assert_array_equal(pixels, data.read(bands, window=window))
        masks = data.read_masks(bands, window=window) != 0
    np.testing.assert_array_equal(valid, masks.all(axis=0) & np.isfinite(pixels).all(axis=0))
    source.close()


def test_a_scene_without_any_valid_pixel_opens(shared_data: Path) -> None:
    source = open_source(str(shared_data / "floods_sen1floods11/s1/Paraguay_34417_S1Hand.tif"))
    assert not source.read(Box.of_shape(source.info.shape), (0, 1))[1].any()
    source.close()


def test_a_box_outside_is_an_error_that_names_both(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.tif", image()))
    with pytest.raises(SourceError, match=r"a\.tif: box \[0:54, 0:37\] does not lie within its extent \(53, 37\)"):
        source.read(Box((0, 0), (54, 37)), (0,))
    with pytest.raises(SourceError, match=r"no channels \(3,\) among its 3"):
        source.read(Box((0, 0), (5, 5)), (3,))
    source.close()


def test_complex_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"complex64 pixels, which are not real numbers; store the magnitude"):
        open_source(write(tmp_path / "a.tif", image("complex64", 1)))


def test_a_vrt_whose_member_is_gone(tmp_path: Path, shared_data: Path) -> None:
    shutil.copy(shared_data / "aerial_dubai/mosaics/tile1_3_union_rgb.vrt", tmp_path / "v.vrt")
    with pytest.raises(SourceError, match=r"v\.vrt refers to .*tile3_part1\.jpg, which does not exist"):
        open_source(str(tmp_path / "v.vrt"))


def test_a_mask_file_that_is_not_used_is_said(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.tif", image())
    write(tmp_path / "m.tif", image(channels=1))
    shutil.move(tmp_path / "m.tif", f"{uri}.msk")
    source = open_source(uri)
    assert "the .msk beside it is not used: GDAL finds no INTERNAL_MASK_FLAGS in it" in source.info.notes
    source.close()


def test_the_nodata_values_tag_marks_one_colour(tmp_path: Path) -> None:
    pixels = image()
    pixels[:, 4, 5], pixels[0, 6, 7] = 0, 0
    uri = write(tmp_path / "a.tif", pixels, lambda data: data.update_tags(NODATA_VALUES="0 0 0"))
    for rule, n_invalid in (("source", 1), ("none", 0)):
        source = open_source(uri, nodata=rule)  # type: ignore[arg-type]
        assert (~source.read(Box.of_shape(SHAPE), (0, 1, 2))[1]).sum() == n_invalid
        source.close()


def test_statistics_that_a_viewer_leaves_beside_a_raster_do_not_make_it_another(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", height=7, width=5, count=1, dtype="uint8", crs="EPSG:32633",
                       transform=rasterio.Affine(2, 0, 9, 0, -2, 9)) as data:  # fmt: skip
        data.write(np.arange(35, dtype=np.uint8).reshape(1, 7, 5))
    before = open_source(str(path)).info.fingerprint
    Path(f"{path}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">17</MDI></Metadata>'
        "</PAMRasterBand></PAMDataset>"
    )
    assert open_source(str(path)).info.fingerprint == before
