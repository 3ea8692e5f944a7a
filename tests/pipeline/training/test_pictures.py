"""Labelled pictures: mask values become class indices, and what cannot is an error that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import SourceError, UsageError
from pipeline.models.spec import ClassSpec, Percentile
from pipeline.training.config import DataConfig
from pipeline.training.pictures import IGNORE, Pair, Picture, list_pairs, read_pictures, to_indices
from pipeline.training.train import _normalised, _one_dtype

CLASSES = [ClassSpec(name=n, value=v, color="#000000") for n, v in (("land", 2), ("pond", 1), ("reed", 300))]


def data_config(**fields: Any) -> DataConfig:
    return DataConfig.model_validate({"table": "t.csv", **fields})


def test_mask_values_become_positions_in_the_class_list() -> None:
    mask = np.array([[1, 2, 300], [0, 255, 2]], np.uint16)
    indices = to_indices(mask, data_config(ignore=[0, 255]), CLASSES, "m.png")
    assert indices.tolist() == [[1, 0, 2], [IGNORE, IGNORE, 0]]


def test_instances_are_class_1() -> None:
    mask = np.array([[0, 1, 517]], np.uint16)
    assert to_indices(mask, data_config(masks_hold="instances"), CLASSES, "m.png").tolist() == [[0, 1, 1]]


def test_a_value_that_is_no_class_is_an_error() -> None:
    with pytest.raises(
        SourceError, match=r"m\.png holds the values \[7\] that are no class \(2 land, 1 pond, 300 reed\)"
    ):
        to_indices(np.array([[1, 7]]), data_config(), CLASSES, "m.png")


def test_pixels_that_are_not_valid_carry_no_label(tmp_path: Path) -> None:
    from skimage.io import imsave

    rgba = np.full((8, 9, 4), 200, np.uint8)
    rgba[:3, :, 3] = 0
    imsave(tmp_path / "i.png", rgba, check_contrast=False)
    imsave(tmp_path / "m.png", np.ones((8, 9), np.uint8), check_contrast=False)
    pair = Pair(str(tmp_path / "i.png"), str(tmp_path / "m.png"), "train")
    (picture,) = read_pictures([pair], data_config(), CLASSES, ["r", "g", "b"])
    assert picture.image.shape == (3, 8, 9)
    assert (picture.target[:3] == IGNORE).all()
    assert (picture.target[3:] == 1).all()
    assert [h.count for h in picture.histograms()] == [45, 45, 45]


def test_a_volume_is_its_slices(tmp_path: Path) -> None:
    import nibabel

    rng = np.random.default_rng(0)
    stored = rng.integers(0, 900, (4, 5, 6)).astype(np.int16)  # (x, y, z), as NIfTI stores it
    labels = (stored > 450).astype(np.uint8)
    for name, array in (("i", stored), ("m", labels)):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    pair = Pair(str(tmp_path / "i.nii.gz"), str(tmp_path / "m.nii.gz"), "train")
    classes = [ClassSpec(name=n, value=v, color="#000000") for v, n in enumerate(("low", "high"))]
    slices = read_pictures([pair], data_config(), classes, ["mr"])
    assert [s.name for s in slices] == [f"i.nii.gz[{z}]" for z in range(6)]
    for z, s in enumerate(slices):
        assert s.image.shape == (1, 5, 4)
        np.testing.assert_array_equal(s.target, s.image[0] > 450)
        np.testing.assert_array_equal(s.image[0], stored[:, :, z].T)


def test_slices_of_a_volume_share_its_statistics() -> None:
    """Inference normalises a volume as a whole; slices that were stretched one by one would be other pictures."""
    target = np.zeros((4, 4), np.uint8)
    dark, bright = (
        np.full((1, 4, 4), v, np.float32) + np.arange(16, dtype=np.float32).reshape(1, 4, 4) for v in (0, 900)
    )
    pictures = [Picture(f"v[{z}]", "v", image, target == 0, target) for z, image in enumerate((dark, bright))]
    alone = [Picture(p.name, p.name, p.image, p.valid, p.target) for p in pictures]
    together, apart = (
        _normalised("train", found, Percentile(low=0, high=100)).constants for found in (pictures, alone)
    )
    assert together[0] == together[1]
    assert together[0].scale[0] == pytest.approx(915, rel=0.01)
    assert apart[0].scale[0] == pytest.approx(15, rel=0.01)


def test_pictures_of_two_dtypes_need_statistics_of_their_own() -> None:
    target = np.zeros((4, 4), np.uint8)
    mixed = {
        "train": [Picture("a", "a", np.ones((1, 4, 4), np.uint8), target == 0, target)],
        "val": [Picture("b", "b", np.ones((1, 4, 4), np.float32), target == 0, target)],
    }
    found = _one_dtype(mixed, Percentile())
    assert {p.image.dtype for split in found.values() for p in split} == {np.dtype(np.float32)}
    with pytest.raises(UsageError, match=r"share one dtype, found float32, uint8; convert them.*percentile or zscore"):
        _one_dtype(mixed, None)


def test_a_mask_of_another_shape_or_with_colours_is_named(tmp_path: Path) -> None:
    from skimage.io import imsave

    imsave(tmp_path / "i.png", np.zeros((8, 9, 3), np.uint8), check_contrast=False)
    imsave(tmp_path / "m.png", np.ones((9, 8), np.uint8), check_contrast=False)
    pair = Pair(str(tmp_path / "i.png"), str(tmp_path / "m.png"), "train")
    with pytest.raises(SourceError, match=r"m\.png has shape \(9, 8\), its image .*i\.png \(8, 9\)"):
        read_pictures([pair], data_config(), CLASSES, ["r", "g", "b"])
    coloured = Pair(str(tmp_path / "i.png"), str(tmp_path / "i.png"), "train")
    with pytest.raises(SourceError, match="a mask has one, holding class values"):
        read_pictures([coloured], data_config(), CLASSES, ["r", "g", "b"])


def test_pairs_from_a_table(data: Path) -> None:
    pairs = list_pairs(data_config(table=str(data / "split.csv")))
    assert [p.split for p in pairs] == ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    assert pairs[0].image == str(data / "i0.png")
    with pytest.raises(UsageError, match=r"has no column label; it has image, mask, split"):
        list_pairs(data_config(table=str(data / "split.csv"), mask_column="label"))
    with pytest.raises(UsageError, match=r"data\.table: cannot read .*none\.csv: No such file"):
        list_pairs(data_config(table=str(data / "none.csv")))


def test_pairs_from_globs_share_the_pictures_out(data: Path) -> None:
    globs = {"images": str(data / "i*.png"), "masks": str(data / "m*.png"), "splits": [0.5, 0.25, 0.25]}
    pairs = list_pairs(DataConfig.model_validate(globs))
    assert [p.split for p in pairs] == ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    assert all(Path(p.image).name[1:] == Path(p.mask).name[1:] for p in pairs)
    with pytest.raises(UsageError, match=r"matches 8 files and .*m0\*\.png 1; one mask per image"):
        list_pairs(DataConfig.model_validate({**globs, "masks": str(data / "m0*.png")}))
