"""What a person named becomes scenes; everything else is listed with its reason."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr
from affine import Affine

from pipeline.errors import SourceError, UsageError
from pipeline.sources import find_scenes, is_own_output, open_source, scene_name, scene_names


def tif(path: Path, **tags: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "height": 5, "width": 7, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", transform=Affine(2, 0, 0, 0, -2, 0), **profile) as data:
        data.write(np.ones((1, 5, 7), np.uint8))
        data.update_tags(**tags)
    return str(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two scenes and a store among all that is none."""
    root = tmp_path / "in"
    for name in ("b.tif", "deep/a.tif"):
        tif(root / name)
    tif(root / "mask.tif", SEAMLINE_RUN="runs/x")
    store = zarr.create_group(str(root / "vol.zarr"))
    store.create_array("0", shape=(3, 4), dtype="u1")
    tif(root / "vol.zarr/inside.tif")
    for name in (
        "b.tif.aux.xml",
        "b.tfw",
        "b.tif.ovr",
        "truth.geojson",
        "split.csv",
        "README.md",
        ".hidden.tif",
        "s.dcm",
        "model.pt",
    ):
        (root / name).write_bytes(b"x")
    run = root / "runs/b-123"
    (run / "receipts").mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    tif(run / "exports/out.tif")
    (root / "not.zarr").mkdir()
    return root


def test_a_folder_gives_its_scenes_and_a_reason_for_the_rest(tree: Path) -> None:
    found = find_scenes([str(tree)])
    assert [Path(uri).relative_to(tree).as_posix() for uri in found.scenes] == ["b.tif", "deep/a.tif", "vol.zarr"]
    reasons = {Path(uri).relative_to(tree).as_posix(): why for uri, why in found.skipped}
    sidecar = "a side-car or a document, not an image"
    assert reasons == {
        ".hidden.tif": "hidden",
        "README.md": sidecar,
        "b.tfw": sidecar,
        "b.tif.aux.xml": sidecar,
        "b.tif.ovr": sidecar,
        "mask.tif": "an output of Seamline itself",
        "model.pt": "its suffix is of no image format that is read here",
        "not.zarr": "named .zarr but without zarr metadata",
        "runs/b-123": "a run directory of Seamline",
        "s.dcm": "DICOM is not read; convert the series to NIfTI first (e.g. dcm2niix)",
        "split.csv": sidecar,
        "truth.geojson": sidecar,
    }


def test_files_globs_and_folders_mix_without_doubles(tree: Path) -> None:
    found = find_scenes([str(tree / "b.tif"), str(tree / "*.tif"), str(tree / "deep"), str(tree / "d*")])
    assert [Path(uri).name for uri in found.scenes] == ["b.tif", "a.tif"]
    assert (str(tree / "deep"), "a folder matched by a pattern; name it to search it") in found.skipped


def test_a_named_file_may_have_any_suffix(tree: Path) -> None:
    (tree / "image.data").write_bytes(b"x")
    assert find_scenes([str(tree / "image.data")]).scenes == (str(tree / "image.data"),)


def test_a_file_whose_name_has_brackets_is_no_pattern(tmp_path: Path) -> None:
    uri = tif(tmp_path / "a[1].tif")
    assert find_scenes([uri]).scenes == (uri,)


def test_a_zarr_store_is_one_scene(tree: Path) -> None:
    assert find_scenes([f"{tree}/vol.zarr/"]).scenes == (f"{tree}/vol.zarr",)


def test_a_sample_is_a_scene() -> None:
    assert find_scenes(["sample:?size=100"]).scenes == ("sample:?size=100",)


def test_a_folder_without_scenes_lists_what_was_skipped(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(SourceError, match=r"no scenes in .*; skipped 1:\n  .*notes\.md: a side-car or a document"):
        find_scenes([str(tmp_path)])
    (tmp_path / "notes.md").unlink()
    with pytest.raises(SourceError, match=r"no scenes in .*: nothing is there"):
        find_scenes([str(tmp_path)])


def test_a_run_directory_named_outright_is_no_scene(tree: Path) -> None:
    with pytest.raises(SourceError, match=r"b-123: a run directory of Seamline"):
        find_scenes([str(tree / "runs/b-123")])


def test_what_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SourceError, match=r"^bucket/path/a\.tif does not exist \(did you mean s3://bucket/path/a\.tif\?\)$"
    ):
        find_scenes(["bucket/path/a.tif"])
    with pytest.raises(SourceError, match=r"^\./a\.tif does not exist$"):
        find_scenes(["./a.tif"])
    with pytest.raises(SourceError, match=r"nothing matches bucket/\*\.tif \(did you mean s3://bucket/\*\.tif\?\)"):
        find_scenes(["bucket/*.tif"])


