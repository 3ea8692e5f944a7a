"""A landscape seen from above, without end and without a file: pixels and exact truth from coordinates and a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.sample.paint import painted, recorded
from pipeline.sample.terrain import ground
from pipeline.sample.trees import LATTICES, crowns
from tiling import Box, Frame

PIXEL_M = 0.5
_TILE = 512  # about 60 MB of layers
_MAX_SIDE = 2**31 - 2**12


@dataclass(frozen=True, slots=True)
class SampleClass:
    """A class of the sample scenes; ``value`` is its code in the truth."""

    name: str
    value: int
    color: str
    role: str = "class"


SAMPLE_CLASSES: tuple[SampleClass, ...] = (
    SampleClass("field", 0, "#c8c896", "background"),
    SampleClass("road", 1, "#e0e0e0"),
    SampleClass("water", 2, "#2878d2"),
    SampleClass("building", 3, "#d2413c"),
    SampleClass("tree", 4, "#1e823c"),
)


@dataclass(frozen=True, slots=True)
class Landscape:
    """Fields, roads, water, buildings and trees, half a metre a pixel; ``shape`` is (y, x)."""

    shape: tuple[int, int]
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) != 2 or not all(1 <= n <= _MAX_SIDE for n in self.shape):
            raise UsageError(f"a landscape has two sides of 1 to {_MAX_SIDE:,} pixels, got {self.shape}")

    @property
    def frame(self) -> Frame:
        """North-up in UTM zone 33, half a metre a pixel, first corner at 500 km E, 5,400 km N."""
        return Frame(("y", "x"), ((-PIXEL_M, 0.0, 5_400_000.0), (0.0, PIXEL_M, 500_000.0)), "m", "EPSG:32633", "corner")

    def read(self, box: Box) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """RGB ``(3, *box.shape)`` and classes ``box.shape``, both uint8.

        A pure function of coordinates and seed: any cut of the scene gives the same bytes. Memory: the result
        and the layers of one tile of 256 pixels. Raises UsageError for a box outside the scene.
        """
        if box.ndim != 2 or not Box.of_shape(self.shape).contains(box):
            raise UsageError(f"{box} does not lie in the landscape of {self.shape}")
        rgb = np.empty((3, *box.shape), dtype=np.uint8)
        truth = np.empty(box.shape, dtype=np.uint8)
        for top in range(0, box.shape[0], _TILE):
            for left in range(0, box.shape[1], _TILE):
                here = np.s_[top : top + _TILE, left : left + _TILE]
                height, width = truth[here].shape
                y = np.arange(-1, height + 1) + (box.start[0] + top)
                x = np.arange(-1, width + 1) + (box.start[1] + left)
                rgb[:, here[0], here[1]], truth[here] = _tile(self.seed, y, x)
        return rgb, truth


@dataclass(frozen=True, slots=True)
class Truth:
    """The classes of a sample scene as an array that is computed where it is sliced (as a mask to export, say)."""

    scene: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.scene.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.uint8]:
        spans = [part.indices(n) for part, n in zip(key, self.shape, strict=True)]
        truth: NDArray[np.uint8] = self.scene.read(Box(tuple(s[0] for s in spans), tuple(s[1] for s in spans)))[1]
        return truth


def _tile(seed: int, y: NDArray[np.int64], x: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    land = ground(seed, y, x)
    trees = tuple(crowns(seed, y, x, cell) for cell in LATTICES)
    colour, truth = painted(seed, y, x, land, trees)
    return recorded(seed, y[1:-1], x[1:-1], colour), truth[1:-1, 1:-1]
