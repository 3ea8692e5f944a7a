from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.strategies import any_grids, grids, reblocked, thin_grids
from tiling import (
    RAMPS,
    Box,
    GeometryError,
    Grid,
    Index,
    downstream,
    incoming,
    pieces,
    seam_pixels,
    upstream,
)
from tiling.ramp import RampName

Sums = NDArray[np.int64]
ONE = 2**24


def cut(grid: Grid, k: Index) -> tuple[Box, tuple[slice, ...]]:
    """Where window ``k`` lies within the scene, and that part of the window."""
    box = grid.window_box(k).intersect(Box.of_shape(grid.extent))
    return box, tuple(slice(0, n) for n in box.shape)


def contribution(grid: Grid, k: Index, image: NDArray[np.float64], name: RampName, *, twist: bool) -> Sums:
    """``rint(score * weight * 2**24)`` of one window. With ``twist``, scores depend on the place in the window too."""
    pixels = image[np.ix_(*grid.window_indices(k))]
    if twist:
        place = np.arange(pixels.size).reshape(pixels.shape)
        pixels = np.modf((pixels + pixels.mean()) * (7.3 + place))[0]
    return np.rint(pixels * grid.weight(k, grid.ramps(name)) * ONE).astype(np.int64)


def whole(grid: Grid, image: NDArray[np.float64], name: RampName, *, twist: bool) -> Sums:
    """Blend over the scene at once, without a thought for blocks."""
    sums = np.zeros(grid.extent, dtype=np.int64)
    for k in np.ndindex(*(a.n_windows for a in grid.axes)):
        box, part = cut(grid, k)
        sums[box.slices()] += contribution(grid, k, image, name, twist=twist)[part]
    return sums


class Blockwise:
    """Infer and stitch as the pipeline does them, on dictionaries: each block sees its own windows and its mail."""

    def __init__(self, grid: Grid, image: NDArray[np.float64], name: RampName, *, twist: bool) -> None:
        self.grid, self.image, self.name, self.twist = grid, image, name, twist
        self.mail: dict[tuple[Index, Index], Sums] = {}
        self.own: dict[Index, list[Sums]] = {}
        self.out: Sums = np.full(grid.extent, -1, dtype=np.int64)

    def infer(self, j: Index) -> None:
        reach = self.grid.reach(j)
        sums = np.zeros(reach.shape, dtype=np.int64)
        for k in self.grid.owned(j):
            box, part = cut(self.grid, k)
            one = contribution(self.grid, k, self.image, self.name, twist=self.twist)
            sums[box.slices(reach.start)] += one[part]
        parts = pieces(self.grid, j)
        self.out[parts.settled.slices()] = sums[parts.settled.slices(reach.start)]
        self.own[j] = [sums[box.slices(reach.start)] for box in parts.low]
        for d, box in parts.forward.items():
            assert (d, j) not in self.mail
            self.mail[d, j] = sums[box.slices(reach.start)]

    def stitch(self, j: Index) -> None:
        for box, sums in zip(pieces(self.grid, j).low, self.own.pop(j), strict=True):
            assert np.all(self.out[box.slices()] == -1)
            self.out[box.slices()] = sums
        for i in upstream(self.grid, j):
            self.out[incoming(self.grid, j, i).slices()] += self.mail.pop((j, i))


def blockwise(grid: Grid, image: NDArray[np.float64], name: RampName, seed: int = 0, *, twist: bool) -> Sums:
    """All blocks inferred, then stitched, each in an order of its own."""
    run = Blockwise(grid, image, name, twist=twist)
    order = list(grid.blocks())
    rng = np.random.default_rng(seed)
    for step in (run.infer, run.stitch):
        rng.shuffle(order)
        for j in order:
            step(j)
    assert not run.mail
    assert not run.own
    return run.out


