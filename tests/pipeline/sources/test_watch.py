"""A source that changes is noticed: at once if it is one file, soon if it is many, and always when asked outright."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr
from affine import Affine

from pipeline.errors import SourceChangedError
from pipeline.sources import fingerprint, open_source, watch
from pipeline.sources.watch import Watch


def tif(path: Path) -> None:
    size = {"height": 5, "width": 7, "count": 1, "dtype": "uint8", "transform": Affine(2, 0, 0, 0, -2, 0)}
    with rasterio.open(path, "w", driver="GTiff", **size) as data:
        data.write(np.ones((1, 5, 7), np.uint8))


def mosaic(folder: Path) -> str:
    parts = []
    for n in range(3):
        tif(folder / f"{n}.tif")
        parts.append(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{n}.tif</SourceFilename><SourceBand>1</SourceBand>'
            f'<SrcRect xOff="0" yOff="0" xSize="7" ySize="5"/><DstRect xOff="{7 * n}" yOff="0" xSize="7" ySize="5"/>'
            "</SimpleSource>"
        )
    bands = f'<VRTRasterBand dataType="Byte" band="1">{"".join(parts)}</VRTRasterBand>'
    (folder / "v.vrt").write_text(f'<VRTDataset rasterXSize="21" rasterYSize="5">{bands}</VRTDataset>')
    return str(folder / "v.vrt")


def store(folder: Path) -> str:
    zarr.create_array(str(folder / "a.zarr"), data=np.ones((6, 6), np.uint8), chunks=(2, 2))
    return str(folder / "a.zarr")


def watched(uri: str) -> Watch:
    source = open_source(uri)
    source.close()
    return Watch(source.info, source.info.fingerprint)


def test_one_file_is_looked_at_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SHARE", 1e9)
    tif(tmp_path / "a.tif")
    seen = watched(str(tmp_path / "a.tif"))
    seen.look()
    os.utime(tmp_path / "a.tif", (1, 1))
    with pytest.raises(SourceChangedError, match=r"a\.tif changed since it was planned"):
        seen.look()


@pytest.mark.parametrize(("make", "part"), [(mosaic, "1.tif"), (store, "a.zarr/c/1/1")])
def test_looks_at_many_files_are_spaced_and_open_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, part: str
) -> None:
    monkeypatch.setattr(watch, "SHARE", 1e9)
    seen = watched(make(tmp_path))
    looks = []
    monkeypatch.setattr("pipeline.sources.opening.open_source", None)
    real = fingerprint.of_entries
    monkeypatch.setattr(fingerprint, "of_entries", lambda entries: looks.append(1) or real(entries))
    for _ in range(5):
        seen.look()
    assert len(looks) == 1
    os.utime(tmp_path / part, (1, 1))
    seen.look()  # not yet time
    with pytest.raises(SourceChangedError, match="changed since it was planned"):
        seen.look(now=True)


@pytest.mark.parametrize(("make", "part"), [(mosaic, "1.tif"), (store, "a.zarr/c/1/1")])
def test_a_look_is_made_again_when_it_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, part: str
) -> None:
    monkeypatch.setattr(watch, "SHARE", 0)
    seen = watched(make(tmp_path))
    seen.look()
    (tmp_path / part).unlink()
    with pytest.raises(SourceChangedError, match="changed since it was planned"):
        seen.look()
