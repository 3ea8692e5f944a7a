"""A ``Frame`` in the words of each format. Frames are (y, x) or (z, y, x); GDAL and NIfTI say (x, y[, z])."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from tiling import Frame

_STEP = 16
"""Pixels over which a scale is taken: far enough for rounding, near enough for the scale to be one."""

_SCALE_TOLERANCE = 0.01
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
    """Length of a pixel along each axis, and its unit; of a map, metres on the ground amid the scene.

    That is the frame's own spacing, but for maps in degrees and for projections whose scale there is off by more than
    1 % (Web Mercator: 13 % at 27 degrees north). Raises FrameError for a sheared frame.
    """
    stored = frame.spacing
    if frame.ndim != 2 or frame.crs is None or frame.unit not in ("degree", "m"):
        return stored, frame.unit
    at = _degrees_at(frame, shape)
    if at is None:
        return stored, frame.unit
    middle, *neighbours = at
    steps = [(end - middle) * metres_per_degree(float(middle[0])) for end in neighbours]
    ground = tuple(float(np.hypot(*step)) / _STEP for step in steps)
    if frame.unit == "m" and all(abs(g / s - 1) <= _SCALE_TOLERANCE for g, s in zip(ground, stored, strict=True)):
        return stored, "m"
    return ground, "m"


def metres_per_degree(latitude: float) -> NDArray[np.float64]:
    """Along the meridian and along the parallel at ``latitude`` (degrees), shape (2,).

    The ellipsoid's radii of curvature (Snyder, Map Projections, 1987, p. 25):
    M = a (1 - e2) / (1 - e2 sin2 p)^1.5 and N = a / sqrt(1 - e2 sin2 p), the latter times cos p.
    """
    p = np.radians(latitude)
    bulge = 1 - _ECCENTRICITY2 * np.sin(p) ** 2
    radii = [_EQUATOR * (1 - _ECCENTRICITY2) / bulge**1.5, _EQUATOR / bulge**0.5 * np.cos(p)]
    return np.radians(radii)


def _degrees_at(frame: Frame, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """(latitude, longitude) amid the scene, and ``_STEP`` pixels further along each axis, shape (3, 2).

    None for a CRS that cannot be related to the globe.
    """
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    middle = np.asarray(shape) / 2
    y, x = frame.world(middle + np.array([[0, 0], [_STEP, 0], [0, _STEP]])).T
    if frame.unit == "degree":
        return np.column_stack([y, x])
    try:
        longitude, latitude = transform(frame.crs, "EPSG:4326", x.tolist(), y.tolist())
    except RasterioError:
        return None
    degrees = np.column_stack([latitude, longitude])
    return degrees if np.isfinite(degrees).all() else None
