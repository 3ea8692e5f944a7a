from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import any_grids
from tiling import RAMPS, GeometryError, Grid, ramp
from tiling.ramp import RampName, axis_weight

windows = st.integers(1, 700).flatmap(lambda w: st.tuples(st.just(w), st.integers(0, w // 2)))


@given(windows, st.sampled_from(RAMPS))
def test_a_ramp_and_its_mirror_sum_to_one_to_the_last_bit(window: tuple[int, int], name: RampName) -> None:
    rising = ramp(name, window[1], window[0])
    assert rising.shape == (window[1],)
    assert rising.dtype == np.float64
    assert np.array_equal(rising + rising[::-1], np.ones(window[1]))


@given(windows, st.sampled_from(RAMPS))
def test_a_ramp_rises_within_zero_and_one(window: tuple[int, int], name: RampName) -> None:
    rising = ramp(name, window[1], window[0])
    assert np.all(np.diff(rising) >= 0)
    assert np.all((rising >= 0) & (rising <= 1))


@given(windows)
def test_formulas(window: tuple[int, int]) -> None:
    size, overlap = window
    t = (np.arange(overlap) + 0.5) / max(overlap, 1)

    def g(position: Any) -> Any:
        return np.exp(-0.5 * ((position - size / 2) / (size / 8)) ** 2)

    entering = g(np.arange(overlap) + 0.5)  # the later window's Gaussian over its first pixels
    leaving = g(size - overlap + np.arange(overlap) + 0.5)  # the earlier window's over its last
    expected = {
        "hann": 0.5 - 0.5 * np.cos(np.pi * t),
        "mean": 0.5 + 0 * t,
        "crop": np.where(t == 0.5, 0.5, t > 0.5),
        "linear": t,
        "gaussian": entering / (entering + leaving),
    }
    assert set(expected) == set(RAMPS)
    for name in RAMPS:
        np.testing.assert_allclose(ramp(name, overlap, size), expected[name], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", [n for n in RAMPS if n != "crop"])
def test_no_pixel_of_an_overlap_has_weight_zero(name: RampName) -> None:
    assert ramp(name, 320, 640).min() > 0


@given(any_grids(), st.sampled_from(RAMPS))
def test_weights_sum_to_one_at_every_pixel(grid: Grid, name: RampName) -> None:
    ramps = grid.ramps(name)
    total, quantised = np.zeros(grid.extent), np.zeros(grid.extent, dtype=np.int64)
    for k in np.ndindex(*(a.n_windows for a in grid.axes)):
        weight = grid.weight(k, ramps)
        assert weight.shape == grid.window
        inside = tuple(
            slice(a, min(b, n))
            for a, b, n in zip(grid.window_box(k).start, grid.window_box(k).stop, grid.extent, strict=True)
        )
        cut = tuple(slice(0, s.stop - s.start) for s in inside)
        total[inside] += weight[cut]
        quantised[inside] += np.rint(weight[cut] * 2**24).astype(np.int64)
    assert np.abs(total - 1).max() <= 1e-15
    # one axis is exact; with d > 1, each of at most 2**d windows is rounded by at most half a unit
    assert np.abs(quantised - 2**24).max() <= (0 if grid.ndim == 1 else 2 ** (grid.ndim - 1))


def test_a_scene_edge_gets_full_weight() -> None:
    rising = ramp("hann", 2, 6)
    assert axis_weight(rising, 6, low=False, high=False).tolist() == [1] * 6
    assert axis_weight(rising, 6, low=False, high=True).tolist() == [1, 1, 1, 1, *rising[::-1]]
    assert axis_weight(rising, 6, low=True, high=False).tolist() == [*rising, 1, 1, 1, 1]
    assert axis_weight(ramp("hann", 0, 6), 6, low=True, high=True).tolist() == [1] * 6


@pytest.mark.parametrize("overlap", [-1, 6])
def test_an_overlap_out_of_range_is_an_error_with_the_cure(overlap: int) -> None:
    with pytest.raises(GeometryError, match=rf"overlap {overlap}, window 10; use 5 or less"):
        ramp("mean", overlap, 10)


def test_an_unknown_blend_is_an_error_with_the_choice() -> None:
    with pytest.raises(GeometryError, match="unknown blend 'cosine'; choose one of hann, mean, crop, linear, gaussian"):
        ramp("cosine", 2, 8)  # type: ignore[arg-type]
