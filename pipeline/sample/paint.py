"""Colours of the sample landscape: from land and crowns to what a camera would record."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.sample.noise import Floats, Ints, hashed, mixed, noise, uniform
from pipeline.sample.terrain import BUILDING, HOUSES, ROAD, TREE, WATER, Ground
from pipeline.sample.trees import Crowns

Colours = tuple[tuple[int, int, int], ...]

_CROPS: Colours = ((150, 148, 84), (118, 132, 66), (176, 158, 104), (96, 116, 58), (140, 112, 80), (188, 178, 126))
_LAWN: Colours = (
    (112, 122, 70),
    (52, 66, 40),
    (120, 122, 84),
    (142, 138, 130),
    (104, 120, 66),
)  # by kind from MEADOW on
_ROOFS: Colours = ((158, 92, 70), (140, 78, 60), (120, 112, 106), (96, 92, 94), (172, 128, 100), (188, 186, 182))
_HALLS: Colours = ((182, 184, 188), (152, 156, 164), (204, 204, 200), (126, 138, 152))
_ASPHALT, _DIRT, _KERB, _PAINT = (112, 110, 110), (172, 152, 120), (158, 154, 146), (214, 212, 204)
_DEEP, _SHALLOW, _SAND = (44, 66, 72), (74, 94, 86), (158, 146, 112)
_LEAF, _LEAF_BRIGHT = (46, 66, 36), (82, 104, 52)
_HAZE = (196, 204, 212)


def painted(seed: int, y: Ints, x: Ints, land: Ground, trees: tuple[Crowns, ...]) -> tuple[Floats, NDArray[np.uint8]]:
    """Colours ``(3, h, w)`` in 0..255 before optics and sensor, and the truth ``(h, w)`` with the trees in it."""
    colour = _soil(seed, land)
    _put(colour, (land.road > -24) & (land.kinds.take(land.plot) >= HOUSES), _KERB)
    _pave(colour, land)
    colour *= _mottle(seed, y, x)
    _flood(colour, land)
    _build(colour, seed, land)
    truth = land.truth.copy()
    shade = land.shadow & (truth != BUILDING)
    for stand in trees:
        shade |= stand.shadow & (truth != BUILDING)
    colour *= np.where(shade, np.float32(0.55), np.float32(1))
    for stand in trees:
        _leaf(colour, stand)
        truth[stand.inside] = TREE
    return colour, truth


def recorded(seed: int, y: Ints, x: Ints, colour: Floats) -> NDArray[np.uint8]:
    """What the camera makes of colours with one pixel more on each side: blur, haze, noise; ``(3, h, w)`` uint8."""
    sharp = colour[:, 1:-1] * np.float32(2) + colour[:, :-2] + colour[:, 2:]
    soft = sharp[:, :, 1:-1] * np.float32(2) + sharp[:, :, :-2] + sharp[:, :, 2:]
    haze = noise(mixed(seed, 30), y, x, 12) * np.float32(0.1) + np.float32(0.1)
    soft *= (np.float32(1) - haze) * np.float32(1 / 16)
    bits = hashed(mixed(seed, 31), y[:, None], x[None, :])
    common = (bits >> np.uint32(24)).astype(np.float32) * np.float32(10 / 256) - np.float32(5)
    out = np.empty(soft.shape, dtype=np.uint8)
    for channel in range(3):
        own = (bits >> np.uint32(8 * channel) & np.uint32(255)).astype(np.float32) * np.float32(8 / 256)
        value = soft[channel] + haze * np.float32(_HAZE[channel])
        value += common
        value += own
        value -= np.float32(3.5)  # the mean of ``own``, less a half for rounding
        out[channel] = np.clip(value, 0, 255, out=value)
    return out


def _soil(seed: int, land: Ground) -> Floats:
    """Fields in strips and rows, and the ground of the other plots."""
    plots = land.plots
    bits = hashed(mixed(seed, 32), plots.rows >> 1, plots.columns)[..., None] + np.zeros(4, np.uint32)
    strip = hashed(mixed(seed, 33), plots.rows[..., None] * 4 + np.arange(4), plots.columns[..., None])
    kinds = land.kinds.reshape(plots.shape)[..., None]
    cut = hashed(mixed(seed, 34), plots.rows, plots.columns)[..., None] % 3 != 0
    crop = np.asarray(_CROPS, np.float32)[np.where(cut, strip, bits) % len(_CROPS)]
    other = np.asarray(_LAWN, np.float32)[np.maximum(kinds, 1) - 1]
    table = (
        np.where((kinds == 0)[..., None], crop, other)
        * (np.float32(0.92) + np.float32(0.16) * uniform(strip))[..., None]
    )
    which = land.plot * 4 + ((land.v & 4095) >> 10)
    rows = hashed(mixed(seed, 35), plots.rows, plots.columns).reshape(-1)
    depth = np.where(land.kinds == 0, uniform(rows) * np.float32(0.16), np.float32(0)).take(land.plot)
    along = np.where((rows & 1).astype(np.bool_).take(land.plot), land.u, land.v)
    wave = np.abs((along & 127) - 64).astype(np.float32) * np.float32(1 / 64)
    light = np.float32(1) - depth * wave
    flat = table.reshape(-1, 3)
    return np.stack([flat[:, c].take(which) * light for c in range(3)])


def _mottle(seed: int, y: Ints, x: Ints) -> Floats:
    light = noise(mixed(seed, 36), y, x, 6) * np.float32(0.07)
    light += noise(mixed(seed, 37), y, x, 3) * np.float32(0.06)
    light += noise(mixed(seed, 38), y, x, 1) * np.float32(0.06)
    light += np.float32(1)
    return light


def _pave(colour: Floats, land: Ground) -> None:
    road = land.truth == ROAD
    half = land.road + land.edge
    _put(colour, road & (half < 48), _DIRT)
    _put(colour, road & (half >= 48), _ASPHALT)
    dashed = ((land.u + land.v) & 511) < 300
    _put(colour, road & (half >= 112) & (land.edge < 10) & dashed, _PAINT)


def _flood(colour: Floats, land: Ground) -> None:
    depth = np.abs(land.wet)
    bank = (depth < 0.045) & (land.truth == 0)
    _put(colour, bank, _SAND)
    water = land.truth == WATER
    if not water.any():
        return
    share = np.clip(depth * np.float32(1 / 0.035), 0, 1)
    share *= share
    for channel, (deep, shallow) in enumerate(zip(_DEEP, _SHALLOW, strict=True)):
        tone = share * np.float32(shallow - deep) + np.float32(deep)
        np.copyto(colour[channel], tone, where=water)


def _build(colour: Floats, seed: int, land: Ground) -> None:
    built = land.roof != 0
    if not built.any():
        return
    lots = land.lots
    bits = hashed(mixed(seed, 39), lots.rows, lots.columns).reshape(-1)
    tone = np.float32(0.9) + np.float32(0.2) * uniform(bits)
    house = np.asarray(_ROOFS, np.float32)[bits % len(_ROOFS)] * tone[:, None]
    hall = np.asarray(_HALLS, np.float32)[bits % len(_HALLS)] * tone[:, None]
    light = np.asarray((1.0, 0.84, 1.0, 1.12), np.float32).take(np.where(land.roof == -1, 3, land.roof))
    level = land.roof == 2
    for channel in range(3):
        roof = np.where(level, hall[:, channel].take(land.lot), house[:, channel].take(land.lot))
        np.copyto(colour[channel], roof * light, where=built)


def _leaf(colour: Floats, stand: Crowns) -> None:
    if not stand.inside.any():
        return
    light = np.float32(1) + stand.light * np.float32(0.35)
    for channel, (dark, bright) in enumerate(zip(_LEAF, _LEAF_BRIGHT, strict=True)):
        tone = (stand.tint * np.float32(bright - dark) + np.float32(dark)) * light
        np.copyto(colour[channel], tone, where=stand.inside)


def _put(colour: Floats, where: NDArray[np.bool_], value: tuple[int, int, int]) -> None:
    for channel, level in enumerate(value):
        np.copyto(colour[channel], np.float32(level), where=where)
