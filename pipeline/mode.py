"""The most frequent code of each cell: one rule for the pyramids, exports and pictures of a mask.

A class always wins over "no data", which wins only where a cell holds nothing else: a mask seen from afar shows what
was found, thin things at the edge of the data included. GDAL makes overviews by mode in the same way.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BAND = 2**19
"""Pixels that are worked on at once: it takes some twenty bytes for each where codes differ."""
_SORTED = 16
"""Cells of up to so many pixels are sorted, and most need not be; in larger ones codes are counted."""


def most_frequent(codes: NDArray[Any], factor: tuple[int, ...], missing: Collection[int] = ()) -> NDArray[Any]:
    """The mode over cells of ``factor`` pixels, shape ``ceil(shape / factor)``, same dtype (uint8 or uint16).

    Codes in ``missing`` win only where there are no others. Of equally frequent codes the lowest wins. A last cell
    that hangs over the far edge votes with the pixels it has.
    """
    if all(f == 1 for f in factor):
        return codes
    shape = tuple(-(-n // f) for n, f in zip(codes.shape, factor, strict=True))
    out: NDArray[Any] = np.empty(shape, codes.dtype)
    modes = _by_sorting if prod(factor) <= _SORTED else _by_counting
    rows = max(1, _BAND // max(1, codes[0].size * factor[0]))
    for a in range(0, shape[0], rows):
        out[a : a + rows] = modes(codes[a * factor[0] : (a + rows) * factor[0]], factor, missing)
    return out


def _by_counting(codes: NDArray[Any], factor: tuple[int, ...], missing: Collection[int]) -> NDArray[Any]:
    present = np.flatnonzero(np.bincount(codes.ravel()))
    rank = np.zeros(int(present[-1]) + 1, np.int64)
    rank[present] = np.arange(len(present))
    shape = tuple(-(-n // f) for n, f in zip(codes.shape, factor, strict=True))
    cell = np.ravel_multi_index(np.ix_(*(np.arange(n) // f for n, f in zip(codes.shape, factor, strict=True))), shape)
    votes: NDArray[np.int64] = np.bincount(
        (cell * len(present) + rank[codes]).ravel(), minlength=prod(shape) * len(present)
    )
    votes = votes.reshape(*shape, len(present))
    votes += np.where(np.isin(present, list(missing)), 0, prod(factor)) * (votes > 0)
    winner: NDArray[Any] = present[votes.argmax(axis=-1)]  # the first of equal maxima is the lowest code
    return winner


def _by_sorting(codes: NDArray[Any], factor: tuple[int, ...], missing: Collection[int]) -> NDArray[Any]:
    children, absent = _children(codes, factor)
    out: NDArray[Any] = children[0].copy()  # every cell has this child
    mixed = (children != out).any(axis=0)
    out[mixed] = _modes(children[:, mixed], absent, missing)
    return out


def _children(codes: NDArray[Any], factor: tuple[int, ...]) -> tuple[NDArray[Any], int]:
    """``(prod(factor), *cells)`` of a wider dtype, and the code that stands where a cell has no such child."""
    wide = np.uint16 if codes.dtype == np.uint8 else np.uint32
    absent = int(np.iinfo(wide).max)
    padded = np.pad(codes.astype(wide), [(0, -n % f) for n, f in zip(codes.shape, factor, strict=True)],
                    constant_values=absent)  # fmt: skip
    places = product(*map(range, factor))
    return np.stack([padded[tuple(slice(o, None, f) for o, f in zip(p, factor, strict=True))] for p in places]), absent


def _modes(children: NDArray[Any], absent: int, missing: Collection[int]) -> NDArray[Any]:
    """The mode of each column of ``(n, m)`` codes."""
    codes = np.sort(children, axis=0)
    at = np.arange(len(codes), dtype=np.int32)[:, None]
    starts = np.where(np.diff(codes, axis=0, prepend=codes[:1]) != 0, at, 0)
    votes = at - np.maximum.accumulate(starts, axis=0) + 1  # at the end of a run of equal codes: its length
    votes += np.where(np.isin(codes, list(missing)), 0, len(codes)).astype(np.int32)
    votes[codes == absent] = 0
    # the first of equal maxima, which is the lowest code
    winner: NDArray[Any] = np.take_along_axis(codes, votes.argmax(axis=0)[None], axis=0)[0]
    return winner
