"""Exports read back by the libraries of their formats."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import nibabel
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import zarr
from PIL import Image
from rio_cogeo.cogeo import cog_validate

from pipeline.errors import StoreError, UsageError
from pipeline.export import MaskView, export
from pipeline.export.cog import export_cog, quiet
from pipeline.export.nifti import export_nifti
from pipeline.export.png import export_png
from pipeline.export.zarr import export_zarr, storage_of
from tiling import Frame

SHAPES = [(131, 97), (1, 1), (1, 211), (701, 523)]


def expected(view: MaskView, labels: np.ndarray, missing: int) -> np.ndarray:
    """The codes, by a loop over the classes instead of a table."""
    out = np.full(labels.shape, missing, np.int64)
    for index, c in enumerate(view.classes):
        out[labels == index] = c.value
    return out


class TestCog:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_codes_georeference_and_validity(
        self, masks: Any, tmp_path: Path, shape: tuple[int, int], dtype: str
    ) -> None:
        labels = masks.labels(shape, dtype)
        view = masks.view(labels)
        path = tmp_path / "a.tif"
        export_cog(view, path)
        assert cog_validate(path, strict=True) == (True, [], [])
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(file.read(1), expected(view, labels, 255))
            assert (file.nodata, file.dtypes[0], file.crs.to_epsg()) == (255, "uint8", 32633)
            assert file.transform[:6] == (0.25, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0)
            colours = file.colormap(1)
            assert (colours[7], colours[255][3]) == ((0, 0, 255, 255), 0)
            assert file.tags()["SEAMLINE_RUN"] == "runs/scene-abc"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "a.tif.aux.xml"]

    def test_a_rotated_centre_anchored_frame(self, masks: Any, tmp_path: Path) -> None:
        frame = Frame(("y", "x"), ((-0.4, 0.3, 10.0), (0.3, 0.4, 20.0)), "m", "EPSG:32633", "centre")
        export_cog(masks.view(masks.labels((13, 7)), frame=frame), tmp_path / "a.tif")
        with rasterio.open(tmp_path / "a.tif") as file:
            for y, x in ((0, 0), (5, 3), (12, 6)):
                np.testing.assert_allclose(file.xy(y, x)[::-1], frame.world((y, x)))

    def test_no_georeference_stays_none(self, masks: Any, tmp_path: Path) -> None:
        export_cog(masks.view(masks.labels((13, 7)), frame=Frame.pixels(("y", "x"))), tmp_path / "a.tif")
        with quiet(), rasterio.open(tmp_path / "a.tif") as file:
            assert file.crs is None
            assert file.transform.is_identity

    def test_names_reach_gdal(self, masks: Any, tmp_path: Path) -> None:
        """GDAL's VRT driver writes out what GDAL understood of the sidecar."""
        export_cog(masks.view(masks.labels((131, 97))), tmp_path / "a.tif")
        rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.vrt", driver="VRT")
        band = ET.parse(tmp_path / "a.vrt").getroot().find("VRTRasterBand")
        assert band is not None
        names = [c.text or "" for c in band.findall("CategoryNames/Category")]
        assert {i: n for i, n in enumerate(names) if n} == {2: "ground", 3: "road", 7: "water"}
        rows = [[f.text for f in row] for row in band.findall("GDALRasterAttributeTable/Row")]
        assert rows[2] == ["7", "water", "0", "0", "255", "255"]
        assert rows[-1][:2] == ["255", "nodata"]

    def test_values_past_255(self, masks: Any, make_class: Any, tmp_path: Path) -> None:
        classes = (*masks.classes, make_class("far", 4000, "#ff00ff"))
        labels = masks.labels((131, 97), n=4)
        view = masks.view(labels, classes=classes)
        export_cog(view, tmp_path / "a.tif")
        with rasterio.open(tmp_path / "a.tif") as file:
            np.testing.assert_array_equal(file.read(1), expected(view, labels, 65535))
            assert (file.dtypes[0], file.nodata) == ("uint16", 65535)
        assert cog_validate(tmp_path / "a.tif") == (True, [], [])
        assert "far" in (tmp_path / "a.tif.aux.xml").read_text()

    def test_overviews_hold_codes_only(self, masks: Any, tmp_path: Path) -> None:
        """Mode, not mean: no code that is not in the mask, and nodata does not eat its neighbours."""
        labels = np.full((1100, 1300), 1, np.uint8)
        labels[::2] = 2
        labels[1::2, ::3] = 254
        export_cog(masks.view(labels, block=(512, 512)), tmp_path / "a.tif")
        with rasterio.open(tmp_path / "a.tif") as file:
            assert file.overviews(1)
        with rasterio.open(tmp_path / "a.tif", overview_level=0) as file:
            assert set(np.unique(file.read(1))) <= {7, 3}

    def test_all_nodata(self, masks: Any, tmp_path: Path) -> None:
        export_cog(masks.view(np.full((131, 97), 254, np.uint8)), tmp_path / "a.tif")
        with rasterio.open(tmp_path / "a.tif") as file:
            assert (file.read(1) == 255).all()
            assert not file.dataset_mask().any()

    def test_reads_no_more_than_a_block(self, masks: Any, recording: Any, tmp_path: Path) -> None:
        labels = recording(masks.labels((701, 523)))
        export_cog(masks.view(labels), tmp_path / "a.tif")
        assert labels.largest <= 64 * 128
        assert sum(int(np.prod(s)) for s in labels.reads) == 701 * 523

    def test_refuses_a_volume_a_suffix_and_a_bucket(self, masks: Any, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="use --to nifti or --to zarr"):
            export_cog(masks.view(masks.labels((3, 4, 5))), tmp_path / "a.tif")
        with pytest.raises(UsageError, match=r"named \*\.tif or \*\.tiff, not .*a\.png"):
            export_cog(masks.view(masks.labels((4, 5))), tmp_path / "a.png")
        with pytest.raises(UsageError, match=r"local file, not to s3://b/a\.tif; export it locally and copy"):
            export_cog(masks.view(masks.labels((4, 5))), "s3://b/a.tif")

    def test_an_unwritable_place_and_a_failure_leave_nothing(self, masks: Any, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match=r"cannot write .*file/a\.tif.*is the folder writable"):
            export_cog(masks.view(masks.labels((4, 5))), tmp_path / "file" / "a.tif")

        class Broken(np.ndarray):
            def __getitem__(self, key: Any) -> Any:
                raise RuntimeError("a shard is gone")

        export_cog(masks.view(masks.labels((4, 5))), tmp_path / "a.tif")
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        with pytest.raises(RuntimeError, match="shard is gone"):
            export_cog(masks.view(masks.labels((4, 5)).view(Broken)), tmp_path / "a.tif")
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


