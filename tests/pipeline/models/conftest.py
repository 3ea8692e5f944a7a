"""Small bundles, made on the spot: a real smp network with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.folder import SPEC, write_bundle
from pipeline.models.network import create
from pipeline.models.spec import ModelSpec

TINY = {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}
MakeBundle = Callable[..., Path]


def tiny_network(n_in: int = 3, n_scores: int = 3, seed: int = 0) -> Any:
    import torch

    torch.manual_seed(seed)
    return create("unet", "tu-test_resnet", n_in, n_scores, TINY).eval()


def tiny_spec(n_in: int = 3, n_classes: int = 3, **fields: Any) -> ModelSpec:
    data = {
        "name": "tiny",
        "classes": ["background", *(f"class {i}" for i in range(1, n_classes))],
        "channels": ["r", "g", "b", "nir"][:n_in],
        "normalisation": {"kind": "constant", "mean": [100.0] * n_in, "std": [50.0] * n_in},
        "divisor": 8,
        "window": [32, 32],
    }
    return ModelSpec.of({**data, **fields}, "tiny_spec")


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    def make(name: str = "tiny", seed: int = 0, n_in: int = 3, n_classes: int = 3, **fields: Any) -> Path:
        spec = tiny_spec(n_in, n_classes, **{"name": name, **fields})
        return write_bundle(tmp_path / name, tiny_network(n_in, spec.n_scores, seed), spec, "# tiny\n")

    return make


@pytest.fixture
def edit_spec() -> Callable[..., None]:
    """Change fields of a bundle's seamline.json in place, unchecked."""

    def edit(bundle: Path, **fields: Any) -> None:
        file = bundle / SPEC
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return edit
