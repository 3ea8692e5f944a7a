"""Blend ramps: how two windows share the pixels of their overlap.

A ramp r(t) on (0, 1) satisfies r(t) + r(1 - t) = 1, so the weights of all windows over a pixel sum
to 1 by construction: no weight volume, no division, no epsilon.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tiling.errors import GeometryError

RampName = Literal["hann", "mean", "crop", "linear", "gaussian"]
RAMPS: tuple[RampName, ...] = get_args(RampName)


def ramp(name: RampName, overlap: int, window: int) -> NDArray[np.float64]:
    """The rising weights of a window over its low overlap, shape ``(overlap,)``, sampled at pixel centres.

    hann      r = sin^2(pi t / 2)
    mean      r = 1/2: the plain average of both windows
    crop      each window keeps its own half; the middle pixel of an odd overlap is shared
    linear    r = t
    gaussian  r = g(t) / (g(t) + g(1 - t)) with nnU-Net's g, of sigma = window / 8 about the window's centre
              (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z)
    """
    if overlap < 0 or 2 * overlap > window:
        raise GeometryError(
            f"overlap must be from 0 to half the window: overlap {overlap}, window {window}; use {window // 2} or less"
        )
    rising = _raw(name, overlap, window)
    # the upper half h is at least 1/2, so 1 - h is exact and h + (1 - h) is 1 to the last bit
    half = overlap // 2
    rising[:half] = 1 - rising[overlap - half :][::-1]
    rising[half : overlap - half] = 0.5
    return rising


def _raw(name: RampName, overlap: int, window: int) -> NDArray[np.float64]:
    """The formulas of :func:`ramp`, as they round."""
    position = np.arange(overlap) + 0.5
    t = position / max(overlap, 1)
    if name == "hann":
        rising = np.sin(0.5 * np.pi * t) ** 2
    elif name == "mean":
        rising = np.full(overlap, 0.5)
    elif name == "crop":
        rising = (np.sign(t - 0.5) + 1) / 2
    elif name == "linear":
        rising = t
    elif name == "gaussian":
        sigma = window / 8
        # log g(t) - log g(1 - t) is linear in t; the logistic form cannot underflow to 0/0
        far, near = window / 2 - position, window / 2 - (overlap - position)
        rising = 1 / (1 + np.exp((far**2 - near**2) / (2 * sigma**2)))
    else:
        raise GeometryError(f"unknown blend {name!r}; choose one of {', '.join(RAMPS)}")
    return np.asarray(rising, dtype=np.float64)


def axis_weight(rising: NDArray[np.float64], window: int, *, low: bool, high: bool) -> NDArray[np.float64]:
    """Weight of one window along one axis, shape ``(window,)``: ones, and the ramp on each side with a neighbour."""
    weight = np.ones(window)
    if len(rising):
        if low:
            weight[: len(rising)] = rising
        if high:
            weight[-len(rising) :] *= rising[::-1]
    return weight
