"""Errors of the pipeline. Each says what, where, the values and the cure, and is also the builtin a caller would catch.

``UsageError``, ``SourceError`` and ``ModelError`` are found before any work starts and end the program with
exit code 2 (in a batch: that scene). ``BlockError`` belongs to one block and is quarantined by the job loop.
"""

from tiling.errors import FrameError, GeometryError, SeamlineError

__all__ = [
    "BlockError",
    "FrameError",
    "GeometryError",
    "ModelError",
    "NumericsError",
    "RunError",
    "SeamlineError",
    "SourceChangedError",
    "SourceError",
    "StoreError",
    "UsageError",
]


class UsageError(SeamlineError, ValueError):
    """Settings or flags that contradict themselves, each other, or the run they are applied to."""


class SourceError(SeamlineError, OSError):
    """A source that cannot be opened, or cannot be read whole."""


class SourceChangedError(SourceError):
    """A source whose fingerprint is no longer the one the run was planned with."""


class StoreError(SeamlineError, OSError):
    """A place that cannot be listed, read or written."""


class ModelError(SeamlineError, ValueError):
    """A bundle that cannot be used: its files disagree, its weights do not fit, or it would have to be trusted."""


class RunError(SeamlineError, RuntimeError):
    """A run directory that is not one, or is in no state for what was asked."""


class NumericsError(SeamlineError, RuntimeError):
    """A worker that would not compute the bytes that a run was planned with: another device, library or model."""


class BlockError(SeamlineError, RuntimeError):
    """One block that could not be computed."""
