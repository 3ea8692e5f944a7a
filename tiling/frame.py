"""Where a scene lies in the world.

World coordinates are in the order of the index axes: (y, x) for maps, (z, y, x) for volumes. A GDAL
geotransform or a NIfTI affine, which are (x, y[, z]), are reversed once, when the source is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiling.errors import FrameError

Anchor = Literal["corner", "centre"]


@dataclass(frozen=True, slots=True)
class Frame:
    """Index -> world.

    axes     names of the spatial axes, ("y", "x") or ("z", "y", "x")
    matrix   n rows of n + 1 numbers, so that world = matrix[:, :n] @ index + matrix[:, n]
    unit     of the world coordinates: "m", "mm", "um", "degree", ... or "px" where nothing is known
    crs      WKT or authority code of the coordinate reference system, None for none
    anchor   what an integer index names: the pixel's "corner" (GDAL) or its "centre" (NIfTI, OME)
    """

    axes: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    unit: str = "px"
    crs: str | None = None
    anchor: Anchor = "corner"

    def __post_init__(self) -> None:
        n = len(self.axes)
        if len(self.matrix) != n or any(len(row) != n + 1 for row in self.matrix):
            raise FrameError(f"a frame over {self.axes} needs {n} rows of {n + 1} numbers, got {self.matrix}")
        linear = self._linear()
        if not np.isfinite(np.asarray(self.matrix)).all() or np.linalg.det(linear) == 0:
            raise FrameError(f"this affine maps a pixel to nothing or to infinity: {self.matrix}")
        if self.anchor not in ("corner", "centre"):
            raise FrameError(f"anchor must be 'corner' or 'centre', got {self.anchor!r}")

    @classmethod
    def of_spacing(
        cls, axes: tuple[str, ...], spacing: tuple[float, ...], unit: str, *, anchor: Anchor = "centre"
    ) -> Frame:
        """Axis-aligned, origin at index 0."""
        rows = tuple(tuple(float(s) if r == c else 0.0 for c in range(len(axes) + 1)) for r, s in enumerate(spacing))
        return cls(axes, rows, unit, None, anchor)

    @classmethod
    def pixels(cls, axes: tuple[str, ...]) -> Frame:
        """No georeference: world is index."""
        return cls.of_spacing(axes, (1.0,) * len(axes), "px", anchor="corner")

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Length of one pixel along each axis, in ``unit``.

        Raises FrameError for a sheared affine, which has no spacing per axis.
        """
        linear = self._linear()
        length = np.sqrt((linear**2).sum(axis=0))
        cosine = (linear / length).T @ (linear / length)
        if np.abs(cosine - np.eye(self.ndim)).max() > 1e-6:
            raise FrameError(
                f"this affine is sheared, so its axes have no spacing of their own: {self.matrix}; "
                "use --unit px to measure in pixels"
            )
        return tuple(float(s) for s in length)

    @property
    def is_axis_aligned(self) -> bool:
        """Whether each world axis follows the index axis of the same place (north-up, for a map)."""
        linear = self._linear()
        return not np.any(linear - np.diag(np.diag(linear)))

    def world(self, index: ArrayLike) -> NDArray[np.float64]:
        """World coordinates of (fractional) indices, shape ``(..., ndim)``."""
        moved: NDArray[np.float64] = np.asarray(index, dtype=np.float64) @ self._linear().T + self._offset()
        return moved

    def index(self, world: ArrayLike) -> NDArray[np.float64]:
        """Fractional indices of world coordinates, shape ``(..., ndim)``."""
        offset = np.asarray(world, dtype=np.float64) - self._offset()
        return np.asarray(np.linalg.solve(self._linear(), offset[..., None])[..., 0], dtype=np.float64)

    def downsampled(self, factor: tuple[int, ...]) -> Frame:
        """The frame of an image whose pixel i covers pixels ``i*factor .. (i+1)*factor`` of this one."""
        linear, offset = self._linear(), self._offset()
        f = np.asarray(factor, dtype=np.float64)
        if self.anchor == "centre":
            offset = offset + linear @ ((f - 1) / 2)
        rows = np.column_stack([linear * f, offset])
        return Frame(self.axes, tuple(map(tuple, rows.tolist())), self.unit, self.crs, self.anchor)

    def to_json(self) -> dict[str, object]:
        return {
            "axes": list(self.axes),
            "matrix": [list(row) for row in self.matrix],
            "unit": self.unit,
            "crs": self.crs,
            "anchor": self.anchor,
        }

    @classmethod
    def from_json(cls, data: dict[str, object]) -> Frame:
        matrix = tuple(tuple(float(v) for v in row) for row in data["matrix"])  # type: ignore[attr-defined]
        return cls(tuple(data["axes"]), matrix, str(data["unit"]), data["crs"], data["anchor"])  # type: ignore[arg-type]

    def _linear(self) -> NDArray[np.float64]:
        return np.asarray(self.matrix, dtype=np.float64)[:, : len(self.axes)]

    def _offset(self) -> NDArray[np.float64]:
        return np.asarray(self.matrix, dtype=np.float64)[:, -1]
