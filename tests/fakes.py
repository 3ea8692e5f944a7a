"""Models that prove the pipeline without a network. Each follows ``pipeline.models.base.Model``.

They compute on the device their pixels are on, in integers until the last division, so that the scores of a
window depend on that window alone: not on the batch it came in, its neighbours in the batch, or threads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.models.base import Model
    from pipeline.models.spec import ModelSpec

_PRIME = 2_147_483_647
_LEVELS = 509  # raw scores are 1 .. _LEVELS, so that no class ever scores zero


def fake_spec(n_classes: int, n_channels: int = 1, ndim: int = 2, **overrides: Any) -> ModelSpec:
    """A spec that fits any window (divisor 1) and leaves pixels as they are; ``overrides`` are fields of it."""
    from pipeline.models.spec import ModelSpec

    fields = {
        "name": "fake",
        "classes": [f"class {k}" for k in range(n_classes)],
        "channels": [f"channel {c}" for c in range(n_channels)],
        "normalisation": {"kind": "scale", "factor": 1.0},
        "ndim": ndim,
        "divisor": 1,
    }
    return ModelSpec.of(fields | overrides, "fake_spec")


@dataclass(frozen=True)
class IdentityModel:
    """Labels recover an integer image: the class is the first channel's value, rounded, within 0 .. K-1.

    ``softness`` is the share of the score that is spread evenly over all classes; 0 is one-hot.
    """

    spec: ModelSpec
    softness: float = 0.0

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        n_classes = self.spec.n_scores
        value = torch.where(valid, pixels[:, 0].double(), 0.0).round().long().clamp(0, n_classes - 1)
        one_hot = torch.nn.functional.one_hot(value, n_classes).movedim(-1, 1).float()
        return one_hot * (1 - self.softness) + self.softness / n_classes


@dataclass(frozen=True)
class CoordinateModel:
    """Scores depend on the pixel, its place inside the window, and everything else in the window.

    Move one window by a pixel, fill its overhang otherwise, or change one pixel or one flag of validity in it,
    and labels change all over it. Scores of a pixel sum to 1.
    """

    spec: ModelSpec

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        value = _bits(torch.where(valid[:, None], pixels, torch.zeros_like(pixels)))
        channel = torch.arange(1, value.shape[1] + 1, device=value.device).reshape(1, -1, *_ones(valid))
        pixel = (value * channel * 7919 % _PRIME).sum(1) + valid.long() * 104_729
        place = _place(valid)
        content = (pixel % 65_521 * (place + 1) % _PRIME).flatten(1).sum(1) % _PRIME
        mixed = pixel % 65_521 * 31_337 + place * 611_953 + content.reshape(-1, *_ones(valid))
        raw = torch.stack([_scramble(mixed + 15_485_863 * k) for k in range(self.spec.n_scores)], 1)
        return (raw.double() / raw.sum(1, keepdim=True).double()).float()


def _bits(pixels: Tensor) -> Tensor:
    """Values of any dtype as non-negative int64, equal only where the float32 values are."""
    return (pixels.float() + 0.0).view(torch.int32).long() & 0xFFFF_FFFF


def _ones(valid: Tensor) -> tuple[int, ...]:
    return (1,) * (valid.ndim - 1)


def _place(valid: Tensor) -> Tensor:
    """Position inside the window, ``(1, *window)``, as one number."""
    window = valid.shape[1:]
    return torch.arange(window.numel(), device=valid.device).reshape(1, *window)


def _scramble(value: Tensor) -> Tensor:
    """Integers spread over 1 .. _LEVELS without a pattern."""
    value = value % _PRIME * 48_271 % _PRIME
    value = (value ^ (value >> 13)) * 16_807 % _PRIME
    return (value >> 7) % _LEVELS + 1


@dataclass(frozen=True)
class Record:
    """One window as a model saw it: its first pixel in each channel, a digest of its pixels, and in which process."""

    first: tuple[float, ...]
    digest: str
    process: int


@dataclass(frozen=True)
class RecordingModel:
    """Another model, with a line for each window that it is given in the file at ``path``.

    Lines are appended in one write each, so that any number of processes can share the file. A window without a
    valid pixel fills up a batch and is not recorded. Over ``coordinate_image``, ``first`` is where the window starts.
    """

    inner: Model
    path: Path

    @property
    def spec(self) -> ModelSpec:
        return self.inner.spec

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        for window, seen in zip(pixels.cpu(), valid.cpu(), strict=True):
            if seen.any():
                self._append(np.ascontiguousarray(window.numpy()))
        return self.inner.scores(pixels, valid)

    def _append(self, window: NDArray[Any]) -> None:
        first = [float(v) for v in window.reshape(len(window), -1)[:, 0]]
        record = {"first": first, "digest": hashlib.sha256(window.tobytes()).hexdigest(), "process": os.getpid()}
        line = (json.dumps(record) + "\n").encode()
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)


def read_records(path: Path) -> Iterator[Record]:
    """What a RecordingModel wrote, in the order it was written; nothing if it saw no window."""
    if path.exists():
        for line in path.read_text().splitlines():
            data = json.loads(line)
            yield Record(tuple(data["first"]), data["digest"], data["process"])


def coordinate_image(extent: Sequence[int], dtype: str = "uint16") -> NDArray[Any]:
    """An image whose pixels say where they are: one channel per axis, shape ``(ndim, *extent)``."""
    return np.asarray(np.indices(tuple(extent)), dtype=dtype)
