"""What a scene is called: its file's name without suffixes. Names become folders, so they must be safe."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.errors import SourceError, UsageError
from pipeline.store import split

DOUBLE_SUFFIXES = (".nii.gz", ".ome.tiff", ".ome.tif", ".ome.zarr", ".tar.gz")
_UNSAFE = re.compile(r"[/\\\x00-\x1f:*?\"<>|]")


def scene_name(uri: str) -> str:
    """``case7`` of ``s3://bucket/case7.nii.gz``; an array within a zarr store is ``store-array``.

    Raises SourceError for a name that could not be one segment of a path.
    """
    if uri.startswith("sample:"):
        return _safe(re.sub(r"[^\w.,=-]+", "-", uri), uri)
    parent, last = split(uri.partition("?")[0])
    _, folder = split(parent) if parent not in ("", "/") else ("", "")
    name = _stem(last)
    if folder.endswith(".zarr"):
        name = f"{_stem(folder)}-{name}"
    return _safe(name, uri)


def scene_names(uris: Sequence[str]) -> dict[str, str]:
    """Name of each scene, by uri. Raises UsageError if two different scenes would share one."""
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for uri in uris:
        name = scene_name(uri)
        other = taken.setdefault(name.casefold(), uri)
        if other != uri:
            raise UsageError(
                f"two scenes would be called {name!r}: {other} and {uri}; "
                "rename one, or run them separately with different --out"
            )
        names[uri] = name
    return names


def _stem(last: str) -> str:
    for suffix in DOUBLE_SUFFIXES:
        if last.lower().endswith(suffix):
            return last[: -len(suffix)]
    stem, dot, _ = last.rpartition(".")
    return stem if dot else last


def _safe(name: str, uri: str) -> str:
    if not name.strip(". ") or _UNSAFE.search(name):
        raise SourceError(f"{uri} would make a scene called {name!r}, which cannot name a folder; rename the file")
    return name
