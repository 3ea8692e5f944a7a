"""Reading what ingest wrote, or left where it was: pixels, and validity that may not be guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError
from pipeline.run import Run
from tiling import Box

UNKNOWN = 255
"""Validity of pixels that were not ingested, and fill value: neither valid nor not."""


def read_valid(run: Run, box: Box) -> NDArray[np.bool_]:
    """Validity of ``box``, shape ``box.shape``. Raises BlockError where none has been written.

    A lost shard reads as fill. Taken for "no data", it would turn pixels into nodata in silence.
    """
    stored = np.asarray(run.array("valid")[box.slices()])
    if (stored == UNKNOWN).any():
        raise BlockError(
            f"{run.uri} does not say which pixels of {box} are valid: its ingest was lost; run the same command again"
        )
    return np.asarray(stored != 0)


def read_image(run: Run, box: Box) -> NDArray[Any]:
    """The model's channels over ``box``, shape (C, *box.shape), native byte order."""
    array, where = run.array("image"), box.slices()
    if run.manifest.layout.image == "copy":
        return np.asarray(array[(slice(None), *where)])
    if array.ndim == box.ndim:
        return np.asarray(array[where])[None]
    return read_channels(array, run.manifest.question.source.channels, where)


def read_channels(array: Any, channels: tuple[int, ...], where: tuple[slice, ...]) -> NDArray[Any]:
    """Some channels of a zarr array ``(C, *spatial)``; those that share chunks in one read, which decodes them once."""
    per_chunk = int(array.chunks[0])
    parts: dict[int, NDArray[Any]] = {}
    for chunk in {c // per_chunk for c in channels}:
        mine = [c for c in channels if c // per_chunk == chunk]
        read = np.asarray(array[(slice(min(mine), max(mine) + 1), *where)])
        parts |= {c: read[c - min(mine)] for c in mine}
    return np.stack([parts[c] for c in channels])
