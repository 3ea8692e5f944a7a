"""What an export sees of a mask: an array of class indices that is read block by block, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError, UsageError
from pipeline.store import first_line
from tiling import Box, Frame

STRIP_PIXELS = 2**25
"""Largest piece that a writer of row-major formats assembles, unless one row is longer than that."""


class ClassLike(Protocol):
    """A class of the model: ``value`` is its code in every output, ``color`` is ``#rrggbb``."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...
    @property
    def color(self) -> str: ...
    @property
    def role(self) -> str: ...


class ArrayLike(Protocol):
    """Whatever answers to a tuple of slices: a zarr array, a numpy array."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixels of a mask: one number for each class index, nodata (or outside), and unresolved."""

    classes: tuple[int, ...]
    nodata: int
    unresolved: int

    @property
    def total(self) -> int:
        return sum(self.classes) + self.nodata + self.unresolved


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskView:
    """A mask to export.

    labels   spatial, (y, x) or (z, y, x), uint8 or uint16 class *indices*; the two highest codes of the dtype
             are nodata (254, 65534) and unresolved (255, 65535)
    classes  index i is ``classes[i]``
    frame    index -> world
    block    the labels are read in pieces no larger than this, on its lattice: memory does not grow with the scene
    name     of the scene
    tags     provenance (run, model, sha256, version), written into whatever the format offers
    """

    labels: ArrayLike
    classes: tuple[ClassLike, ...]
    frame: Frame
    block: tuple[int, ...]
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if np.dtype(self.labels.dtype) not in (np.dtype(np.uint8), np.dtype(np.uint16)):
            raise UsageError(f"labels must be uint8 or uint16 class indices, got {self.labels.dtype} for {self.name}")
        if not self.ndim == self.frame.ndim == len(self.block) or self.ndim not in (2, 3):
            raise UsageError(
                f"labels of shape {self.shape}, a frame over {self.frame.axes} and blocks of {self.block} "
                f"do not belong together ({self.name}); each needs the same 2 or 3 axes"
            )
        if any(b < 1 for b in self.block) or any(n < 1 for n in self.shape):
            raise UsageError(f"{self.name} has shape {self.shape} and blocks of {self.block}: every side must be >= 1")
        if not 1 <= len(self.classes) <= self.nodata_index:
            raise UsageError(
                f"{self.labels.dtype} labels hold {self.nodata_index} classes, {self.name} has {len(self.classes)}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.labels.shape)

    @property
    def ndim(self) -> int:
        return len(self.labels.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.labels.dtype)
        return dtype

    @property
    def nodata_index(self) -> int:
        return int(np.iinfo(self.dtype).max) - 1

    @property
    def unresolved_index(self) -> int:
        return int(np.iinfo(self.dtype).max)

    def blocks(self) -> Iterator[Box]:
        """The lattice of ``block`` over the scene, in row-major order."""
        return lattice(Box.of_shape(self.shape), self.block)

    def strips(self, limit: int = STRIP_PIXELS) -> Iterator[Box]:
        """Boxes which, written one after the other in C order, are the whole array in C order.

        Each spans the last axis and, where several rows fit in ``limit`` pixels, a run of rows (or planes).
        """
        *outer, last = self.shape
        side = [1] * len(outer) + [last]
        for axis in reversed(range(len(outer))):
            side[axis] = min(outer[axis], max(1, limit // prod(side)))
            if side[axis] < outer[axis]:
                break
        return lattice(Box.of_shape(self.shape), tuple(side))

    def read(self, box: Box) -> NDArray[Any]:
        """Class indices of one box of at most ``block``.

        Raises RunError for an index that is no class, and for labels that cannot be read.
        """
        part = self._stored(box)
        alien = (part >= len(self.classes)) & (part < self.nodata_index)
        if alien.any():
            raise RunError(
                f"{self.name} holds class index {int(part[alien][0])} in {box}, but its model has only "
                f"{len(self.classes)} classes ({', '.join(c.name for c in self.classes)}); "
                "the mask and the class list are not of one run"
            )
        return part

    def _stored(self, box: Box) -> NDArray[Any]:
        try:
            return np.asarray(self.labels[box.slices()])
        except Exception as e:  # zarr, its codecs and the store raise what they like for a shard that is cut
            raise RunError(
                f"the mask of {self.name} cannot be read in {box}: {first_line(e)}; run `segment` again to heal it"
            ) from e

    def counts(self) -> Counts:
        """Pixels of each code, in one pass over the blocks."""
        n_codes = self.unresolved_index + 1
        total = np.zeros(n_codes, dtype=np.int64)
        for box in self.blocks():
            total += histogram(self.read(box), n_codes)
        per_class = tuple(int(n) for n in total[: len(self.classes)])
        return Counts(per_class, int(total[self.nodata_index]), int(total[self.unresolved_index]))


def lattice(whole: Box, side: tuple[int, ...]) -> Iterator[Box]:
    """Boxes of at most ``side`` that partition ``whole``, in row-major order."""
    starts = [range(a, b, s) for a, b, s in zip(whole.start, whole.stop, side, strict=True)]
    for start in product(*starts):
        stop = tuple(min(a + s, b) for a, s, b in zip(start, side, whole.stop, strict=True))
        yield Box(start, stop)


def pieces(box: Box, block: tuple[int, ...]) -> Iterator[Box]:
    """``box`` cut along the lattice of ``block`` that starts at the origin of the scene."""
    first = tuple(a // b * b for a, b in zip(box.start, block, strict=True))
    for cell in lattice(Box(first, tuple(max(a, b) for a, b in zip(first, box.stop, strict=True))), block):
        part = cell.intersect(box)
        if not part.is_empty:
            yield part


def histogram(part: NDArray[Any], n_codes: int) -> NDArray[np.int64]:
    """How often each code occurs. Counted in runs, because bincount widens what it is given to 8 bytes."""
    total = np.zeros(n_codes, dtype=np.int64)
    flat = part.reshape(-1)
    for start in range(0, flat.size, 2**20):
        total += np.bincount(flat[start : start + 2**20], minlength=n_codes)
    return total
