"""Whether a source is still what it was: sizes and versions of all files it is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from pipeline.errors import SourceChangedError, SourceError
from pipeline.sources.files import stat
from pipeline.store import Entry, Store


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


def check_unchanged(uri: str, fingerprint: str, files: Sequence[str] = ()) -> None:
    """Raise SourceChangedError unless the source still has this fingerprint.

    With ``files``, as the source told them when it was opened, it costs one look at each, or one listing of a folder;
    without, what opening costs.
    """
    now = _fingerprint_now(uri, files)
    if now != fingerprint:
        raise SourceChangedError(
            f"{uri} changed since it was planned (fingerprint {fingerprint}, now {now}); "
            "put the old file back, or start a new run"
        )


def _fingerprint_now(uri: str, files: Sequence[str]) -> str:
    from pipeline.sources.opening import fingerprint_of

    try:
        if not files:
            return fingerprint_of(uri)
        return of_tree(files[0]) if files[0].endswith("/") else of_files(files)
    except SourceError as e:
        raise SourceChangedError(f"{uri} changed since it was planned, and no longer opens: {e}") from e


def _must_exist(uri: str) -> Entry:
    found = stat(uri)
    if found is None:
        raise SourceError(f"{uri} does not exist")
    return found
