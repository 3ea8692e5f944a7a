"""Whether a source stays what it was while it is read: looks at its files, spaced so that many cost little."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.errors import SourceChangedError, SourceError
from pipeline.sources.base import SourceInfo
from pipeline.sources.fingerprint import of_files, of_tree
from pipeline.sources.opening import fingerprint_of

SHARE = 20
"""A look at many files is made when it has been this many times as long ago as it took: 5 % of the time at most."""


@dataclass
class Watch:
    """Looks at the files of an open source; ``fingerprint`` is what they were when the run was planned.

    One file is looked at every time. Many (a mosaic, a zarr store) are looked at the first time and then now and
    then, so a change is found late but is found: what was read since the look before is not yet vouched for, and
    ``look(now=True)`` vouches for all that was read until then.
    """

    info: SourceInfo
    fingerprint: str
    _next: float = field(default=0.0, init=False)

    def look(self, *, now: bool = False) -> None:
        """Raise SourceChangedError if the source is not what it was."""
        if not now and time.monotonic() < self._next:
            return
        started = time.monotonic()
        check_unchanged(self.info.uri, self.fingerprint, self.info.files)
        if self.is_many:
            ended = time.monotonic()
            self._next = ended + SHARE * (ended - started)

    @property
    def is_many(self) -> bool:
        return len(self.info.files) > 1 or any(file.endswith("/") for file in self.info.files)


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
    try:
        if not files:
            return fingerprint_of(uri)
        return of_tree(files[0]) if files[0].endswith("/") else of_files(files)
    except SourceError as e:
        raise SourceChangedError(f"{uri} changed since it was planned, and no longer opens: {e}") from e
