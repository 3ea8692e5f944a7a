"""Labelled pictures in memory: read, checked, mapped from mask values to class indices."""

from __future__ import annotations

import csv
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError, UsageError
from pipeline.histogram import Histogram
from pipeline.models.spec import ClassSpec
from pipeline.sources import choose_channels, open_source
from pipeline.training.config import DataConfig
from tiling import Box

IGNORE = 255


@dataclass(frozen=True, slots=True)
class Pair:
    """Paths of one picture and its mask, and the split they belong to."""

    image: str
    mask: str
    split: str


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One labelled 2-D picture.

    scene   the file it comes from: slices of one volume share it, and with it their statistics
    image   ``(C, y, x)`` as stored;  valid   ``(y, x)`` bool
    target  ``(y, x)`` uint8: class index, or 255 for pixels that carry no label or are not valid
    """

    name: str
    scene: str
    image: NDArray[Any]
    valid: NDArray[np.bool_]
    target: NDArray[np.uint8]

    def histograms(self) -> list[Histogram]:
        """One per channel, over the valid pixels."""
        return [Histogram.of(channel[self.valid], self.image.dtype) for channel in self.image]


def list_pairs(data: DataConfig) -> list[Pair]:
    """Raises UsageError for a table without the named columns, and for globs that do not pair up."""
    return _from_table(data) if data.table is not None else _from_globs(data)


def _from_table(data: DataConfig) -> list[Pair]:
    table = Path(str(data.table))
    try:
        rows = list(csv.DictReader(table.read_text().splitlines()))
    except OSError as e:
        raise UsageError(f"data.table: cannot read {table}: {e.strerror}") from e
    columns = (data.image_column, data.mask_column, data.split_column)
    absent = [c for c in columns if not rows or c not in rows[0]]
    if absent:
        found = ", ".join(rows[0]) if rows else "no row at all"
        raise UsageError(f"data.table: {table} has no column {', '.join(absent)}; it has {found}")
    image, mask, split = columns
    return [Pair(str(table.parent / r[image]), str(table.parent / r[mask]), r[split]) for r in rows]


def _from_globs(data: DataConfig) -> list[Pair]:
    images, masks = (sorted(glob.glob(str(g), recursive=True)) for g in (data.images, data.masks))  # noqa: PTH207
    if not images or len(images) != len(masks):
        raise UsageError(
            f"data: {data.images} matches {len(images)} files and {data.masks} {len(masks)}; one mask per image"
        )
    n = len(images)
    train, val = round(data.splits[0] * n), round(data.splits[1] * n)
    names = ["train"] * train + ["val"] * val + ["test"] * n
    return [Pair(i, m, s) for i, m, s in zip(images, masks, names[:n], strict=True)]


def read_pictures(
    pairs: Sequence[Pair], data: DataConfig, classes: Sequence[ClassSpec], channels: Sequence[str]
) -> list[Picture]:
    """Every pair as pictures: one, or one per slice (y, x) of a volume. Raises SourceError, naming the file."""
    return [p for pair in pairs for p in _pictures(pair, data, classes, channels)]


def _pictures(pair: Pair, data: DataConfig, classes: Sequence[ClassSpec], channels: Sequence[str]) -> list[Picture]:
    image, valid = read_image(pair.image, channels, data.bands)
    mask = read_mask(pair.mask)
    if mask.shape != image.shape[1:]:
        raise SourceError(f"{pair.mask} has shape {mask.shape}, its image {pair.image} {image.shape[1:]}")
    target = np.where(valid, to_indices(mask, data, classes, pair.mask), np.uint8(IGNORE))
    name = Path(pair.image).name
    if image.ndim == 3:
        return [Picture(name, pair.image, image, valid, target)]
    return [Picture(f"{name}[{z}]", pair.image, image[:, z], valid[z], target[z]) for z in range(len(target))]


def to_indices(mask: NDArray[Any], data: DataConfig, classes: Sequence[ClassSpec], where: str) -> NDArray[np.uint8]:
    """Mask values -> class indices, same shape. Raises SourceError for a value that is neither class nor ignored."""
    if data.masks_hold == "instances":
        nonzero: NDArray[np.uint8] = (mask != 0).astype(np.uint8)
        return nonzero
    found = np.unique(mask)
    index_of = {c.value: i for i, c in enumerate(classes)} | dict.fromkeys(data.ignore, IGNORE)
    unknown = [v.item() for v in found if v.item() not in index_of]
    if unknown:
        known = ", ".join(f"{c.value} {c.name}" for c in classes)
        raise SourceError(
            f"{where} holds the values {unknown[:8]} that are no class ({known}) and not in data.ignore: "
            "add them to one of the two"
        )
    lookup = np.array([index_of[v.item()] for v in found], np.uint8)
    indices: NDArray[np.uint8] = lookup[np.searchsorted(found, mask)]
    return indices


def read_image(path: str, channels: Sequence[str], bands: str | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """``(C, [z,] y, x)`` as stored, and validity ``([z,] y, x)``; channels are chosen as a run chooses them."""
    source = open_source(path)
    try:
        chosen = choose_channels(source.info, channels, bands)
        return source.read(Box((0,) * len(source.info.shape), source.info.shape), chosen)
    finally:
        source.close()


def read_mask(path: str) -> NDArray[Any]:
    """``([z,] y, x)`` as stored: every value counts, also one the file calls nodata. Raises SourceError."""
    source = open_source(path, nodata="none")
    try:
        info = source.info
        if len(info.channels) != 1:
            raise SourceError(
                f"{path} has the channels {', '.join(info.channels)}: a mask has one, holding class values"
            )
        mask: NDArray[Any] = source.read(Box((0,) * len(info.shape), info.shape), (0,))[0][0]
        return mask
    finally:
        source.close()
