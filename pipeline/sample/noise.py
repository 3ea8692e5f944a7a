"""Randomness as a pure function of integer coordinates: hashes and value noise, the same for any cut of the scene.

Only additions, multiplications, shifts and look-ups are used, which give each pixel the same bits however
the arrays are sliced; vectorised transcendental functions do not promise that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Hashes = NDArray[np.uint32]


def mixed(seed: int, salt: int) -> int:
    """A 32-bit key of seed and salt (the finalizer of splitmix64)."""
    z = (seed * 0x9E3779B97F4A7C15 + salt * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) & (2**32 - 1)


def hashed(key: int, *coordinates: NDArray[Any]) -> Hashes:
    """32 random bits for each point; the coordinates are integer arrays that broadcast.

    A multiply-xorshift hash; its constants are those of Wellons' low-bias search.
    """
    h: Any = np.uint32(key)
    for axis, factor in zip(coordinates, (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D), strict=False):
        h = h ^ (axis.astype(np.uint32) * np.uint32(factor))
    h = h ^ (h >> np.uint32(16))
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    out: Hashes = h
    return out


def uniform(hashes: Hashes) -> Floats:
    """[0, 1) from the upper 24 bits."""
    return (hashes >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def noise(key: int, y: Ints, x: Ints, log2: int) -> Floats:
    """Value noise in [-1, 1) at the grid of ascending ``y`` (h,) and ``x`` (w,), shape (h, w).

    Random values at multiples of ``2**log2`` are joined by smoothstep (t * t * (3 - 2 t)), one axis after the other.
    """
    iy, ty = _cell(y, log2)
    ix, tx = _cell(x, log2)
    rows, columns = np.arange(iy[0], iy[-1] + 2), np.arange(ix[0], ix[-1] + 2)
    values = uniform(hashed(key, rows[:, None], columns[None, :])) * np.float32(2) - np.float32(1)
    iy, ix = iy - iy[0], ix - ix[0]
    low = values[iy]
    along = low + (values[iy + 1] - low) * ty[:, None]
    slope = along[:, 1:] - along[:, :-1]
    out: Floats = np.take(slope, ix, axis=1)
    out *= tx
    out += np.take(along, ix, axis=1)
    return out


def noise_at(key: int, y: Ints, x: Ints, log2: int) -> Floats:
    """The same noise at arbitrary points of equal shape (any order); for the few corners of a table."""
    iy, ty = _cell(y, log2)
    ix, tx = _cell(x, log2)

    def corner(dy: int, dx: int) -> Floats:
        return uniform(hashed(key, iy + dy, ix + dx)) * np.float32(2) - np.float32(1)

    near, far = corner(0, 0), corner(0, 1)
    near += (corner(1, 0) - near) * ty
    far += (corner(1, 1) - far) * ty
    return near + (far - near) * tx


def _cell(at: Ints, log2: int) -> tuple[Ints, Floats]:
    """Index of the lattice cell, and the smoothed position in it."""
    t = (at & (2**log2 - 1)).astype(np.float32) * np.float32(2.0**-log2)
    return at >> log2, t * t * (np.float32(3) - t - t)
