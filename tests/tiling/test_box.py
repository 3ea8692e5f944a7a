from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiling import Box, GeometryError


@st.composite
def boxes(draw: st.DrawFn, ndim: int) -> Box:
    start = tuple(draw(st.integers(0, 6)) for _ in range(ndim))
    return Box(start, tuple(a + draw(st.integers(0, 5)) for a in start))


pairs = st.integers(1, 3).flatmap(lambda n: st.tuples(boxes(n), boxes(n)))


def painted(box: Box) -> np.ndarray:
    canvas = np.zeros((12,) * box.ndim, dtype=bool)
    canvas[box.slices()] = True
    return canvas


@given(pairs)
def test_intersect_is_the_pixels_of_both(pair: tuple[Box, Box]) -> None:
    a, b = pair
    assert np.array_equal(painted(a.intersect(b)), painted(a) & painted(b))


@given(pairs)
def test_intersect_is_commutative_up_to_where_an_empty_one_lies(pair: tuple[Box, Box]) -> None:
    a, b = pair
    assert a.intersect(b) == b.intersect(a)
    assert a.intersect(a) == a


@given(pairs)
def test_hull_is_the_smallest_box_that_contains_both(pair: tuple[Box, Box]) -> None:
    a, b = pair
    hull = a.hull(b)
    assert hull.contains(a)
    assert hull.contains(b)
    assert all(s in (p, q) for s, p, q in zip(hull.start, a.start, b.start, strict=True))
    assert all(s in (p, q) for s, p, q in zip(hull.stop, a.stop, b.stop, strict=True))


@given(pairs)
def test_contains_agrees_with_the_pixels(pair: tuple[Box, Box]) -> None:
    a, b = pair
    if not b.is_empty:
        assert a.contains(b) == (not np.any(painted(b) & ~painted(a)))


@given(st.integers(1, 3).flatmap(boxes), st.data())
def test_size_shape_and_shift(box: Box, data: st.DataObject) -> None:
    offset = tuple(data.draw(st.integers(-9, 9)) for _ in range(box.ndim))
    moved = box.shift(offset)
    assert moved.shape == box.shape
    assert moved.shift(tuple(-d for d in offset)) == box
    assert box.size == painted(box).sum() == np.prod(box.shape)
    assert box.is_empty == (box.size == 0)


@given(st.integers(1, 3).flatmap(boxes))
def test_slices_index_an_array_that_begins_at_the_origin(box: Box) -> None:
    whole = np.arange(12**box.ndim).reshape((12,) * box.ndim)
    part = whole[box.slices()]
    assert part.shape == box.shape
    corner = tuple(a // 2 for a in box.start)
    cut = whole[tuple(slice(c, None) for c in corner)]
    assert np.array_equal(cut[box.slices(corner)], part)


def test_of_shape_starts_at_zero() -> None:
    assert Box.of_shape((3, 5)) == Box((0, 0), (3, 5))
    assert Box.of_shape(iter([2, 7, 1])).shape == (2, 7, 1)


def test_a_box_prints_as_half_open_ranges() -> None:
    assert str(Box((0, 8), (4, 16))) == "[0:4, 8:16]"


def test_an_end_before_the_start_is_an_error_with_both() -> None:
    with pytest.raises(GeometryError, match=r"must not end before it starts: start \(3, 4\), stop \(5, 2\)"):
        Box((3, 4), (5, 2))


def test_unequal_dimensions_are_an_error_with_both() -> None:
    with pytest.raises(GeometryError, match=r"as many starts as stops, got \(1,\) and \(2, 3\)"):
        Box((1,), (2, 3))
    with pytest.raises(ValueError, match=r"1 and 2 dimensions do not combine: \[0:3\], \[0:3, 0:4\]"):
        Box.of_shape((3,)).intersect(Box.of_shape((3, 4)))


def test_a_slice_before_the_array_is_an_error_not_the_other_end() -> None:
    with pytest.raises(GeometryError, match=r"\[2:4, 0:4\] starts before the array that begins at \(3, 0\)"):
        Box((2, 0), (4, 4)).slices((3, 0))
