"""A volume to try things on: a body with bone, two organs, vessels and lesions, from coordinates and a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.sample.landscape import SampleClass
from pipeline.sample.noise import Floats, Ints, hashed, mixed, noise_at, uniform
from tiling import Box, Frame

SPACING_MM = (2.5, 0.8, 0.8)
PHANTOM_CLASSES: tuple[SampleClass, ...] = (
    SampleClass("background", 0, "#000000", "background"),
    SampleClass("bone", 1, "#f0e6c8"),
    SampleClass("liver", 2, "#b45a3c"),
    SampleClass("kidney", 3, "#e6a03c"),
    SampleClass("vessel", 4, "#3c78dc"),
    SampleClass("lesion", 5, "#dc3cb4"),
)
_AIR, _SOFT = np.float32(-1000), np.float32(40)
_LEVELS = np.asarray((0, 700, 75, 105, 190, 15), dtype=np.float32)  # about Hounsfield units, by class
_SLAB = 2**19
_CELL_MM = 24.0  # one lesion at most in each cell of this side

# middles (y, x) as parts of the extent
_KIDNEYS = ((0.62, 0.30), (0.62, 0.70))


@dataclass(frozen=True, slots=True)
class Phantom:
    """Abdomen-like, int16 in about Hounsfield units; ``shape`` is (z, y, x), ``spacing`` mm along each."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] = SPACING_MM
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or not all(1 <= n < 2**31 for n in self.shape):
            raise UsageError(f"a phantom has three sides of at least 1 voxel, got {self.shape}")
        if len(self.spacing) != 3 or not all(0 < s < np.inf for s in self.spacing):
            raise UsageError(f"a phantom has three spacings above 0 mm, got {self.spacing}")

    @property
    def frame(self) -> Frame:
        return Frame.of_spacing(("z", "y", "x"), self.spacing, "mm")

    def read(self, box: Box) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """Intensities ``(1, *box.shape)`` int16 and classes ``box.shape`` uint8.

        A pure function of coordinates and seed. Memory: the result and the layers of a few planes.
        Raises UsageError for a box outside the volume.
        """
        if box.ndim != 3 or not Box.of_shape(self.shape).contains(box):
            raise UsageError(f"{box} does not lie in the phantom of {self.shape}")
        image = np.empty((1, *box.shape), dtype=np.int16)
        truth = np.empty(box.shape, dtype=np.uint8)
        step = max(1, _SLAB // max(1, box.shape[1] * box.shape[2]))
        for low in range(0, box.shape[0], step):
            high = min(low + step, box.shape[0])
            z, y, x = (np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True))
            image[0, low:high], truth[low:high] = self._slab(z[low:high], y, x)
        return image, truth

    def _slab(self, z: Ints, y: Ints, x: Ints) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        truth, body = self._anatomy(z, y, x)
        level = np.where(body, np.where(truth == 0, _SOFT, _LEVELS.take(truth)), _AIR)
        bits = hashed(mixed(self.seed, 60), z[:, None, None], y[:, None], x)
        grain = (bits & np.uint32(0xFFFF)).astype(np.float32) + (bits >> np.uint32(16)).astype(np.float32)
        level += (grain - np.float32(65535)) * np.float32(30 / 65536)  # triangular, standard deviation about 12
        return np.rint(level).astype(np.int16), truth

    def _anatomy(self, z: Ints, y: Ints, x: Ints) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Classes, and where the body is. Positions are parts (0 to 1) of the extent, so that any size is whole."""
        nz, ny, nx = self.shape
        pz, py, px = ((a.astype(np.float32) + np.float32(0.5)) / np.float32(n) for a, n in ((z, nz), (y, ny), (x, nx)))
        py, px = py[:, None], px[None, :]
        swell = self._sway(z, 61, 0.04)
        body = _disc(py, px, 0.5, 0.5, 0.40 + swell, 0.46 + swell) < 1
        truth = np.zeros(body.shape, dtype=np.uint8)
        liver = _ball(pz, py, px, (0.45, 0.38, 0.33), (0.36, 0.22, 0.2)) < 1
        truth[liver] = 2
        for number, (at_y, at_x) in enumerate(_KIDNEYS):
            middle = (0.55 + 0.04 * number, at_y, at_x)
            outer = _ball(pz, py, px, middle, (0.2, 0.09, 0.06))
            truth[(outer < 1) & ~liver] = 3
        truth[(truth > 1) & self._lesions(z, y, x)] = 5
        for salt, at_y, at_x, half in ((62, 0.56, 0.47, 0.025), (63, 0.55, 0.55, 0.02), (64, 0.4, 0.36, 0.014)):
            dy, dx = self._sway(z, salt, 0.03), self._sway(z, salt + 8, 0.03)
            truth[_disc(py, px, at_y + dy, at_x + dx, half * nx / ny, half) < 1] = 4
        spine = _disc(py, px, 0.73, 0.5, 0.07, 0.07) < 1
        wall = _disc(py, px, 0.5, 0.5, 0.37 + swell, 0.43 + swell)
        ribs = (wall < 1) & (wall > 0.9) & self._rib(pz, py)
        truth[spine | ribs] = 1
        return truth, body

    def _sway(self, z: Ints, salt: int, size: float) -> Floats:
        """A slow drift along z, shape (nz, 1, 1): the same at any slice however the volume is cut."""
        at = (z * int(self.spacing[0] * 1024)) >> 4  # 1/64 mm
        drift = noise_at(mixed(self.seed, salt), at, np.zeros_like(at), 12) * np.float32(size)
        return drift[:, None, None]

    def _rib(self, pz: Floats, py: Floats) -> NDArray[np.bool_]:
        along = pz[:, None, None] * np.float32(9) + py * np.float32(2)
        return (along - np.floor(along)) < 0.4

    def _lesions(self, z: Ints, y: Ints, x: Ints) -> NDArray[np.bool_]:
        """Balls of 3 to 9 mm on a jittered lattice; each lies within its cell."""
        cells, offsets = [], []
        for axis, at in enumerate((z, y, x)):
            mm = at.astype(np.float64) * self.spacing[axis]
            index = np.floor(mm / _CELL_MM).astype(np.int64)
            cells.append(index)
            offsets.append((mm - index * _CELL_MM).astype(np.float32))
        first = [c[0] for c in cells]
        corners = np.ix_(*(np.arange(c[0], c[-1] + 1) for c in cells))
        draw = [uniform(hashed(mixed(self.seed, 80 + k), *corners)) for k in range(5)]
        radius = np.where(draw[0] < 0.35, np.float32(3) + draw[1] * np.float32(6), np.float32(0))
        where = np.ix_(*(c - f for c, f in zip(cells, first, strict=True)))
        squared = (radius * radius)[where]
        slack = np.float32(_CELL_MM) - radius * np.float32(2)
        for axis in range(3):
            middle = (radius + slack * draw[2 + axis])[where]
            shape = tuple(-1 if k == axis else 1 for k in range(3))
            squared -= (offsets[axis].reshape(shape) - middle) ** 2
        inside: NDArray[np.bool_] = squared > 0
        return inside


def _disc(
    py: Floats, px: Floats, at_y: Floats | float, at_x: Floats | float, half_y: Floats | float, half_x: Floats | float
) -> Floats:
    """Below 1 inside an ellipse of (y, x); any of its numbers may change along z."""
    dy, dx = (py - np.float32(at_y)) / np.float32(half_y), (px - np.float32(at_x)) / np.float32(half_x)
    return dy * dy + dx * dx


def _ball(
    pz: Floats, py: Floats, px: Floats, middle: tuple[float, float, float], half: tuple[float, float, float]
) -> Floats:
    dz = ((pz - np.float32(middle[0])) / np.float32(half[0]))[:, None, None]
    flat = _disc(py, px, middle[1], middle[2], half[1], half[2])
    return flat[None] + dz * dz
