"""One answer: labels, confidence and disagreement do not know how the scene was cut, batched, or in what order."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.models.network import create
from pipeline.models.normalise import Constants
from tests.fakes import CoordinateModel, IdentityModel, RecordingModel, coordinate_image, fake_spec, read_records
from tests.in_memory import manifest_of, numpy_scores, whole
from tests.oracles.whole_image import lattice, oracle
from tests.runs import ArraySource, ShuffledEngine, drive, labels_of, make_run, make_worker, segment
from tests.strategies import any_grids, reblocked
from tiling import RAMPS, Grid

ARRAYS = ("labels", "confidence", "disagreement")
BRIEF = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def few_windows(n_dims: tuple[int, int] = (2, 3)) -> st.SearchStrategy[Grid]:
    return any_grids_of(*n_dims).filter(lambda g: g.n_windows <= 80)


def any_grids_of(low: int, high: int) -> st.SearchStrategy[Grid]:
    return any_grids().filter(lambda g: low <= g.ndim <= high)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[ArraySource, Grid]:
    """A noisy scene with holes and a grid over it; in 3-D sometimes cut slice by slice."""
    grid = draw(few_windows())
    if grid.ndim == 3 and draw(st.booleans()):
        z, y, x = grid.axes
        block = draw(st.integers(1, 4))
        grid = Grid((type(z)(min(z.extent, 6), 1, 0, block), y, x))
        assume(grid.n_windows <= 80)
    return scene_of(grid.extent, draw(st.integers(0, 2**16)), holes=draw(st.sampled_from([0.0, 0.0, 0.3, 0.97]))), grid


def scene_of(extent: tuple[int, ...], seed: int = 0, *, holes: float = 0.0) -> ArraySource:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (1, *extent)).astype(np.uint8)
    return ArraySource(pixels, rng.random(extent) >= holes if holes else None)


def net_ndim(grid: Grid) -> int:
    return 2 if grid.window[0] == 1 else grid.ndim


def naive_disagreement(source: ArraySource, model: Any, grid: Grid) -> NDArray[np.bool_]:
    """Every window's own argmax on the whole scene: where the lowest and the highest vote differ."""
    extent = grid.extent
    starts = [lattice(n, w, o) for n, w, o in zip(extent, grid.window, grid.overlap, strict=True)]
    pad = [(0, max(0, s[-1] + w - n)) for s, w, n in zip(starts, grid.window, extent, strict=True)]
    valid = np.ones(extent, bool) if source.valid is None else source.valid
    image, shown = source.pixels, valid
    for axis, width in enumerate(pad):
        only = [(0, 0)] * axis + [width] + [(0, 0)] * (len(pad) - axis - 1)
        mode = "reflect" if extent[axis] > 1 else "edge"
        image, shown = np.pad(image, [(0, 0), *only], mode=mode), np.pad(shown, only, mode=mode)  # type: ignore[call-overload]
    low, high = np.full(shown.shape, 999), np.full(shown.shape, -1)
    for corner in product(*starts):
        cut = tuple(slice(a, a + w) for a, w in zip(corner, grid.window, strict=True))
        if shown[cut].any():
            vote = numpy_scores(model)(image[(slice(None), *cut)][None], shown[cut][None])[0].argmax(0)
            low[cut], high[cut] = np.minimum(low[cut], vote), np.maximum(high[cut], vote)
    inside = tuple(slice(0, n) for n in extent)
    return np.asarray(((low != high) & shown)[inside] & valid)


@given(scenes(), st.sampled_from(RAMPS), st.data())
@BRIEF
def test_no_cut_batch_or_order_changes_a_byte(scene: tuple[ArraySource, Grid], blend: str, data: st.DataObject) -> None:
    source, grid = scene
    model = CoordinateModel(fake_spec(4, ndim=net_ndim(grid)))
    cuts = [grid, *(data.draw(reblocked(grid)) for _ in range(2))]
    results = [
        whole(
            manifest_of(source, model.spec, cut, blend=blend, batch=data.draw(st.integers(1, 5)), save_scores=True),
            source,
            model,
            seed=n,
        )
        for n, cut in enumerate(cuts)
    ]
    (first, tallies), *others = results
    for arrays, other_tallies in others:
        assert other_tallies == tallies
        for name in (*ARRAYS, "scores"):
            np.testing.assert_array_equal(arrays[name], first[name], err_msg=name)


@given(scenes(), st.sampled_from(RAMPS))
@BRIEF
def test_every_pixel_is_what_the_whole_image_oracle_says(scene: tuple[ArraySource, Grid], blend: str) -> None:
    source, grid = scene
    model = CoordinateModel(fake_spec(4, ndim=net_ndim(grid)))
    arrays, tallies = whole(manifest_of(source, model.spec, grid, blend=blend, save_scores=True), source, model)
    valid = np.ones(grid.extent, bool) if source.valid is None else source.valid
    np.testing.assert_array_equal(
        arrays["disagreement"] != 0, naive_disagreement(source, model, grid), err_msg="disagreement"
    )
    assert tallies["disagree"] == arrays["disagreement"].sum()
    if not valid.any():
        assert (arrays["labels"] == 254).all()
        return
    labels, probabilities, gap = oracle(source.pixels, valid, numpy_scores(model), grid.window, grid.overlap, blend)
    sure = gap > 1e-5
    np.testing.assert_array_equal(arrays["labels"][sure], labels[sure])
    best = np.where(valid, probabilities.max(0), 255 / 254)
    np.testing.assert_allclose(arrays["confidence"], best * 254, rtol=0, atol=0.501)
    np.testing.assert_allclose(arrays["scores"] / 65535, probabilities * valid, rtol=0, atol=1e-5)


