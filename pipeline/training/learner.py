"""The state of a training run: network, running mean of its weights, optimiser, step. Saved whole, loaded safely."""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UsageError
from pipeline.training.config import OptimiserConfig
from pipeline.training.loss import Loss


@dataclass(slots=True, eq=False)
class Learner:
    """``averaged`` is what is validated and kept; ``best`` its state at the best validation so far."""

    network: nn.Module
    options: OptimiserConfig
    device: torch.device
    step: int = 0
    best_score: float = -1.0
    best_step: int = -1
    best: dict[str, Tensor] = field(default_factory=dict)
    averaged: nn.Module = field(init=False)
    optimiser: torch.optim.AdamW = field(init=False)
    loss: Loss = field(init=False)

    def __post_init__(self) -> None:
        o = self.options
        self.network = self.network.to(self.device).to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.network).eval()
        self.optimiser = torch.optim.AdamW(self.network.parameters(), o.lr, weight_decay=o.weight_decay)
        self.loss = Loss(o.dice, o.cross_entropy, o.class_weights)

    def learn(self, x: Tensor, target: Tensor) -> float:
        """One step on ``(N, C, y, x)`` and ``(N, y, x)``; returns the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.options, self.step)
        self.network.train()
        x, target = x.to(self.device, memory_format=torch.channels_last), target.to(self.device)
        loss = self.loss(self._logits(self.network, x).float(), target)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self._average()
        self.step += 1
        return float(loss.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the averaged network, ``(N, K, y, x)``, softmax taken."""
        with torch.inference_mode():
            x = x.to(self.device, memory_format=torch.channels_last)
            return torch.softmax(self._logits(self.averaged, x).float(), 1)

    def keep_if_best(self, score: float) -> bool:
        """Remember the averaged weights if ``score`` beats all before it."""
        if score <= self.best_score:
            return False
        self.best_score, self.best_step = score, self.step
        self.best = {k: v.detach().cpu().clone() for k, v in self.averaged.state_dict().items()}
        return True

    def save(self, path: Path, question: str) -> None:
        """Whole or not at all; ``question`` says what the run was asked, and is checked when it is resumed."""
        state = {
            "question": question,
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "best_score": self.best_score,
            "best_step": self.best_step,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)  # noqa: PTH105

    def restore(self, path: Path, question: str) -> None:
        """Raises UsageError if the checkpoint is of a run with another config."""
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["question"] != question:
            raise UsageError(
                f"{path} is the checkpoint of a run with other settings; set resume = false to start afresh, "
                "or name another out"
            )
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.best = state["step"], state["best"]
        self.best_score, self.best_step = state["best_score"], state["best_step"]

    def _logits(self, network: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
            logits: Tensor = network(x)
        return logits

    @torch.no_grad()
    def _average(self) -> None:
        # a young mean must not remember the random start: the decay grows with the number of steps seen
        decay = min(self.options.average, (1 + self.step) / (10 + self.step)) if self.options.average else 0.0
        for mean, new in zip(self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(new, 1 - decay)
            else:
                mean.copy_(new)


def learning_rate(options: OptimiserConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to 0 at the last step."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    done = (step - options.warmup) / max(options.steps - options.warmup, 1)
    return options.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
