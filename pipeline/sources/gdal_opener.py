"""Remote files for GDAL: rasterio asks this container instead of GDAL's own network code."""

from __future__ import annotations

import re
from typing import BinaryIO

from rasterio.abc import FileContainer

from pipeline.sources.files import normal, open_binary, sibling, stat
from pipeline.store import Entry, split

_COLLAPSED = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*):/+")
SIDECARS = (".aux.xml", ".msk", ".ovr")


class RemoteContainer(FileContainer):  # type: ignore[misc]  # rasterio carries no types
    """One remote raster, its side-cars, and what a VRT refers to. Read only; answers are remembered."""

    def __init__(self, uri: str) -> None:
        self._uri = normal(uri)
        self._known: dict[str, Entry | None] = {}

    def open(self, path: str, mode: str = "rb", **_: object) -> BinaryIO:
        if "r" not in mode or self._stat(path) is None:
            raise FileNotFoundError(path)
        return open_binary(self._resolve(path))

    def isfile(self, path: str) -> bool:
        return self._stat(path) is not None

    def isdir(self, path: str) -> bool:
        return False

    def ls(self, path: str) -> list[str]:
        """The main file and its side-cars that exist: GDAL then probes for no others. Elsewhere unknown."""
        folder, name = split(self._uri)
        if self._resolve(path) != folder:
            return []
        return [n for n in [name, *sidecar_names(name)] if self._stat(f"{folder}/{n}") is not None]

    def mtime(self, path: str) -> int:
        return 0

    def rm(self, path: str) -> None:
        raise PermissionError(f"{path} is a source and only read")

    def size(self, path: str) -> int:
        found = self._stat(path)
        return found.n_bytes if found else 0

    def _resolve(self, path: str) -> str:
        """The uri behind a path that GDAL or pathlib may have shortened to ``s3:/bucket``."""
        return normal(_COLLAPSED.sub(r"\1://", path))

    def _stat(self, path: str) -> Entry | None:
        uri = self._resolve(path)
        if "://" not in uri or not self._plausible(uri):
            return None
        if uri not in self._known:
            self._known[uri] = stat(uri)
        return self._known[uri]

    def _plausible(self, uri: str) -> bool:
        """GDAL tries dozens of names in upper and lower case; each would be a request."""
        if uri == self._uri:
            return True
        own = {sibling(self._uri, name) for name in sidecar_names(split(self._uri)[1])}
        is_member = self._uri.lower().endswith(".vrt") and re.search(r"\.(tiff?|vrt|jp2|j2k|jpe?g|png|aux\.xml)$", uri)
        return uri in own or bool(is_member)


def sidecar_names(name: str) -> list[str]:
    """What may stand beside ``scene.tif``: PAM, mask, overviews, world files."""
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        return [name + s for s in SIDECARS]
    short = suffix[0] + suffix[-1] + "w" if len(suffix) > 1 else suffix + "w"
    return [name + s for s in SIDECARS] + [f"{stem}.{w}" for w in (short, f"{suffix}w", "wld", "prj")]
