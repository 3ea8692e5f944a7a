"""A ``Frame`` in the words of each format. Frames are (y, x) or (z, y, x); GDAL and NIfTI say (x, y[, z])."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from tiling import Frame

_EQUATOR, _ECCENTRICITY2 = 6_378_137.0, 0.006_694_379_990_14
"""Semi-major axis in metres and squared eccentricity of WGS 84; other ellipsoids differ by less than is drawn."""


def anchored(frame: Frame, anchor: str) -> NDArray[np.float64]:
    """The frame's ``(n, n + 1)`` matrix for indices that name the pixel's ``corner`` or ``centre``."""
    matrix = np.asarray(frame.matrix, dtype=np.float64)
    if frame.anchor != anchor:
        half = 0.5 if anchor == "centre" else -0.5
        matrix[:, -1] += matrix[:, :-1] @ np.full(frame.ndim, half)
    return matrix


def geotransform(frame: Frame) -> tuple[float, float, float, float, float, float] | None:
    """``(a, b, c, d, e, f)`` with x = a col + b row + c and y = d col + e row + f, at pixel corners.

    None for a frame that says nothing: unit pixels, identity.
    """
    if frame.ndim != 2:
        raise UsageError(f"a geotransform has two axes, this frame has {frame.axes}")
    if frame.crs is None and frame == Frame.pixels(frame.axes):
        return None
    (yy, yx, y0), (xy, xx, x0) = anchored(frame, "corner").tolist()
    return xx, xy, x0, yx, yy, y0


def nifti_affine(frame: Frame) -> NDArray[np.float64]:
    """``(4, 4)``: index (x, y, z) of the voxel's centre -> world (x, y, z)."""
    if frame.ndim != 3:
        raise UsageError(f"a NIfTI affine has three axes, this frame has {frame.axes}")
    matrix = anchored(frame, "centre")
    affine = np.eye(4)
    affine[:3, :3] = matrix[::-1, 2::-1]
    affine[:3, 3] = matrix[::-1, 3]
    return affine


def ground_spacing(frame: Frame, shape: tuple[int, ...]) -> tuple[tuple[float, ...], str]:
    """Length of a pixel along each axis, and its unit; of a map in degrees, metres on the ground amid the scene.

    An arc of meridian or parallel at latitude p, with the ellipsoid's radii of curvature (Snyder, Map Projections,
    1987, p. 25): M = a (1 - e2) / (1 - e2 sin2 p)^1.5 and N = a / sqrt(1 - e2 sin2 p).
    Raises FrameError for a sheared frame.
    """
    stored = frame.spacing
    if frame.unit != "degree" or frame.ndim != 2:
        return stored, frame.unit
    latitude = np.radians(frame.world([n / 2 for n in shape])[0])
    bulge = 1 - _ECCENTRICITY2 * np.sin(latitude) ** 2
    metres = np.radians([_EQUATOR * (1 - _ECCENTRICITY2) / bulge**1.5, _EQUATOR / bulge**0.5 * np.cos(latitude)])
    steps = np.asarray(frame.matrix, dtype=np.float64)[:, :-1] * metres[:, None]
    return tuple(np.sqrt((steps**2).sum(axis=0)).tolist()), "m"
