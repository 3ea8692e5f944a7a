"""An export takes a free place or that of an earlier export, and nobody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import RunError, StoreError, UsageError
from pipeline.export import EXPORTS, export
from pipeline.export.place import check_free, is_same_place

KINDS = ("cog", "png", "overlay", "nifti", "zarr")


def write(masks: Any, kind: str, path: Path, **tags: str) -> None:
    shape = (6, 7, 8) if kind == "nifti" else (30, 40)
    view = masks.view(masks.labels(shape), tags={"run": "runs/scene-abc"} | tags)
    export(kind, view, path, image=np.zeros((1, *shape), np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_writes_over_its_own_and_nothing_else(masks: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a{EXPORTS[kind]}"
    write(masks, kind, path)
    write(masks, kind, path)
    theirs = tmp_path / f"b{EXPORTS[kind]}"
    theirs.write_bytes(b"somebody's work")
    with pytest.raises(UsageError, match=r"b\.\S+ exists and is no export of Seamline.*name another place with --out"):
        write(masks, kind, theirs)
    assert theirs.read_bytes() == b"somebody's work"


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_writes_over_the_scene(masks: Any, tmp_path: Path, kind: str) -> None:
    """Not even where the scene is an earlier export."""
    path = tmp_path / f"a{EXPORTS[kind]}"
    write(masks, kind, path)
    link = tmp_path / f"link{EXPORTS[kind]}"
    link.symlink_to(path)
    for source in (path, link):
        with pytest.raises(UsageError, match=r"a\.\S+ is the scene itself, which an export would replace"):
            write(masks, kind, path, source=str(source))


def test_a_folder_and_a_dangling_link_are_taken(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("folder", "link"):
        with pytest.raises(UsageError, match=f"{name} exists and is no export"):
            check_free(str(tmp_path / name))
    check_free(str(tmp_path / "free"))


def test_places_are_compared_as_the_disk_and_the_bucket_see_them() -> None:
    assert is_same_place("a/../b.tif", "./b.tif")
    assert is_same_place("s3://x/a/b.zarr/", "s3://x/a/b.zarr")
    assert not is_same_place("s3://x/b.tif", "b.tif")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_made(masks: Any, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file/in/a\.\S+: .*is the folder writable"):
        write(masks, kind, tmp_path / "file" / "in" / f"a{EXPORTS[kind]}")


@pytest.mark.parametrize("kind", ["cog", "png", "overlay", "zarr"])
def test_labels_that_cannot_be_read_are_told_with_their_cure(masks: Any, tmp_path: Path, kind: str) -> None:
    class Cut(np.ndarray):  # type: ignore[type-arg]
        def __getitem__(self, key: Any) -> Any:
            raise ValueError("Stored and computed checksum do not match")

    view = masks.view(masks.labels((30, 40)).view(Cut))
    with pytest.raises(RunError, match=r"mask of scene cannot be read in .*checksum.*run `segment` again to heal it"):
        export(kind, view, tmp_path / f"a{EXPORTS[kind]}", image=np.zeros((1, 30, 40), np.uint8))
    assert not list(tmp_path.iterdir())
