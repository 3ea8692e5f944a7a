"""A data set small enough to learn in seconds: bright squares on dark ground, written as real image files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.training.config import TrainConfig

MakeConfig = Callable[..., TrainConfig]


def write_image(path: Path, array: np.ndarray) -> None:
    """``(y, x)`` or ``(y, x, C)`` as PNG."""
    from skimage.io import imsave

    imsave(path, array, check_contrast=False)


def squares(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros(shape, np.uint8)
    for _ in range(4):
        y, x, side = rng.integers(0, shape[0] - 8), rng.integers(0, shape[1] - 8), rng.integers(5, 12)
        mask[y : y + side, x : x + side] = 9
    image = 40 + 120 * (mask > 0)[..., None] + rng.normal(0, 12, (*shape, 3))
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A csv of eight pictures of 40 x 52 pixels: background 0, square 9."""
    rng = np.random.default_rng(0)
    rows = []
    for i, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        image, mask = squares(rng, (40, 52))
        write_image(tmp_path / f"i{i}.png", image)
        write_image(tmp_path / f"m{i}.png", mask)
        rows.append({"image": f"i{i}.png", "mask": f"m{i}.png", "split": split})
    with (tmp_path / "split.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "mask", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


@pytest.fixture
def make_config(data: Path) -> MakeConfig:
    def make(**changes: Any) -> TrainConfig:
        optimiser = {"steps": 30, "batch": 4, "lr": 5e-3, "warmup": 5, "average": 0.8}
        given: dict[str, Any] = {
            "name": "squares",
            "out": str(data / "bundle"),
            "data": {"table": str(data / "split.csv")},
            "channels": ["r", "g", "b"],
            "classes": ["background", {"name": "square", "value": 9}],
            "network": {"encoder": "tu-test_resnet", "options": {"encoder_depth": 2, "decoder_channels": [8, 8]}},
            "validation": {"every": 10, "overlap": 8},
            "crop": 32,
            "divisor": 8,
            "threads": 1,
            "device": "cpu",
        }
        given["optimiser"] = {**optimiser, **changes.pop("optimiser", {})}
        return TrainConfig.model_validate({**given, **changes})

    return make
