"""From a normalisation rule and a scene's histograms to constants: one affine map per channel for the whole scene."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ModelError
from pipeline.histogram import Histogram
from pipeline.models.spec import Constant, Normalisation, Percentile, Scale

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Constants:
    """``x -> (clip(x) - shift) / scale``, one number per channel; or one for all channels. In stored units."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.shift or len(self.shift) != len(self.scale):
            raise ValueError(f"one shift and one scale per channel, got {len(self.shift)} and {len(self.scale)}")
        if not np.isfinite([*self.shift, *self.scale, *(self.clip or ())]).all() or 0.0 in self.scale:
            raise ValueError(f"constants must be finite and scale not 0, got {self}")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Constants:
        data = json.loads(text)
        clip = data["clip"]
        return cls(tuple(data["shift"]), tuple(data["scale"]), None if clip is None else (clip[0], clip[1]))


def needs_histogram(normalisation: Normalisation) -> bool:
    """Whether the constants are the scene's: then inference waits for the whole of ingest."""
    return normalisation.kind in ("percentile", "zscore")


def resolve(normalisation: Normalisation, histograms: Sequence[Histogram] | None, dtype: Any) -> Constants:
    """The constants of a scene, from one histogram per channel (None where none is needed).

    A channel without a pixel, or without spread, gets scale 1: it becomes 0, never NaN. ``dtype`` is that of
    the stored pixels. Raises ModelError if the rule needs histograms and there are none, or of another dtype.
    """
    if isinstance(normalisation, Constant):
        return Constants(normalisation.mean, normalisation.std, normalisation.clip)
    if isinstance(normalisation, Scale):
        return _of_scale(normalisation)
    if not histograms:
        raise ModelError(
            f"normalisation {normalisation.kind} takes the scene's statistics, and there is no histogram: "
            "ingest the scene first, or use a model with constant or scale"
        )
    wrong = {h.dtype for h in histograms} - {np.dtype(dtype).name}
    if wrong:
        raise ModelError(f"histograms of {', '.join(sorted(wrong))} for pixels of {np.dtype(dtype).name}")
    pairs = [_of_channel(normalisation, h) for h in histograms]
    return Constants(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), normalisation.clip)


def _of_scale(rule: Scale) -> Constants:
    if rule.factor is not None:
        return Constants((-rule.offset / rule.factor,), (1 / rule.factor,), rule.clip)
    assert rule.lo is not None  # the validator of Scale holds this
    assert rule.hi is not None
    return Constants((rule.lo,), (rule.hi - rule.lo,), rule.clip)


def _of_channel(rule: Normalisation, histogram: Histogram) -> tuple[float, float]:
    counted = histogram.without_zero() if rule.within == "nonzero" else histogram
    if not counted.count:
        return 0.0, 1.0
    if isinstance(rule, Percentile):
        low, high = (counted.quantile(q / 100) for q in (rule.low, rule.high))
        if rule.clip is not None:  # clipping is monotone: the quantile of the clipped is the clipped quantile
            low, high = (float(np.clip(v, *rule.clip)) for v in (low, high))
        return low, (high - low) or 1.0
    mean, std = counted.mean_std(rule.clip)
    return mean, std or 1.0


def normalise(pixels: Tensor, valid: Tensor, constants: Constants) -> Tensor:
    """``(N, C, *window)`` pixels as stored and ``(N, *window)`` bool validity -> float32 of the pixels' shape.

    Invalid pixels and non-finite ones become 0, which is the channel mean (or the low end of its range).
    """
    import torch

    def per_channel(numbers: tuple[float, ...]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32, device=pixels.device).view(1, -1, *(1,) * (pixels.ndim - 2))

    x = pixels.to(torch.float32)
    usable = valid.unsqueeze(1) & torch.isfinite(x)
    if constants.clip is not None:
        x = x.clamp(*constants.clip)
    x = (x - per_channel(constants.shift)) / per_channel(constants.scale)
    return torch.where(usable, x, torch.zeros((), device=x.device))
