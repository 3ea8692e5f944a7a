"""A whole scene made small: mean pixels, most frequent labels, and where classes meet, in one pass of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.export.view import ArrayLike, MaskView, lattice
from pipeline.mode import most_frequent
from tiling import Box


@dataclass(frozen=True, slots=True)
class Plane:
    """What is drawn: a 2-D mask with its image, or one slice ``z`` of a volume.

    image  ``(C, *spatial)``; the channels in ``channels`` are drawn, one as grey or three as colours
    valid  spatial, nonzero where a pixel is known; None if all are
    """

    view: MaskView
    image: ArrayLike
    valid: ArrayLike | None
    channels: tuple[int, ...]
    z: int | None = None

    def __post_init__(self) -> None:
        if tuple(self.image.shape[1:]) != self.view.shape:
            raise UsageError(f"the image of {self.image.shape} does not lie under the mask of {self.view.shape}")
        if not all(0 <= c < self.image.shape[0] for c in self.channels) or len(self.channels) not in (1, 3):
            raise UsageError(f"cannot draw channels {self.channels} of {self.image.shape[0]}; name one or three")

    @property
    def shape(self) -> tuple[int, int]:
        return self.view.shape[-2], self.view.shape[-1]

    def labels(self, box: Box) -> NDArray[Any]:
        part = self.view.read(self._spatial(box))
        return part if self.z is None else part[0]

    def pixels(self, box: Box) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """``(channels, h, w)`` with 0 where nothing is known, and ``(h, w)`` whether it is."""
        where = self._spatial(box).slices()
        bands = [np.asarray(self.image[(slice(c, c + 1), *where)]).astype(np.float32) for c in self.channels]
        pixels = np.concatenate(bands).reshape(len(bands), *box.shape)
        known = np.asarray(np.isfinite(pixels).all(axis=0))
        if self.valid is not None:
            known = known & (np.asarray(self.valid[where]) != 0).reshape(box.shape)
        return np.where(known, pixels, np.float32(0)), known

    def _spatial(self, box: Box) -> Box:
        return box if self.z is None else Box((self.z, *box.start), (self.z + 1, *box.stop))


@dataclass(frozen=True, slots=True)
class Small:
    """A plane at ``1 / factor``: pixels (channels, h, w); known, labels and class borders per cell, each (h, w)."""

    pixels: NDArray[np.float32]
    known: NDArray[np.bool_]
    labels: NDArray[Any]
    borders: NDArray[np.int64]
    factor: int


def shrink(plane: Plane, factor: int) -> Small:
    """Cells of ``factor`` x ``factor`` pixels: mean of the known ones, most frequent label, number of class borders."""
    height, width = (-(-n // factor) for n in plane.shape)
    small = Small(
        np.zeros((len(plane.channels), height, width), np.float32),
        np.zeros((height, width), np.bool_),
        np.zeros((height, width), plane.view.dtype),
        np.zeros((height, width), np.int64),
        factor,
    )
    # whole cells, so that none has to be put together from two reads
    side = tuple(max(factor, b // factor * factor) for b in plane.view.block[-2:])
    fringe = _Fringe(plane.shape[1])
    missing = plane.view.nodata_index, plane.view.unresolved_index
    for box in lattice(Box.of_shape(plane.shape), side):
        cells = tuple(slice(a // factor, -(-b // factor)) for a, b in zip(box.start, box.stop, strict=True))
        pixels, known = plane.pixels(box)
        labels = plane.labels(box)
        n_known = cell_sums(known, factor)
        small.pixels[:, *cells] = [cell_sums(band, factor) / np.maximum(n_known, 1) for band in pixels]
        small.known[cells] = n_known > 0
        small.labels[cells] = most_frequent(labels, (factor, factor), missing)
        met = borders(labels, plane.view.nodata_index, *fringe.before(box, labels))
        small.borders[cells] = cell_sums(met, factor)
    return small


class _Fringe:
    """The last labels of the boxes above and to the left, so that borders along a cut are counted too."""

    def __init__(self, width: int) -> None:
        self._row: NDArray[Any] = np.zeros((1, width), np.uint16)
        self._column: NDArray[Any] = np.zeros((0, 0), np.uint16)

    def before(self, box: Box, labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """``above`` and ``left`` of this box (see ``borders``); boxes must come in row-major order."""
        (y, x), columns = box.start, slice(box.start[1], box.stop[1])
        above = self._row[: min(y, 1), columns].copy()
        left = self._column if x else labels[:, :0]
        self._row[:, columns], self._column = labels[-1:], labels[:, -1:]
        return above, left


def borders(labels: NDArray[Any], first_missing: int, above: NDArray[Any], left: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the left or the upper neighbour of a pixel is of another class (nodata is none).

    ``above`` (1, w) and ``left`` (h, 1) are the labels beyond the edge, of length 0 where there are none.
    """
    return _changes(labels, first_missing, above, 0) | _changes(labels, first_missing, left, 1)


