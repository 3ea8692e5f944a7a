"""From what a user named (files, folders, globs, bucket prefixes) to scenes, and what was passed over and why."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import SourceError, StoreError
from pipeline.sources.files import children, stat, suggestion
from pipeline.sources.names import scene_name
from pipeline.sources.opening import ZARR_MARKERS, is_zarr
from pipeline.sources.own_output import is_own_output
from pipeline.store import is_local, join, local_path, scheme_of, split

__all__ = ["Found", "find_scenes", "is_own_output"]

IMAGE_SUFFIXES = (
    *(".tif", ".tiff", ".vrt", ".jp2", ".j2k", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".img", ".svs"),
    *(".nii", ".nii.gz"),
)
SIDECAR_SUFFIXES = (
    *(".aux.xml", ".aux", ".ovr", ".msk", ".prj", ".tfw", ".tifw", ".tiffw", ".jgw", ".jpgw", ".jpw", ".pgw", ".pngw"),
    *(".j2w", ".jp2w", ".wld", ".tab", ".xml", ".json", ".geojson", ".csv", ".tsv", ".md", ".txt", ".yaml", ".yml"),
    *(".toml", ".html", ".pdf", ".gpkg", ".shp", ".shx", ".dbf", ".cpg", ".qgz", ".qml", ".fgb", ".parquet", ".zip"),
)
_LISTED = 20  # of the skipped, in an error


@dataclass(frozen=True, slots=True)
class Found:
    """scenes   uris to open, in order, each once
    skipped  (uri, reason) of everything that was passed over
    """

    scenes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def find_scenes(paths: Sequence[str]) -> Found:
    """Every scene the paths name. Raises SourceError if one does not exist or there is no scene at all."""
    scenes: dict[str, None] = {}
    skipped: dict[str, str] = {}
    for path in paths:
        for uri, why in _below(path):
            if why is None:
                scenes[uri] = None
            else:
                skipped[uri] = why
    if not scenes:
        raise SourceError(_nothing(paths, skipped))
    return Found(tuple(scenes), tuple(skipped.items()))


def _below(path: str) -> Iterator[tuple[str, str | None]]:
    """(uri, None) for a scene, (uri, reason) for what is passed over, of one path as the user gave it."""
    if path.startswith("sample:"):
        yield path, None
    elif _is_glob(path):
        yield from _matches(path)
    elif stat(path) is not None:
        yield path, _why_not(path, named=True)
    elif is_zarr(path):
        yield path.rstrip("/"), _why_not_zarr(path.rstrip("/"))
    elif is_local(path) and not local_path(path).is_dir():
        raise SourceError(f"{path} does not exist{suggestion(path)}")
    elif scheme_of(path) in ("http", "https"):
        raise SourceError(f"{path} does not exist, and a web server's folders cannot be listed: name each file")
    else:
        folder = path.rstrip("/") or "/"
        yield from _walk(folder, _children(folder), set())


def _is_glob(path: str) -> bool:
    """A pattern, unless a file of just that name exists."""
    if not glob.has_magic(path) or scheme_of(path) in ("http", "https"):
        return False
    return not (is_local(path) and local_path(path).exists())


def _matches(pattern: str) -> Iterator[tuple[str, str | None]]:
    found = _local_matches(pattern) if is_local(pattern) else _remote_matches(pattern)
    if not found:
        raise SourceError(f"nothing matches {pattern}{suggestion(pattern)}")
    for uri in found:
        if is_local(uri) and local_path(uri).is_dir() and not is_zarr(uri):
            yield uri, "a folder matched by a pattern; name it to search it"
        else:
            yield from _below(uri)


def _local_matches(pattern: str) -> list[str]:
    return sorted(glob.glob(str(local_path(pattern)), recursive=True))  # noqa: PTH207  # Path.glob takes no absolute patterns


def _remote_matches(pattern: str) -> list[str]:
    """Match segment by segment, so that only folders that fit are listed."""
    scheme, _, rest = pattern.partition("://")
    bucket, *segments = rest.split("/")
    roots = [f"{scheme}://{bucket}"]
    for segment in segments:
        roots = [join(root, name) for root in roots for name in _names(root, segment)]
    return [uri for uri in roots if stat(uri) is not None or is_zarr(uri)]


def _names(root: str, segment: str) -> list[str]:
    if not glob.has_magic(segment):
        return [segment]
    folders, files = _children(root)
    return sorted(n for n in {*folders, *files} if fnmatch.fnmatchcase(n, segment))


def _walk(folder: str, inside: tuple[list[str], list[str]], seen: set[str]) -> Iterator[tuple[str, str | None]]:
    """Everything below a folder or prefix, without entering zarr stores and run directories.

    ``inside`` are its folders and files;  ``seen`` the real paths of local folders that were searched already
    """
    folders, files = inside
    if is_local(folder):
        seen.add(os.path.realpath(local_path(folder)))
    if _is_run(folders, files):
        yield folder, "a run directory of Seamline"
        return
    for name in files:
        uri = join(folder, name) if folder != "/" else f"/{name}"
        yield uri, _why_not(uri, named=False)
    for name in folders:
        uri = join(folder, name) if folder != "/" else f"/{name}"
        if name.startswith("."):
            yield uri, "hidden"
        elif is_local(uri) and os.path.realpath(local_path(uri)) in seen:
            yield uri, "a link to a folder that is searched already"
        else:
            yield from _in_folder(uri, seen)


def _in_folder(uri: str, seen: set[str]) -> Iterator[tuple[str, str | None]]:
    """A folder within one that was named: a zarr store, or searched in its turn."""
    try:
        inside = _children(uri)
    except SourceError as e:  # one folder without permission: the others can be searched
        yield uri, str(e)
        return
    if uri.endswith(".zarr") or ZARR_MARKERS & set(inside[1]):
        yield uri, _why_not_zarr(uri)
    else:
        yield from _walk(uri, inside, seen)


def _children(uri: str) -> tuple[list[str], list[str]]:
    try:
        return children(uri)
    except StoreError as e:
        raise SourceError(str(e)) from e


def _is_run(folders: Sequence[str], files: Sequence[str]) -> bool:
    return "manifest.json" in files and ("receipts" in folders or "scene.zarr" in folders)


def _why_not(uri: str, *, named: bool) -> str | None:
    """Why a file is no scene, None if it is one. A named file may have any suffix that is not a side-car's."""
    name = split(uri)[1].lower()
    if name.startswith("."):
        return "hidden"
    if name.endswith(SIDECAR_SUFFIXES):
        return "a side-car or a document, not an image"
    if not named and name.endswith((".dcm", ".dicom")):
        return "DICOM is not read; convert the series to NIfTI first (e.g. dcm2niix)"
    if not named and not name.endswith(IMAGE_SUFFIXES):
        return "its suffix is of no image format that is read here"
    return _why_not_scene(uri)


def _why_not_zarr(uri: str) -> str | None:
    folder = split(uri)[0]
    if split(uri)[1] == "scene.zarr" and stat(join(folder, "manifest.json")) is not None:
        return "the arrays of a run directory of Seamline"
    if not is_zarr(uri):
        return "named .zarr but without zarr metadata"
    return _why_not_scene(uri)


def _why_not_scene(uri: str) -> str | None:
    """By its name, or by what it holds; of what cannot be read, opening it says why."""
    try:
        scene_name(uri)
    except SourceError as e:
        return str(e)
    try:
        return "an output of Seamline itself" if is_own_output(uri) else None
    except (SourceError, StoreError):
        return None


def _nothing(paths: Sequence[str], skipped: dict[str, str]) -> str:
    where = ", ".join(paths) or "no path"
    if not skipped:
        return f"no scenes in {where}: nothing is there; check the path and the spelling of the bucket"
    lines = [f"  {uri}: {why}" for uri, why in list(skipped.items())[:_LISTED]]
    more = len(skipped) - len(lines)
    tail = [f"  ... and {more} more"] if more else []
    return "\n".join([f"no scenes in {where}; skipped {len(skipped)}:", *lines, *tail])
