"""What lies where in the sample landscape: plots, roads, water, buildings, trees. Geometry and classes, no colours.

The land is a lattice of plots of 256 pixels in coordinates (u, v) that are turned and gently warped, held in
sixteenths of a pixel as integers. Each plot has a kind; its edges may be roads; plots of houses have 4 x 4 lots.
Whatever is drawn once for a plot, lot or tree comes from a hash of its index, so no pixel asks its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sample.noise import Floats, Ints, hashed, mixed, noise, noise_at, uniform

FIELD, ROAD, WATER, BUILDING, TREE = range(5)
CROP, MEADOW, FOREST, HOUSES, INDUSTRY, PARK = range(6)

Bools = NDArray[np.bool_]

_SUB = 16  # units of u and v in a pixel
_PLOT, _LOT = 12, 10  # log2 of a plot and a lot in these units: 256 and 64 pixels
_WARP = 80 * _SUB
_TURNS = ((24, 7, 25), (15, 8, 17), (12, 5, 13), (4, 3, 5))  # cosine, sine, radius: exact turns by 16 to 37 degrees
_RIVER, _SHORE = np.float32(0.035), np.float32(0.07)
_SHADE = 5 * _SUB  # how far a roof throws its shadow


@dataclass(frozen=True, slots=True)
class Table:
    """Random bits of the plots (or lots) that a piece of land touches: rows ``first[0]``.., columns ``first[1]``.."""

    first: tuple[int, int]
    shape: tuple[int, int]

    @classmethod
    def around(cls, u: Ints, v: Ints, log2: int, margin: int = 0) -> Table:
        low = (int(u.min() >> log2) - margin, int(v.min() >> log2) - margin)
        high = (int(u.max() >> log2) + margin, int(v.max() >> log2) + margin)
        return cls(low, (high[0] - low[0] + 1, high[1] - low[1] + 1))

    @property
    def rows(self) -> Ints:
        return np.arange(self.first[0], self.first[0] + self.shape[0], dtype=np.int64)[:, None]

    @property
    def columns(self) -> Ints:
        return np.arange(self.first[1], self.first[1] + self.shape[1], dtype=np.int64)[None, :]

    def flat(self, j: Ints, i: Ints) -> Ints:
        """Positions of the cells (j, i) in a flattened array of this table."""
        return (j - self.first[0]) * self.shape[1] + (i - self.first[1])


@dataclass(frozen=True, slots=True)
class Ground:
    """One piece of land, arrays of (h, w) unless said otherwise.

    u, v        turned and warped coordinates in 1/16 pixel
    plots       the plots it touches, ``plot`` the position of each pixel's in it, ``kinds`` their kinds, flat
    truth       class without trees
    road        how far inside a road, in 1/16 pixel (negative: outside)
    edge        distance to the nearest edge of the plot, in 1/16 pixel
    wet         signed water noise: the river is where it is near 0
    lot, roof   position in the flat ``lots`` table; half of the roof (-1, 1; 0 none), 2 for a flat roof
    shadow      shaded by a building
    """

    u: Ints
    v: Ints
    plots: Table
    plot: Ints
    kinds: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    road: Ints
    edge: Ints
    wet: Floats
    lots: Table
    lot: Ints
    roof: NDArray[np.int8]
    shadow: Bools


def ground(seed: int, y: Ints, x: Ints) -> Ground:
    """The land at the grid of ascending ``y`` (h,) and ``x`` (w,), any integers."""
    u, v = _turned(seed, y, x)
    plots, lots = Table.around(u, v, _PLOT), Table.around(u, v, _LOT)
    plot = plots.flat(u >> _PLOT, v >> _PLOT)
    kinds = _kinds(seed, plots.rows, plots.columns).reshape(-1)
    road, edge, main = _roads(seed, u, v, plots)
    wet = _wet(seed, y, x)
    lot = lots.flat(u >> _LOT, v >> _LOT)
    roof, shadow = _roofs(seed, u, v, lots, lot)
    river = np.abs(wet) < _RIVER
    truth = np.zeros(plot.shape, dtype=np.uint8)
    truth[road > 0] = ROAD
    truth[river & ~((road > 0) & main)] = WATER  # only main roads have bridges
    truth[roof != 0] = BUILDING
    return Ground(u, v, plots, plot, kinds, truth, road, edge, wet, lots, lot, roof, shadow)


def _turned(seed: int, y: Ints, x: Ints) -> tuple[Ints, Ints]:
    cosine, sine, radius = _TURNS[mixed(seed, 1) % len(_TURNS)]
    warp_u = noise(mixed(seed, 2), y, x, 11) * np.float32(_WARP)
    warp_v = noise(mixed(seed, 3), y, x, 11) * np.float32(_WARP)
    tall, wide = (y * _SUB)[:, None], (x * _SUB)[None, :]
    u = tall * cosine // radius + wide * sine // radius + warp_u.astype(np.int64)
    v = wide * cosine // radius - tall * sine // radius + warp_v.astype(np.int64)
    return u, v


def _unturned(seed: int, u: Ints, v: Ints) -> tuple[Ints, Ints]:
    """About where (u, v) lies in (y, x): the warp is taken at the unwarped place. A few pixels off, always the same."""
    cosine, sine, radius = _TURNS[mixed(seed, 1) % len(_TURNS)]

    def back(a: Ints, b: Ints) -> tuple[Ints, Ints]:
        return (a * cosine - b * sine) // (radius * _SUB), (a * sine + b * cosine) // (radius * _SUB)

    y, x = back(u, v)
    du = noise_at(mixed(seed, 2), y, x, 11) * np.float32(_WARP)
    dv = noise_at(mixed(seed, 3), y, x, 11) * np.float32(_WARP)
    return back(u - du.astype(np.int64), v - dv.astype(np.int64))


def _kinds(seed: int, j: Ints, i: Ints) -> NDArray[np.uint8]:
    """Kind of each plot: towns and woods where slow noises are high."""
    j, i = np.broadcast_arrays(j, i)
    chance = uniform(hashed(mixed(seed, 4), j, i))
    town = noise_at(mixed(seed, 5), j, i, 3) + np.float32(0.5) * noise_at(mixed(seed, 6), j, i, 1)
    wood = noise_at(mixed(seed, 7), j, i, 2) + np.float32(0.3) * chance
    kinds = np.where(wood > 0.45, FOREST, np.where(chance < 0.2, MEADOW, CROP))
    builtup = np.where(chance < 0.68, HOUSES, np.where(chance < 0.84, INDUSTRY, PARK))
    return np.where(town > 0.1, builtup, kinds).astype(np.uint8)


def _roads(seed: int, u: Ints, v: Ints, plots: Table) -> tuple[Ints, Ints, Bools]:
    """How far inside a road, how far from the plot's edge, and whether the nearest edge is a main road."""
    one = 1 << _PLOT
    wide = Table((plots.first[0] - 1, plots.first[1] - 1), (plots.shape[0] + 2, plots.shape[1] + 2))
    built = _kinds(seed, wide.rows, wide.columns) >= HOUSES
    level, upright = _edges(seed, wide, built)
    pu, pv = u & (one - 1), v & (one - 1)
    eu, ev = np.minimum(pu, one - pu), np.minimum(pv, one - pv)
    across = level.reshape(-1).take(wide.flat((u + one // 2) >> _PLOT, v >> _PLOT)) - eu
    down = upright.reshape(-1).take(wide.flat(u >> _PLOT, (v + one // 2) >> _PLOT)) - ev
    road = np.maximum(across, down)
    nearest = np.minimum(eu, ev)
    return road, nearest, road + nearest >= _MAIN


_MAIN, _STREET, _TRACK = 7 * _SUB, 9 * _SUB // 2, 2 * _SUB


def _edges(seed: int, wide: Table, built: Bools) -> tuple[Ints, Ints]:
    """Half widths of the roads on the low-u and on the low-v edge of each plot, 0 for none."""
    out = []
    for axis, (index, salt) in enumerate(((wide.rows, 8), (wide.columns, 9))):
        before = np.roll(built, 1, axis)
        chance = uniform(hashed(mixed(seed, salt), wide.rows, wide.columns))
        half = np.where(built | before, _STREET, np.where(chance < 0.3, _TRACK, 0))
        out.append(np.where(index % 4 == 0, _MAIN, half).astype(np.int64))
    return out[0], out[1]


def _wet(seed: int, y: Ints, x: Ints) -> Floats:
    out: Floats = noise(mixed(seed, 10), y, x, 12)
    out += noise(mixed(seed, 11), y, x, 10) * np.float32(0.3)
    out += noise(mixed(seed, 12), y, x, 7) * np.float32(0.04)
    return out


def _wet_at(seed: int, y: Ints, x: Ints) -> Floats:
    slow: Floats = noise_at(mixed(seed, 10), y, x, 12) + noise_at(mixed(seed, 11), y, x, 10) * np.float32(0.3)
    return slow + noise_at(mixed(seed, 12), y, x, 7) * np.float32(0.04)


def _roofs(seed: int, u: Ints, v: Ints, lots: Table, lot: Ints) -> tuple[NDArray[np.int8], Bools]:
    """Which half of which roof, and where the shadows fall. A shadow stays within its lot by construction."""
    shape = _houses(seed, lots)
    none = np.zeros(u.shape, dtype=np.int8), np.zeros(u.shape, dtype=np.bool_)
    if not shape["half_u"].any():
        return none
    cell = (1 << _LOT) - 1
    du = (u & cell) - shape["at_u"].take(lot)
    dv = (v & cell) - shape["at_v"].take(lot)
    half_u, half_v = shape["half_u"].take(lot), shape["half_v"].take(lot)
    notch = shape["notch"].take(lot)
    house = _inside(du, dv, half_u, half_v, notch)
    shadow = _inside(du - _SHADE, dv - _SHADE, half_u, half_v, notch) & ~house
    side = np.where(half_u > half_v, dv, du) < 0
    roof = np.where(house, np.where(shape["flat"].take(lot) > 0, 2, np.where(side, -1, 1)), 0)
    return roof.astype(np.int8), shadow


def _inside(du: Ints, dv: Ints, half_u: Ints, half_v: Ints, notch: Ints) -> Bools:
    """Inside the rectangle, but for a corner: notch 0 none, else the part beyond ``notch`` on both axes."""
    rectangle = (np.abs(du) < half_u) & (np.abs(dv) < half_v)
    return rectangle & ~((notch > 0) & (du > half_u - notch) & (dv > half_v - notch))


def _houses(seed: int, lots: Table) -> dict[str, Ints]:
    """One building a lot at most: its middle and half sides in 1/16 pixel, flat arrays over ``lots``.

    Industrial halls fill whole lots, so that neighbours grow together to long ones.
    """
    j, i = np.broadcast_arrays(lots.rows, lots.columns)
    bits = hashed(mixed(seed, 13), j, i)
    kind = _kinds(seed, j >> (_PLOT - _LOT), i >> (_PLOT - _LOT))
    middle = 1 << (_LOT - 1)
    y, x = _unturned(seed, (j << _LOT) + middle, (i << _LOT) + middle)
    dry = np.abs(_wet_at(seed, y, x)) > _SHORE + np.float32(0.02)
    house, hall = (kind == HOUSES) & dry, (kind == INDUSTRY) & dry
    house &= uniform(bits) < 0.9
    hall &= uniform(hashed(mixed(seed, 14), j >> 1, i >> 1)) < 0.75

    def draw(salt: int, low: int, high: int) -> Ints:
        return (low + uniform(hashed(mixed(seed, salt), j, i)) * np.float32(high - low)).astype(np.int64)

    half_u = np.where(house, draw(15, 8 * _SUB, 18 * _SUB), np.where(hall, draw(16, 17 * _SUB, 22 * _SUB), 0))
    half_v = np.where(house, draw(17, 8 * _SUB, 18 * _SUB), np.where(hall, draw(18, 17 * _SUB, 22 * _SUB), 0))
    notch = np.where(house & (bits & 3 == 0), np.minimum(half_u, half_v), 0)
    shapes: dict[str, Any] = {
        "at_u": draw(19, 32 * _SUB, 36 * _SUB),
        "at_v": draw(20, 32 * _SUB, 36 * _SUB),
        "half_u": half_u,
        "half_v": half_v,
        "notch": notch,
        "flat": hall | (bits & 28 == 0),
    }
    return {name: np.asarray(values, dtype=np.int64).reshape(-1) for name, values in shapes.items()}
