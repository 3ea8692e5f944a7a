"""Halving a mask: each coarse pixel is the code that most of its children have."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray


def halve_by_mode(codes: NDArray[Any], factor: tuple[int, ...], nodata: int | None) -> NDArray[Any]:
    """The mode over cells of ``factor`` (1 or 2 per axis), shape ``ceil(shape / factor)``, same dtype.

    Nodata wins only where all children are nodata; of equally frequent codes the lowest wins. A last cell
    that hangs over the edge counts the children it has.
    """
    shape = tuple(-(-n // f) for n, f in zip(codes.shape, factor, strict=True))
    children = [_child(codes, offset, factor, shape, nodata) for offset in product(*map(range, factor))]
    best = np.zeros(shape, dtype=np.uint32)
    for code, counted in children:
        votes = sum((counted & other_counted & (code == other)) for other, other_counted in children)
        # more votes first, then the lower code: one number orders both
        best = np.maximum(
            best, np.asarray(votes, np.uint32) * counted << np.uint32(16) | (65535 - code.astype(np.uint32))
        )
    winner = 65535 - (best & 0xFFFF)
    if nodata is not None:
        winner = np.where(best >> 16 == 0, np.uint32(nodata), winner)
    return winner.astype(codes.dtype)


def _child(
    codes: NDArray[Any], offset: tuple[int, ...], factor: tuple[int, ...], shape: tuple[int, ...], nodata: int | None
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """The children at one place of their cells, and 1 where there is one that counts."""
    part = codes[tuple(slice(o, None, f) for o, f in zip(offset, factor, strict=True))]
    counted = np.ones(part.shape, dtype=np.uint8) if nodata is None else (part != nodata).astype(np.uint8)
    pad = [(0, n - m) for n, m in zip(shape, part.shape, strict=True)]
    return np.pad(part, pad), np.pad(counted, pad)
