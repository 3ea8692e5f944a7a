"""Histograms: exact for small integers, a bin off at most for the rest, and mergeable to the last count."""

from __future__ import annotations

import tracemalloc
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.histogram import Histogram

EXACT = ("uint8", "int8", "uint16", "int16")
BINNED = ("float32", "float64", "float16", "int32", "uint32", "int64")


def values_of(dtype: str) -> st.SearchStrategy[np.ndarray]:
    floats = np.dtype(dtype).kind == "f"
    elements = st.floats(-60_000, 60_000, width=16).map(float) if floats else st.integers(*_bounds(dtype))
    return hnp.arrays(np.dtype(dtype), st.integers(1, 60), elements=elements)


def _bounds(dtype: str) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return max(info.min, -(2**40)), min(info.max, 2**40)


@given(st.sampled_from(EXACT).flatmap(values_of), st.floats(0, 1))
def test_quantiles_of_small_integers_are_numpys(values: np.ndarray, q: float) -> None:
    expected = np.quantile(values.astype(np.float64), q)
    assert Histogram.of(values, values.dtype).quantile(q) == pytest.approx(expected, abs=1e-9)


@given(st.sampled_from(BINNED).flatmap(values_of), st.floats(0, 1))
def test_quantiles_of_the_rest_are_off_by_less_than_a_bin(values: np.ndarray, q: float) -> None:
    exact = np.quantile(values.astype(np.float64), q)
    # a bin is 1/128 of its value wide, and interpolation mixes two neighbours of the sorted values
    widest = max(abs(np.quantile(values.astype(np.float64), q, method=m)) for m in ("lower", "higher")) / 128
    assert abs(Histogram.of(values, values.dtype).quantile(q) - exact) <= widest + 1e-30


@given(st.sampled_from(EXACT).flatmap(values_of), st.tuples(st.integers(-50, 50), st.integers(51, 200)))
def test_mean_and_std_are_numpys_with_and_without_clip(values: np.ndarray, clip: tuple[int, int]) -> None:
    histogram = Histogram.of(values, values.dtype)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(histogram.mean_std(), (exact.mean(), exact.std()), rtol=1e-9, atol=1e-6)
    clipped = np.clip(exact, *clip)
    np.testing.assert_allclose(histogram.mean_std(clip), (clipped.mean(), clipped.std()), rtol=1e-9, atol=1e-6)


@given(st.data(), st.sampled_from(EXACT + BINNED))
def test_merging_parts_in_any_order_is_the_histogram_of_all(data: st.DataObject, dtype: str) -> None:
    parts = data.draw(st.lists(values_of(dtype), min_size=1, max_size=5))
    whole = Histogram.of(np.concatenate(parts), dtype)
    shuffled = data.draw(st.permutations(parts))
    assert reduce(add, (Histogram.of(p, dtype) for p in shuffled), Histogram.empty(dtype)) == whole
    assert whole.count == sum(len(p) for p in parts)


@given(st.sampled_from(EXACT + BINNED).flatmap(values_of))
def test_bytes_round_trip_and_are_small_for_few_values(values: np.ndarray) -> None:
    histogram = Histogram.of(values, values.dtype)
    data = histogram.to_bytes()
    assert Histogram.from_bytes(data) == histogram
    assert len(data) < 30 + 12 * len(values)


@settings(max_examples=30)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=50))
def test_bins_of_floats_keep_order(values: list[float]) -> None:
    ordered = np.sort(np.array(values, np.float32))
    bins = [int(np.flatnonzero(Histogram.of(v[None], "float32").counts)[0]) for v in ordered]
    assert bins == sorted(bins)


def test_counting_many_values_takes_little_memory_beside_them() -> None:
    values = np.random.default_rng(0).integers(0, 256, 1 << 24, dtype=np.uint8)
    tracemalloc.start()
    histogram = Histogram.of(values, "uint8")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(values)
    np.testing.assert_array_equal(histogram.counts, np.bincount(values, minlength=256))


def test_zeros_are_left_out_of_integers_and_floats_alike() -> None:
    for dtype in ("uint8", "int16", "float32"):
        values = np.array([0, 0, 3, 5], dtype)
        assert Histogram.of(values, dtype).without_zero() == Histogram.of(values[2:], dtype)
    signed = np.array([0.0, -0.0, 1e-30], np.float32)
    assert Histogram.of(signed, "float32").without_zero().count == 1


def test_an_empty_histogram_has_no_quantile_and_no_mean() -> None:
    assert np.isnan(Histogram.empty("uint8").quantile(0.5))
    assert np.isnan(Histogram.empty("float32").mean_std()).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite values only: leave out what is not valid"):
        Histogram.of(np.array([1.0, bad], np.float32), "float32")


def test_values_beyond_float32_land_in_the_outermost_bin() -> None:
    histogram = Histogram.of(np.array([1e300, -1e300]), "float64")
    assert histogram.quantile(1.0) > 1e38
    assert histogram.quantile(0.0) < -1e38


def test_histograms_of_two_dtypes_do_not_add() -> None:
    with pytest.raises(ValueError, match="cannot add histograms of uint8 and int16"):
        Histogram.empty("uint8") + Histogram.empty("int16")


def test_damaged_bytes_are_refused() -> None:
    data = Histogram.of(np.arange(10, dtype=np.uint8), "uint8").to_bytes()
    with pytest.raises(ValueError, match=r"takes \d+ bytes, got \d+"):
        Histogram.from_bytes(data[:-1])
    with pytest.raises(ValueError, match="not a histogram"):
        Histogram.from_bytes(b"PK" + data)


def test_a_quantile_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1, got 99"):
        Histogram.empty("uint8").quantile(99)
