"""Which pixels are data. One rule for all formats: equal to nodata in no channel, masked by nothing, finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.sources.base import NodataRule, SourceInfo
from tiling import Box


def resolve_nodata(rule: NodataRule, stored: Sequence[float | None]) -> tuple[float | None, ...]:
    """Nodata per channel: the file's own, none, or the one value the user gave for all."""
    if rule == "source":
        return tuple(stored)
    return (None if rule == "none" else float(rule),) * len(stored)


def valid_pixels(pixels: NDArray[Any], nodata: Sequence[float | None]) -> NDArray[np.bool_]:
    """``(C, *box)`` pixels and C nodata values -> ``(*box)``: true where every channel is data and finite."""
    valid = np.ones(pixels.shape[1:], dtype=np.bool_)
    for channel, value in zip(pixels, nodata, strict=True):
        if channel.dtype.kind == "f":
            valid &= np.isfinite(channel)
        if value is not None and representable(value, channel.dtype):
            valid &= channel != channel.dtype.type(value)
    return valid


def representable(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether a pixel of this dtype can hold the value. NaN and infinities in floats are caught as not finite."""
    if dtype.kind == "f":
        return math.isfinite(value)
    if dtype.kind == "b":
        return value in (0, 1)
    limits = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max


def nodata_notes(nodata: Sequence[float | None], dtype: np.dtype[Any]) -> list[str]:
    """Say so if a nodata value cannot occur in these pixels."""
    lost = sorted({v for v in nodata if v is not None and dtype.kind in "iub" and not representable(v, dtype)}, key=str)
    return [f"nodata {value:g} cannot occur in {dtype} pixels, so it marks none" for value in lost]


def check_read(info: SourceInfo, box: Box, channels: Sequence[int]) -> None:
    """Raise SourceError unless the box lies in the source and the channels exist."""
    if box.ndim != len(info.shape) or not Box.of_shape(info.shape).contains(box):
        raise SourceError(f"{info.uri}: box {box} does not lie within its extent {info.shape}")
    if any(not 0 <= c < len(info.channels) for c in channels):
        raise SourceError(f"{info.uri}: no channels {tuple(channels)} among its {len(info.channels)}")


def check_extent(uri: str, shape: Sequence[int], n_channels: int) -> None:
    """Raise SourceError for an image without pixels."""
    if not all(n > 0 for n in shape) or n_channels == 0:
        raise SourceError(f"{uri} has no pixels: extent {tuple(shape)}, {n_channels} channels")


def check_dtype(uri: str, dtype: np.dtype[Any]) -> None:
    """Raise SourceError for pixels that are not plain numbers."""
    if dtype.kind not in "iufb":
        cure = "store the magnitude or the parts as channels of their own" if dtype.kind == "c" else "convert it first"
        raise SourceError(f"{uri} has {dtype} pixels, which are not real numbers; {cure}")
