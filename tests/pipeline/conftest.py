"""The command line in this process, and one tiny network for the whole session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import Cli, make_bundle, pixels, write_tiff


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    for name in ("PREFECT_API_URL", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return Cli(capsys, monkeypatch)


@pytest.fixture(scope="session")
def rgb_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three channels, three classes, random weights."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "rgb")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """An image of 60 x 80 that lies somewhere, in UTM."""
    return write_tiff(tmp_path / "scene.tif", pixels(), crs="EPSG:32633", transform=(0.5, 0, 4e5, 0, -0.5, 5e6))
