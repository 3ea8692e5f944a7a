"""Hypothesis strategies for geometry, biased towards the shapes where off-by-one errors live."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tiling import Axis, Frame, Grid

# enough pixels per axis for several blocks, few enough to visit every one of them in 3-D
_LARGEST_WINDOW = {1: 24, 2: 10, 3: 6}
_LARGEST_EXTENT = {1: 200, 2: 32, 3: 14}


@st.composite
def window_and_overlap(draw: st.DrawFn, largest: int) -> tuple[int, int]:
    """Windows of 1 to ``largest`` pixels; overlap often 0 or exactly half."""
    window = draw(st.integers(1, largest))
    half = window // 2
    return window, draw(st.one_of(st.just(0), st.just(half), st.integers(0, half)))


@st.composite
def extents(draw: st.DrawFn, window: int, overlap: int, block: int, largest: int) -> int:
    """An extent: 1, less than a window, whole blocks, whole blocks and a last one no wider than the overlap, or any."""
    whole = block * draw(st.integers(1, max(1, largest // block)))
    thin = whole + draw(st.integers(1, max(1, overlap)))
    return draw(
        st.one_of(
            st.integers(1, largest),
            st.just(1),
            st.integers(1, window),
            st.just(min(whole, largest)),
            st.just(thin),  # may pass `largest` by an overlap: a thin last block is worth it
        )
    )


@st.composite
def axes(draw: st.DrawFn, *, largest_window: int = 24, largest_extent: int = 200) -> Axis:
    window, overlap = draw(window_and_overlap(largest_window))
    stride = window - overlap
    block = stride * draw(st.one_of(st.just(1), st.integers(1, 4)))
    return Axis(draw(extents(window, overlap, block, largest_extent)), window, overlap, block)


@st.composite
def grids(draw: st.DrawFn, *, min_ndim: int = 1, max_ndim: int = 3) -> Grid:
    """Grids of 1 to 3 dimensions, small enough that every pixel of them can be visited."""
    ndim = draw(st.integers(min_ndim, max_ndim))
    axis = axes(largest_window=_LARGEST_WINDOW[ndim], largest_extent=_LARGEST_EXTENT[ndim])
    return Grid(tuple(draw(axis) for _ in range(ndim)))


@st.composite
def thin_grids(draw: st.DrawFn, *, min_ndim: int = 1, max_ndim: int = 3) -> Grid:
    """Grids whose last block along the first axis is no wider than the overlap, so that it owns no window."""
    grid = draw(grids(min_ndim=min_ndim, max_ndim=max_ndim))
    overlap = draw(st.integers(1, 3))
    window = 2 * overlap + draw(st.integers(0, 2))
    block = (window - overlap) * draw(st.integers(1, 2))
    thin = draw(st.integers(1, overlap))
    return Grid((Axis(block * draw(st.integers(1, 2)) + thin, window, overlap, block), *grid.axes[1:]))


@st.composite
def busy_grids(draw: st.DrawFn, *, min_ndim: int = 1, max_ndim: int = 3) -> Grid:
    """Grids with overlap and at least two blocks along every axis, so that pieces of every kind occur."""
    found = []
    for _ in range(draw(st.integers(min_ndim, max_ndim))):
        overlap = draw(st.integers(1, 2))
        window = 2 * overlap + draw(st.integers(0, 2))
        block = (window - overlap) * draw(st.integers(1, 2))
        found.append(Axis(block + draw(st.integers(1, 2 * block)), window, overlap, block))
    return Grid(tuple(found))


def any_grids() -> st.SearchStrategy[Grid]:
    return st.one_of(grids(), busy_grids(), thin_grids())


@st.composite
def reblocked(draw: st.DrawFn, grid: Grid) -> Grid:
    """The same lattice cut into other blocks."""
    return Grid(
        tuple(Axis(a.extent, a.window, a.overlap, a.stride * draw(st.integers(1, 5))) for a in grid.axes),
    )


@st.composite
def frames(draw: st.DrawFn, *, min_ndim: int = 2, max_ndim: int = 3) -> Frame:
    """Frames without shear: a signed spacing per axis, rotated in the plane of the last two, with an offset."""
    ndim = draw(st.integers(min_ndim, max_ndim))
    size = st.floats(1e-4, 1e4)
    spacing = [draw(size) * draw(st.sampled_from([-1, 1])) for _ in range(ndim)]
    angle = draw(st.one_of(st.just(0.0), st.floats(-3.2, 3.2)))
    rotation = np.eye(ndim)
    rotation[-2:, -2:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    offset = [draw(st.floats(-1e6, 1e6)) for _ in range(ndim)]
    rows = np.column_stack([rotation * spacing, offset])
    return Frame(
        ("z", "y", "x")[-ndim:],
        tuple(map(tuple, rows.tolist())),
        draw(st.sampled_from(["px", "m", "mm", "degree"])),
        draw(st.sampled_from([None, "EPSG:32632"])),
        draw(st.sampled_from(["corner", "centre"])),
    )
