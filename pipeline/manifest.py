"""The manifest: everything that decides a run's bytes, written once before any work.

``question`` is what is asked (it names the run directory by its digest), ``numerics`` is how sums are
computed (bytes are equal within it), ``layout`` is how arrays are cut and packed (it never changes labels).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from pipeline.models.normalise import needs_histogram
from pipeline.models.spec import ModelSpec
from pipeline.settings import Precision
from tiling import Frame, Grid, RampName

SCHEMA = 1

ALGORITHM = 1
"""Raised by hand whenever a change alters the bytes of labels; guarded by a golden test."""

SCORE_ONE = 1 << 24
"""The integer that a score of 1.0 becomes: blending sums are integers, so order cannot change them."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceRecord(_Record):
    """The source as it was planned. ``channels`` are the indices read, ``channel_names`` their names in the source.

    ``uri`` is absolute, and where the source lay, not what was asked: it is no part of the digest. ``nodata`` is
    the rule, ``nodata_values`` what came of it for each channel, as text: JSON has no NaN.
    """

    uri: str
    fingerprint: str
    format: str
    shape: tuple[int, ...]
    dtype: str
    channels: tuple[int, ...]
    channel_names: tuple[str, ...]
    nodata: float | str
    nodata_values: tuple[str | None, ...] = ()
    frame: dict[str, Any]


class Question(_Record):
    """What is asked of which pixels."""

    source: SourceRecord
    bundles: tuple[str, ...]
    tta: str | None
    scales: tuple[float, ...]
    window: tuple[int, ...]
    overlap: tuple[int, ...]
    blend: RampName
    save_scores: bool
    skip: Literal["nodata"] = "nodata"


class Numerics(_Record):
    """How it is computed; labels are byte-identical within one value of this.

    ``arithmetic`` names what computes: the version of torch, and the instructions or the device it uses.
    """

    backend: str
    precision: Precision
    device: Literal["cpu", "cuda"]
    batch: int
    threads: int
    algorithm: int
    arithmetic: str = ""


class Layout(_Record):
    """How arrays are cut and packed. Shard = block; ``levels`` counts the full resolution."""

    block: tuple[int, ...]
    chunk: tuple[int, ...]
    levels: int
    codec: str = "blosc-zstd1-bitshuffle"
    image: Literal["copy", "in-place"] = "copy"
    array_uri: str | None = None
    spool: bool = False


class Manifest(_Record):
    """One run. ``spec`` is the model's own description, as packed in its bundle; ``ensemble`` that of further ones."""

    schema_version: int = SCHEMA
    seamline: str
    created: str
    scene: str
    question: Question
    numerics: Numerics
    layout: Layout
    spec: ModelSpec
    ensemble: tuple[ModelSpec, ...] = ()

    @field_validator("scene")
    @classmethod
    def _stays_in_its_folder(cls, scene: str) -> str:
        if scene in ("", ".", "..") or any(c in scene for c in "/\\\0"):
            raise ValueError(f"a scene's name is part of file names, and {scene!r} cannot be")
        return scene

    @property
    def specs(self) -> tuple[ModelSpec, ...]:
        """Of every bundle, in order."""
        return (self.spec, *self.ensemble)

    @property
    def needs_histograms(self) -> bool:
        """Whether a model is normalised with the scene's statistics: then inference waits for the whole of ingest."""
        return any(needs_histogram(s.normalisation) for s in self.specs)

    @property
    def digest(self) -> str:
        """The first 12 hexadecimal digits of the question's SHA-256."""
        asked = self.question.model_dump(mode="json")
        del asked["source"]["uri"]
        return digest12(asked)

    @property
    def run_name(self) -> str:
        return f"{self.scene}-{self.digest}"

    @property
    def grid(self) -> Grid:
        q = self.question
        return Grid.of(q.source.shape, q.window, q.overlap, self.layout.block)

    @property
    def frame(self) -> Frame:
        return Frame.from_json(self.question.source.frame)

    @property
    def ndim(self) -> int:
        return len(self.question.source.shape)

    @property
    def nodata_code(self) -> int:
        """Label of pixels without data, or outside: 254, in uint16 65534."""
        return 254 if self.label_dtype == "uint8" else 65534

    @property
    def unresolved_code(self) -> int:
        """Label of pixels that lack one of their windows, and fill value: 255, in uint16 65535."""
        return self.nodata_code + 1

    @property
    def label_dtype(self) -> Literal["uint8", "uint16"]:
        return "uint8" if len(self.spec.classes) <= 254 else "uint16"

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        return cls.model_validate_json(data)


def digest12(value: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
