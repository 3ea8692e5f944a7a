"""What a bundle says of itself: ``seamline.json``. Reads without torch, so that a plan never loads a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ModelError

# Distinct under the common colour-vision deficiencies (Okabe and Ito 2008); repeats past eight classes.
PALETTE = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
MAX_VALUE = 65_533  # the two codes above it are "nodata" and "unresolved" in uint16

Domain = Literal["geo", "medical", "microscopy"]
Positive = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """Base of all settings read from files: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassSpec(Frozen):
    """One class. ``value`` is its code in masks and outputs; inside a run a class is its position in the list."""

    name: str = Field(min_length=1)
    value: int = Field(ge=0, le=MAX_VALUE)
    color: str = Field(pattern=r"^#[0-9a-fA-F]{6}$")
    role: Literal["background", "class"] = "class"

    @property
    def rgb(self) -> tuple[int, int, int]:
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)


class _Normalisation(Frozen):
    """Common to all kinds.

    clip    ``[lo, hi]`` in stored units, applied before anything else
    within  which pixels the scene's statistics are taken over; has no effect where none are needed
    """

    clip: tuple[float, float] | None = None
    within: Literal["valid", "nonzero"] = "valid"

    @model_validator(mode="after")
    def _clip_has_width(self) -> Self:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip must be [lo, hi] with lo < hi, got {list(self.clip)}")
        return self


class Constant(_Normalisation):
    """``(x - mean) / std`` per channel, both in stored units (0..255 for uint8, not 0..1)."""

    kind: Literal["constant"] = "constant"
    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _equal_lengths(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}; give one of each per channel")
        return self


class Scale(_Normalisation):
    """``x * factor + offset``, or ``(x - lo) / (hi - lo)``: the same for every channel."""

    kind: Literal["scale"] = "scale"
    factor: float | None = None
    offset: float = 0.0
    lo: float | None = None
    hi: float | None = None

    @model_validator(mode="after")
    def _one_of_two_forms(self) -> Self:
        by_range = self.lo is not None and self.hi is not None
        if (self.factor is not None) == by_range or (self.lo is None) != (self.hi is None):
            raise ValueError("scale takes either factor (with an optional offset) or both lo and hi")
        if by_range and (self.offset or not self.lo < self.hi):  # type: ignore[operator]
            raise ValueError(f"lo must be below hi and offset be absent, got lo {self.lo}, hi {self.hi}, {self.offset}")
        if self.factor == 0:
            raise ValueError("factor must not be 0")
        return self


class Percentile(_Normalisation):
    """``(x - q_low) / (q_high - q_low)`` per channel with the scene's quantiles; ``low`` and ``high`` in percent.

    Values beyond the quantiles keep their order: they land below 0 and above 1.
    """

    kind: Literal["percentile"] = "percentile"
    low: float = Field(default=1.0, ge=0, le=100)
    high: float = Field(default=99.0, ge=0, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high (percent), got {self.low} and {self.high}")
        return self


class ZScore(_Normalisation):
    """``(x - mean) / std`` per channel with the scene's own mean and standard deviation."""

    kind: Literal["zscore"] = "zscore"


Normalisation = Annotated[Constant | Scale | Percentile | ZScore, Field(discriminator="kind")]


class Argmax(Frozen):
    """The class with the largest score; ties go to the lowest index."""

    kind: Literal["argmax"] = "argmax"


class Thresholds(Frozen):
    """One threshold per channel of the net, in channel order (class 1 is channel 0).

    Without ``order`` the channel with the largest score/threshold wins if that ratio is at least 1, else
    background. With ``order``, for nested classes, each class in turn is painted over those before it
    wherever its score reaches its threshold; it names every class but the background, the outermost first.
    """

    kind: Literal["thresholds"] = "thresholds"
    thresholds: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(min_length=1)
    order: tuple[str, ...] | None = None


Decision = Annotated[Argmax | Thresholds, Field(discriminator="kind")]


class Resolution(Frozen):
    """Pixel size the model was trained at, one number per spatial axis in scene order."""

    spacing: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=2, max_length=3)
    unit: Literal["m", "mm", "um", "nm", "degree", "px"]


class InputStats(Frozen):
    """What the training pixels looked like, per channel in stored units: tells a scene of another kind apart."""

    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    p01: tuple[float, ...]
    p99: tuple[float, ...]


class ClassScore(Frozen):
    """Of one class over all scored pixels. None where it occurs in neither reference nor prediction."""

    name: str
    iou: float | None
    dice: float | None
    n_reference: int


class Scores(Frozen):
    """Held-out scores, from one confusion matrix over all pixels of the split that carry a label."""

    split: str
    n_images: int
    n_pixels: int
    mean_iou: float | None
    accuracy: float | None
    classes: tuple[ClassScore, ...]


