"""Ingest of one block: source pixels and their validity become shards of the scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.histogram import Histogram
from pipeline.receipts import Output
from pipeline.run import Run
from pipeline.sources.base import Source
from tiling import Index

_LARGEST = np.finfo(np.float32).max
"""The network reads float32: what is larger would reach it as infinity, and counts as not finite."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """Pixels (C, *box), valid bool (*box), one histogram per channel if the normalisation needs them, tallies."""

    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    histograms: tuple[Histogram, ...]
    pixels_by_kind: dict[str, int]


def read(run: Run, j: Index, source: Source) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    return source.read(run.grid.write(j), run.manifest.question.source.channels)


def compute(pixels: NDArray[Any], valid: NDArray[np.bool_], *, count: bool) -> Ingested:
    """Count what is not valid and why; with ``count`` also histograms of the valid pixels. Pure."""
    finite = (np.abs(pixels) <= _LARGEST).all(axis=0) if pixels.dtype.kind == "f" else np.ones_like(valid)
    valid = valid & finite
    tallies = {"valid": int(valid.sum()), "nonfinite": int((~finite).sum()), "pixels": valid.size}
    histograms = tuple(Histogram.of(values[valid], pixels.dtype) for values in pixels) if count else ()
    return Ingested(pixels, valid, histograms, tallies)


def write(run: Run, j: Index, done: Ingested) -> dict[str, Output]:
    outputs = run.write("valid", j, done.valid.astype(np.uint8))
    if run.manifest.layout.image == "copy":
        outputs |= run.write("image", j, done.pixels)
    for channel, histogram in enumerate(done.histograms):
        outputs |= run.write_bytes(histogram_key(j, channel), histogram.to_bytes())
    return outputs


def histogram_key(j: Index, channel: int) -> str:
    return f"histograms/{'.'.join(map(str, j))}/{channel}.bin"


def merge_histograms(run: Run) -> tuple[Histogram, ...]:
    """The scene's histograms, one per channel: an exact integer sum, the same in any order."""
    merged: tuple[Histogram, ...] = ()
    for j in run.grid.blocks():
        block = tuple(
            Histogram.from_bytes(run.store.get(histogram_key(j, c)))
            for c in range(len(run.manifest.question.source.channels))
        )
        merged = tuple(a + b for a, b in zip(merged, block, strict=True)) if merged else block
    return merged
