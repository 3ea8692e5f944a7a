"""Normalisation: the rule's arithmetic against numpy, and that nothing that is not finite ever gets through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter

from pipeline.errors import ModelError
from pipeline.histogram import Histogram
from pipeline.models.normalise import Constants, needs_histogram, normalise, resolve
from pipeline.models.spec import Normalisation


def rule(**fields: Any) -> Normalisation:
    adapter: TypeAdapter[Normalisation] = TypeAdapter(Normalisation)
    return adapter.validate_python(fields)


def histograms(pixels: np.ndarray) -> list[Histogram]:
    return [Histogram.of(c.ravel(), pixels.dtype) for c in pixels]


def applied(pixels: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    constants = resolve(normalisation, histograms(pixels), pixels.dtype)
    valid = torch.ones((1, *pixels.shape[1:]), dtype=torch.bool)
    return normalise(torch.from_numpy(pixels)[None], valid, constants)[0].numpy()


RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (2, 13, 7)).astype(np.uint8)


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [
        (
            rule(kind="constant", mean=[10, 20], std=[2, 4]),
            (PIXELS - np.array([10, 20])[:, None, None]) / [[[2]], [[4]]],
        ),
        (rule(kind="scale", factor=0.5, offset=3), PIXELS * 0.5 + 3),
        (rule(kind="scale", lo=10, hi=60), (PIXELS - 10.0) / 50),
        (rule(kind="scale", lo=0, hi=100, clip=[50, 100]), np.clip(PIXELS, 50, 100) / 100),
    ],
)
def test_fixed_rules(normalisation: Normalisation, expected: np.ndarray) -> None:
    assert not needs_histogram(normalisation)
    np.testing.assert_allclose(applied(PIXELS, normalisation), expected, rtol=1e-5, atol=1e-5)


def test_zscore_gives_mean_0_and_std_1_per_channel() -> None:
    out = applied(PIXELS, rule(kind="zscore"))
    np.testing.assert_allclose(out.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((1, 2)), 1, atol=1e-5)


def test_zscore_of_clipped_pixels_takes_the_statistics_of_the_clipped() -> None:
    out = applied(PIXELS, rule(kind="zscore", clip=[40, 200]))
    clipped = np.clip(PIXELS.astype(float), 40, 200)
    expected = (clipped - clipped.mean((1, 2), keepdims=True)) / clipped.std((1, 2), keepdims=True)
    np.testing.assert_allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize("clip", [None, [40, 200]])
def test_percentiles_map_to_0_and_1(clip: list[int] | None) -> None:
    out = applied(PIXELS, rule(kind="percentile", low=2, high=98, clip=clip))
    source = PIXELS if clip is None else np.clip(PIXELS, *clip)
    low, high = np.quantile(source, [0.02, 0.98], axis=(1, 2))[:, :, None, None]
    np.testing.assert_allclose(out, (source - low) / (high - low), atol=1e-5)


def test_within_nonzero_leaves_zeros_out_of_the_statistics_only() -> None:
    pixels = np.array([[[0, 0, 0, 10, 20]]], np.uint8)
    constants = resolve(rule(kind="zscore", within="nonzero"), histograms(pixels), "uint8")
    assert (constants.shift, constants.scale) == ((15.0,), (5.0,))
    assert applied(pixels, rule(kind="zscore", within="nonzero"))[0, 0, 0] == -3


@pytest.mark.parametrize("kind", ["zscore", "percentile"])
@pytest.mark.parametrize("values", [[], [7, 7, 7]])
def test_a_channel_without_pixels_or_spread_becomes_0(kind: str, values: list[int]) -> None:
    constants = resolve(rule(kind=kind), [Histogram.of(np.array(values, np.uint8), "uint8")], "uint8")
    assert constants.scale == (1.0,)
    pixels = torch.full((1, 1, 2, 2), float(values[0] if values else 0))
    assert not normalise(pixels, torch.ones(1, 2, 2, dtype=torch.bool), constants).any()


FLOATS = hnp.arrays(np.float32, (2, 3, 4, 5), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))


@settings(max_examples=60)
@given(FLOATS, hnp.arrays(np.bool_, (2, 4, 5)), st.booleans())
def test_nothing_but_finite_numbers_comes_out_and_invalid_is_0(
    pixels: np.ndarray, valid: np.ndarray, clip: bool
) -> None:
    constants = Constants((1.0, 2.0, 3.0), (1e3, 2e3, 4e3), (-1e6, 1e6) if clip else None)
    out = normalise(torch.from_numpy(pixels), torch.from_numpy(valid), constants).numpy()
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    unusable = ~(valid[:, None] & np.isfinite(pixels))
    assert not out[unusable].any()


def test_pixels_under_invalid_change_nothing() -> None:
    valid = torch.tensor([[[True, False]]])
    a, b = (torch.tensor([[[[5.0, x]]]]) for x in (np.nan, 1e30))
    constants = Constants((1.0,), (2.0,))
    assert torch.equal(normalise(a, valid, constants), normalise(b, valid, constants))


def test_volumes_are_normalised_per_channel() -> None:
    pixels = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1, 1).expand(1, 2, 2, 3, 4)
    out = normalise(pixels, torch.ones(1, 2, 3, 4, dtype=torch.bool), Constants((1.0, 1.0), (2.0, 4.0)))
    assert out.unique().tolist() == [1.0]


def test_uint16_pixels_are_taken_as_stored() -> None:
    pixels = torch.from_numpy(np.array([[[[0, 40_000, 65_535]]]], np.uint16))
    out = normalise(pixels, torch.ones(1, 1, 3, dtype=torch.bool), Constants((0.0,), (65_535.0,)))
    np.testing.assert_allclose(out.flatten(), [0, 40_000 / 65_535, 1])


def test_statistics_without_a_histogram_are_an_error() -> None:
    with pytest.raises(ModelError, match="percentile takes the scene's statistics, and there is no histogram"):
        resolve(rule(kind="percentile"), None, "uint8")
    with pytest.raises(ModelError, match="histograms of uint8 for pixels of uint16"):
        resolve(rule(kind="zscore"), [Histogram.empty("uint8")], "uint16")


def test_constants_round_trip_exactly_and_refuse_what_they_cannot_apply() -> None:
    constants = Constants((0.1, 1 / 3), (1e-7, 3.0), (-5.5, 7.0))
    assert Constants.from_json(constants.to_json()) == constants
    for shift, scale in (((0.0,), (0.0,)), ((float("nan"),), (1.0,))):
        with pytest.raises(ValueError, match="must be finite and scale not 0"):
            Constants(shift, scale)
    with pytest.raises(ValueError, match="one shift and one scale per channel, got 2 and 1"):
        Constants((0.0, 1.0), (1.0,))
