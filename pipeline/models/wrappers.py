"""Variations of a model as models: slice by slice, averaged over symmetries or scales, several bundles together.

Sums run in a fixed order, so a wrapper is as deterministic as what it wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

from torch import Tensor
from torch.nn import functional

from pipeline.errors import ModelError
from pipeline.models.adapter import NetworkModel
from pipeline.models.agreement import check_agreement
from pipeline.models.base import Model
from pipeline.models.spec import ModelSpec

Symmetry = Literal["flips", "d4"]
Turn = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""A symmetry and its inverse, on trailing spatial axes."""


@dataclass(frozen=True, slots=True, eq=False)
class SliceWise:
    """A 2-D model over 3-D windows ``(z, y, x)``: every slice is a picture of the batch."""

    inner: Model

    @property
    def spec(self) -> ModelSpec:
        return self.inner.spec

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        n, _, z = pixels.shape[:3]
        flat = self.inner.scores(pixels.transpose(1, 2).flatten(0, 1), valid.flatten(0, 1))
        return flat.reshape(n, z, *flat.shape[1:]).transpose(1, 2).contiguous()


@dataclass(frozen=True, slots=True, eq=False)
class Symmetric:
    """The mean over mirrored copies (``flips``), or over the eight symmetries of the square too (``d4``)."""

    inner: Model
    kind: Symmetry

    @property
    def spec(self) -> ModelSpec:
        return self.inner.spec

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        turns = symmetries(self.kind, pixels.ndim - 2)
        return _mean(back(self.inner.scores(turn(pixels), turn(valid))) for turn, back in turns)


@dataclass(frozen=True, slots=True, eq=False)
class MultiScale:
    """The mean over rescaled copies; each scaled side is rounded to the model's divisor.

    Rescales after normalisation, where an invalid pixel is 0 and cannot spoil its neighbours.
    """

    inner: NetworkModel
    scales: tuple[float, ...]

    @property
    def spec(self) -> ModelSpec:
        return self.inner.spec

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        x = self.inner.normalised(pixels, valid)
        return _mean(self._at(scale, x) for scale in self.scales)

    def _at(self, scale: float, x: Tensor) -> Tensor:
        d, sides = self.spec.divisor, tuple(x.shape[2:])
        scaled = tuple(max(1, round(side * scale / d)) * d for side in sides)
        if scale == 1:
            return self.inner.run(x)
        return _resize(self.inner.run(_resize(x, scaled)), sides).clamp(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """The mean over several models of the same classes, channels and activation."""

    members: tuple[Model, ...]

    def __post_init__(self) -> None:
        check_agreement([m.spec for m in self.members])

    @property
    def spec(self) -> ModelSpec:
        """Of the first member, with a divisor that suits all."""
        divisor = max(m.spec.divisor for m in self.members)
        return self.members[0].spec.model_copy(update={"divisor": divisor})

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        return _mean(m.scores(pixels, valid) for m in self.members)


def symmetries(kind: Symmetry, ndim: int) -> list[Turn]:
    """``flips``: all mirrorings of the ndim axes. ``d4``: in (y, x) the eight of the square; z is mirrored too."""
    axes = tuple(range(-ndim, 0))
    flips = [[a for a, on in zip(axes, which, strict=True) if on] for which in product((False, True), repeat=ndim)]
    transposed = (False, True) if kind == "d4" else (False,)
    return [(partial(_turn, flip, swap), partial(_turn_back, flip, swap)) for swap in transposed for flip in flips]


def _turn(flip: list[int], swap: bool, x: Tensor) -> Tensor:
    x = x.flip(flip)
    return x.transpose(-1, -2) if swap else x


def _turn_back(flip: list[int], swap: bool, x: Tensor) -> Tensor:
    return (x.transpose(-1, -2) if swap else x).flip(flip)


def _mean(each: Iterable[Tensor]) -> Tensor:
    total, n = None, 0
    for scores in each:
        total, n = scores if total is None else total + scores, n + 1
    assert total is not None  # every caller has at least one
    return (total / n).contiguous()


def _resize(x: Tensor, sides: Sequence[int]) -> Tensor:
    smaller = any(new < old for new, old in zip(sides, x.shape[2:], strict=True))
    if x.ndim == 5:
        return functional.interpolate(x, tuple(sides), mode="trilinear", align_corners=False)
    return functional.interpolate(x, tuple(sides), mode="bilinear", align_corners=False, antialias=smaller)


def wrap(model: NetworkModel, *, tta: Symmetry | None, scales: Sequence[float], ndim: int) -> Model:
    """Around one network what was asked for, and slice-wise where a 2-D net meets a volume. Raises ModelError."""
    if model.spec.ndim > ndim:
        raise ModelError(f"{model.spec.name} is a {model.spec.ndim}-D model and the scene has {ndim} axes")
    if not scales or min(scales) <= 0:
        raise ModelError(f"scales must be positive numbers, got {list(scales)}")
    wrapped: Model = model if tuple(scales) == (1.0,) else MultiScale(model, tuple(scales))
    if tta is not None:
        wrapped = Symmetric(wrapped, tta)
    return SliceWise(wrapped) if model.spec.ndim == 2 and ndim == 3 else wrapped


def ensemble(members: Sequence[Model]) -> Model:
    return members[0] if len(members) == 1 else Ensemble(tuple(members))
