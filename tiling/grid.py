"""A scene's lattice of windows and its partition into blocks.

The lattice belongs to the scene: where it is cut into blocks changes who computes a window, never which
windows exist. In one dimension, with window 6, overlap 2 (stride 4) and block 8 over an extent of 21:

    pixels   0...4...8...12..16..20
    windows  [0   ]  [2   ]  [4   ]          window k = [4k, 4k + 6); the last hangs over the far edge
                 [1   ]  [3   ]
    blocks   |0      |1      |2   |          block j owns the windows k with k // 2 == j
    reach(0) [0       . )                    its scores land 2 pixels into block 1, and only ever forward
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from tiling.box import Box
from tiling.errors import GeometryError
from tiling.ramp import RampName, axis_weight, ramp
from tiling.reflect import reflect

Index = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: ``extent`` pixels, windows of ``window`` pixels every ``window - overlap``, blocks of ``block``."""

    extent: int
    window: int
    overlap: int
    block: int

    def __post_init__(self) -> None:
        if self.extent < 1:
            raise GeometryError(f"an axis needs at least one pixel, got extent {self.extent}")
        if self.window < 1:
            raise GeometryError(f"a window needs at least one pixel, got {self.window}")
        if self.overlap < 0 or 2 * self.overlap > self.window:
            raise GeometryError(
                f"overlap must be from 0 to half the window: overlap {self.overlap}, window {self.window}; "
                f"use --overlap {self.window // 2} or less"
            )
        if self.block < 1 or self.block % self.stride:
            lower = max(self.block // self.stride, 1) * self.stride
            raise GeometryError(
                f"block must be a multiple of the stride (window - overlap = {self.stride}), got {self.block}; "
                f"use --block {lower} or {lower + self.stride}"
            )

    @property
    def stride(self) -> int:
        return self.window - self.overlap

    @property
    def n_windows(self) -> int:
        return max(1, -(-(self.extent - self.overlap) // self.stride))

    @property
    def n_blocks(self) -> int:
        return -(-self.extent // self.block)

    def owned(self, j: int) -> range:
        """The windows of block ``j``. Empty for a last block no wider than the overlap."""
        per_block = self.block // self.stride
        return range(j * per_block, min((j + 1) * per_block, self.n_windows))

    def write(self, j: int) -> tuple[int, int]:
        """What block ``j`` alone may write."""
        return j * self.block, min((j + 1) * self.block, self.extent)

    def reach(self, j: int) -> tuple[int, int]:
        """Where the scores of block ``j`` land: its own pixels and up to ``overlap`` beyond, never before."""
        return j * self.block, min((j + 1) * self.block + self.overlap, self.extent)

    def read(self, j: int) -> tuple[int, int]:
        """Hull of the reflected indices of the block's windows. May start before ``write(j)`` near the far edge.

        A block that owns no window reads nothing: an empty interval at its start.
        """
        windows = self.owned(j)
        if not windows:
            return j * self.block, j * self.block
        start, stop = windows[0] * self.stride, windows[-1] * self.stride + self.window
        if stop <= self.extent:
            return start, stop
        index = reflect(start, stop - start, self.extent)
        return int(index.min()), int(index.max()) + 1

    def weight(self, k: int, rising: NDArray[np.float64]) -> NDArray[np.float64]:
        """Blend weight of window ``k``, shape ``(window,)``."""
        return axis_weight(rising, self.window, low=k > 0, high=k < self.n_windows - 1)


@dataclass(frozen=True, slots=True)
class Grid:
    """The lattice and partition of an n-D scene: one :class:`Axis` per spatial axis, in scene order."""

    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, extent: Sequence[int], window: Sequence[int], overlap: Sequence[int], block: Sequence[int]) -> Grid:
        try:
            return cls(tuple(Axis(*a) for a in zip(extent, window, overlap, block, strict=True)))
        except GeometryError:
            raise
        except ValueError:
            raise GeometryError(
                f"extent {tuple(extent)}, window {tuple(window)}, overlap {tuple(overlap)} and block "
                f"{tuple(block)} must have one number per axis"
            ) from None

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def extent(self) -> tuple[int, ...]:
        return tuple(a.extent for a in self.axes)

    @property
    def window(self) -> tuple[int, ...]:
        return tuple(a.window for a in self.axes)

    @property
    def overlap(self) -> tuple[int, ...]:
        return tuple(a.overlap for a in self.axes)

    @property
    def stride(self) -> tuple[int, ...]:
        return tuple(a.stride for a in self.axes)

    @property
    def block(self) -> tuple[int, ...]:
        return tuple(a.block for a in self.axes)

    @property
    def n_blocks(self) -> tuple[int, ...]:
        return tuple(a.n_blocks for a in self.axes)

    @property
    def n_windows(self) -> int:
        return prod(a.n_windows for a in self.axes)

    def blocks(self) -> Iterator[Index]:
        """All block indices in scan order, the last axis fastest."""
        return product(*(range(n) for n in self.n_blocks))

    def owned(self, j: Index) -> Iterator[Index]:
        """The windows of block ``j`` in scan order."""
        return product(*(a.owned(i) for a, i in zip(self._at(j), j, strict=True)))

    def n_owned(self, j: Index) -> int:
        return prod(len(a.owned(i)) for a, i in zip(self._at(j), j, strict=True))

    def window_box(self, k: Index) -> Box:
        """Where window ``k`` lies; near the far edge it ends beyond the extent."""
        start = tuple(i * a.stride for a, i in zip(self.axes, k, strict=True))
        return Box(start, tuple(s + a.window for a, s in zip(self.axes, start, strict=True)))

    def window_indices(self, k: Index) -> tuple[NDArray[np.intp], ...]:
        """Per axis the scene indices that fill window ``k``, each of shape ``(window,)``; reflected at the far edge."""
        return tuple(reflect(i * a.stride, a.window, a.extent) for a, i in zip(self.axes, k, strict=True))

    def write(self, j: Index) -> Box:
        """What block ``j`` alone may write."""
        return Box(*zip(*(a.write(i) for a, i in zip(self._at(j), j, strict=True)), strict=True))

    def reach(self, j: Index) -> Box:
        """Where the scores of block ``j`` land. Its own pixels alone, if it owns no window and so has none."""
        if not self.n_owned(j):
            return self.write(j)
        return Box(*zip(*(a.reach(i) for a, i in zip(self._at(j), j, strict=True)), strict=True))

    def read(self, j: Index) -> Box:
        """Hull of the reflected indices of the block's windows; empty at its start if it owns none."""
        if not self.n_owned(j):
            start = self.write(j).start
            return Box(start, start)
        return Box(*zip(*(a.read(i) for a, i in zip(self._at(j), j, strict=True)), strict=True))

    def touching(self, box: Box) -> Iterator[Index]:
        """The blocks that a non-empty box touches, in scan order."""
        if box.is_empty:
            return iter(())
        return product(
            *(range(a // ax.block, -(-b // ax.block)) for ax, a, b in zip(self.axes, box.start, box.stop, strict=True))
        )

    def ramps(self, name: RampName) -> tuple[NDArray[np.float64], ...]:
        """Per axis the rising ramp, each of shape ``(overlap,)``."""
        return tuple(ramp(name, a.overlap, a.window) for a in self.axes)

    def weight(self, k: Index, ramps: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Blend weight of window ``k``, shape ``window``: the outer product of its axes' weights."""
        weight = np.ones(())
        for axis, i, rising in zip(self.axes, k, ramps, strict=True):
            weight = np.multiply.outer(weight, axis.weight(i, rising))
        return weight

    def _at(self, j: Index) -> tuple[Axis, ...]:
        if len(j) != self.ndim or any(not 0 <= i < n for i, n in zip(j, self.n_blocks, strict=False)):
            raise GeometryError(f"no block {j}: this grid has {self.n_blocks} blocks")
        return self.axes
