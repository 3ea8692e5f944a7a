"""Whether a source is still what it was: sizes and versions of all files it is made of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from pipeline.errors import SourceChangedError, SourceError
from pipeline.sources.files import stat
from pipeline.store import Entry, Store

LISTED_FILES = 2000  # of a zarr store, looked at again after each read


def of_files(uris: Iterable[str]) -> str:
    """Fingerprint of files, each by name, size and mtime (local) or etag (remote). All must exist."""
    return of_entries(_must_exist(uri) for uri in dict.fromkeys(uris))


def of_tree(uri: str) -> str:
    """Fingerprint of everything below a folder or prefix: one listing."""
    return of_entries(Store(uri).list())


def of_entries(entries: Iterable[Entry]) -> str:
    digest, n_files, n_bytes = hashlib.sha256(), 0, 0
    for entry in sorted(entries, key=lambda e: (e.key, e.version)):
        digest.update(f"{entry.key}\0{entry.n_bytes}\0{entry.version}\n".encode())
        n_files, n_bytes = n_files + 1, n_bytes + entry.n_bytes
    return f"{n_files}f-{n_bytes}b-{digest.hexdigest()[:24]}"


def check_unchanged(uri: str, fingerprint: str, *, thorough: bool = False) -> None:
    """Raise SourceChangedError unless the source still has this fingerprint.

    Made to be called after every read: one look at a file; for sources of several files what opening costs.
    A zarr store of more than ``LISTED_FILES`` objects is listed again only if ``thorough``.
    """
    counted = re.match(r"(\d+)f-", fingerprint)
    n_files = int(counted.group(1)) if counted else 1
    if n_files > LISTED_FILES and not thorough:
        return
    now = _fingerprint_now(uri, n_files)
    if now != fingerprint:
        raise SourceChangedError(
            f"{uri} changed since it was planned (fingerprint {fingerprint}, now {now}); "
            "put the old file back, or start a new run"
        )


def _fingerprint_now(uri: str, n_files: int) -> str:
    from pipeline.sources.opening import fingerprint_of

    if n_files == 1 and (found := stat(uri)) is not None:
        return of_entries([found])
    try:
        return fingerprint_of(uri)
    except SourceError as e:
        raise SourceChangedError(f"{uri} changed since it was planned, and no longer opens: {e}") from e


def _must_exist(uri: str) -> Entry:
    found = stat(uri)
    if found is None:
        raise SourceError(f"{uri} does not exist")
    return found
