"""Pyramids for viewing: each shard of a level is made from the at most 2^n shards below it. One writer a shard."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import array_spec
from pipeline.mode import most_frequent
from pipeline.pixels import read_image
from pipeline.receipts import Output
from pipeline.run import Run
from tiling import Box, Index


def shards(run: Run, level: int) -> Iterator[Index]:
    """Shard indices of a level, in scan order."""
    spec = array_spec(run.manifest, "labels", level)
    return product(*(range(-(-e // b)) for e, b in zip(spec.extent, spec.block, strict=True)))


def children(run: Run, level: int, index: Index) -> Iterator[Index]:
    """The shards of ``level - 1`` that cover shard ``index`` of ``level``."""
    below = array_spec(run.manifest, "labels", level - 1)
    counts = (-(-e // b) for e, b in zip(below.extent, below.block, strict=True))
    return product(*(range(2 * i, min(2 * i + 2, n)) for i, n in zip(index, counts, strict=True)))


def build(run: Run, level: int, index: Index) -> dict[str, Output]:
    """Write one shard of ``level`` of the image and of the mask."""
    outputs: dict[str, Output] = {}
    spec = array_spec(run.manifest, "labels", level)
    box, step = spec.box(index), max(1, spec.chunk[0] // 2)
    labels = np.empty(box.shape, spec.dtype)
    image_spec = array_spec(run.manifest, "image", level)
    image = np.empty((image_spec.channels or 1, *box.shape), image_spec.dtype)
    for a in range(box.start[0], box.stop[0], step):
        # a row of chunks below at a time: a whole shard's children would be 2^n blocks in memory
        part = Box((a, *box.start[1:]), (min(a + step, box.stop[0]), *box.stop[1:]))
        labels[part.slices(box.start)], image[(slice(None), *part.slices(box.start))] = _rows(run, level, part)
    outputs |= run.write("labels", index, labels, level)
    outputs |= run.write("image", index, image, level)
    return outputs


def _rows(run: Run, level: int, part: Box) -> tuple[NDArray[Any], NDArray[Any]]:
    extent = array_spec(run.manifest, "labels", level - 1).extent
    below = Box(tuple(2 * a for a in part.start), tuple(min(2 * b, e) for b, e in zip(part.stop, extent, strict=True)))
    labels = np.asarray(run.array("labels", level - 1)[below.slices()])
    if level > 1:
        image = np.asarray(run.array("image", level - 1)[(slice(None), *below.slices())])
        valid = np.isfinite(image) if image.dtype.kind == "f" else np.ones(image.shape, bool)
    else:
        image = read_image(run, below)
        valid = np.broadcast_to(np.asarray(run.array("valid")[below.slices()]) == 1, image.shape)
    missing = run.manifest.nodata_code, run.manifest.unresolved_code
    means = np.stack([mean_halved(c, v) for c, v in zip(image, valid, strict=True)])
    return most_frequent(labels, (2,) * labels.ndim, missing), means


def mean_halved(image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """Half the extent on every axis by the mean of each cell's valid pixels; integers round half to even.

    A cell without a valid pixel is 0, or NaN for floats.
    """
    total = np.zeros(tuple(-(-e // 2) for e in image.shape), np.float64)
    count = np.zeros(total.shape, np.uint8)
    for value, ok in zip(_corners(image), _corners(valid), strict=True):
        where = tuple(slice(0, e) for e in value.shape)
        total[where] += np.where(ok, value, 0)
        count[where] += ok
    empty = count == 0
    mean = total / np.where(empty, 1, count)
    if image.dtype.kind == "f":
        mean[empty] = np.nan
        return mean.astype(image.dtype)
    return np.rint(mean).astype(image.dtype)


def _corners(array: NDArray[Any]) -> list[NDArray[Any]]:
    """The 2^n strided sub-arrays; those beyond the far edge are shorter."""
    return [array[tuple(slice(o, None, 2) for o in offset)] for offset in product((0, 1), repeat=array.ndim)]