def _changes(labels: NDArray[Any], first_missing: int, before: NDArray[Any], axis: int) -> NDArray[np.bool_]:
    if before.shape[axis] == 0:  # a pixel differs from nothing that is not there
        before = labels.take([0], axis)
    padded = np.concatenate([before, labels], axis)
    real = padded < first_missing
    size = labels.shape[axis]
    this, that = np.arange(1, size + 1), np.arange(size)
    changed: NDArray[np.bool_] = padded.take(this, axis) != padded.take(that, axis)
    return changed & real.take(this, axis) & real.take(that, axis)


def cell_sums(values: NDArray[Any], factor: int) -> NDArray[np.float64]:
    """Sums over cells of ``factor`` x ``factor``; the last row and column of cells may be cut."""
    rows, columns = (np.arange(0, n, factor) for n in values.shape)
    low = np.add.reduceat(values, rows, axis=0, dtype=np.float64)
    out: NDArray[np.float64] = np.add.reduceat(low, columns, axis=1)
    return out


def busiest(small: Small, shape: tuple[int, int], side: int, n: int, n_classes: int) -> list[Box]:
    """Up to ``n`` boxes of ``side`` pixels that do not meet, those first in which most happens.

    That is: class borders, times the square of how many classes fill a hundredth of the box or more. The
    candidates start at every half side; equal ones in reading order, so the choice is the same every time.
    They are taken well apart if that can be had, else side by side. Boxes without a border are not chosen.
    """
    rows, columns = (_starts(extent, side) for extent in shape)
    sides = min(side, shape[0]), min(side, shape[1])
    spans = [_cells(at, length, small.factor) for at, length in zip((rows, columns), sides, strict=True)]
    met = _window_sums(small.borders, *spans)
    area = _window_sums(np.ones(small.labels.shape, np.int64), *spans)
    present = np.zeros(met.shape, dtype=np.int64)
    for index in np.unique(small.labels[small.labels < n_classes]):
        present += _window_sums(small.labels == index, *spans) * 100 >= area
    score = (met * present**2).ravel()
    ranked = np.argsort(-score, kind="stable")[: np.count_nonzero(score)]
    starts = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    chosen: list[NDArray[np.int64]] = []
    for apart in (max(max(shape) // 4, side), side):
        while len(chosen) < n:
            ranked = ranked[_far_from(starts[ranked], chosen, apart)]
            if not ranked.size:
                break
            chosen.append(starts[ranked[0]])
        ranked = np.argsort(-score, kind="stable")[: np.count_nonzero(score)]
    return [Box((int(y), int(x)), (int(y) + sides[0], int(x) + sides[1])) for y, x in chosen]


def _far_from(starts: NDArray[np.int64], chosen: list[NDArray[np.int64]], least: int) -> NDArray[np.bool_]:
    far = np.ones(len(starts), dtype=np.bool_)
    for other in chosen:
        far &= np.abs(starts - other).max(axis=1) >= least
    return far


def _starts(extent: int, side: int) -> NDArray[np.int64]:
    last = max(0, extent - side)
    return np.unique([*range(0, last, max(1, side // 2)), last]).astype(np.int64)


def _cells(starts: NDArray[np.int64], length: int, factor: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last-but-one cell of windows of ``length`` pixels; one cell at least."""
    first = starts // factor
    return first, np.maximum((starts + length) // factor, first + 1)


def _window_sums(
    values: NDArray[Any],
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    columns: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """Sums over all windows (rows x columns), from a table of sums over corners."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1), dtype=np.int64)
    table[1:, 1:] = values.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    bands = table[rows[1]] - table[rows[0]]
    out: NDArray[np.int64] = bands[:, columns[1]] - bands[:, columns[0]]
    return out