class TestNifti:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("shape", [(17, 53, 29), (1, 1, 1)])
    def test_codes_and_affine(self, masks: Any, tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
        labels = masks.labels(shape)
        matrix = ((3.0, 0.2, 0.1, -7.0), (0.0, 0.5, 0.0, 11.0), (0.0, 0.1, -0.7, 13.0))
        frame = Frame(("z", "y", "x"), matrix, "mm", None, "corner")
        view = masks.view(labels, frame=frame)
        path = tmp_path / f"a{suffix}"
        done = export_nifti(view, path)
        file = nibabel.load(path)
        np.testing.assert_array_equal(np.asarray(file.dataobj).transpose(2, 1, 0), expected(view, labels, 2))
        assert file.get_data_dtype() == np.uint8
        assert file.header.get_xyzt_units()[0] == "mm"
        for z, y, x in ((0, 0, 0), (3, 2, 1)):  # a NIfTI index is the voxel's centre, this frame's its corner
            np.testing.assert_allclose(
                nibabel.affines.apply_affine(file.affine, (x, y, z))[::-1],
                frame.world((z + 0.5, y + 0.5, x + 0.5)),
                rtol=1e-5,
            )
        assert done.substituted == (labels == 254).sum()
        assert b"label 7: water" in file.header.extensions[0].get_content()

    def test_an_orthogonal_affine_is_in_both_forms(self, masks: Any, tmp_path: Path) -> None:
        export_nifti(masks.view(masks.labels((5, 4, 3))), tmp_path / "a.nii")
        header = nibabel.load(tmp_path / "a.nii").header
        np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-6)
        np.testing.assert_allclose(header.get_zooms(), (0.7, 0.5, 3.0))

    def test_wide_values_and_long_sides(self, masks: Any, make_class: Any, tmp_path: Path) -> None:
        classes = (*masks.classes, make_class("far", 4000, "#ff00ff"))
        labels = masks.labels((1, 2, 40_000), n=4)
        view = masks.view(labels, classes=classes)
        export_nifti(view, tmp_path / "a.nii")
        file = nibabel.load(tmp_path / "a.nii")
        assert isinstance(file, nibabel.Nifti2Image)  # NIfTI-1 counts to 32,767
        np.testing.assert_array_equal(np.asarray(file.dataobj).transpose(2, 1, 0), expected(view, labels, 2))

    def test_the_same_mask_gives_the_same_bytes_and_reads_blocks(
        self, masks: Any, recording: Any, tmp_path: Path
    ) -> None:
        labels = recording(masks.labels((17, 53, 29)))
        for name in ("a.nii.gz", "b.nii.gz"):
            export_nifti(masks.view(labels), tmp_path / name)
        assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
        assert labels.largest <= 8 * 32 * 16

    def test_refuses_a_picture(self, masks: Any, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="use --to cog or --to png"):
            export_nifti(masks.view(masks.labels((4, 5))), tmp_path / "a.nii")


