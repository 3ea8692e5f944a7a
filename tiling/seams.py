"""Seams: which pixels a block decides alone, and which sums it hands to whom.

A block's scores reach forward by ``overlap`` (see :mod:`tiling.grid`), so per axis its sums fall into
``low seam | settled | high seam``. The low seam also receives windows of the block before; the high seam
lies in the block after. In n dimensions each high-seam piece lies in exactly one other block and is filed
under that block, so every piece has one writer, one reader, and one who deletes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from tiling.box import Box
from tiling.errors import GeometryError
from tiling.grid import Grid, Index


@dataclass(frozen=True, slots=True)
class Pieces:
    """A partition of ``reach(j)``.

    settled   decided by block j alone (may be empty)
    low       sums in write(j) that wait for upstream blocks, as disjoint non-empty boxes
    forward   downstream block -> the part of it that j's windows reach
    """

    settled: Box
    low: tuple[Box, ...]
    forward: dict[Index, Box]


def pieces(grid: Grid, j: Index) -> Pieces:
    """The partition of ``reach(j)`` into what is settled, what waits, and what is handed on."""
    write = grid.write(j)
    parts = []
    for axis, i, a, b in zip(grid.axes, j, write.start, write.stop, strict=True):
        cut = min(a + axis.overlap, b) if i else a
        parts.append(((a, cut), (cut, b)))
    settled = Box(*zip(*(settled for _, settled in parts), strict=True))
    low = []
    for chosen in product((0, 1), repeat=grid.ndim):
        box = Box(*zip(*(part[c] for part, c in zip(parts, chosen, strict=True)), strict=True))
        if not all(chosen) and not box.is_empty:
            low.append(box)
    forward = {d: grid.reach(j).intersect(grid.write(d)) for d in downstream(grid, j)}
    return Pieces(settled, tuple(low), forward)


def downstream(grid: Grid, j: Index) -> Iterator[Index]:
    """Blocks, other than ``j``, that windows of ``j`` reach; none if it owns no window or nothing overlaps."""
    if grid.n_owned(j):
        for step in _steps(grid):
            d = tuple(i + s for i, s in zip(j, step, strict=True))
            if all(i < n for i, n in zip(d, grid.n_blocks, strict=True)):
                yield d


def upstream(grid: Grid, j: Index) -> Iterator[Index]:
    """Blocks, other than ``j``, whose windows reach into ``j``: the inverse of :func:`downstream`."""
    for step in _steps(grid):
        i = tuple(a - s for a, s in zip(j, step, strict=True))
        if min(i) >= 0 and grid.n_owned(i):
            yield i


def incoming(grid: Grid, j: Index, i: Index) -> Box:
    """The pixels of block ``j`` that windows of its upstream block ``i`` reach."""
    box = grid.reach(i).intersect(grid.write(j))
    if i == j or box.is_empty:
        raise GeometryError(f"block {i} hands nothing to block {j}")
    return box


def seam_pixels(grid: Grid, j: Index) -> int:
    """Pixels whose sums block ``j`` files, for itself and for others."""
    parts = pieces(grid, j)
    return sum(box.size for box in (*parts.low, *parts.forward.values()))


def _steps(grid: Grid) -> Iterator[Index]:
    for step in product(*((0, 1) if a.overlap else (0,) for a in grid.axes)):
        if any(step):
            yield step
