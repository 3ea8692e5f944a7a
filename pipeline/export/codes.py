"""From class indices to the codes that people asked for: each class's ``value``, and one code for nodata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.export.view import ClassLike, MaskView


@dataclass(frozen=True, slots=True)
class Codes:
    """A look-up table, index -> code.

    table    uint8 or uint16, one entry for each value of the labels' dtype
    nodata   the code of nodata and unresolved pixels; None where the format has none and they became background
    missing  what these pixels were given: ``nodata``, or the background's code
    first_missing  the lowest index that is not a class: nodata, and above it unresolved
    """

    table: NDArray[Any]
    nodata: int | None
    missing: int
    first_missing: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.table.dtype

    def apply(self, indices: NDArray[Any]) -> tuple[NDArray[Any], int]:
        """The codes of these class indices (same shape), and how many pixels were nodata or unresolved."""
        return self.table[indices], int(np.count_nonzero(indices >= self.first_missing))


def codes_of(view: MaskView, *, with_nodata: bool = True) -> Codes:
    """The table for a view.

    Nodata gets the highest code that no class uses: 255 if it is free, else 254 and so on; with values above
    255 (or all 256 in use) the codes are uint16 and nodata is looked for from 65535 down. A format that has
    no nodata gets the background's code instead. Where no class has the role background, the free code is
    written all the same: a pixel that nothing is known about must not become a class.
    """
    values = [c.value for c in view.classes]
    _check(values, view.name)
    dtype = np.dtype(np.uint8 if max(values) <= 255 and set(values) != set(range(256)) else np.uint16)
    background = None if with_nodata else _background(view.classes)
    nodata = _highest_free(values, dtype) if background is None else None
    missing = background if nodata is None else nodata
    if missing is None:
        raise UsageError(f"{view.name}: the classes use every code of {dtype}; give one of them another value")
    table = np.full(view.unresolved_index + 1, missing, dtype=dtype)
    table[: len(values)] = values
    return Codes(table, nodata, missing, view.nodata_index)


def rgb(color: str) -> tuple[int, int, int]:
    """``#rrggbb`` as three bytes."""
    digits = color.removeprefix("#")
    if len(digits) != 6 or any(c not in "0123456789abcdefABCDEF" for c in digits):
        raise UsageError(f"a colour is written #rrggbb, got {color!r}")
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)


def _background(classes: tuple[ClassLike, ...]) -> int | None:
    return next((c.value for c in classes if c.role == "background"), None)


def _highest_free(values: list[int], dtype: np.dtype[Any]) -> int | None:
    used = set(values)
    return next((v for v in range(int(np.iinfo(dtype).max), -1, -1) if v not in used), None)


def _check(values: list[int], name: str) -> None:
    outside = [v for v in values if not 0 <= v <= 65535]
    if outside:
        raise UsageError(f"class values {outside} of {name} fit no raster format we write; use 0 to 65535")
    twice = sorted({v for v in values if values.count(v) > 1})
    if twice:
        raise UsageError(f"class values {twice} of {name} stand for two classes each; give every class its own value")
