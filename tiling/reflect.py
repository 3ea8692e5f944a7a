"""Reflection at the far edge, where a lattice's last window hangs over the scene."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tiling.errors import GeometryError


def reflect(start: int, length: int, extent: int) -> NDArray[np.intp]:
    """Indices into ``[0, extent)`` for the positions ``start .. start + length``, shape ``(length,)``.

    Mirrors without repeating the edge pixel (``numpy.pad(mode="reflect")``), as often as it takes;
    an extent of 1 has nothing to mirror and is repeated.
    """
    if extent < 1:
        raise GeometryError(f"an axis needs at least one pixel, got extent {extent}")
    position = np.arange(start, start + length, dtype=np.intp)
    if extent == 1:
        return np.zeros(length, dtype=np.intp)
    period = 2 * (extent - 1)
    position %= period
    return np.where(position < extent, position, period - position)