def test_an_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read everything, so a mode would prove nothing
    with pytest.raises(SourceError, match=r"cannot list .*: Permission denied"):
        find_scenes([str(tmp_path)])


def test_one_bad_name_or_file_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, shut = tif(tmp_path / "in/a.tif"), tif(tmp_path / "in/shut.tif")
    tif(tmp_path / "in/b:c.tif")
    (tmp_path / "in/closed").mkdir()
    listed, opened = Path.iterdir, Path.open

    def refuse(what: Any, name: str) -> Any:
        def call(path: Path, *rest: Any) -> Any:
            if path.name == name:
                raise PermissionError(13, "Permission denied")
            return what(path, *rest)

        return call

    # root may read everything, so modes would prove nothing
    monkeypatch.setattr(Path, "iterdir", refuse(listed, "closed"))
    monkeypatch.setattr(Path, "open", refuse(opened, "shut.tif"))
    found = find_scenes([str(tmp_path / "in")])
    assert found.scenes == (good, shut)  # opening it says what is wrong
    with pytest.raises(SourceError, match=r"cannot read .*shut\.tif: Permission denied"):
        open_source(shut)
    reasons = {Path(uri).name: why for uri, why in found.skipped}
    assert "cannot name a folder; rename the file" in reasons["b:c.tif"]
    assert "Permission denied" in reasons["closed"]


def test_a_link_to_a_folder_above_is_not_followed(tmp_path: Path) -> None:
    scene = tif(tmp_path / "in/deep/a.tif")
    (tmp_path / "in/deep/up").symlink_to(tmp_path / "in")
    found = find_scenes([str(tmp_path / "in")])
    assert found.scenes == (scene,)
    assert (str(tmp_path / "in/deep/up"), "a link to a folder that is searched already") in found.skipped


def test_names_drop_suffixes() -> None:
    uris = ["s3://b/p/case7.nii.gz", "/x/a.ome.tif", "v.zarr/0", "https://h/t.tif?sig=1/2", "plain", "a.b.tif"]
    assert [scene_name(uri) for uri in uris] == ["case7", "a", "v-0", "t", "plain", "a.b"]


def test_two_scenes_of_one_name_are_refused_with_both_files() -> None:
    with pytest.raises(UsageError) as caught:
        scene_names(["x/a.tif", "x/b.tif", "y/A.png"])
    assert str(caught.value) == (
        "two scenes would be called 'A': x/a.tif and y/A.png; rename one, or run them separately with different --out"
    )
    assert scene_names(["x/a.tif", "x/b.tif", "x/a.tif"]) == {"x/a.tif": "a", "x/b.tif": "b"}


@pytest.mark.parametrize("uri", ["s3://b/...tif", "s3://b/a\\b.tif", "/x/a:b.tif", "/x/ .tif"])
def test_names_that_could_leave_their_folder_are_refused(uri: str) -> None:
    with pytest.raises(SourceError, match=r"cannot name a folder; rename the file"):
        scene_name(uri)


def test_own_outputs_are_known_by_their_mark(tmp_path: Path) -> None:
    chunk = b"tEXtseamline:run\0runs/x"
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(png)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(352) + b"seamline:run: x" + bytes(5000)))
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "a.jpg.aux.xml").write_text('<MDI key="SEAMLINE_RUN">x</MDI>')
    zarr.create_group(str(tmp_path / "a.zarr"), attributes={"seamline": {"provenance": {"run": "x"}}})
    zarr.create_group(str(tmp_path / "b.zarr"), zarr_format=2, attributes={"SEAMLINE_RUN": "x"})
    zarr.create_group(str(tmp_path / "sample.zarr"), attributes={"seamline": {"sample": "x"}})
    foreign = tif(tmp_path / "foreign.tif", SOFTWARE="mentions SEAMLINE only")
    own = ["a.png", "a.nii.gz", "a.jpg", "a.zarr", "b.zarr"]
    assert [is_own_output(str(tmp_path / name)) for name in own] == [True] * 5
    assert is_own_output(tif(tmp_path / "own.tif", SEAMLINE_RUN="x"))
    assert not is_own_output(foreign)
    assert not is_own_output(str(tmp_path / "sample.zarr"))


def test_damaged_metadata_does_not_stop_the_search(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/zarr.json").write_text("{")
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(3))
    (tmp_path / "list.zarr").mkdir()
    (tmp_path / "list.zarr/.zattrs").write_text(json.dumps([1]))
    assert len(find_scenes([str(tmp_path)]).scenes) == 3


def test_a_sample_scene_opens_like_a_file() -> None:
    source = open_source("sample:64x48?seed=3")
    assert source.info.shape == (64, 48)
    source.close()
