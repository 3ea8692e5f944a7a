"""A plan says when the scene's pixels are not the size that the model knows, and suits every model of an ensemble."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.manifest import Manifest
from pipeline.plan import make_plan, resolution_notes
from pipeline.settings import Settings, make_settings
from tests.fakes import fake_spec
from tests.runs import HARDWARE, ArraySource
from tiling import Frame

AT_HALF_A_METRE = fake_spec(2, resolution={"spacing": [0.5, 0.5], "unit": "m"})


@pytest.mark.parametrize(("spacing", "unit"), [((0.5, 0.5), "m"), ((0.7, 0.4), "m"), ((500.0, 700.0), "mm")])
def test_a_like_resolution_is_not_worth_a_word(spacing: tuple[float, float], unit: str) -> None:
    assert resolution_notes(Frame.of_spacing(("y", "x"), spacing, unit), AT_HALF_A_METRE) == ()


@pytest.mark.parametrize("spacing", [(0.5, 0.1), (10.0, 10.0), (0.3, 0.3)])
def test_another_resolution_is_told_with_both_numbers(spacing: tuple[float, float]) -> None:
    (note,) = resolution_notes(Frame.of_spacing(("y", "x"), spacing, "m"), AT_HALF_A_METRE)
    assert f"{spacing[0]:g} x {spacing[1]:g} m" in note
    assert "0.5 x 0.5 m" in note
    assert "resample" in note


def test_nothing_is_said_of_unknown_or_sheared_pixels() -> None:
    sheared = Frame(("y", "x"), ((10.0, 5.0, 0.0), (0.0, 10.0, 0.0)), "m")
    for frame in (Frame.pixels(("y", "x")), Frame.of_spacing(("y", "x"), (1.0, 1.0), "degree"), sheared):
        assert resolution_notes(frame, AT_HALF_A_METRE) == ()


def test_the_window_of_an_ensemble_suits_every_member(tmp_path: Path) -> None:
    source = ArraySource(np.zeros((1, 300, 300), np.uint8))
    specs = [fake_spec(2, divisor=16, window=[240, 240]), fake_spec(2, divisor=32)]
    settings = Settings(model=("a", "b"))
    plan = make_plan(settings, source.info, specs[0], ("0", "1"), HARDWARE, scene="s", ensemble=specs[1:])
    assert plan.manifest.grid.window == (256, 256)


@pytest.mark.parametrize("scale", [0, -1, 100])
def test_a_zoom_that_makes_no_sense_is_refused_before_the_run(scale: float) -> None:
    with pytest.raises(UsageError, match=r"scales"):
        make_settings({"model": "m", "scales": (scale,)})


def test_nodata_that_json_cannot_hold_is_part_of_the_question() -> None:
    """Radar scenes say NaN."""
    info = ArraySource(np.zeros((1, 30, 30), np.float32)).info
    plans = [
        make_plan(Settings(model=("a",)), replace(info, nodata=(value,)), fake_spec(2), ("0",), HARDWARE, scene="s")
        for value in (None, float("nan"), -9999.0)
    ]
    digests = [plan.manifest.digest for plan in plans]
    assert len(set(digests)) == 3
    assert [Manifest.from_bytes(p.manifest.to_bytes()).digest for p in plans] == digests
