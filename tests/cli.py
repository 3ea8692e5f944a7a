"""The command line from the inside: run it in this process, read what it printed; small scenes and networks for it."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

FLAGS = ("--device", "cpu", "--threads", "1")
SMALL = ("--window", "32", "--overlap", "8", "--block", "48")
"""A scene of 60 x 80 is 9 windows in 4 blocks of this."""


@dataclass(frozen=True)
class Ran:
    """What one command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        """Each line of standard output, read as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def text(self) -> str:
        """All that a person would see, for messages wherever they stand."""
        return self.out + self.err


@dataclass(frozen=True)
class Cli:
    """``seamline`` in this process. A traceback is an exception here as it would be for a person: a failed test."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *argv: object) -> Ran:
        from pipeline.__main__ import main

        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["seamline", *map(str, argv)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self.capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, printed.out, printed.err)

    def segment(self, *argv: object, flags: Sequence[str] = SMALL) -> Ran:
        return self("segment", *argv, *flags, *FLAGS)


def pixels(shape: tuple[int, ...] = (3, 60, 80), dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(dtype)


def write_tiff(path: Path, data: NDArray[Any], **profile: Any) -> Path:
    """A GeoTIFF of ``(C, y, x)``; its fourth band is a channel, not alpha."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n, height, width = data.shape
    fields: dict[str, Any] = {"driver": "GTiff", "count": n, "height": height, "width": width, "dtype": str(data.dtype)}
    if n == 3:
        fields["photometric"] = "rgb"
    elif n > 3:
        fields |= {"photometric": "minisblack", "alpha": "unspecified"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # many of these have no place on Earth on purpose
        with rasterio.open(path, "w", **(fields | profile)) as target:
            target.write(data)
    return path


def make_bundle(folder: Path, n_channels: int = 3, n_classes: int = 3, **fields: Any) -> Path:
    """A small real network with random weights, the same for the same arguments."""
    import torch

    from pipeline.models.folder import write_bundle
    from pipeline.models.network import create
    from pipeline.models.spec import ModelSpec

    torch.manual_seed(0)
    options = {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}
    network = create("unet", "tu-test_resnet", n_channels, n_classes, options).eval()
    data = {
        "name": folder.name,
        "classes": ["ground", *(f"class {k}" for k in range(1, n_classes))],
        "channels": [f"c{c + 1}" for c in range(n_channels)],
        "normalisation": {"kind": "constant", "mean": [100.0] * n_channels, "std": [50.0] * n_channels},
        "divisor": 8,
    }
    return write_bundle(folder, network, ModelSpec.of(data | fields, "test"), f"# {folder.name}\n")


def receipts_of(run: str | Path) -> dict[str, int]:
    """When each receipt was written, by its path: what is older was not done again."""
    return {str(p): p.stat().st_mtime_ns for p in Path(run, "receipts").rglob("*.json")}