class ModelSpec(Frozen):
    """The contract between a bundle and the pipeline. Errors name the field.

    classes     for softmax one per channel of the net; for sigmoid the background and then one per channel
    channels    what the net reads, in order
    ndim        of the net's windows: 2 for (y, x), 3 for (z, y, x)
    divisor     every window side is a multiple of it
    window      the window it was trained with, per axis of the net
    """

    name: str = Field(min_length=1)
    classes: tuple[ClassSpec, ...] = Field(min_length=2)
    channels: tuple[str, ...] = Field(min_length=1)
    normalisation: Normalisation
    activation: Literal["softmax", "sigmoid"] = "softmax"
    decision: Decision = Argmax()
    temperature: float = Field(default=1.0, gt=0)
    ndim: Literal[2, 3] = 2
    divisor: Positive = 32
    window: tuple[Positive, ...] | None = None
    domain: Domain | None = None
    resolution: Resolution | None = None
    input_stats: InputStats | None = None
    scores: Scores | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        classes = filled.get("classes")
        if isinstance(classes, list | tuple):
            filled["classes"] = [class_defaults(i, c) for i, c in enumerate(classes)]
            if "decision" not in filled and filled.get("activation") == "sigmoid" and len(classes) > 1:
                filled["decision"] = {"kind": "thresholds", "thresholds": [0.5] * (len(classes) - 1)}
        return filled

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        for problem in (
            _repeated("classes: name", [c.name for c in self.classes]),
            _repeated("classes: value", [c.value for c in self.classes]),
            _repeated("channels", list(self.channels)),
            self._background_problem(),
            self._normalisation_problem(),
            self._decision_problem(),
            self._window_problem(),
        ):
            if problem:
                raise ValueError(problem)
        return self

    @property
    def n_scores(self) -> int:
        """Channels that the net returns: K classes for softmax, K - 1 for sigmoid (no channel is background)."""
        return len(self.classes) - (self.activation == "sigmoid")

    @property
    def background(self) -> ClassSpec | None:
        return next((c for c in self.classes if c.role == "background"), None)

    @property
    def paint_order(self) -> tuple[int, ...] | None:
        """Channels of the net in the order nested classes are painted, or None where the largest ratio wins."""
        if self.decision.kind == "argmax" or self.decision.order is None:
            return None
        names = [c.name for c in self.classes[1:]]
        return tuple(names.index(name) for name in self.decision.order)

    @classmethod
    def of(cls, data: Mapping[str, Any], where: str) -> ModelSpec:
        """Validate; every error names the field and ``where`` it was read. Raises ModelError."""
        try:
            return cls.model_validate(data)
        except ValidationError as e:
            raise ModelError(f"{where}: {explain(e)}") from None

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> ModelSpec:
        try:
            data = json.loads(text)
        except ValueError as e:
            raise ModelError(f"{where} is not valid JSON: {e}") from None
        if not isinstance(data, dict):
            raise ModelError(f"{where} must be a JSON object, got {type(data).__name__}")
        return cls.of(data, where)

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json", exclude_none=True), indent=1) + "\n"

    def _background_problem(self) -> str | None:
        places = [i for i, c in enumerate(self.classes) if c.role == "background"]
        if len(places) > 1:
            return f"classes: only one may have role background, got {[self.classes[i].name for i in places]}"
        if self.activation == "sigmoid" and places != [0]:
            return "classes: with activation sigmoid class 0 must be the background and the others the channels"
        return None

    def _normalisation_problem(self) -> str | None:
        n = len(self.channels)
        if self.normalisation.kind == "constant" and len(self.normalisation.mean) != n:
            return f"normalisation: mean and std have {len(self.normalisation.mean)} numbers for {n} channels"
        return None

    def _decision_problem(self) -> str | None:
        if (self.decision.kind == "argmax") != (self.activation == "softmax"):
            return f"decision: {self.decision.kind} does not fit activation {self.activation}; softmax takes argmax"
        if self.decision.kind == "argmax":
            return None
        if len(self.decision.thresholds) != self.n_scores:
            return f"decision: {len(self.decision.thresholds)} thresholds for {self.n_scores} channels of the net"
        names = [c.name for c in self.classes[1:]]
        if self.decision.order is not None and sorted(self.decision.order) != sorted(names):
            return f"decision: order must name each of {names} once, got {list(self.decision.order)}"
        return None

    def _window_problem(self) -> str | None:
        if self.resolution is not None and len(self.resolution.spacing) < self.ndim:
            return f"resolution: {len(self.resolution.spacing)} spacings for {self.ndim} axes"
        if self.window is None:
            return None
        if len(self.window) != self.ndim:
            return f"window: {list(self.window)} must have {self.ndim} numbers, one per axis of the net"
        if any(side % self.divisor for side in self.window):
            return f"window: {list(self.window)} must be multiples of the divisor {self.divisor}"
        return None


def class_defaults(index: int, data: Any) -> Any:
    """A class as written in a file (a name, or some of its fields), filled up from its position."""
    if isinstance(data, str):
        data = {"name": data}
    if not isinstance(data, Mapping):
        return data
    role = "background" if index == 0 else "class"
    return {"value": index, "color": PALETTE[index % len(PALETTE)], "role": role} | dict(data)


def _repeated(what: str, items: list[Any]) -> str | None:
    twice = sorted({item for item in items if items.count(item) > 1})
    return f"{what} must differ, {twice} occurs more than once" if twice else None


def explain(error: ValidationError | Iterable[Mapping[str, Any]]) -> str:
    """All problems of a pydantic error (or of its ``errors()``) as one line, each with the path of its field."""
    problems = error.errors() if isinstance(error, ValidationError) else error
    return "; ".join(_problem(e) for e in problems)


def _problem(error: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    given = error.get("input")
    shown = f", got {given!r}" if isinstance(given, str | int | float) and not field.endswith(repr(given)) else ""
    return f"{field}: {message}{shown}" if field else message
