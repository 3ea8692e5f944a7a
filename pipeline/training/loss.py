"""Dice plus cross entropy, over the pixels that carry a label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.training.pictures import IGNORE


@dataclass(frozen=True, slots=True)
class Loss:
    """Weights of the two terms, and of the classes in the cross entropy."""

    dice: float
    cross_entropy: float
    class_weights: tuple[float, ...] | None = None

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """``(N, K, y, x)`` float32 and ``(N, y, x)`` int64 -> a scalar. 0 where no pixel carries a label."""
        total = logits.sum() * 0.0
        if self.cross_entropy:
            total = total + self.cross_entropy * self._cross_entropy(logits, target)
        if self.dice:
            total = total + self.dice * soft_dice_loss(logits, target)
        return total

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        each = functional.cross_entropy(logits, target, weight, ignore_index=IGNORE, reduction="none")
        return each.sum() / (target != IGNORE).sum().clamp(min=1)


def soft_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - mean over the classes present of 2|PT| / (|P| + |T|), P the softmax (Milletari et al. 2016, with sums).

    Counted over the whole batch, so that a class absent from one crop does not make that crop's term noise.
    """
    labelled = (target != IGNORE).unsqueeze(1)
    scores = torch.softmax(logits, 1) * labelled
    truth = functional.one_hot(target.where(target != IGNORE, 0), logits.shape[1]).movedim(-1, 1) * labelled
    axes = (0, *range(2, logits.ndim))
    overlap, size, present = (scores * truth).sum(axes), (scores + truth).sum(axes), truth.sum(axes) > 0
    dice = 2 * overlap / size.clamp(min=1e-6)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)
