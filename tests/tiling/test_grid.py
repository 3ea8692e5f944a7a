from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import any_grids, axes, reblocked, thin_grids
from tiling import Axis, Box, GeometryError, Grid, Index


def lattice(grid: Grid) -> Iterator[Index]:
    return np.ndindex(*(a.n_windows for a in grid.axes))


def inside(grid: Grid, box: Box) -> Box:
    return box.intersect(Box.of_shape(grid.extent))


def hull(boxes: list[Box]) -> Box:
    whole = boxes[0]
    for box in boxes[1:]:
        whole = whole.hull(box)
    return whole


@given(any_grids())
def test_blocks_partition_the_domain(grid: Grid) -> None:
    count = np.zeros(grid.extent, dtype=int)
    for j in grid.blocks():
        assert not grid.write(j).is_empty
        count[grid.write(j).slices()] += 1
    assert np.all(count == 1)


@given(any_grids())
def test_each_window_has_exactly_one_owner(grid: Grid) -> None:
    owned = Counter(k for j in grid.blocks() for k in grid.owned(j))
    assert owned == Counter(lattice(grid))
    assert owned.total() == grid.n_windows == sum(grid.n_owned(j) for j in grid.blocks())


@given(any_grids())
def test_the_owner_is_found_by_integer_division(grid: Grid) -> None:
    for j in grid.blocks():
        for k in grid.owned(j):
            assert j == tuple(i // (a.block // a.stride) for a, i in zip(grid.axes, k, strict=True))


@given(axes())
def test_windows_cover_the_axis_and_the_last_one_is_needed(axis: Axis) -> None:
    starts = [k * axis.stride for k in range(axis.n_windows)]
    covered = np.zeros(axis.extent, dtype=int)
    for start in starts:
        assert start < axis.extent  # so that no window consists of reflection alone
        covered[start : start + axis.window] += 1
    assert 1 <= covered.min() <= covered.max() <= 2
    if len(starts) > 1:
        assert starts[-2] + axis.window < axis.extent


@given(any_grids())
def test_reach_is_the_hull_of_the_blocks_windows_within_the_scene(grid: Grid) -> None:
    for j in grid.blocks():
        windows = [grid.window_box(k) for k in grid.owned(j)]
        assert grid.reach(j) == (inside(grid, hull(windows)) if windows else grid.write(j))
        assert grid.reach(j).start == grid.write(j).start  # only ever forward
        assert grid.reach(j).contains(grid.write(j))


@given(any_grids())
def test_read_is_the_hull_of_the_reflected_indices(grid: Grid) -> None:
    for j in grid.blocks():
        used = []
        for k in grid.owned(j):
            index = grid.window_indices(k)
            assert tuple(len(i) for i in index) == grid.window
            used.append(Box(tuple(int(i.min()) for i in index), tuple(int(i.max()) + 1 for i in index)))
        assert grid.read(j) == (hull(used) if used else Box(grid.write(j).start, grid.write(j).start))
        assert Box.of_shape(grid.extent).contains(grid.read(j))


@given(any_grids(), st.data())
def test_a_window_is_a_cut_of_the_padded_scene(grid: Grid, data: st.DataObject) -> None:
    scene = np.arange(np.prod(grid.extent)).reshape(grid.extent)
    padded = scene
    for n, a in enumerate(grid.axes):
        width = [(0, a.window if n == m else 0) for m in range(grid.ndim)]
        padded = np.pad(padded, width, mode="reflect" if a.extent > 1 else "edge")
    k = data.draw(st.sampled_from(list(lattice(grid))))
    assert np.array_equal(scene[np.ix_(*grid.window_indices(k))], padded[grid.window_box(k).slices()])


@given(any_grids(), st.data())
def test_touching_is_the_blocks_that_share_a_pixel(grid: Grid, data: st.DataObject) -> None:
    start = tuple(data.draw(st.integers(0, n)) for n in grid.extent)
    stop = tuple(data.draw(st.integers(a, n)) for a, n in zip(start, grid.extent, strict=True))
    expected = [i for i in grid.blocks() if not grid.write(i).intersect(Box(start, stop)).is_empty]
    assert list(grid.touching(Box(start, stop))) == expected


@given(any_grids().flatmap(lambda g: st.tuples(st.just(g), reblocked(g))))
def test_the_lattice_is_the_scenes_not_the_blocks(pair: tuple[Grid, Grid]) -> None:
    one, other = pair
    assert one.n_windows == other.n_windows
    for k in lattice(one):
        assert one.window_box(k) == other.window_box(k)
        assert all(np.array_equal(a, b) for a, b in zip(one.window_indices(k), other.window_indices(k), strict=True))
        assert np.array_equal(one.weight(k, one.ramps("hann")), other.weight(k, other.ramps("hann")))


@given(thin_grids())
def test_a_thin_last_block_owns_nothing_and_reads_nothing(grid: Grid) -> None:
    last = tuple(n - 1 for n in grid.n_blocks)
    assert grid.n_owned(last) == 0
    assert list(grid.owned(last)) == []
    assert grid.read(last).is_empty
    assert not grid.write(last).is_empty


def test_a_read_may_start_before_its_block() -> None:
    grid = Grid.of((21,), (16,), (0,), (16,))
    assert grid.write((1,)) == Box((16,), (21,))
    assert grid.read((1,)) == Box((9,), (21,))  # pixel 31 is 20 - 11


def test_the_picture_in_the_docstring() -> None:
    grid = Grid.of((21,), (6,), (2,), (8,))
    assert grid.stride == (4,)
    assert [grid.window_box(k) for k in lattice(grid)] == [Box((s,), (s + 6,)) for s in (0, 4, 8, 12, 16)]
    assert [list(grid.owned(j)) for j in grid.blocks()] == [[(0,), (1,)], [(2,), (3,)], [(4,)]]
    assert [grid.reach(j) for j in grid.blocks()] == [Box((a,), (b,)) for a, b in ((0, 10), (8, 18), (16, 21))]


def test_blocks_are_walked_with_the_last_axis_fastest() -> None:
    grid = Grid.of((3, 10), (2, 4), (0, 0), (2, 4))
    assert list(grid.blocks()) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert all(a < b for a, b in pairwise(grid.blocks()))
    assert (grid.extent, grid.window, grid.overlap, grid.block) == ((3, 10), (2, 4), (0, 0), (2, 4))


def test_a_real_plan_counts_as_by_hand() -> None:
    grid = Grid.of((10_000, 7_001), (640, 640), (128, 128), (4096, 4096))
    assert grid.n_windows == 20 * 14
    assert grid.n_blocks == (3, 2)
    assert grid.reach((0, 1)) == Box((0, 4096), (4224, 7001))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 4, 0, 4), "an axis needs at least one pixel, got extent 0"),
        ((9, 0, 0, 4), "a window needs at least one pixel, got 0"),
        ((9, 6, 4, 2), "overlap 4, window 6; use --overlap 3 or less"),
        ((9, 6, -1, 7), "overlap -1, window 6; use --overlap 3 or less"),
        ((9, 6, 2, 10), r"\(window - overlap = 4\), got 10; use --block 8 or 12"),
        ((9, 6, 2, 3), r"\(window - overlap = 4\), got 3; use --block 4 or 8"),
        ((9, 6, 2, 0), r"\(window - overlap = 4\), got 0; use --block 4 or 8"),
    ],
)
def test_an_impossible_axis_is_an_error_with_its_values_and_the_cure(
    numbers: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(GeometryError, match=message):
        Axis(*numbers)
    with pytest.raises(ValueError, match=message):
        Grid((Axis(9, 6, 2, 4), Axis(*numbers)))


def test_a_missing_number_is_an_error_with_all_of_them() -> None:
    with pytest.raises(GeometryError, match=r"extent \(9, 9\), window \(6,\), .* must have one number per axis"):
        Grid.of((9, 9), (6,), (2, 2), (4, 4))


@pytest.mark.parametrize("j", [(3, 0), (-1, 0), (0,), (0, 0, 0)])
def test_a_block_outside_is_an_error_with_the_count(j: Index) -> None:
    grid = Grid.of((21, 5), (6, 6), (2, 2), (8, 8))
    for ask in (grid.write, grid.reach, grid.read, grid.n_owned):
        with pytest.raises(GeometryError, match=r"no block \(.*\): this grid has \(3, 1\) blocks"):
            ask(j)