class TestPng:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("far", [9, 4000])
    def test_codes_are_the_grey_levels(
        self, masks: Any, make_class: Any, recording: Any, tmp_path: Path, shape: tuple[int, int], far: int
    ) -> None:
        labels = recording(masks.labels(shape, n=4))
        view = masks.view(labels, classes=(*masks.classes, make_class("far", far, "#ff00ff")))
        done = export_png(view, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as file:
            np.testing.assert_array_equal(np.asarray(file), expected(view, labels.values, 2))
            assert file.text["seamline:run"] == "runs/scene-abc"
        with quiet(), rasterio.open(tmp_path / "a.png") as file:
            assert (file.count, file.dtypes[0]) == (1, "uint8" if far == 9 else "uint16")
        assert done.substituted == (labels.values == 254).sum()
        assert labels.largest <= 64 * 128

    def test_without_a_background_nodata_keeps_a_code(self, masks: Any, tmp_path: Path) -> None:
        labels = masks.labels((7, 5))
        classes = tuple(dataclasses.replace(c, role="class") for c in masks.classes)
        done = export_png(masks.view(labels, classes=classes), tmp_path / "a.png")
        assert done.substituted == 0
        with Image.open(tmp_path / "a.png") as file:
            assert (np.asarray(file)[labels == 254] == 255).all()

    def test_refuses_what_viewers_do_not_open(self, masks: Any, tmp_path: Path) -> None:
        huge = np.broadcast_to(np.uint8(0), (20_000, 20_001))
        with pytest.raises(UsageError, match=r"20000 x 20001 pixels.*use --to cog"):
            export_png(masks.view(huge), tmp_path / "a.png")
        with pytest.raises(UsageError, match="use --to nifti or --to zarr"):
            export_png(masks.view(masks.labels((3, 4, 5))), tmp_path / "a.png")


class TestZarr:
    @pytest.mark.parametrize("shape", [(131, 97), (1, 1), (1301, 523), (17, 53, 29)])
    def test_codes_levels_and_metadata(
        self, masks: Any, recording: Any, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        import yaozarrs

        labels = recording(masks.labels(shape))
        view = masks.view(labels)
        done = export_zarr(view, tmp_path / "a.zarr")
        yaozarrs.validate_zarr_store(str(tmp_path / "a.zarr"))
        group = zarr.open_group(tmp_path / "a.zarr", mode="r")
        np.testing.assert_array_equal(group["0"][:], expected(view, labels.values, 255))
        about = dict(group.attrs)["ome"]
        assert [a["name"] for a in about["multiscales"][0]["axes"]] == list(view.frame.axes)
        colours = {c["label-value"]: c["rgba"] for c in about["image-label"]["colors"]}
        assert (colours[7], colours[2][3], colours[255][3]) == ([0, 0, 255, 255], 0, 0)
        assert Frame.from_json(group.attrs["seamline"]["frame"]) == view.frame
        for fine, coarse in zip(sorted(group), sorted(group)[1:], strict=False):
            assert set(np.unique(group[coarse][:])) <= set(np.unique(group[fine][:]))
        assert labels.largest <= np.prod(view.block)
        assert done.n_bytes > 0

    def test_level_n_lies_where_it_should(self, masks: Any, tmp_path: Path) -> None:
        frame = Frame.of_spacing(("y", "x"), (0.5, 0.25), "um")
        export_zarr(masks.view(masks.labels((1301, 523)), frame=frame), tmp_path / "a.zarr")
        levels = zarr.open_group(tmp_path / "a.zarr", mode="r").attrs["ome"]["multiscales"][0]["datasets"]
        assert len(levels) > 2
        for n, level in enumerate(levels):
            scale, shift = (t[t["type"]] for t in level["coordinateTransformations"])
            coarse = frame.downsampled((2**n, 2**n))
            np.testing.assert_allclose(scale, coarse.spacing)
            np.testing.assert_allclose(shift, coarse.world((0, 0)))

    def test_replaces_its_own_but_nothing_else(self, masks: Any, tmp_path: Path) -> None:
        view = masks.view(masks.labels((131, 97)))
        export_zarr(view, tmp_path / "a.zarr")
        export_zarr(masks.view(masks.labels((13, 7))), tmp_path / "a.zarr")
        assert zarr.open_array(tmp_path / "a.zarr" / "0", mode="r").shape == (13, 7)
        zarr.create_array(str(tmp_path / "mine"), data=np.arange(5))
        with pytest.raises(UsageError, match=r"mine exists and is no export of Seamline, so it is not written over"):
            export_zarr(view, tmp_path / "mine")
        assert list(zarr.open_array(tmp_path / "mine", mode="r")[:]) == [0, 1, 2, 3, 4]  # type: ignore[arg-type,index]

    @pytest.mark.parametrize("block", [(4096, 4096), (997, 13), (1, 640), (512, 2000)])
    @pytest.mark.parametrize("shape", [(5000, 5000), (35, 50), (1, 1)])
    def test_chunks_divide_shards_and_shards_fit_the_block(
        self, block: tuple[int, int], shape: tuple[int, int]
    ) -> None:
        chunk, shard = storage_of(shape, block)
        for c, s, b, n in zip(chunk, shard, block, shape, strict=True):
            assert s % c == 0
            assert c <= max(512, b // 8 + 1, b if b < 1000 else 0)
            assert s <= b
            assert s == b or s >= n or b % s < c


@pytest.mark.parametrize("kind", ["cog", "png", "zarr"])
def test_every_kind_is_reached_by_name(masks: Any, tmp_path: Path, kind: str) -> None:
    from pipeline.export import EXPORTS

    done = export(kind, masks.view(masks.labels((31, 17))), tmp_path / f"a{EXPORTS[kind]}")
    assert Path(done.path).exists()
    assert done.n_bytes > 0
