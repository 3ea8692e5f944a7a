"""Receipts: one small JSON object per finished job, written last, after everything it vouches for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from tiling import Index

Stage = Literal["spool", "ingest", "constants", "infer", "stitch", "pyramid"]
STAGES: tuple[Stage, ...] = ("spool", "ingest", "constants", "infer", "stitch", "pyramid")
_KEY = re.compile(rf"(?:receipts|failures)/({'|'.join(STAGES)})/(all|\d+(?:\.\d+)*)\.json")


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One unit of work of a run. ``index`` is a block; for pyramid (level, *shard); for spool and constants ()."""

    stage: Stage
    index: Index

    @property
    def name(self) -> str:
        """``0.3`` for block (0, 3); ``all`` for jobs that are not of a block."""
        return ".".join(map(str, self.index)) or "all"

    @property
    def key(self) -> str:
        return f"receipts/{self.stage}/{self.name}.json"

    @property
    def failure_key(self) -> str:
        return f"failures/{self.stage}/{self.name}.json"

    @classmethod
    def of_key(cls, key: str) -> Self | None:
        """The job of a ``key`` or ``failure_key``; None for what others leave in a folder (``.DS_Store``, copies)."""
        match = _KEY.fullmatch(key)
        return cls(match.group(1), index_of(match.group(2))) if match else None  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.stage} {self.name}"


def index_of(name: str) -> Index:
    """The inverse of :attr:`Job.name`."""
    return () if name == "all" else tuple(map(int, name.split(".")))


class Output(BaseModel):
    """A stored object: its size as stored, and the SHA-256 of its decoded bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_bytes: int
    sha256: str


class Seconds(BaseModel):
    """Wall time of the three parts of a stage; ``model`` is its computation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read: float = 0.0
    model: float = 0.0
    write: float = 0.0

    @property
    def total(self) -> float:
        return self.read + self.model + self.write


class Receipt(BaseModel):
    """That a job is done, and what it took.

    outputs    key in the run directory -> what lies there
    windows    of this block: those that ran, and those skipped because no pixel of theirs is valid
    pixels     tallies of the block's own pixels; for stitch: predicted, nodata, failed, and ``class:<name>``
    missing    upstream blocks that had failed for good when a block was stitched without them
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    index: Index
    outputs: dict[str, Output]
    windows_run: int = 0
    windows_skipped: int = 0
    pixels: dict[str, int] = {}
    missing: tuple[Index, ...] = ()
    seconds: Seconds = Seconds()
    peak_bytes: int = 0
    device: str = "cpu"
    worker: str = ""
    attempt: int = 1
    finished: str = ""

    @property
    def job(self) -> Job:
        return Job(self.stage, self.index)


class Failure(BaseModel):
    """That a job failed for good in one invocation, and why. A later invocation tries it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    index: Index
    error: str
    detail: str
    attempts: int
    worker: str
    finished: str
