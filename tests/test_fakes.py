"""The fakes are what the pipeline is proved with, so each must be able to fail it."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.fakes import CoordinateModel, IdentityModel, RecordingModel, coordinate_image, fake_spec, read_records

WINDOWS = [(9, 7), (5, 6, 7)]


def pixels_of(window: tuple[int, ...], n: int = 3, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand((n, channels, *window), generator=generator) * 100 - 50
    return pixels, torch.rand((n, *window), generator=generator) > 0.2


def changed(a: torch.Tensor, b: torch.Tensor) -> float:
    """Share of pixels whose label differs."""
    return float((a.argmax(1) != b.argmax(1)).float().mean())


@pytest.mark.parametrize("window", WINDOWS)
def test_scores_are_probabilities(window: tuple[int, ...]) -> None:
    pixels, valid = pixels_of(window)
    for model in (IdentityModel(fake_spec(5, 2), 0.3), CoordinateModel(fake_spec(5, 2))):
        scores = model.scores(pixels, valid)
        assert scores.shape == (3, 5, *window)
        assert scores.dtype == torch.float32
        assert 0 <= scores.min() <= scores.max() <= 1
        torch.testing.assert_close(scores.sum(1), torch.ones(3, *window))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.float32])
def test_identity_recovers_the_image(dtype: torch.dtype) -> None:
    image = torch.arange(20).reshape(1, 1, 4, 5) % 6
    everywhere = torch.ones(1, 4, 5, dtype=torch.bool)
    scores = IdentityModel(fake_spec(6), softness=0.5).scores(image.to(dtype), everywhere)
    assert torch.equal(scores.argmax(1), image[:, 0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.float64])
def test_coordinate_scores_depend_on_values_not_on_how_they_are_stored(dtype: torch.dtype) -> None:
    model = CoordinateModel(fake_spec(3))
    image = torch.arange(20.0).reshape(1, 1, 4, 5)
    everywhere = torch.ones(1, 4, 5, dtype=torch.bool)
    assert torch.equal(model.scores(image.to(dtype), everywhere), model.scores(image, everywhere))


@pytest.mark.parametrize("window", WINDOWS)
def test_coordinate_labels_change_with_the_place_in_the_window(window: tuple[int, ...]) -> None:
    model = CoordinateModel(fake_spec(4))
    everywhere = torch.ones(2, *window, dtype=torch.bool)
    flat = model.scores(torch.full((2, 1, *window), 7, dtype=torch.uint8), everywhere)
    assert torch.equal(flat[0], flat[1])
    for axis in range(2, 2 + len(window)):
        assert changed(flat, flat.roll(1, axis)) > 0.5


@pytest.mark.parametrize("window", WINDOWS)
def test_coordinate_labels_change_all_over_with_one_pixel_or_one_flag(window: tuple[int, ...]) -> None:
    model = CoordinateModel(fake_spec(4, 2))
    pixels, valid = pixels_of(window)
    valid[:, 0] = True
    before = model.scores(pixels, valid)
    for channel in (0, 1):
        other = pixels.clone()
        other[:, channel].flatten(1)[:, 0] += 1
        assert changed(before, model.scores(other, valid)) > 0.5
    flags = valid.clone()
    flags.flatten(1)[:, 0] = False
    assert changed(before, model.scores(pixels, flags)) > 0.5


def test_coordinate_scores_of_a_window_do_not_depend_on_its_batch() -> None:
    model = CoordinateModel(fake_spec(4, 2))
    pixels, valid = pixels_of((9, 7), n=5)
    together = model.scores(pixels, valid)
    assert all(torch.equal(model.scores(pixels[i : i + 1], valid[i : i + 1])[0], together[i]) for i in range(5))


def test_coordinate_scores_do_not_see_invalid_pixels() -> None:
    model = CoordinateModel(fake_spec(4, 2))
    pixels, valid = pixels_of((9, 7))
    spoiled = torch.where(valid[:, None], pixels, torch.nan)
    assert torch.equal(model.scores(pixels, valid), model.scores(spoiled, valid))


def test_coordinate_classes_are_all_used() -> None:
    pixels, valid = pixels_of((64, 64), n=1)
    share = torch.bincount(CoordinateModel(fake_spec(4, 2)).scores(pixels, valid).argmax(1).flatten()) / 64**2
    assert share.min() > 0.2


def record_some(path: Path, n: int) -> None:
    model = RecordingModel(IdentityModel(fake_spec(2, 2)), path)
    image = torch.from_numpy(coordinate_image((40, 40), "int32"))
    for k in range(n):
        window = image[None, :, k : k + 4, 2 * k : 2 * k + 4]
        model.scores(window, torch.ones(1, 4, 4, dtype=torch.bool))


def test_recording_counts_windows_over_processes(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    assert list(read_records(path)) == []
    workers = [multiprocessing.get_context("spawn").Process(target=record_some, args=(path, 9)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    records = list(read_records(path))
    assert Counter(r.first for r in records) == {(k, 2 * k): 2 for k in range(9)}
    assert len({r.digest for r in records}) == 9
    assert len({r.process for r in records}) == 2


def test_recording_leaves_out_what_fills_up_a_batch(tmp_path: Path) -> None:
    inner = CoordinateModel(fake_spec(3, 2))
    model = RecordingModel(inner, tmp_path / "seen")
    pixels, valid = pixels_of((4, 4), n=3)
    valid[2] = False
    assert torch.equal(model.scores(pixels, valid), inner.scores(pixels, valid))
    assert model.spec is inner.spec
    assert [r.first for r in read_records(model.path)] == [tuple(p[:, 0, 0].tolist()) for p in pixels[:2]]


def test_the_fake_spec_takes_overrides() -> None:
    spec = fake_spec(3, 2, 3, window=(4, 5, 6))
    assert (spec.n_scores, len(spec.channels), spec.ndim, spec.divisor, spec.window) == (3, 2, 3, 1, (4, 5, 6))
