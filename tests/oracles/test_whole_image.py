"""The oracle is held to libraries and to scenes done by hand before anything is held to it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray

from tests.fakes import CoordinateModel, IdentityModel, fake_spec
from tests.oracles import whole_image
from tests.oracles.whole_image import entering, lattice, oracle

BLENDS = ("hann", "mean", "crop", "linear", "gaussian")


def score_fn(model: Any) -> whole_image.ScoreFn:
    def run(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.floating]:
        return np.asarray(model.scores(torch.from_numpy(pixels.copy()), torch.from_numpy(valid.copy())))

    return run


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Extent, window and overlap in 1 to 3 dimensions."""
    ndim = draw(st.integers(1, 3))
    window = tuple(draw(st.integers(1, 7)) for _ in range(ndim))
    overlap = tuple(draw(st.integers(0, w // 2)) for w in window)
    return tuple(draw(st.integers(1, 12)) for _ in range(ndim)), window, overlap


@given(scenes(), st.sampled_from(BLENDS))
def test_an_identity_model_gives_the_image_back(scene: Any, blend: str) -> None:
    extent, window, overlap = scene
    image = np.random.default_rng(0).integers(0, 4, (1, *extent)).astype(np.uint8)
    everywhere = np.ones(extent, dtype=bool)
    model = IdentityModel(fake_spec(4), softness=0.25)
    labels, probabilities, gap = oracle(image, everywhere, score_fn(model), window, overlap, blend)
    assert np.array_equal(labels, image[0])
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(gap, 0.75, atol=1e-6)


# extent - overlap is a multiple of the stride, so that MONAI, which pulls its last window back, pulls nothing
COINCIDING = [
    ((26, 34), (8, 10), (2, 2)),
    ((12, 15), (8, 5), (4, 0)),
    ((13, 7, 10), (5, 4, 6), (1, 1, 2)),
]


@pytest.mark.parametrize(("extent", "window", "overlap"), COINCIDING)
def test_mean_is_monais_constant_mode(
    extent: tuple[int, ...], window: tuple[int, ...], overlap: tuple[int, ...]
) -> None:
    assert all((n - o) % (w - o) == 0 for n, w, o in zip(extent, window, overlap, strict=True))
    image = np.random.default_rng(1).random((2, *extent)).astype(np.float32)
    model = CoordinateModel(fake_spec(3, 2))
    labels, probabilities, gap = oracle(image, np.ones(extent, dtype=bool), score_fn(model), window, overlap, "mean")
    theirs = sliding_window_inference(
        torch.from_numpy(image)[None],
        window,
        sw_batch_size=3,
        predictor=lambda x: model.scores(x, torch.ones(x[:, 0].shape, dtype=torch.bool)),
        overlap=tuple(o / w for o, w in zip(overlap, window, strict=True)),
        mode="constant",
    )[0].numpy()
    np.testing.assert_allclose(probabilities, theirs, rtol=0, atol=1e-6)
    sure = gap > 1e-5
    assert sure.mean() > 0.9
    assert np.array_equal(labels[sure], theirs.argmax(0)[sure])


def test_another_blend_is_not_monais_constant_mode() -> None:
    image = np.random.default_rng(1).random((1, 22, 38)).astype(np.float32)
    everywhere = np.ones(image.shape[1:], dtype=bool)
    model = score_fn(CoordinateModel(fake_spec(3)))
    mean, hann = (oracle(image, everywhere, model, (8, 10), (2, 2), b)[1] for b in ("mean", "hann"))
    assert np.abs(mean - hann).max() > 0.01


def test_two_windows_by_hand() -> None:
    """Window k says k + 1 tenths for class 0: over the shared pixels the share of the second is the ramp."""
    calls: list[NDArray[Any]] = []

    def score(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.floating]:
        calls.append(pixels[0, 0])
        tenths = len(calls) / 10
        return np.broadcast_to(np.array([tenths, 1 - tenths])[None, :, None], (1, 2, 4)).copy()

    labels, probabilities, gap = oracle(np.arange(5)[None], np.ones(5, dtype=bool), score, (4,), (2,), "linear")
    assert [c.tolist() for c in calls] == [[0, 1, 2, 3], [2, 3, 4, 3]]
    np.testing.assert_allclose(probabilities[0], [0.1, 0.1, 0.125, 0.175, 0.2])
    np.testing.assert_allclose(gap, 1 - 2 * probabilities[0])
    assert labels.tolist() == [1] * 5


def test_a_single_row_is_repeated() -> None:
    seen: list[NDArray[Any]] = []

    def score(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.floating]:
        seen.append(pixels[0, 0])
        return np.ones((1, 2, 3, 4))

    labels, _, gap = oracle(np.arange(3)[None, None], np.ones((1, 3), dtype=bool), score, (3, 4), (1, 0), "hann")
    assert [s.tolist() for s in seen] == [[[0, 1, 2, 1]] * 3]
    assert labels.tolist() == [[0, 0, 0]]  # a tie goes to the lowest class
    assert gap.tolist() == [[0, 0, 0]]


def test_nodata_is_254_and_windows_without_a_valid_pixel_are_not_run() -> None:
    valid = np.zeros(12, dtype=bool)
    valid[5] = True
    starts: list[int] = []

    def score(pixels: NDArray[Any], shown: NDArray[np.bool_]) -> NDArray[np.floating]:
        assert shown.any()
        starts.append(int(pixels[0, 0, 0]))
        return np.ones((1, 2, 4))

    labels, _, _ = oracle(np.arange(12)[None], valid, score, (4,), (1,), "mean")
    assert starts == [3]
    assert labels.tolist() == [254] * 5 + [0] + [254] * 6


def test_a_scene_without_a_valid_pixel_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pixel of the scene is valid"):
        oracle(np.zeros((1, 4)), np.zeros(4, dtype=bool), lambda p, v: np.ones((1, 2, 4)), (4,), (0,), "mean")


def test_an_unknown_blend_is_an_error() -> None:
    with pytest.raises(ValueError, match="no blend 'cosine'"):
        entering("cosine", 0, 4, 2)


@given(st.integers(1, 60), st.integers(1, 9), st.data())
def test_the_lattice_covers_the_axis_without_a_window_to_spare(extent: int, window: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, window // 2))
    starts = lattice(extent, window, overlap)
    assert np.all(np.diff([0, *starts]) == [0, *[window - overlap] * (len(starts) - 1)])
    assert starts[-1] + window >= extent
    assert len(starts) == 1 or starts[-2] + window < extent


def test_the_oracle_shares_no_code_with_what_it_judges() -> None:
    tree = ast.parse(Path(whole_image.__file__).read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "." for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} == {
        "__future__",
        "collections",
        "itertools",
        "math",
        "numpy",
        "typing",
    }
