"""Exports of a run carry where they come from, and are known as our own by a later run over their folder."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from pipeline.export.of_run import export_run, natural_channels, view_of
from pipeline.sources import is_own_output
from tests.fakes import IdentityModel, fake_spec
from tests.runs import ArraySource, segment


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("cog", (40, 60)), ("png", (40, 60)), ("overlay", (40, 60)), ("zarr", (40, 60)), ("nifti", (9, 20, 30))],
)
def test_an_export_is_known_as_our_own(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 3, (1, *shape), dtype=np.uint8)
    run = segment(tmp_path / "runs", ArraySource(pixels), IdentityModel(fake_spec(3, ndim=len(shape))))
    suffix = {"cog": ".tif", "nifti": ".nii.gz", "zarr": ".zarr"}.get(kind, ".png")
    path = export_run(run, kind, str(tmp_path / ("{scene}" + suffix))).path
    assert is_own_output(path)


def test_provenance_has_the_same_names_everywhere(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 3, (1, 40, 60), dtype=np.uint8)
    run = segment(tmp_path / "runs", ArraySource(pixels), IdentityModel(fake_spec(3)))
    tags = view_of(run).tags
    assert tags["run"] == run.manifest.run_name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # the array has no place on the ground
        file = rasterio.open(export_run(run, "cog").path)
    with file:
        assert {k: v for k, v in file.tags().items() if k.startswith("SEAMLINE_")} == {
            f"SEAMLINE_{key.upper()}": value for key, value in tags.items()
        }
    for kind in ("png", "overlay"):
        with Image.open(export_run(run, kind).path) as picture:
            assert {k: v for k, v in picture.text.items() if k.startswith("seamline:")} == {
                f"seamline:{key}": value for key, value in tags.items()
            }


@pytest.mark.parametrize(
    ("names", "model", "drawn"),
    [
        (("Blue", "Green", "Red"), ("c1", "c2", "c3"), (2, 1, 0)),
        (("band 1", "band 2", "band 3"), ("b", "g", "r"), (2, 1, 0)),
        (("nir", "red", "green", "blue"), ("c1", "c2", "c3", "c4"), (1, 2, 3)),
        (("band 1", "band 2", "band 3"), ("c1", "c2", "c3"), None),
    ],
)
def test_colours_are_drawn_as_they_are_named(
    tmp_path: Path, names: tuple[str, ...], model: tuple[str, ...], drawn: tuple[int, int, int] | None
) -> None:
    @dataclass
    class Named(ArraySource):
        @property
        def info(self) -> Any:
            return replace(super().info, channels=names)

    pixels = np.zeros((len(names), 40, 60), np.uint8)
    red = 2 if drawn is None else drawn[0]
    pixels[red, :, :30] = 200
    spec = fake_spec(3, len(names), channels=list(model))
    run = segment(tmp_path / "runs", Named(pixels), IdentityModel(spec), bands=",".join(names))
    assert natural_channels(run.manifest) == drawn
    with Image.open(export_run(run, "overlay").path) as picture:
        seen = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    is_red = (seen[:, 0] > 150) & (seen[:, 1] < 20) & (seen[:, 2] < 20)
    assert is_red.any() == (drawn is not None)
