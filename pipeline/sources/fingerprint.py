"""What tells one content of a source from another: sizes and versions of all files it is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pipeline.errors import SourceError
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


def _must_exist(uri: str) -> Entry:
    found = stat(uri)
    if found is None:
        raise SourceError(f"{uri} does not exist")
    return found
