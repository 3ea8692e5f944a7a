"""What a person may set, from flags or one TOML/YAML file, validated once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

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
    scales: tuple[Annotated[float, Field(ge=0.25, le=4)], ...] = Field(
        (), description="average over these zooms of each window"
    )
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

    @field_validator("precision", mode="before")
    @classmethod
    def _auto_is_open(cls, value: Any) -> Any:
        return None if value == "auto" else value

    @field_validator("window", "block")
    @classmethod
    def _positive(cls, value: PerAxis | None) -> PerAxis | None:
        if value is not None and (not value or min(value) < 1):
            raise ValueError(f"must be 1 or more on every axis, got {','.join(map(str, value)) or 'nothing'}")
        return value

    @field_validator("overlap")
    @classmethod
    def _not_negative(cls, value: PerAxis | None) -> PerAxis | None:
        if value is not None and (not value or min(value) < 0):
            raise ValueError(f"must be 0 or more on every axis, got {','.join(map(str, value)) or 'nothing'}")
        return value

    @field_validator("nodata")
    @classmethod
    def _nodata_is_finite(cls, value: Any) -> Any:
        """NaN and infinity are never valid, whatever nodata is: such a rule adds nothing."""
        return "none" if isinstance(value, float) and not isfinite(value) else value

    @model_validator(mode="after")
    def _serial_is_one_worker(self) -> Self:
        if self.engine == "serial" and self.workers > 1:
            raise ValueError(
                f"engine serial is one worker in this process, which workers {self.workers} contradicts: "
                f"set engine to ray (or leave it away), or workers to 1"
            )
        return self

    @field_validator("window", "overlap", "block", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """``640``, ``"640"``, ``"32,256,256"`` or a list."""
        if isinstance(value, str):
            return [_whole(part) for part in value.replace("x", ",").split(",") if part.strip()]
        return (_whole(value),) if isinstance(value, int | float) else value


def make_settings(given: Mapping[str, Any], config: str | None = None) -> Settings:
    """Settings from a file and, above it, what was ``given`` (flags; ``None`` means not given).

    Raises UsageError that names each wrong field.
    """
    flags = {key: value for key, value in given.items() if value is not None}
    merged = (read_config(config) if config else {}) | flags
    try:
        return Settings(**merged)
    except ValidationError as e:
        problems = "; ".join(_problem(dict(error), flags, config) for error in e.errors())
        raise UsageError(f"settings are not valid: {problems}") from None


def _problem(error: dict[str, Any], flags: Mapping[str, Any], config: str | None) -> str:
    """One wrong field, as the person wrote it: ``--block`` for a flag, ``block in c.toml`` for the file's."""
    if not error["loc"]:  # of several fields at once; it names them
        return str(error["msg"]).removeprefix("Value error, ")
    field = str(error["loc"][0])
    if error["type"] == "missing":
        return f"{field} is missing: give --{field}, or {field} in a --config file" + (
            " (`seamline models` lists what is shipped)" if field == "model" else ""
        )
    name = f"--{field.replace('_', '-')}" if field in flags else f"{field} in {config}"
    if error["type"] == "extra_forbidden":
        near = get_close_matches(field, Settings.model_fields, n=1)
        return f"{name} is no setting" + (f"; did you mean {near[0]}?" if near else "")
    return explain([error | {"loc": (name, *error["loc"][1:])}])


def _whole(part: str | float) -> int:
    try:
        return int(str(part))
    except ValueError:
        raise ValueError("must be whole numbers of pixels, one or one per axis (640 or 32,256,256)") from None


def read_config(path: str) -> dict[str, Any]:
    """The mapping in a ``.toml``, ``.yaml`` or ``.yml`` file; dashes in keys read as underscores."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"cannot read the settings file {path}: {unreadable(e)}") from None
    data = _parse(text, path, file.suffix)
    if not isinstance(data, dict):
        raise UsageError(f"{path} must hold names and values, not a {type(data).__name__}")
    return {str(key).replace("-", "_"): value for key, value in data.items()}


def unreadable(error: OSError | UnicodeDecodeError) -> str:
    """Why a text file cannot be read, for a person."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no UTF-8; save it as UTF-8 text"
    return error.strerror or str(error)


def _parse(text: str, path: str, suffix: str) -> Any:
    import yaml

    if suffix not in (".toml", ".yaml", ".yml"):
        raise UsageError(f"a settings file must end in .toml, .yaml or .yml: {path}")
    try:
        return tomllib.loads(text) if suffix == ".toml" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as e:
        raise UsageError(f"{path} is not valid {suffix[1:]}: {e}") from None
