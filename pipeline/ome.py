"""OME-NGFF 0.5 ``multiscales``: axes, units, and where each level of a pyramid lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.export.frames import anchored
from tiling import Frame

_UNITS = {
    "m": "meter",
    "metre": "meter",
    "meter": "meter",
    "mm": "millimeter",
    "um": "micrometer",
    "µm": "micrometer",
    "micrometer": "micrometer",
    "nm": "nanometer",
}


def multiscale(
    name: str, frame: Frame, levels: Mapping[str, tuple[int, ...]], method: str, *, channel: bool = False
) -> dict[str, Any]:
    """One entry of ``multiscales``; with a leading channel axis if asked.

    levels  path of each level, and how many pixels of the full resolution one of its pixels covers, per axis
    method  how a level was made of the one before
    """
    unit = {"unit": _UNITS[frame.unit]} if frame.unit in _UNITS else {}
    lead: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if channel else []
    datasets = []
    for path, factor in levels.items():
        scale, translation = scale_of(frame, factor)
        transforms = [
            {"type": "scale", "scale": [1.0] * len(lead) + scale},
            {"type": "translation", "translation": [0.0] * len(lead) + translation},
        ]
        datasets.append({"path": path, "coordinateTransformations": transforms})
    axes = lead + [{"name": axis, "type": "space", **unit} for axis in frame.axes]
    return {"name": name, "axes": axes, "datasets": datasets, "type": method}


def scale_of(frame: Frame, factor: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """Scale and translation (of pixel centres) of the level whose pixels cover ``factor`` of the full resolution's.

    Lengths are positive, as viewers want them; a rotated or north-up frame therefore keeps its origin
    relative to the scene's first pixel, and the whole frame is written beside it.
    """
    linear = np.asarray(frame.matrix, dtype=np.float64)[:, :-1]
    spacing = np.sqrt((linear**2).sum(axis=0))
    steps = np.asarray(factor, dtype=np.float64)
    upright = frame.is_axis_aligned and bool((np.diag(linear) > 0).all()) and frame.unit != "px"
    origin = anchored(frame, "centre")[:, -1] if upright else np.zeros(frame.ndim)
    return (spacing * steps).tolist(), (origin + spacing * (steps - 1) / 2).tolist()
