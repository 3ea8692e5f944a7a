"""Bytes of labels may only change together with ``ALGORITHM``: a run must not mix blocks of two algorithms."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.manifest import ALGORITHM
from pipeline.models.spec import ModelSpec
from tests.fakes import CoordinateModel, fake_spec
from tests.in_memory import manifest_of, whole
from tests.runs import ArraySource

RAISE_IT = "the bytes of labels changed: raise ALGORITHM in pipeline/manifest.py, and put these digests here"

GOLDEN = {
    1: {
        "2-D hann": "80f49b375a4702ed",
        "2-D gaussian": "56645f5da97e4b60",
        "3-D linear": "5b80cd8c55bad178",
        "sigmoid crop": "b0c5f6bc8b4d2848",
        "floats mean": "554650c4b8e7d380",
    }
}


def digest(arrays: dict[str, Any]) -> str:
    """Of labels, confidence, disagreement and scores, in little-endian bytes."""
    sha = hashlib.sha256()
    for name in ("labels", "confidence", "disagreement", "scores"):
        data = np.ascontiguousarray(arrays[name])
        sha.update(data.astype(data.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()[:16]


def integers(extent: tuple[int, ...]) -> ArraySource:
    """Pixels by a formula in integers, so that no generator's version matters."""
    index = np.indices(extent).reshape(len(extent), -1)
    value = (index * np.array([[7], [31], [101]])[: len(extent)]).sum(0) * 2_654_435_761 % 2**32 >> 24
    return ArraySource(value.reshape(1, *extent).astype(np.uint8), (value % 17 != 0).reshape(extent))


@dataclass(frozen=True)
class FixedScores:
    """Scores in float32 that no integer model gives: thirds and sevenths of the pixel."""

    spec: ModelSpec

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        value = torch.where(valid[:, None], pixels.float(), torch.zeros(())) / 255
        return torch.cat([value / 3, value * value / 7, 1 - value / 3 - value * value / 7], 1)


def made(name: str) -> str:
    kind, blend = name.split()
    extent = (11, 13, 17) if kind == "3-D" else (45, 61)
    source = integers(extent)
    if kind == "sigmoid":
        decision = {"kind": "thresholds", "thresholds": [0.3, 0.4, 0.5]}
        spec = fake_spec(4, activation="sigmoid", decision=decision)
    else:
        spec = fake_spec(3, ndim=len(extent))
    window: dict[str, Any] = (
        {"window": (6,), "overlap": (3,), "block": (6,)} if kind == "3-D" else {"window": (16,), "overlap": (6,)}
    )
    manifest = manifest_of(source, spec, blend=blend, save_scores=True, **{"block": (20,)} | window)
    model = FixedScores(spec) if kind == "floats" else CoordinateModel(spec)
    return digest(whole(manifest, source, model)[0])


def test_the_bytes_of_labels_are_those_of_this_algorithm() -> None:
    assert {name: made(name) for name in GOLDEN[ALGORITHM]} == GOLDEN[ALGORITHM], RAISE_IT
