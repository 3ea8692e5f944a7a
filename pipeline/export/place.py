"""The place of an export: free, or held by an earlier export; and always a whole file, moved there when finished."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from pipeline.errors import SeamlineError, StoreError, UsageError
from pipeline.sources.files import stat
from pipeline.sources.own_output import is_own_output
from pipeline.store import Store, is_local, local_path


@dataclass(frozen=True, slots=True)
class Exported:
    """One finished export.

    path        where it is
    n_bytes     its size, all its files together
    substituted nodata and unresolved pixels that had to be written as background, because the format has no nodata
    unresolved  pixels without an answer that are in it (only ever more than 0 when that was allowed)
    """

    path: str
    n_bytes: int
    substituted: int = 0
    unresolved: int = 0


def local_target(target: str | Path, kind: str, suffixes: tuple[str, ...], source: str | None = None) -> Path:
    """The local path of ``target``.

    Raises UsageError for a bucket, a suffix that readers would misread, and a place that is not free (``check_free``).
    """
    if not is_local(str(target)):
        raise UsageError(f"{kind} is written to a local file, not to {target}; export it locally and copy it there")
    path = local_path(str(target))
    if not path.name.lower().endswith(suffixes):
        raise UsageError(f"{kind} is written to a file named *{' or *'.join(suffixes)}, not {path}")
    check_free(str(path), source)
    return path


def check_free(target: str, source: str | None = None) -> None:
    """Raise UsageError where ``target`` is the scene's own file, or anything else that no export of ours made."""
    if source is not None and is_same_place(target, source):
        raise UsageError(f"{target} is the scene itself, which an export would replace; name another place with --out")
    if _is_taken(target) and not is_own_output(target):
        raise UsageError(
            f"{target} exists and is no export of Seamline, so it is not written over; "
            "move it away, or name another place with --out"
        )


def is_same_place(one: str, other: str) -> bool:
    """Whether two uris name one file or folder, links on a disk followed."""
    if is_local(one) != is_local(other):
        return False
    if is_local(one):
        return os.path.realpath(local_path(one)) == os.path.realpath(local_path(other))
    return posixpath.normpath(one) == posixpath.normpath(other)


def _is_taken(uri: str) -> bool:
    if is_local(uri):
        return os.path.lexists(local_path(uri))
    return stat(uri) is not None or next(iter(Store(uri).list()), None) is not None


@contextmanager
def placed(path: Path, suffix: str = "") -> Iterator[Path]:
    """A name beside ``path`` to write to. Moved over ``path`` if the body succeeds, removed if it does not.

    Raises StoreError if the place cannot be written to or is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _replace(temporary, path)
    except SeamlineError:
        raise
    except OSError as e:
        raise StoreError(f"cannot write {path}: {e}; is the folder writable and the disk not full?") from e
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or a folder; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def size_on_disk(path: Path) -> int:
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


def _replace(temporary: Path, path: Path) -> None:
    # a folder is not replaced in one step: the old one makes way first
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(temporary, path)  # noqa: PTH105 - says what it does
