"""Whole-image sliding windows in plain NumPy: no blocks, nothing from ``tiling`` or ``pipeline``.

The scene is padded once with ``numpy.pad``, each window of the lattice is run whole, and probabilities are
added in float64 under weights written out here again. Slow and in memory: for small scenes in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import ceil
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ScoreFn = Callable[[NDArray[np.generic], NDArray[np.bool_]], NDArray[np.floating]]
Scalar = TypeVar("Scalar", bound=np.generic)
NODATA = 254


def oracle(
    image: NDArray[np.generic],
    valid: NDArray[np.bool_],
    score_fn: ScoreFn,
    window: Sequence[int],
    overlap: Sequence[int],
    blend: str,
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Labels, probabilities and how sure the label is, of a whole scene.

    image     (C, *spatial), as stored
    valid     (*spatial) bool; pixels that are not get label 254
    score_fn  ``(N, C, *window), (N, *window) bool -> (N, K, *window)``, called with N = 1; K >= 2
    blend     hann, mean, crop, linear or gaussian

    Returns labels (*spatial) int64, the first of the best classes; probabilities (K, *spatial) float64; and
    gap (*spatial) float64, the best less the second best: where it is tiny, rounding decides the label.
    Windows without a valid pixel are not run, so probabilities are 0 where only they would look.
    """
    extent = valid.shape
    starts = [lattice(n, w, o) for n, w, o in zip(extent, window, overlap, strict=True)]
    padded, shown = image, valid
    for axis, (first, size, n) in enumerate(zip(starts, window, extent, strict=True)):
        padded = pad_end(padded, axis + 1, first[-1] + size - n)
        shown = pad_end(shown, axis, first[-1] + size - n)
    total: Floats | None = None
    for corner in product(*starts):
        cut = tuple(slice(a, a + w) for a, w in zip(corner, window, strict=True))
        if not shown[cut].any():
            continue
        scores = np.asarray(score_fn(padded[(slice(None), *cut)][None], shown[cut][None])[0], dtype=np.float64)
        if total is None:
            total = np.zeros((len(scores), *shown.shape))
        total[(slice(None), *cut)] += scores * window_weight(corner, starts, window, overlap, blend)
    if total is None:
        raise ValueError("no pixel of the scene is valid, so no window says how many classes there are")
    total = total[(slice(None), *(slice(0, n) for n in extent))]
    ranked = np.sort(total, axis=0)
    return np.where(valid, total.argmax(axis=0), NODATA), total, ranked[-1] - ranked[-2]


def lattice(extent: int, window: int, overlap: int) -> list[int]:
    """Where windows start: every ``window - overlap`` pixels until one reaches the end."""
    step = window - overlap
    return [k * step for k in range(1 + max(0, ceil((extent - window) / step)))]


def pad_end(array: NDArray[Scalar], axis: int, by: int) -> NDArray[Scalar]:
    """``by`` more pixels at the end of ``axis``, mirrored about the last one; a single pixel is repeated."""
    if by <= 0:
        return array
    width = [(0, by if n == axis else 0) for n in range(array.ndim)]
    return np.pad(array, width, mode="reflect" if array.shape[axis] > 1 else "edge")


def window_weight(
    corner: Sequence[int], starts: Sequence[Sequence[int]], window: Sequence[int], overlap: Sequence[int], blend: str
) -> Floats:
    """Weight of the window at ``corner``, shape ``window``; windows with no neighbour on a side keep it whole."""
    weight = np.ones(tuple(window))
    for axis, (at, first, size, shared) in enumerate(zip(corner, starts, window, overlap, strict=True)):
        line = np.ones(size)
        for i in range(shared):
            share = entering(blend, i, size, shared)
            if at != first[0]:
                line[i] = share
            if at != first[-1]:
                line[size - shared + i] = 1 - share
        weight *= line.reshape([-1 if n == axis else 1 for n in range(len(window))])
    return weight


def entering(blend: str, i: int, window: int, overlap: int) -> float:
    """Share of the later of two windows in pixel ``i`` of the ``overlap`` pixels they share."""
    t = (i + 0.5) / overlap
    if blend == "hann":
        return float((1 - np.cos(np.pi * t)) / 2)
    if blend == "mean":
        return 0.5
    if blend == "linear":
        return t
    if blend == "crop":
        return 0.5 if 2 * i + 1 == overlap else float(2 * i + 1 > overlap)
    if blend == "gaussian":
        later, earlier = (
            float(np.exp(-0.5 * ((at - window / 2) / (window / 8)) ** 2))
            for at in (i + 0.5, window - overlap + i + 0.5)
        )
        return later / (later + earlier)
    raise ValueError(f"the oracle knows no blend {blend!r}")
