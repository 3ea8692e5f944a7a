"""A model file can never run code. Each test hands over a file that would, and looks for what it would have left."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models.bundle import load_model
from pipeline.models.normalise import Constants
from pipeline.models.pack import check, pack

CONSTANTS = Constants((0.0,), (1.0,))


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def load(bundle: Path, **options: Any) -> Any:
    return load_model(str(bundle), device="cpu", precision="fp32", constants=CONSTANTS, ndim=2, **options)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
@pytest.mark.parametrize("form", ["torch", "plain"])
def test_a_pickle_in_a_bundle_is_refused_unread(
    make_bundle: Callable[..., Path], tmp_path: Path, name: str, form: str
) -> None:
    bundle, mark = make_bundle(), tmp_path / "ran"
    (bundle / "model.safetensors").unlink()
    held = {"state_dict": {}, "x": Payload(mark)}
    if form == "torch":
        torch.save(held, bundle / name)
    else:
        (bundle / name).write_bytes(pickle.dumps(held))
    with pytest.raises(ModelError, match="could run code from the file"):
        load(bundle)
    with pytest.raises(ModelError, match="could run code from the file"):
        check(bundle)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))  # the payload itself works: the test would notice
    assert mark.exists()


def test_pack_refuses_it_too_and_says_how_to_convert(tmp_path: Path) -> None:
    mark, weights = tmp_path / "ran", tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": Payload(mark)}, weights)
    with pytest.raises(ModelError, match=r"last\.ckpt holds more than tensors.*convert it once: torch\.save\("):
        pack(
            weights,
            arch="unet",
            encoder="tu-test_resnet",
            classes=["background", "a"],
            channels=["r"],
            out=tmp_path / "out",
            normalisation={"kind": "zscore"},
        )
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_safetensors_are_read_and_a_pickle_beside_them_is_not(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle, mark = make_bundle(), tmp_path / "ran"
    torch.save({"x": Payload(mark)}, bundle / "pytorch_model.bin")
    load(bundle)
    assert not mark.exists()


def test_a_pickle_named_safetensors_is_refused(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle, mark = make_bundle(), tmp_path / "ran"
    torch.save({"x": Payload(mark)}, bundle / "model.safetensors")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load(bundle)
    assert not mark.exists()


def test_a_config_cannot_make_the_encoder_come_from_elsewhere(make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle()
    config = bundle / "config.json"
    config.write_text(config.read_text().replace("tu-test_resnet", "tu-hf-hub:someone/something"))
    with pytest.raises(ModelError, match="'tu-hf-hub:someone/something' names a place to fetch from"):
        load(bundle)


class Doubling(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, 2 * x], 1)


@pytest.fixture
def program(make_bundle: Callable[..., Path]) -> Path:
    """A bundle around an exported program that reads one channel and gives the logits x and 2x."""
    bundle = make_bundle(n_in=1, n_classes=2, normalisation={"kind": "scale", "factor": 1})
    (bundle / "model.safetensors").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns of its own internals
        batch, y, x = (torch.export.Dim(n, min=2, max=512) for n in ("n", "y", "x"))
        exported = torch.export.export(
            Doubling(), (torch.zeros(2, 1, 32, 32),), dynamic_shapes=({0: batch, 2: y, 3: x},)
        )
        torch.export.save(exported, bundle / "model.pt2")
    return bundle


def test_an_exported_program_is_refused_and_the_error_says_why(program: Path) -> None:
    with pytest.raises(ModelError, match=r"loading one can run code from the file: give --trust-model"):
        load(program)


@pytest.mark.filterwarnings("ignore")  # torch.export warns of its own internals while it loads
def test_a_trusted_program_is_a_model_like_any_other(program: Path) -> None:
    model = load(program, trust=True)
    x = torch.rand(2, 1, 16, 24)
    scores = model.scores(x, torch.ones(2, 16, 24, dtype=torch.bool))
    torch.testing.assert_close(scores, torch.softmax(torch.cat([x, 2 * x], 1), 1))


def test_a_program_without_a_spec_says_what_is_missing(program: Path) -> None:
    (program / "seamline.json").unlink()
    with pytest.raises(ModelError, match=r"has no seamline\.json, and a model\.pt2 does not say what it reads"):
        load(program, trust=True)