def image_of(grid: Grid, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random(grid.extent)


@settings(max_examples=250)
@given(any_grids().flatmap(lambda g: st.tuples(st.just(g), reblocked(g))), st.sampled_from(RAMPS), st.integers(0, 99))
def test_blocks_add_up_to_the_whole_scene_bit_for_bit(pair: tuple[Grid, Grid], name: RampName, seed: int) -> None:
    expected = whole(pair[0], image_of(pair[0]), name, twist=True)
    for grid in pair:
        assert np.array_equal(blockwise(grid, image_of(grid), name, seed, twist=True), expected)


@given(any_grids(), st.sampled_from(RAMPS))
def test_blending_the_windows_of_an_image_gives_the_image(grid: Grid, name: RampName) -> None:
    image = image_of(grid)
    blended = blockwise(grid, image, name, twist=False) / ONE
    # each of the at most 2**d windows over a pixel is rounded by at most half a unit
    assert np.abs(blended - image).max() <= 2 ** (grid.ndim - 1) / ONE + 1e-12


@given(any_grids())
def test_pieces_partition_the_reach(grid: Grid) -> None:
    for j in grid.blocks():
        parts = pieces(grid, j)
        count = np.zeros(grid.extent, dtype=int)
        for box in (parts.settled, *parts.low, *parts.forward.values()):
            count[box.slices()] += 1
        expected = np.zeros(grid.extent, dtype=int)
        expected[grid.reach(j).slices()] = 1
        assert np.array_equal(count, expected)
        assert all(not box.is_empty for box in (*parts.low, *parts.forward.values()))
        assert all(grid.write(j).contains(box) for box in parts.low)


@given(any_grids())
def test_each_forward_piece_lies_in_its_one_reader(grid: Grid) -> None:
    for j in grid.blocks():
        for d, box in pieces(grid, j).forward.items():
            assert d != j
            assert grid.write(d).contains(box)
            assert incoming(grid, d, j) == box


@given(any_grids())
def test_downstream_and_upstream_are_inverse(grid: Grid) -> None:
    sent = {(d, j) for j in grid.blocks() for d in downstream(grid, j)}
    received = {(d, j) for d in grid.blocks() for j in upstream(grid, d)}
    filed = {(d, j) for j in grid.blocks() for d in pieces(grid, j).forward}
    assert sent == received == filed
    for j in grid.blocks():
        assert len(list(upstream(grid, j))) <= 2**grid.ndim - 1


@given(any_grids(), st.data())
def test_what_comes_in_is_all_that_windows_of_other_blocks_say_here(grid: Grid, data: st.DataObject) -> None:
    j = data.draw(st.sampled_from(list(grid.blocks())))
    landed: dict[Index, NDArray[np.bool_]] = {}
    for k in np.ndindex(*(a.n_windows for a in grid.axes)):
        owner = tuple(i * a.stride // a.block for a, i in zip(grid.axes, k, strict=True))
        here = cut(grid, k)[0].intersect(grid.write(j))
        if owner != j and not here.is_empty:
            landed.setdefault(owner, np.zeros(grid.extent, dtype=bool))[here.slices()] = True
    assert set(upstream(grid, j)) == set(landed)
    for i, pixels in landed.items():
        arrives = np.zeros(grid.extent, dtype=bool)
        arrives[incoming(grid, j, i).slices()] = True
        assert np.array_equal(pixels, arrives)


@given(any_grids())
def test_settled_pixels_wait_for_nobody_and_low_ones_do(grid: Grid) -> None:
    for j in grid.blocks():
        awaited = np.zeros(grid.extent, dtype=bool)
        for i in upstream(grid, j):
            awaited[incoming(grid, j, i).slices()] = True
        parts = pieces(grid, j)
        assert not awaited[parts.settled.slices()].any()
        assert all(awaited[box.slices()].all() for box in parts.low)


@given(any_grids())
def test_seam_pixels_counts_what_is_filed(grid: Grid) -> None:
    for j in grid.blocks():
        parts = pieces(grid, j)
        filed = grid.reach(j).size - parts.settled.size
        assert seam_pixels(grid, j) == filed


@given(grids())
def test_without_overlap_there_are_no_seams(grid: Grid) -> None:
    window = grid.window
    loose = Grid.of(grid.extent, window, (0,) * grid.ndim, tuple(2 * w for w in window))
    for j in loose.blocks():
        assert pieces(loose, j).settled == loose.write(j)
        assert seam_pixels(loose, j) == 0
        assert not list(downstream(loose, j))


@given(thin_grids())
def test_a_block_without_windows_sends_nothing_and_waits_for_all_its_pixels(grid: Grid) -> None:
    last = tuple(n - 1 for n in grid.n_blocks)
    parts = pieces(grid, last)
    assert not parts.forward
    assert parts.settled.is_empty
    assert sum(box.size for box in parts.low) == grid.write(last).size


def test_a_plane_by_hand() -> None:
    grid = Grid.of((20, 20), (6, 6), (2, 2), (8, 8))
    parts = pieces(grid, (1, 0))
    assert parts.settled == Box((10, 0), (16, 8))
    assert parts.low == (Box((8, 0), (10, 8)),)
    assert parts.forward == {
        (1, 1): Box((8, 8), (16, 10)),
        (2, 0): Box((16, 0), (18, 8)),
        (2, 1): Box((16, 8), (18, 10)),
    }
    assert set(upstream(grid, (1, 1))) == {(0, 0), (0, 1), (1, 0)}


@pytest.mark.parametrize("i", [(1, 1), (2, 1), (1, 2)])
def test_asking_a_block_that_sends_nothing_is_an_error_with_both(i: Index) -> None:
    grid = Grid.of((20, 20), (6, 6), (2, 2), (8, 8))
    with pytest.raises(GeometryError, match=rf"block \({i[0]}, {i[1]}\) hands nothing to block \(1, 1\)"):
        incoming(grid, (1, 1), i)


def test_a_block_without_windows_hands_nothing_on() -> None:
    grid = Grid.of((17, 20), (6, 6), (2, 2), (8, 8))  # row 2 is one pixel high and owns no window
    assert grid.n_owned((2, 0)) == 0
    with pytest.raises(GeometryError, match=r"block \(2, 0\) hands nothing to block \(2, 1\)"):
        incoming(grid, (2, 1), (2, 0))
