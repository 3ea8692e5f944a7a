"""What a person may set, from flags or one TOML/YAML file, validated once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import UsageError
from pipeline.models.spec import explain
from tiling import RampName

Device = Literal["auto", "cpu", "cuda"]
Engine = Literal["auto", "serial", "ray"]
Precision = Literal["fp32", "bf16", "fp16"]
PerAxis = tuple[int, ...]


class Settings(BaseModel):
    """Settings of ``segment``. What is ``None`` or ``auto`` is resolved by the plan and written to the manifest.

    Per-axis numbers are in scene order, (y, x) or (z, y, x); one number stands for all axes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    model: tuple[str, ...] = Field(min_length=1, description="bundle folder, uri, or name of a shipped bundle")
    out: str = Field("runs", description="folder or bucket prefix that holds the run directories")
    window: PerAxis | None = Field(None, description="pixels the network sees at once")
    overlap: PerAxis | None = Field(None, description="pixels that neighbouring windows share")
    block: PerAxis | None = Field(None, description="pixels of one unit of work; a multiple of the stride")
    blend: RampName = Field("hann", description="how neighbouring windows share their overlap")
    bands: str | None = Field(None, description="source channels for the model's, by 1-based number or name")
    nodata: float | Literal["source", "none"] = Field("source", description="value that means no data")
    batch: int | None = Field(None, ge=1, le=4096, description="windows per forward pass")
    precision: Precision | None = Field(None, description="of the forward pass")
    device: Device = Field("auto")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of one worker's forward pass")
    tta: Literal["flips", "d4"] | None = Field(None, description="average over flips, or flips and rotations")
    scales: tuple[float, ...] = Field((), description="average over these zooms of each window")
    save_scores: bool = Field(False, description="keep the score of every class, uint16")
    trust_model: bool = Field(False, description="allow .pt2 archives, which can run code")
    engine: Engine = Field("auto")
    workers: int = Field(1, ge=1, le=4096)
    attempts: int = Field(2, ge=1, le=10, description="tries of a block before it is quarantined")
    memory_limit_mb: int | None = Field(None, ge=64, description="refuse a plan whose worker needs more")

    @field_validator("model", mode="before")
    @classmethod
    def _one_model(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("nodata")
    @classmethod
    def _nodata_is_finite(cls, value: Any) -> Any:
        """NaN and infinity are never valid, whatever nodata is: such a rule adds nothing."""
        return "none" if isinstance(value, float) and not isfinite(value) else value

    @field_validator("window", "overlap", "block", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """``640``, ``"640"``, ``"32,256,256"`` or a list."""
        if isinstance(value, str):
            value = [part for part in value.replace("x", ",").split(",") if part.strip()]
        return (value,) if isinstance(value, int) else value


def make_settings(given: Mapping[str, Any], config: str | None = None) -> Settings:
    """Settings from a file and, above it, what was ``given`` (flags; ``None`` means not given).

    Raises UsageError that names each wrong field.
    """
    merged = read_config(config) if config else {}
    merged |= {key: value for key, value in given.items() if value is not None}
    try:
        return Settings(**merged)
    except ValidationError as e:
        where = f" in {config}" if config else ""
        raise UsageError(f"settings{where} are not valid: {explain(e)}") from None


def read_config(path: str) -> dict[str, Any]:
    """The mapping in a ``.toml``, ``.yaml`` or ``.yml`` file; dashes in keys read as underscores."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as e:
        raise UsageError(f"cannot read the settings file {path}: {e.strerror or e}") from None
    data = _parse(text, path, file.suffix)
    if not isinstance(data, dict):
        raise UsageError(f"{path} must hold names and values, not a {type(data).__name__}")
    return {str(key).replace("-", "_"): value for key, value in data.items()}


def _parse(text: str, path: str, suffix: str) -> Any:
    import yaml

    if suffix not in (".toml", ".yaml", ".yml"):
        raise UsageError(f"a settings file must end in .toml, .yaml or .yml: {path}")
    try:
        return tomllib.loads(text) if suffix == ".toml" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as e:
        raise UsageError(f"{path} is not valid {suffix[1:]}: {e}") from None
