"""What a model is to the pipeline: scores for a batch of equal windows. Nothing else knows networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.spec import ModelSpec


class Model(Protocol):
    """Normalises with scene-wide constants, autocasts, runs, activates. Never pads, tiles, blends or decides."""

    @property
    def spec(self) -> ModelSpec: ...

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        """``(N, C, *window)`` pixels as stored and ``(N, *window)`` bool validity, on the model's device.

        Returns ``(N, K, *window)`` float32 in [0, 1] on the same device: one score per class for softmax, one
        per channel of the net for sigmoid. Invalid pixels are 0 after normalisation, so that the net sees the
        channel mean there and one NaN cannot spoil a window.
        """
        ...
