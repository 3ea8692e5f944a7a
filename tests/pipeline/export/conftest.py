"""Masks to export, and an array that remembers how it was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.export import MaskView
from tiling import Frame


@dataclass(frozen=True)
class Class:
    name: str
    value: int
    color: str
    role: str = "class"


class Recording:
    """An array that keeps the shape of every read."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values, self.reads = values, []
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        part = self.values[key]
        self.reads.append(part.shape)
        return part

    @property
    def largest(self) -> int:
        return max(int(np.prod(shape)) for shape in self.reads)


CLASSES = (Class("ground", 2, "#101010", "background"), Class("water", 7, "#0000ff"), Class("road", 3, "#808080"))
UTM = Frame(("y", "x"), ((-0.5, 0.0, 5_000_000.0), (0.0, 0.25, 500_000.0)), "m", "EPSG:32633", "corner")


@dataclass(frozen=True)
class Masks:
    """Makes views; ``labels`` are random class indices with a patch of nodata unless given."""

    classes: tuple[Class, ...] = CLASSES
    utm: Frame = UTM

    def labels(self, shape: tuple[int, ...], dtype: str = "uint8", n: int = 3) -> NDArray[Any]:
        values = np.random.default_rng(7).integers(0, n, shape).astype(dtype)
        values[tuple(slice(0, side // 3) for side in shape)] = np.iinfo(dtype).max - 1
        return values

    def view(self, labels: NDArray[Any] | Recording, **changes: Any) -> MaskView:
        ndim = len(labels.shape)
        frame = UTM if ndim == 2 else Frame.of_spacing(("z", "y", "x"), (3.0, 0.5, 0.7), "mm")
        settings = {"classes": CLASSES, "frame": frame, "block": (64, 128)[:ndim] if ndim == 2 else (8, 32, 16)}
        settings |= {"name": "scene", "tags": {"run": "runs/scene-abc", "model": "tiny"}} | changes
        return MaskView(labels=labels, **settings)


@pytest.fixture(scope="session")
def masks() -> Masks:
    return Masks()


@pytest.fixture(scope="session")
def recording() -> type[Recording]:
    return Recording


@pytest.fixture(scope="session")
def make_class() -> type[Class]:
    return Class
