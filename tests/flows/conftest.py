"""A small real network and a folder of scenes, for what is driven from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from pipeline.models.folder import write_bundle
from pipeline.models.network import create
from pipeline.models.spec import ModelSpec


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real network with random weights."""
    import torch

    torch.manual_seed(0)
    network = create("unet", "tu-test_resnet", 3, 3, {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}).eval()
    fields = {
        "name": "tiny",
        "classes": ["a", "b", "c"],
        "channels": ["red", "green", "blue"],
        "divisor": 8,
        "normalisation": {"kind": "scale", "factor": 1 / 255},
    }
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    return write_bundle(folder, network, ModelSpec.of(fields, "test"), "# tiny\n")


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray for a module, as it takes seconds to start: engines find it and leave it alone."""
    import ray

    ray.init(
        num_cpus=4,  # three for engines that live as long as a module, one for the rest
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=80_000_000,
    )
    yield
    ray.shutdown()


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Two GeoTIFFs of 3 by 2 blocks in a folder."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for seed, name in enumerate(("east", "west")):
        pixels = np.random.default_rng(seed).integers(0, 256, (3, 110, 90), dtype=np.uint8)
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": 110, "width": 90, "photometric": "rgb"}
        with rasterio.open(
            folder / f"{name}.tif", "w", crs="EPSG:32633", transform=Affine(2, 0, 4e5, 0, -2, 5e6), **profile
        ) as target:
            target.write(pixels)
    return folder
