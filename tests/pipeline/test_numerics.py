"""What becomes of a pixel: decisions, confidence, codes and scores against formulas in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pipeline import ingest
from pipeline.blend import Decision, Slab, Sums, to_confidence
from pipeline.manifest import SCORE_ONE
from pipeline.models.spec import ModelSpec
from pipeline.status import read_status
from tests.fakes import CoordinateModel, IdentityModel, fake_spec
from tests.in_memory import manifest_of, whole
from tests.runs import ArraySource, labels_of, segment
from tiling import Grid

KINDS = ("predicted", "nodata", "failed")


@dataclass(frozen=True)
class PixelModel:
    """Scores are the pixels, one channel each, as 254ths: nothing of the window but the pixel counts."""

    spec: ModelSpec

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid[:, None], pixels.float(), torch.zeros(())) / 254


def sigmoid_spec(n: int, thresholds: tuple[float, ...], order: tuple[str, ...] | None = None) -> ModelSpec:
    names = ["ground", *(f"channel {c}" for c in range(n))]
    decision: dict[str, Any] = {"kind": "thresholds", "thresholds": thresholds}
    return fake_spec(
        n + 1, n, classes=names, activation="sigmoid", decision=decision | ({"order": order} if order else {})
    )


def random_scores(n: int, shape: tuple[int, ...], seed: int) -> ArraySource:
    """Scores as bytes 0 .. 254, many of them at the thresholds and tied."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (n, *shape)).astype(np.uint8)
    pixels[:, : shape[0] // 2] = rng.choice([0, 64, 127, 128, 200, 254], (n, shape[0] // 2, *shape[1:]))
    return ArraySource(pixels)


THRESHOLDS = (0.5, 127 / 254, 64 / 254)


def test_sigmoid_takes_the_largest_ratio_that_reaches_its_threshold() -> None:
    source = random_scores(3, (40, 30), 1)
    manifest = manifest_of(source, sigmoid_spec(3, THRESHOLDS), window=(16,), overlap=(0,), block=(16,))
    arrays, tallies = whole(manifest, source, PixelModel(manifest.spec))
    p = source.pixels / 254
    ratio = p / np.reshape(THRESHOLDS, (3, 1, 1))
    # equality of bytes with a threshold is exact in the model's float32 and in the sums: allow the one grey level
    clear = np.abs(ratio - 1).min(0) > 1e-6
    top = np.sort(ratio, axis=0)
    clear &= top[-1] - top[-2] > 1e-6
    expected = np.where(ratio.max(0) >= 1, ratio.argmax(0) + 1, 0)
    np.testing.assert_array_equal(arrays["labels"][clear], expected[clear])
    assert clear.mean() > 0.5
    chosen = np.take_along_axis(p, np.maximum(arrays["labels"].astype(int) - 1, 0)[None], 0)[0]
    sure = np.where(arrays["labels"] > 0, chosen, 1 - p.max(0))
    np.testing.assert_allclose(arrays["confidence"], sure * 254, rtol=0, atol=0.501)
    assert tallies["class:ground"] == (arrays["labels"] == 0).sum() > 0


def test_nested_classes_are_painted_in_their_order() -> None:
    order = ("channel 2", "channel 0", "channel 1")
    source = random_scores(3, (40, 30), 2)
    thresholds = (0.31, 0.52, 0.23)  # between the grey levels
    manifest = manifest_of(source, sigmoid_spec(3, thresholds, order), window=(16,), overlap=(4,), block=(12,))
    arrays, _ = whole(manifest, source, PixelModel(manifest.spec))
    expected = np.zeros((40, 30), int)
    for channel in (2, 0, 1):
        expected[source.pixels[channel] / 254 >= thresholds[channel]] = channel + 1
    np.testing.assert_array_equal(arrays["labels"], expected)
    chosen = np.take_along_axis(source.pixels, np.maximum(expected - 1, 0)[None], 0)[0] / 254
    sure = np.where(expected > 0, chosen, 1 - source.pixels.max(0) / 254)
    np.testing.assert_allclose(arrays["confidence"], sure * 254, rtol=0, atol=0.501)


def test_a_score_that_equals_its_threshold_reaches_it() -> None:
    for decision in (Decision((0.5, 0.25)), Decision((0.5, 0.25), (0, 1))):
        label, value = decision(
            torch.tensor([[SCORE_ONE // 2 - 1, SCORE_ONE // 2], [0, 0]], dtype=torch.int32), SCORE_ONE
        )
        assert label.tolist() == [0, 1]
        assert value.tolist() == [SCORE_ONE // 2 + 1, SCORE_ONE // 2]


@given(st.integers(1, 6), st.integers(0, 999))
@settings(max_examples=30)
def test_argmax_gives_ties_to_the_lowest_index(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 4, (n, 50)).astype(np.int32)
    label, value = Decision()(torch.from_numpy(values), SCORE_ONE)
    np.testing.assert_array_equal(label.numpy(), values.argmax(0))
    np.testing.assert_array_equal(value.numpy(), values.max(0))


def test_confidence_is_254ths_rounded() -> None:
    steps = np.arange(255)
    exact = torch.from_numpy(np.rint(steps / 254 * SCORE_ONE).astype(np.int32))
    np.testing.assert_array_equal(to_confidence(exact).numpy(), steps)
    beyond = torch.tensor([-3, SCORE_ONE + 3], dtype=torch.int32)  # sums may be off by a few parts in 2^24
    assert to_confidence(beyond).tolist() == [0, 254]


def test_save_scores_are_the_blended_probabilities_and_nothing_where_there_is_no_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    source = ArraySource(rng.integers(0, 255, (2, 30, 41)).astype(np.uint8), rng.random((30, 41)) > 0.2)
    model = PixelModel(fake_spec(2, 2))
    run = segment(tmp_path, source, model, window=(12,), overlap=(4,), block=(16,), save_scores=True)
    scores = np.asarray(run.array("scores")[...])
    assert scores.dtype == np.uint16
    assert source.valid is not None
    expected = np.where(source.valid, source.pixels / 254, 0)
    np.testing.assert_allclose(scores / 65535, expected, rtol=0, atol=1.1 / 65535)
    plain = segment(tmp_path / "plain", source, model, window=(12,), overlap=(4,), block=(16,))
    np.testing.assert_array_equal(labels_of(plain), labels_of(run))
    assert plain.manifest.run_name != run.manifest.run_name


def test_more_than_254_classes_take_two_bytes(tmp_path: Path) -> None:
    n = 300
    pixels = (np.arange(40 * 50) % n).reshape(1, 40, 50).astype(np.uint16)
    valid = np.ones((40, 50), bool)
    valid[3:5, 7:9] = False
    source = ArraySource(pixels, valid)
    run = segment(tmp_path, source, IdentityModel(fake_spec(n)), window=(16,), overlap=(4,), block=(24,))
    assert run.manifest.label_dtype == "uint16"
    np.testing.assert_array_equal(labels_of(run), np.where(valid, pixels[0], 65534))
    status = read_status(run)
    assert (status.pixels["nodata"], status.pixels["failed"]) == (4, 0)
    assert status.pixels["class:class 299"] == (pixels[0][valid] == 299).sum()


def test_254_classes_still_fit_one_byte(tmp_path: Path) -> None:
    pixels = (np.arange(16 * 16) % 254).reshape(1, 16, 16).astype(np.uint8)
    run = segment(tmp_path, ArraySource(pixels), IdentityModel(fake_spec(254)), window=(16,), overlap=(0,), block=(16,))
    assert run.manifest.label_dtype == "uint8"
    np.testing.assert_array_equal(labels_of(run), pixels[0])


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_pixels_that_are_not_finite_are_nodata_and_do_not_spread(tmp_path: Path, dtype: str) -> None:
    pixels = (np.arange(33 * 45) % 5).reshape(1, 33, 45).astype(dtype)
    holes = [(0, 0), (16, 20), (32, 44)]
    for hole, value in zip(holes, (np.nan, np.inf, -np.inf), strict=True):
        pixels[(0, *hole)] = value
    if dtype == "float64":
        pixels[0, 5, 5] = 1e300  # the network reads float32: there it is infinite
        holes.append((5, 5))
    run = segment(tmp_path, ArraySource(pixels), IdentityModel(fake_spec(5)), window=(16,), overlap=(8,), block=(16,))
    expected = np.where(np.isfinite(pixels[0]), pixels[0], 0)
    for hole in holes:
        expected[hole] = 254
    np.testing.assert_array_equal(labels_of(run), expected)
    assert sum(r.pixels["nonfinite"] for r in run.receipts("ingest")) == len(holes)
    assert sum(r.pixels["valid"] for r in run.receipts("ingest")) == 33 * 45 - len(holes)
    assert read_status(run).pixels["nodata"] == len(holes)
    stored = np.asarray(run.array("image")[...])
    np.testing.assert_array_equal(stored, pixels)


def test_a_pixel_is_valid_only_if_every_channel_is() -> None:
    pixels = np.zeros((2, 1, 3), np.float32)
    pixels[0, 0, 0] = pixels[1, 0, 1] = np.nan
    done = ingest.compute(pixels, np.ones((1, 3), bool), count=True)
    assert done.valid.tolist() == [[False, False, True]]
    assert done.pixels_by_kind == {"valid": 1, "nonfinite": 2, "pixels": 3}
    assert [h.count for h in done.histograms] == [1, 1]


@pytest.mark.parametrize("extent", [(1, 37), (23, 31), (7, 9, 11)])
def test_a_scene_without_data_is_a_valid_run(tmp_path: Path, extent: tuple[int, ...]) -> None:
    source = ArraySource(np.zeros((1, *extent), np.uint8), np.zeros(extent, bool))
    model = CoordinateModel(fake_spec(3, ndim=len(extent)))
    run = segment(tmp_path, source, model, window=(4,), overlap=(2,), block=(6,))
    status = read_status(run)
    assert status.status == "complete"
    assert (status.windows_run, status.windows_skipped) == (0, run.grid.n_windows)
    assert (labels_of(run) == 254).all()
    assert (np.asarray(run.array("confidence")[...]) == 255).all()
    assert {k: status.pixels[k] for k in KINDS} == {"predicted": 0, "nodata": source.pixels.size, "failed": 0}
    assert (status.pixels["overlap"], status.pixels["disagree"]) == (0, 0)


@given(st.integers(0, 999), st.floats(0, 1))
@settings(max_examples=20)
def test_no_pixel_is_invented(seed: int, holes: float) -> None:
    rng = np.random.default_rng(seed)
    extent = tuple(int(v) for v in rng.integers(1, 40, 2))
    source = ArraySource(rng.integers(0, 9, (1, *extent)).astype(np.uint8), rng.random(extent) >= holes)
    grid = Grid.of(extent, (10, 8), (4, 2), (12, 6))
    spec = fake_spec(3)
    manifest = manifest_of(source, spec, grid)
    blocks = list(grid.blocks())
    failed = [j for j in blocks if rng.random() < 0.2]
    arrays, tallies = whole(manifest, source, CoordinateModel(spec), failed=failed)
    assert sum(tallies[kind] for kind in KINDS) == source.pixels.size
    lacking = np.zeros(extent, bool)
    for j in failed:
        lacking[grid.reach(j).slices()] = bool(grid.n_owned(j)) or lacking[grid.reach(j).slices()]
    # a thin last block owns no window; where it "failed" nobody can say that nothing is lacking
    for j in failed:
        if not grid.n_owned(j):
            lacking[grid.write(j).slices()] = True
    assert source.valid is not None
    np.testing.assert_array_equal(arrays["labels"] == 255, lacking & source.valid)
    np.testing.assert_array_equal(arrays["labels"] == 254, ~source.valid)
    assert tallies["failed"] == (lacking & source.valid).sum()
    assert not arrays["disagreement"][(arrays["labels"] > 2)].any()
    assert tallies["disagree"] <= tallies["overlap"] <= tallies["predicted"]


# blending -------------------------------------------------------------------------------------------------


def float_sums(grid: Grid, blend: Any, scores: dict[Any, NDArray[np.float32]]) -> NDArray[np.float64]:
    """What the integer sums approximate: float64 sums of score times weight."""
    total = np.zeros((2, *grid.extent))
    for k, score in scores.items():
        box = grid.window_box(k)
        inside = box.intersect(type(box).of_shape(grid.extent))
        here = (slice(None), *inside.slices(box.start))
        total[(slice(None), *inside.slices())] += (score * grid.weight(k, grid.ramps(blend)))[here]
    return total


@pytest.mark.parametrize("blend", ["hann", "mean", "crop", "linear", "gaussian"])
def test_integer_sums_are_the_float_sums_to_a_few_parts_in_2_to_the_24(blend: Any) -> None:
    rng = np.random.default_rng(4)
    grid = Grid.of((29, 34), (12, 10), (6, 4), (30, 36))
    scores = {k: rng.random((2, *grid.window)).astype(np.float32) for k in grid.owned((0, 0))}
    slab, total = Slab(grid, (0, 0), 2, blend), np.full((2, *grid.extent), -1)

    def keep(parts: Any) -> None:
        for box, sums in parts:
            assert (total[(slice(None), *box.slices())] == -1).all()  # each pixel is handed out once
            total[(slice(None), *box.slices())] = sums.total.numpy()

    for k, score in scores.items():
        keep(slab.add(k, torch.from_numpy(score), torch.zeros(grid.window, dtype=torch.int32)))
    keep(slab.finish())
    np.testing.assert_allclose(total / SCORE_ONE, float_sums(grid, blend, scores), rtol=0, atol=1e-6)


def test_disagreement_does_not_depend_on_the_order_votes_are_added_in() -> None:
    rng = np.random.default_rng(5)
    votes = rng.choice([0, 1, 1, 1, 65535], (6, 200)).astype(np.int32)  # 65535: no window there

    def added(order: Any) -> Sums:
        sums = Sums.zeros(1, (200,))
        for n in order:
            mine = Sums.zeros(1, (200,))
            mine.vote.copy_(torch.from_numpy(votes[n]))
            sums.add_(mine)
        return sums

    seen = np.where(votes == 65535, -1, votes)
    expected = (seen == 0).any(0) & (seen == 1).any(0)
    for _ in range(5):
        sums = added(rng.permutation(6))
        np.testing.assert_array_equal(sums.disagree.numpy(), expected)
    halves, other = added([0, 1, 2]), added([3, 4, 5])
    halves.add_(other)
    np.testing.assert_array_equal(halves.disagree.numpy(), expected)


def test_a_slab_dies_with_its_block() -> None:
    """A cache that holds its owner would keep every block's sums until the garbage collector comes by."""
    import gc
    import weakref

    gc.disable()
    try:
        grid = Grid.of((20, 20), (8, 8), (2, 2), (12, 12))
        slab = Slab(grid, (0, 0), 2, "hann")
        list(slab.add((0, 0), torch.zeros(2, 8, 8), torch.zeros(8, 8, dtype=torch.int32)))
        watched = weakref.ref(slab)
        del slab
        assert watched() is None
    finally:
        gc.enable()


def test_partials_go_through_numpy_unchanged() -> None:
    sums = Sums.zeros(2, (3, 4))
    sums.total.copy_(torch.arange(24).reshape(2, 3, 4))
    sums.disagree[0, 1] = True
    back = Sums.from_numpy(sums.to_numpy())
    assert torch.equal(back.total, sums.total)
    assert torch.equal(back.vote, sums.vote)
    assert torch.equal(back.disagree, sums.disagree)