@given(few_windows(), st.sampled_from(RAMPS), st.integers(0, 9), st.integers(1, 4))
@settings(BRIEF, max_examples=60)
def test_the_identity_model_gives_the_image_back(grid: Grid, blend: str, seed: int, batch: int) -> None:
    source = scene_of(grid.extent, seed)
    source.pixels %= 5
    model = IdentityModel(fake_spec(5, ndim=grid.ndim), softness=0.4)
    arrays, tallies = whole(manifest_of(source, model.spec, grid, blend=blend, batch=batch), source, model, seed=seed)
    np.testing.assert_array_equal(arrays["labels"], source.pixels[0])
    assert not arrays["disagreement"].any()
    assert tallies["predicted"] == source.pixels[0].size
    assert [tallies[f"class:class {n}"] for n in range(5)] == np.bincount(source.pixels.ravel(), minlength=5).tolist()


@given(few_windows())
@BRIEF
def test_pixels_of_two_or_more_windows_are_counted(grid: Grid) -> None:
    source = scene_of(grid.extent)
    model = IdentityModel(fake_spec(2, ndim=grid.ndim))
    _, tallies = whole(manifest_of(source, model.spec, grid), source, model)
    seen = np.zeros(grid.extent, int)
    for k in product(*(range(a.n_windows) for a in grid.axes)):
        seen[grid.window_box(k).slices()] += 1
    assert tallies["overlap"] == (seen > 1).sum()


# on disk ------------------------------------------------------------------------------------------------


CASES: dict[str, tuple[tuple[int, ...], dict[str, Any], list[tuple[int, ...]], int]] = {
    "2-D": ((43, 51), {"window": (16, 20), "overlap": (6, 10)}, [(10, 10), (20, 40), (60, 80)], 2),
    "3-D": ((13, 17, 11), {"window": (6, 8, 6), "overlap": (2, 4, 3)}, [(4, 4, 6), (8, 12, 6), (16, 20, 12)], 3),
    "slices": ((5, 23, 31), {"window": (1, 12, 12), "overlap": (0, 4, 4)}, [(1, 8, 16), (2, 16, 8), (5, 24, 32)], 2),
}


@pytest.mark.parametrize("case", CASES)
def test_runs_on_disk_agree_over_blocks_batches_and_order(case: str, tmp_path: Path) -> None:
    extent, window, blocks, ndim = CASES[case]
    source = scene_of(extent, 5, holes=0.2)
    model = CoordinateModel(fake_spec(3, ndim=ndim))
    first: dict[str, NDArray[Any]] = {}
    for n, block in enumerate(blocks):
        run = make_run(tmp_path / str(n), source, model.spec, block=block, batch=1 + 2 * n, **window)
        ledger, given_up = drive(run, ShuffledEngine(make_worker(source, model), n))
        assert not given_up
        assert not ledger.failed
        assert not ledger.remaining
        arrays = {name: np.asarray(run.array(name)[...]) for name in ARRAYS}  # type: ignore[arg-type]
        first = first or arrays
        for name in ARRAYS:
            np.testing.assert_array_equal(arrays[name], first[name], err_msg=name)
    labels, _, gap = oracle(source.pixels, np.asarray(source.valid), numpy_scores(model), **window, blend="hann")
    np.testing.assert_array_equal(first["labels"][gap > 1e-5], labels[gap > 1e-5])


@pytest.mark.parametrize("case", CASES)
def test_every_window_is_seen_exactly_once(case: str, tmp_path: Path) -> None:
    extent, window, blocks, ndim = CASES[case]
    source = ArraySource(coordinate_image(extent, "uint8"), np.ones(extent, bool))
    assert source.valid is not None
    source.valid[tuple(slice(0, max(w, 2 * w - 2)) for w in window["window"])] = False  # window 0 sees nothing
    inner = CoordinateModel(fake_spec(3, len(extent), ndim=ndim))
    model = RecordingModel(inner, tmp_path / "seen")
    run = segment(tmp_path / "runs", source, model, block=blocks[0], batch=3, **window)
    expected = Counter(
        tuple(float(v) for v in run.grid.window_box(k).start)
        for k in product(*(range(a.n_windows) for a in run.grid.axes))
        if source.valid[run.grid.window_box(k).slices()].any()
    )
    assert 0 < len(expected) < run.grid.n_windows
    assert Counter(r.first for r in read_records(model.path)) == expected
    infers = list(run.receipts("infer"))
    assert sum(r.windows_run for r in infers) == expected.total()
    assert sum(r.windows_skipped for r in infers) == run.grid.n_windows - expected.total()


def test_a_real_network_gives_the_same_bytes_for_any_block(tmp_path: Path) -> None:
    from pipeline.models.adapter import NetworkModel

    torch.manual_seed(3)
    options = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    network = create("unet", "resnet18", 3, 4, options).eval()
    spec = fake_spec(4, 3, divisor=8)
    model = NetworkModel(spec, network, Constants((100.0,) * 3, (50.0,) * 3), torch.device("cpu"))
    rng = np.random.default_rng(2)
    source = ArraySource(rng.integers(0, 256, (3, 112, 150)).astype(np.uint8))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = [
            segment(tmp_path / str(n), source, model, window=(64,), overlap=(16,), block=(block,), batch=2)
            for n, block in enumerate((48, 96, 240))
        ]
    finally:
        torch.set_num_threads(threads)
    for name in ARRAYS:
        first, *others = (np.asarray(run.array(name)[...]) for run in runs)  # type: ignore[arg-type]
        for other in others:
            np.testing.assert_array_equal(other, first, err_msg=name)
    assert len(np.unique(labels_of(runs[0]))) > 1
