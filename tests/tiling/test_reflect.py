from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiling import GeometryError, reflect


@given(extent=st.integers(2, 12), start=st.integers(0, 40), length=st.integers(0, 40))
def test_reflect_is_numpys(extent: int, start: int, length: int) -> None:
    padded = np.pad(np.arange(extent), (0, start + length), mode="reflect")
    assert np.array_equal(reflect(start, length, extent), padded[start : start + length])


@given(extent=st.integers(2, 9), before=st.integers(1, 30), length=st.integers(0, 60))
def test_positions_before_the_scene_mirror_too(extent: int, before: int, length: int) -> None:
    padded = np.pad(np.arange(extent), (before, before + length), mode="reflect")
    assert np.array_equal(reflect(-before, length, extent), padded[:length])


@given(start=st.integers(0, 5), length=st.integers(0, 9))
def test_an_extent_of_one_is_repeated(start: int, length: int) -> None:
    assert np.array_equal(reflect(start, length, 1), np.pad([0], (0, start + length), mode="edge")[:length])


def test_an_empty_axis_is_an_error() -> None:
    with pytest.raises(GeometryError, match="at least one pixel, got extent 0"):
        reflect(0, 3, 0)
