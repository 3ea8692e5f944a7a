"""Every real set goes in and comes out whole: dtypes, channels, nodata, volumes, slides, mosaics as they are found."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.run import open_run
from tests.cli import Cli, make_bundle

PERCENTILE = {"kind": "percentile"}
LARGE = ("spacenet", "landsat", "naip", "aerial", "wsi", "em_flyem", "S2Hand", "HARV")
"""Some seconds to a minute each: by hand, with ``-m slow``."""
SETS: dict[str, tuple[int, dict[str, Any]]] = {
    "floods_sen1floods11/s1/Somalia_699062_S1Hand.tif": (2, PERCENTILE),  # float32 with NaN
    "floods_sen1floods11/s2/Spain_7370579_S2Hand.tif": (13, PERCENTILE),
    "spacenet_samples/atlanta_pan_uint16.tif": (1, PERCENTILE),
    "geo_misc/alexandria_dsm_float32.tif": (1, {"kind": "zscore"}),  # nodata -9999
    "geo_misc/landsat_bahamas_rgb_utm18.tif": (3, {"kind": "scale", "lo": 0, "hi": 255}),
    "geo_misc/naip_nd_rgbn_5m_utm14.tif": (4, PERCENTILE),
    "trees_neon/HARV_026.tif": (3, {"kind": "scale", "lo": 0, "hi": 255}),
    "aerial_dubai/mosaics/tile1_rgb.vrt": (3, {"kind": "scale", "lo": 0, "hi": 255}),
    "wsi_cmu1/CMU-1-Small-Region.svs": (3, {"kind": "scale", "lo": 0, "hi": 255}),
    "mr_hippocampus/images/hippocampus_003.nii.gz": (1, {"kind": "zscore", "within": "nonzero"}),
    "ct_totalsegmentator/ct_abdomen_slab_3mm.nii.gz": (1, {"kind": "constant", "mean": [0], "std": [300]}),
    "em_flyem_medulla/em_image_z000-199.tif": (1, PERCENTILE),  # 200 pages of one file
    "nuclei_dsb2018/images/00ae65c1c6631ae6.png": (3, {"kind": "scale", "lo": 0, "hi": 255}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if any(w in n for w in LARGE) else [], id=n) for n in SETS]
)
def test_a_real_set_comes_out_whole(cli: Cli, shared_data: Path, tmp_path: Path, name: str) -> None:
    n_channels, normalisation = SETS[name]
    bundle = make_bundle(tmp_path / "bundle", n_channels, normalisation=normalisation)
    out = tmp_path / "runs"
    ran = cli(
        "segment", shared_data / name, "--model", bundle, "--out", out, "--device", "cpu", "--to", "overlay", "--json"
    )
    assert ran.code == 0, ran.text
    (done,) = ran.objects
    run = open_run(done["run"])
    counts = done["pixels"]
    assert counts["predicted"] + counts["nodata"] == prod(run.grid.extent)
    assert counts["predicted"] > counts["nodata"], "a real picture is mostly picture"
    labels = np.asarray(run.array("labels")[...])
    assert set(np.unique(labels)) <= {0, 1, 2, 254}
    assert int((labels == 254).sum()) == counts["nodata"]
    with Image.open(done["exports"]["overlay"]) as picture:
        assert min(picture.size) > 100
        assert len(np.unique(np.asarray(picture))) > 20, "a picture, not a colour"
    scene = json.loads(Path(done["run"], "scene.zarr", "zarr.json").read_text())
    assert "ome" in scene["attributes"]


@pytest.mark.parametrize("name", SETS)
def test_a_real_set_is_planned(cli: Cli, shared_data: Path, tmp_path: Path, name: str) -> None:
    n_channels, normalisation = SETS[name]
    bundle = make_bundle(tmp_path / "bundle", n_channels, normalisation=normalisation)
    ran = cli("segment", shared_data / name, "--model", bundle, "--device", "cpu", "--dry-run", "--json")
    assert ran.code == 0, ran.text
    (plan,) = ran.objects
    assert plan["status"] == "planned"
    assert 1 <= plan["planned_per_pixel"] < 3


def test_a_slide_that_is_none_is_refused(cli: Cli, shared_data: Path, rgb_bundle: Path) -> None:
    ran = cli("segment", shared_data / "wsi_cmu1" / "broken_not_a_tiff.svs", "--model", rgb_bundle)
    assert ran.code == 2
    assert "not an image in a format that is read here" in ran.err
