"""The trees of the sample landscape: discs on two jittered lattices, denser in woods, parks, gardens and on banks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.sample.noise import Floats, Ints, hashed, mixed, uniform
from pipeline.sample.terrain import FIELD, Ground, ground

LATTICES = (13, 19)
_DENSITY = (0.015, 0.05, 0.92, 0.28, 0.06, 0.5)  # by kind of plot
_HEDGE_DENSITY, _BANK_DENSITY = np.float32(0.3), np.float32(0.35)


@dataclass(frozen=True, slots=True)
class Crowns:
    """Crowns over a piece of land, (h, w): where, their light (about -1 to 1), their tint, their shadow."""

    inside: NDArray[np.bool_]
    light: Floats
    tint: Floats
    shadow: NDArray[np.bool_]


def crowns(seed: int, y: Ints, x: Ints, cell: int) -> Crowns:
    """One tree at most in each cell of ``cell`` pixels; a crown stays in its cell, so a pixel asks only its own."""
    j, i = y // cell, x // cell
    rows, columns = np.arange(j[0], j[-1] + 1), np.arange(i[0], i[-1] + 1)
    radius, at_y, at_x, tint = _planted(seed, rows, columns, cell)
    j, i = j - j[0], i - i[0]

    def spread(table: Floats) -> Floats:
        out: Floats = np.take(table[j], i, axis=1)
        return out

    squared = spread(radius * radius)
    slope = np.float32(-0.7) / np.maximum(radius, np.float32(1))
    dy = (y % cell).astype(np.float32)[:, None] - spread(at_y)
    dx = (x % cell).astype(np.float32)[None, :] - spread(at_x)
    inside = dy * dy + dx * dx < squared
    sy, sx = dy - np.float32(3), dx - np.float32(3)
    shadow = (sy * sy + sx * sx < squared) & ~inside
    light = (dy + dx) * spread(slope.astype(np.float32))
    return Crowns(inside, light, spread(tint), shadow)


def _planted(seed: int, rows: Ints, columns: Ints, cell: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Radius (0 for no tree), centre in its cell, and tint of each cell's tree."""
    land = ground(seed, rows * cell + cell // 2, columns * cell + cell // 2)
    density = _density(land)
    bits = [uniform(hashed(mixed(seed, 40 + cell + 32 * k), rows[:, None], columns[None, :])) for k in range(5)]
    half = np.float32(cell / 2)
    radius = half * (np.float32(0.55) + np.float32(0.45) * bits[1])
    radius = np.where((bits[0] < density) & (land.truth == FIELD), radius, np.float32(0))
    slack = (half - radius) * np.float32(2)
    at_y, at_x = radius + slack * bits[2], radius + slack * bits[3]
    return radius, at_y, at_x, bits[4]


def _density(land: Ground) -> Floats:
    kinds = land.kinds.take(land.plot)
    density = np.asarray(_DENSITY, dtype=np.float32).take(kinds)
    hedge = (kinds < 2) & (land.edge < 10 * 16) & (land.road < -3 * 16)
    density = np.where(hedge, np.maximum(density, _HEDGE_DENSITY), density)
    bank = np.abs(land.wet) < 0.05
    return np.where(bank, np.maximum(density, _BANK_DENSITY), density)
