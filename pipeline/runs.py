"""Runs as a person names them: run directories, folders or prefixes that hold some, patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence

from pipeline.errors import RunError
from pipeline.run import MANIFEST, Run, open_run
from pipeline.sources.files import children
from pipeline.store import Store, is_local, join, local_path


def open_runs(uris: Sequence[str]) -> list[Run]:
    """Every run the uris name, each once, in order. Raises RunError for one that names none."""
    found = dict.fromkeys(run for uri in uris for run in _named(uri.rstrip("/") or "/"))
    return [open_run(uri) for uri in found]


def _named(uri: str) -> list[str]:
    if is_local(uri) and glob.has_magic(uri) and not local_path(uri).exists():
        matches = sorted(glob.glob(str(local_path(uri))))  # noqa: PTH207  # Path.glob takes no absolute patterns
        runs = [match for match in matches if _is_run(match)]
        if not runs:
            raise RunError(f"no run directory matches {uri}: {len(matches)} names do, none of them holds a {MANIFEST}")
        return runs
    if _is_run(uri):
        return [uri]
    inside = list(_inside(uri))
    if not inside:
        raise RunError(
            f"{uri} is not a run directory and holds none: no {MANIFEST} in it or in a folder of it; "
            "`segment` prints where its runs are"
        )
    return inside


def _inside(uri: str) -> Iterator[str]:
    if is_local(uri) and not local_path(uri).is_dir():
        raise RunError(f"there is no run directory {uri}; `segment` prints where its runs are")
    folders, _ = children(uri)
    yield from (run for name in folders if _is_run(run := join(uri, name)))


def _is_run(uri: str) -> bool:
    store = Store(uri)
    return (not is_local(uri) or local_path(uri).is_dir()) and store.exists(MANIFEST)
