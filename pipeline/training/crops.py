"""Batches of random crops. Each depends on the seed and its step alone: a resumed run sees what it would have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.normalise import Constants, normalise
from pipeline.training.config import AugmentConfig
from pipeline.training.pictures import Picture
from tiling import reflect


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """Where crops come from: pictures, each with its own constants, drawn with ``odds`` (which sum to 1)."""

    pictures: Sequence[Picture]
    constants: Sequence[Constants]
    odds: Sequence[float]
    size: int
    augment: AugmentConfig
    seed: int

    def batch(self, step: int, n: int) -> tuple[Tensor, Tensor]:
        """Inputs ``(n, C, size, size)`` float32, normalised, and targets ``(n, size, size)`` int64."""
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.pictures), n, p=self.odds)
        pairs = [self._crop(int(i), rng) for i in chosen]
        return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])

    def _crop(self, i: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        picture, constants = self.pictures[i], self.constants[i]
        side = round(self.size * self.augment.scale ** rng.uniform(-1, 1))
        rows, columns = (_reflected(extent, side, rng) for extent in picture.target.shape)
        where = np.ix_(rows, columns)
        pixels = torch.from_numpy(picture.image[:, rows[:, None], columns[None]].astype(np.float32))
        valid, target = torch.from_numpy(picture.valid[where]), torch.from_numpy(picture.target[where])
        x = normalise(pixels[None], valid[None], constants)
        x, valid, target = _resized(x, valid, target, self.size)
        x, valid, target = _turned(x, valid, target, self.augment, rng)
        return torch.where(valid, _recoloured(x, self.augment, rng), 0.0), target.long()


def _reflected(extent: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of a random stretch; a picture shorter than it is filled by reflection, as inference does."""
    start = int(rng.integers(0, max(extent - side, 0) + 1))
    return np.asarray(reflect(start, side, extent))


def _resized(x: Tensor, valid: Tensor, target: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    if x.shape[-1] == size:
        return x[0], valid, target
    x = functional.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)
    both = functional.interpolate(
        torch.stack([valid.float(), target.float()])[None], (size, size), mode="nearest-exact"
    )[0]
    return x[0], both[0] > 0.5, both[1]


def _turned(
    x: Tensor, valid: Tensor, target: Tensor, augment: AugmentConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    flips = [axis for axis in (-1, -2) if augment.flips and rng.random() < 0.5]
    quarter = int(rng.integers(4)) if augment.rot90 else 0
    x, valid, target = (torch.rot90(t.flip(flips), quarter, (-2, -1)) for t in (x, valid, target))
    return x, valid, target


def _recoloured(x: Tensor, augment: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Hue, contrast about the crop's mean, brightness, then a gain and an offset per channel."""
    if augment.hue:
        x = _rotated_hue(x, augment.hue * np.pi * rng.uniform(-1, 1), 1 + augment.hue / 2 * rng.uniform(-1, 1))
    c = x.shape[0]
    gain, shift = 1 + augment.contrast * rng.uniform(-1, 1), augment.brightness * rng.uniform(-1, 1)
    gains = torch.tensor(1 + augment.colour * rng.uniform(-1, 1, (c, 1, 1)), dtype=torch.float32)
    shifts = torch.tensor(augment.colour / 2 * rng.uniform(-1, 1, (c, 1, 1)), dtype=torch.float32)
    middle = x.mean()
    return ((x - middle) * gain + middle + shift) * gains + shifts


def _rotated_hue(x: Tensor, angle: float, saturation: float) -> Tensor:
    """``(3, y, x)`` with colours turned about the grey axis (Rodrigues' formula) and their distance from it scaled."""
    grey = x.mean(0, keepdim=True)
    off = x - grey
    # the unit vector of grey is (1, 1, 1) / sqrt(3): its cross product with a colour, component by component
    across = torch.stack([off[2] - off[1], off[0] - off[2], off[1] - off[0]]) / np.sqrt(3)
    turned: Tensor = grey + saturation * (np.cos(angle) * off + np.sin(angle) * across)
    return turned
