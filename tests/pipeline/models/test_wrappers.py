"""Wrappers against doing by hand what they say they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.adapter import NetworkModel
from pipeline.models.bundle import load_model
from pipeline.models.normalise import Constants
from pipeline.models.spec import ModelSpec
from pipeline.models.wrappers import MultiScale, SliceWise, Symmetric, symmetries, wrap

MakeBundle = Callable[..., Path]
CONSTANTS = Constants((100.0,) * 3, (50.0,) * 3)


@pytest.fixture
def model(make_bundle: MakeBundle) -> NetworkModel:
    loaded = load_model(str(make_bundle()), device="cpu", precision="fp32", constants=CONSTANTS, ndim=2)
    assert isinstance(loaded, NetworkModel)
    return loaded


def window(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    pixels = torch.rand((2, 3, *shape), generator=g) * 255
    return pixels, torch.rand((2, *shape), generator=g) > 0.05


def test_slice_wise_is_every_slice_on_its_own(model: NetworkModel) -> None:
    pixels, valid = window(3, 32, 40)
    scores = SliceWise(model).scores(pixels, valid)
    assert scores.shape == (2, 3, 3, 32, 40)
    for z in range(3):
        torch.testing.assert_close(scores[:, :, z], model.scores(pixels[:, :, z], valid[:, z]), rtol=1e-4, atol=1e-5)


def test_a_2d_net_meets_a_volume_slice_wise_and_a_3d_net_no_picture(
    make_bundle: MakeBundle, model: NetworkModel
) -> None:
    assert isinstance(wrap(model, tta=None, scales=(1.0,), ndim=3), SliceWise)
    assert wrap(model, tta=None, scales=(1.0,), ndim=2) is model
    deep = make_bundle("deep", ndim=3, window=[8, 32, 32])
    with pytest.raises(ModelError, match="deep is a 3-D model and the scene has 2 axes"):
        load_model(str(deep), device="cpu", precision="fp32", constants=CONSTANTS, ndim=2)


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "mirror x": lambda t: t.flip(-1),
    "mirror y": lambda t: t.flip(-2),
    "half turn": lambda t: t.rot90(2, (-2, -1)),
    "quarter turn": lambda t: t.rot90(1, (-2, -1)),
    "transpose": lambda t: t.transpose(-1, -2),
}


@pytest.mark.parametrize(
    ("kind", "move"), [("flips", m) for m in ("mirror x", "mirror y", "half turn")] + [("d4", m) for m in MOVES]
)
def test_moving_the_window_moves_the_scores_and_nothing_else(model: NetworkModel, kind: Any, move: str) -> None:
    pixels, valid = window(32, 48)  # not square: a quarter turn changes the shape
    moved = MOVES[move]
    symmetric = Symmetric(model, kind)
    after, before = symmetric.scores(moved(pixels), moved(valid)), symmetric.scores(pixels, valid)
    torch.testing.assert_close(after, moved(before), rtol=1e-4, atol=1e-5)
    bare = model.scores(moved(pixels), moved(valid)) - moved(model.scores(pixels, valid))
    assert bare.abs().max() > 1e-3  # the net alone is not symmetric: the wrapper is what makes it so


@pytest.mark.parametrize(("kind", "ndim", "n"), [("flips", 2, 4), ("d4", 2, 8), ("flips", 3, 8), ("d4", 3, 16)])
def test_symmetries_are_distinct_and_undone(kind: Any, ndim: int, n: int) -> None:
    x = torch.arange(4**ndim).view(*(4,) * ndim)
    turns = symmetries(kind, ndim)
    assert len({tuple(turn(x).flatten().tolist()) for turn, _ in turns}) == n
    assert all(torch.equal(back(turn(x)), x) for turn, back in turns)


def test_several_scales_are_the_mean_of_each(model: NetworkModel) -> None:
    pixels, valid = window(32, 48)
    both = MultiScale(model, (1.0, 1.5)).scores(pixels, valid)
    large = MultiScale(model, (1.5,)).scores(pixels, valid)
    torch.testing.assert_close(both, (model.scores(pixels, valid) + large) / 2)
    assert large.shape == both.shape == (2, 3, 32, 48)
    assert torch.equal(MultiScale(model, (1.0,)).scores(pixels, valid), model.scores(pixels, valid))


class Recording(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return torch.cat([x, -x], 1)


def test_scaled_windows_are_multiples_of_the_divisor_and_keep_a_probability(fake_spec: ModelSpec) -> None:
    net = Recording()
    model = NetworkModel(fake_spec, net, Constants((0.0,), (1.0,)), torch.device("cpu"))
    pixels = torch.full((1, 1, 40, 64), 9.0)
    pixels[..., 3, 3] = torch.nan
    scores = MultiScale(model, (0.5, 0.1, 2.0)).scores(pixels, torch.ones(1, 40, 64, dtype=torch.bool))
    assert net.seen == [(1, 1, 16, 32), (1, 1, 8, 8), (1, 1, 80, 128)]
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.sum(1), torch.ones(1, 40, 64))


@pytest.fixture
def fake_spec() -> ModelSpec:
    data = {"name": "f", "classes": ["a", "b"], "channels": ["x"], "normalisation": {"kind": "zscore"}, "divisor": 8}
    return ModelSpec.of(data, "test")


def test_scores_of_another_shape_than_the_spec_says_are_refused(fake_spec: ModelSpec) -> None:
    net = torch.nn.AvgPool2d(2)
    model = NetworkModel(fake_spec, net, Constants((0.0,), (1.0,)), torch.device("cpu"))
    with pytest.raises(ModelError, match=r"f returned scores of shape \(1, 1, 4, 4\) .* not \(1, 2, 8, 8\)"):
        model.scores(torch.zeros(1, 1, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool))


def test_an_ensemble_is_the_mean_of_its_members_each_with_its_constants(make_bundle: MakeBundle) -> None:
    bundles = [str(make_bundle(f"m{i}", seed=i)) for i in range(2)]
    constants = [Constants((100.0,), (50.0,)), Constants((0.0,), (255.0,))]
    pixels, valid = window(32, 32)
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "ndim": 2}
    singles = [
        load_model(b, constants=c, **options).scores(pixels, valid) for b, c in zip(bundles, constants, strict=True)
    ]
    both = load_model(bundles, constants=constants, **options)
    torch.testing.assert_close(both.scores(pixels, valid), (singles[0] + singles[1]) / 2)
    with pytest.raises(ModelError, match="2 bundles and 3 sets of constants"):
        load_model(bundles, constants=[*constants, constants[0]], **options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_classes": 4}, r"equal classes: m0 has \[\('background', 0\), .*m1 has"),
        ({"channels": ["b", "g", "r"]}, r"equal channels: m0 has \['r', 'g', 'b'\], m1 has \['b', 'g', 'r'\]"),
        ({"activation": "sigmoid"}, "equal activation: m0 has softmax, m1 has sigmoid"),
        ({"normalisation": {"kind": "zscore"}}, "equal normalisation: m0 has .*kind='constant'"),
    ],
)
def test_what_cannot_be_an_ensemble(make_bundle: MakeBundle, fields: dict[str, Any], message: str) -> None:
    bundles = [str(make_bundle("m0")), str(make_bundle("m1", **fields))]
    with pytest.raises(ModelError, match=message):
        load_model(bundles, device="cpu", precision="fp32", constants=CONSTANTS, ndim=2)


def test_wrappers_are_chosen_by_name(make_bundle: MakeBundle) -> None:
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "constants": CONSTANTS, "ndim": 3}
    model = load_model(str(make_bundle()), tta="d4", scales=(1.0, 0.5), **options)
    assert isinstance(model, SliceWise)
    assert isinstance(model.inner, Symmetric)
    assert isinstance(model.inner.inner, MultiScale)
    with pytest.raises(ModelError, match=r"scales must be positive numbers, got \[0\.0\]"):
        load_model(str(make_bundle()), scales=(0.0,), **options)


def test_loading_sets_the_switches_that_bits_depend_on(make_bundle: MakeBundle) -> None:
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    load_model(str(make_bundle()), device="cpu", precision="fp32", constants=CONSTANTS, ndim=2)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cuda.matmul.allow_tf32
