"""The adapter around a network: normalise with the scene's constants, autocast, run, activate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.determinism import Precision
from pipeline.models.normalise import Constants, normalise
from pipeline.models.spec import ModelSpec

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, eq=False)
class NetworkModel:
    """A Model: one network (or exported program) on one device. Thread-compatible, not picklable: load per worker."""

    spec: ModelSpec
    network: nn.Module | Callable[[Tensor], Tensor]
    constants: Constants
    device: torch.device
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        given, wanted = len(self.constants.shift), len(self.spec.channels)
        if given not in {1, wanted}:
            raise ModelError(f"{self.spec.name} reads {wanted} channels, but there are constants for {given}")

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        """``(N, C, *window)`` as stored and ``(N, *window)`` bool -> ``(N, K, *window)`` float32 in [0, 1]."""
        return self.run(self.normalised(pixels, valid))

    def normalised(self, pixels: Tensor, valid: Tensor) -> Tensor:
        """``(N, C, *window)`` float32, 0 where not valid."""
        return normalise(pixels, valid, self.constants)

    @torch.inference_mode()
    def run(self, x: Tensor) -> Tensor:
        """``(N, C, *window)`` normalised -> ``(N, K, *window)`` float32 in [0, 1]."""
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        kind = _AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, kind, enabled=kind is not None):
            out = self.network(x)
        logits: Tensor = out[0] if isinstance(out, tuple) else out  # smp adds a class label where aux_params is set
        return self._activated(self._checked(logits, x).float() / self.spec.temperature).contiguous()

    def _activated(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, 1) if self.spec.activation == "softmax" else torch.sigmoid(logits)

    def _checked(self, logits: Tensor, x: Tensor) -> Tensor:
        wanted = (x.shape[0], self.spec.n_scores, *x.shape[2:])
        if logits.shape != wanted:
            raise ModelError(
                f"{self.spec.name} returned scores of shape {tuple(logits.shape)} for an input of {tuple(x.shape)}, "
                f"not {wanted}: its seamline.json does not describe it"
            )
        return logits
