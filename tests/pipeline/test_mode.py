"""The mode against its definition, cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline import mode
from pipeline.mode import most_frequent

CODES = [0, 1, 7, 254, 255]


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=7), elements=st.sampled_from(CODES)),
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
    st.sampled_from([(), (255,), (254, 255), (0,)]),
    st.sampled_from(["uint8", "uint16"]),
)
@settings(max_examples=150)
def test_the_most_frequent_class_wins_and_no_data_only_where_there_is_nothing_else(
    codes: NDArray[Any], factors: list[int], missing: tuple[int, ...], dtype: str
) -> None:
    factor = tuple(factors[: codes.ndim])
    out = most_frequent(codes.astype(dtype), factor, missing)
    assert out.dtype == dtype
    assert out.shape == tuple(-(-n // f) for n, f in zip(codes.shape, factor, strict=True))
    for index in np.ndindex(out.shape):
        cell = codes[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factor, strict=True))]
        classes = cell[~np.isin(cell, missing)]
        assert out[index] == np.bincount(classes if classes.size else cell.ravel()).argmax()


def test_one_pixel_of_a_class_outvotes_no_data() -> None:
    cell = np.array([[255, 255], [255, 3]], np.uint8)
    assert most_frequent(cell, (2, 2), (254, 255)) == 3
    assert most_frequent(cell, (2, 2)) == 255


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).integers(0, 4, (61, 47)).astype(np.uint8)
    whole = most_frequent(codes, (3, 5), (3,))
    monkeypatch.setattr(mode, "_BAND", 300)
    np.testing.assert_array_equal(most_frequent(codes, (3, 5), (3,)), whole)


def test_it_is_the_mode_of_gdal(tmp_path: Path) -> None:
    import rasterio
    from affine import Affine

    codes = np.random.default_rng(1).choice(np.array([0, 5, 9, 255], np.uint8), (64, 96), p=[0.2, 0.3, 0.2, 0.3])
    size = {"height": 64, "width": 96, "count": 1, "dtype": "uint8", "nodata": 255}
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", transform=Affine(2, 0, 0, 0, -2, 0), **size) as file:
        file.write(codes, 1)
        file.build_overviews([2], rasterio.enums.Resampling.mode)
    with rasterio.open(path, overview_level=0) as file:
        theirs = file.read(1)
    ours = most_frequent(codes, (2, 2), (255,))
    np.testing.assert_array_equal(ours == 255, theirs == 255)  # ties are another matter
    cells = np.stack([codes[a::2, b::2] for a in (0, 1) for b in (0, 1)])
    n_ours, n_theirs = ((cells == which).sum(axis=0) for which in (ours, theirs))
    np.testing.assert_array_equal(n_ours, n_theirs)
