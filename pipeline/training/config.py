"""One training run as one TOML or YAML file. Every error names its field."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.errors import UsageError
from pipeline.models.spec import ClassSpec, Domain, Frozen, Normalisation, Resolution, class_defaults, explain
from pipeline.settings import unreadable

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class DataConfig(Frozen):
    """Where images and masks are: a ``table`` (csv), or two globs whose sorted matches pair up.

    table         csv with one row per picture; paths in it are relative to its folder
    images, masks globs; then ``splits`` shares the pictures out by position (train, val, test fractions)
    masks_hold    "classes": each pixel is a class ``value``; "instances": every non-zero pixel is class 1
    ignore        mask values that carry no label
    bands         which channels of the images are read, where they have more than the model: "4,1,2" or names
    """

    table: str | None = None
    image_column: str = "image"
    mask_column: str = "mask"
    split_column: str = "split"
    images: str | None = None
    masks: str | None = None
    splits: tuple[Fraction, Fraction, Fraction] = (0.7, 0.15, 0.15)
    masks_hold: Literal["classes", "instances"] = "classes"
    ignore: tuple[int, ...] = ()
    bands: str | None = None

    @model_validator(mode="after")
    def _one_of_two_forms(self) -> Self:
        globs = self.images is not None and self.masks is not None
        if (self.table is not None) == globs or (self.images is None) != (self.masks is None):
            raise ValueError("give either table, or both images and masks (globs)")
        if abs(sum(self.splits) - 1) > 1e-6:
            raise ValueError(f"splits must add up to 1, got {list(self.splits)}")
        return self


class NetworkConfig(Frozen):
    """``arch`` and ``encoder`` are smp's names; ``options`` go to its constructor."""

    arch: str = "unet"
    encoder: str = "resnet34"
    options: dict[str, Any] = Field(default_factory=dict)


class OptimiserConfig(Frozen):
    """AdamW: ``lr`` rises linearly over ``warmup`` steps, then falls along a half cosine to 0.

    stop                 end after this many steps of that schedule; default all
    dice, cross_entropy  weights of the two terms of the loss
    class_weights        of the cross entropy, one per class
    average              decay of the running mean of the weights that is validated and kept; 0 for none
    precision            "bf16" runs the forward pass in bfloat16; weights stay float32
    """

    steps: Count = 2000
    stop: Count | None = None
    batch: Count = 8
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: int = Field(default=100, ge=0)
    dice: float = Field(default=1.0, ge=0)
    cross_entropy: float = Field(default=1.0, ge=0)
    class_weights: tuple[float, ...] | None = None
    average: float = Field(default=0.99, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def last_step(self) -> int:
        return min(self.stop or self.steps, self.steps)

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not self.dice + self.cross_entropy > 0:
            raise ValueError("dice and cross_entropy are both 0: there is nothing to learn from")
        return self


class AugmentConfig(Frozen):
    """Random changes of each crop; brightness and the like in normalised units, after normalisation.

    scale       a crop is taken at a zoom between 1/scale and scale
    brightness  up to this is added to all channels;  contrast  gains up to 1 +- this about the crop's mean
    colour      per channel: gain up to 1 +- this, and half of this added
    hue         of three channels: colours turn about the grey axis by up to this share of half a turn either way,
                and their saturation changes by up to half of this. Grey stays grey, which ``colour`` does not keep
    """

    flips: bool = True
    rot90: bool = True
    scale: float = Field(default=1.0, ge=1, le=4)
    brightness: float = Field(default=0.0, ge=0)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    colour: float = Field(default=0.0, ge=0, lt=1)
    hue: float = Field(default=0.0, ge=0, le=1)


class ValidationConfig(Frozen):
    """Every ``every`` steps over at most ``pictures`` whole pictures of the split ``val``, by sliding windows."""

    every: Count = 200
    pictures: Count | None = None
    overlap: int = Field(default=0, ge=0)


class TrainConfig(Frozen):
    """Everything that decides the weights. Two runs of one config on one machine write the same bytes.

    normalisation  None: constant, with mean and std of the training pictures
    sampling       crops are drawn by "picture" (each alike) or by "area"
    crop           side of the training crops, pixels; a multiple of ``divisor``
    window         side of the windows in use; default the crop
    resume         continue from the last checkpoint beside ``out``, if there is one
    """

    name: str = Field(min_length=1)
    out: str = Field(min_length=1)
    data: DataConfig
    channels: tuple[str, ...] = Field(min_length=1)
    classes: tuple[ClassSpec, ...] = Field(min_length=2)
    normalisation: Normalisation | None = None
    network: NetworkConfig = NetworkConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    augment: AugmentConfig = AugmentConfig()
    validation: ValidationConfig = ValidationConfig()
    crop: Count = 256
    window: Count | None = None
    divisor: Count = 32
    sampling: Literal["picture", "area"] = "picture"
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    threads: Count | None = None
    domain: Domain | None = None
    resolution: Resolution | None = None
    description: str = ""
    data_source: str = ""
    resume: bool = True

    @field_validator("classes", mode="before")
    @classmethod
    def _fill_classes(cls, classes: Any) -> Any:
        return [class_defaults(i, c) for i, c in enumerate(classes)] if isinstance(classes, list | tuple) else classes

    @model_validator(mode="after")
    def _sides_fit(self) -> Self:
        for field, side in (("crop", self.crop), ("window", self.window or self.crop)):
            if side % self.divisor:
                raise ValueError(f"{field} must be a multiple of the divisor {self.divisor}, got {side}")
        if 2 * self.validation.overlap > (self.window or self.crop):
            raise ValueError(f"validation.overlap must be at most half the window, got {self.validation.overlap}")
        if self.augment.hue and len(self.channels) != 3:
            raise ValueError(f"augment.hue needs three channels, there are {len(self.channels)}")
        weights = self.optimiser.class_weights
        if weights is not None and len(weights) != len(self.classes):
            raise ValueError(f"optimiser.class_weights has {len(weights)} numbers for {len(self.classes)} classes")
        return self


def read_config(path: str | Path, **changes: Any) -> TrainConfig:
    """From a ``.toml``, ``.yaml`` or ``.yml`` file; ``changes`` replace top-level fields. Raises UsageError.

    Relative paths of the data are meant from the file's folder; ``out`` from the working directory.
    """
    path = Path(path)
    try:
        data = _parse(path)
        config = TrainConfig.model_validate({**data, **changes})
    except ValidationError as e:
        raise UsageError(f"{path}: {explain(e)}") from None
    return config.model_copy(update={"data": _anchored(config.data, path.parent)})


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"cannot read the training config {path}: {unreadable(e)}") from e
    try:
        data = tomllib.loads(text) if path.suffix == ".toml" else _yaml(text)
    except ValueError as e:
        raise UsageError(f"{path}: {e}") from e
    if not isinstance(data, dict):
        raise UsageError(f"{path} must hold a table of settings, got {type(data).__name__}")
    return data


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ValueError(f"not valid YAML: {e}") from e


def _anchored(data: DataConfig, folder: Path) -> DataConfig:
    places = {f: getattr(data, f) for f in ("table", "images", "masks")}
    return data.model_copy(update={f: str(folder / p) for f, p in places.items() if p is not None})
