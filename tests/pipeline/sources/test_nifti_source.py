"""NIfTI against nibabel, with the axes turned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.sources import open_source
from tiling import Box

XYZ = (11, 7, 5)
AFFINE = np.array([[-0.9, 0.1, 0.0, 12], [0.1, 1.1, 0.2, -8], [0.0, -0.2, 2.5, 30], [0, 0, 0, 1]])


def save(path: Path, data: Any, affine: Any = AFFINE, **header: Any) -> str:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units(header.pop("unit", "mm"))
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return str(path)


def volume(dtype: str, *shape: int) -> Any:
    return np.random.default_rng(5).integers(0, 100, shape or XYZ).astype(dtype)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_a_box_is_a_slice_of_the_whole_in_zyx(tmp_path: Path, check_boxes: Any, suffix: str, dtype: str) -> None:
    data = volume(dtype)
    source = open_source(save(tmp_path / f"a{suffix}", data))
    info = source.info
    assert (info.name, info.format, info.shape) == ("a", "nifti", (5, 7, 11))
    assert info.access == ("sequential" if suffix == ".nii.gz" else "random")
    assert info.tile == (1, 7, 11)
    check_boxes(source, data.transpose(2, 1, 0)[None], np.ones(info.shape, bool))
    source.close()


def test_frame_is_niftis_affine_reversed(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "a.nii", volume("uint8")))
    frame = source.info.frame
    x, y, z = nib.affines.apply_affine(nib.load(tmp_path / "a.nii").affine, (3, 2, 1))
    np.testing.assert_allclose(frame.world((1, 2, 3)), (z, y, x), rtol=1e-6)
    assert (frame.axes, frame.unit, frame.anchor) == (("z", "y", "x"), "mm", "centre")
    source.close()


def test_spacing_keeps_its_axes(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "a.nii", volume("uint8"), np.diag([0.5, 0.75, 3.0, 1])))
    np.testing.assert_allclose(source.info.frame.spacing, (3.0, 0.75, 0.5))
    source.close()


def test_big_endian_reads_in_native_order(tmp_path: Path, check_boxes: Any) -> None:
    data = volume("int16")
    image = nib.Nifti1Image(data, AFFINE, nib.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(np.dtype(">i2"))
    nib.save(image, tmp_path / "a.nii")
    source = open_source(str(tmp_path / "a.nii"))
    check_boxes(source, data.transpose(2, 1, 0)[None])
    source.close()


def test_nifti2_reads_too(tmp_path: Path, check_boxes: Any) -> None:
    data = volume("uint16")
    nib.save(nib.Nifti2Image(data, AFFINE), tmp_path / "a.nii.gz")
    source = open_source(str(tmp_path / "a.nii.gz"))
    check_boxes(source, data.transpose(2, 1, 0)[None])
    source.close()


def test_scaling_is_applied_and_said(tmp_path: Path, check_boxes: Any) -> None:
    stored = volume("int16")
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(2.0, -1024.0)
    nib.save(image, tmp_path / "a.nii")  # nibabel divides, so that reading gives ``stored`` back
    source = open_source(str(tmp_path / "a.nii"))
    assert any("int16 values are scaled as the file asks: float32 of 2 v + -1024" in n for n in source.info.notes)
    check_boxes(source, np.asarray(nib.load(tmp_path / "a.nii").dataobj).astype("float32").transpose(2, 1, 0)[None])
    source.close()


@pytest.mark.parametrize(("shape", "n"), [((11, 7, 5, 3), 3), ((11, 7, 5, 1, 2), 2), ((11, 7, 5, 1), 1)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_axis_past_the_third_is_channels(
    tmp_path: Path, check_boxes: Any, shape: tuple[int, ...], n: int, suffix: str
) -> None:
    data = volume("uint8", *shape)
    source = open_source(save(tmp_path / f"a{suffix}", data))
    assert len(source.info.channels) == n
    check_boxes(source, data.reshape(*XYZ, n).transpose(3, 2, 1, 0))
    source.close()


def test_one_slice_is_a_thin_volume(tmp_path: Path, check_boxes: Any) -> None:
    data = volume("uint8", 11, 7)
    source = open_source(save(tmp_path / "a.nii", data))
    check_boxes(source, data.T[None, None])
    source.close()


def test_a_unit_that_is_none_is_said(tmp_path: Path) -> None:
    path = Path(save(tmp_path / "a.nii", volume("uint8")))
    data = bytearray(path.read_bytes())
    data[123] = 5  # xyzt_units
    path.write_bytes(data)
    source = open_source(str(path))
    info = source.info
    source.close()
    assert info.frame.unit == "mm"
    assert "the file names the unit of length 5, which NIfTI does not define: mm is assumed" in "".join(info.notes)


def test_a_damaged_gzip_is_no_traceback(tmp_path: Path) -> None:
    path = Path(save(tmp_path / "a.nii.gz", volume("uint8")))
    data = bytearray(path.read_bytes())
    start = 10 + (len(b"a.nii") + 1 if data[3] & 8 else 0)  # past the header and the name in it
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"cannot open .*a\.nii\.gz: not a readable NIfTI file"):
        open_source(str(path))


def test_an_unknown_unit_is_said(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "a.nii", volume("uint8"), unit="unknown"))
    assert source.info.frame.unit == "mm"
    assert any("mm is assumed" in note for note in source.info.notes)
    source.close()


def test_nan_is_not_valid(tmp_path: Path) -> None:
    data = volume("float32")
    data[3, 2, 1] = np.nan
    source = open_source(save(tmp_path / "a.nii", data))
    _, valid = source.read(Box.of_shape(source.info.shape), (0,))
    assert [tuple(p) for p in np.argwhere(~valid)] == [(1, 2, 3)]
    source.close()


@pytest.mark.parametrize(
    "name",
    ["mr_hippocampus/images/hippocampus_004.nii.gz", "ct_totalsegmentator/ct_abdomen_slab_3mm.nii.gz"],
)
def test_real_volumes(shared_data: Path, check_boxes: Any, name: str) -> None:
    image = nib.load(shared_data / name)
    source = open_source(str(shared_data / name))
    np.testing.assert_allclose(source.info.frame.spacing, image.header.get_zooms()[:3][::-1], rtol=1e-5)
    whole = np.asarray(image.dataobj)
    check_boxes(source, whole.astype(source.info.dtype).transpose(2, 1, 0)[None], n=3)
    assert source.info.dtype == image.get_data_dtype()
    source.close()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_pixels_are_named_with_their_box(tmp_path: Path, suffix: str) -> None:
    path = Path(
        save(tmp_path / f"a{suffix}", np.random.default_rng(0).integers(0, 2**15, (31, 29, 23)).astype("int16"))
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_source(str(path))
    with pytest.raises(SourceError, match=r"cannot read box \[20:23, 0:29, 0:31\] of .*a\.nii"):
        source.read(Box((20, 0, 0), (23, 29, 31)), (0,))
    source.close()


def test_text_named_nifti(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("not a volume " * 50)
    with pytest.raises(SourceError, match=r"a\.nii: not a readable NIfTI file"):
        open_source(str(tmp_path / "a.nii"))


def test_two_long_axes_past_the_third(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"5 axes \(11, 7, 5, 2, 3\); at most one past \(x, y, z\)"):
        open_source(save(tmp_path / "a.nii", volume("uint8", 11, 7, 5, 2, 3)))
