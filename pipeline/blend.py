"""Blending and deciding, on whatever device the scores are.

A window's contribution is quantised once, ``q = rint(score * weight * 2**24)``, and all sums are int32 sums,
so order, block size and retries cannot change a bit. Scores are spatial tensors with K in front; votes are each
window's own decision, kept to tell where overlapping windows disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.manifest import SCORE_ONE
from tiling import Box, Grid, Index, RampName
from tiling.ramp import axis_weight

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.spec import ModelSpec

Parts = dict[str, NDArray[Any]]
"""Arrays by name, as they are filed in partials."""

NO_VOTE = 65535
"""Vote of a pixel that no window has covered yet."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Blended sums over some box: ``total`` int32 (K, *box), ``vote`` int32 (*box), ``disagree`` bool (*box)."""

    total: Tensor
    vote: Tensor
    disagree: Tensor

    def __getitem__(self, where: tuple[slice, ...]) -> Sums:
        return Sums(self.total[(slice(None), *where)], self.vote[where], self.disagree[where])

    def add_(self, other: Sums) -> None:
        """Add other windows' sums of the same box, in place."""
        self.total.add_(other.total)
        self.disagree.logical_or_(other.disagree | _differ(self.vote, other.vote))
        torch.minimum(self.vote, other.vote, out=self.vote)

    def to_numpy(self) -> dict[str, NDArray[np.generic]]:
        return {
            "total": self.total.cpu().numpy(),
            "vote": self.vote.cpu().numpy().astype(np.uint16),
            "disagree": self.disagree.cpu().numpy(),
        }

    @classmethod
    def from_numpy(cls, parts: dict[str, NDArray[np.generic]]) -> Sums:
        return cls(
            torch.from_numpy(parts["total"]),
            torch.from_numpy(parts["vote"].astype(np.int32)),
            torch.from_numpy(parts["disagree"]),
        )

    @classmethod
    def zeros(cls, n_scores: int, shape: Sequence[int], device: str = "cpu") -> Sums:
        return cls(
            torch.zeros((n_scores, *shape), dtype=torch.int32, device=device),
            torch.full(tuple(shape), NO_VOTE, dtype=torch.int32, device=device),
            torch.zeros(tuple(shape), dtype=torch.bool, device=device),
        )


def _differ(a: Tensor, b: Tensor) -> Tensor:
    return (a != b) & (a != NO_VOTE) & (b != NO_VOTE)


class Slab:
    """Sums of a block's windows, one row of windows at a time along the first axis.

    Windows must be added in scan order. Rows that no later window of the block can reach are handed out by
    ``add`` and ``finish``, so only ``window + overlap`` rows are ever held.
    """

    def __init__(self, grid: Grid, j: Index, n_scores: int, blend: RampName, device: str = "cpu") -> None:
        self.grid, self.reach, self.device = grid, grid.reach(j), device
        self.ramps = grid.ramps(blend)
        self.row = self.reach.start[0]
        self.sums = Sums.zeros(n_scores, (grid.window[0], *self.reach.shape[1:]), device)
        # scratch for one window: allocated anew each time, it would fragment the heap
        self._scaled = torch.empty((n_scores, *grid.window), dtype=torch.float32, device=device)
        self._quantised = torch.empty((n_scores, *grid.window), dtype=torch.int32, device=device)
        # of a function, not of a method: a slab that held a cache that holds the slab would outlive its block
        self._weight = lru_cache(maxsize=4)(partial(window_weight, grid, self.ramps, device))

    def add(self, k: Index, scores: Tensor, vote: Tensor) -> Iterator[tuple[Box, Sums]]:
        """Add window ``k``: float32 scores (K, *window) in [0, 1], and its own labels int32 (*window).

        Yields what is thereby finished: boxes in scene coordinates with their sums, views valid until the next call.
        """
        box = self.grid.window_box(k)
        yield from self._hand_out(box.start[0])
        inside = box.intersect(self.reach)
        here, there = inside.slices(box.start), inside.slices((self.row, *self.reach.start[1:]))
        weight = self._weight(tuple((i > 0, i < a.n_windows - 1) for i, a in zip(k, self.grid.axes, strict=True)))
        cropped = (slice(None), *here)
        torch.mul(scores[cropped], weight[here], out=self._scaled[cropped]).mul_(SCORE_ONE).round_()
        self._quantised[cropped].copy_(self._scaled[cropped])
        self.sums[there].add_(Sums(self._quantised[cropped], vote[here], _NONE))

    def finish(self) -> Iterator[tuple[Box, Sums]]:
        """The rows that are left once every window has been added."""
        yield from self._hand_out(self.reach.stop[0] - self.grid.window[0])
        yield self._head(self.reach.stop[0])

    def _hand_out(self, until: int) -> Iterator[tuple[Box, Sums]]:
        # one stride at a time: rows whose windows were all skipped still have to be handed out
        while self.row < until:
            yield self._head(self.row + self.grid.stride[0])
            self._advance(self.grid.stride[0])

    def _head(self, stop: int) -> tuple[Box, Sums]:
        box = Box((self.row, *self.reach.start[1:]), (min(stop, self.reach.stop[0]), *self.reach.stop[1:]))
        return box, self.sums[(slice(0, box.shape[0]),)]

    def _advance(self, step: int) -> None:
        held = self.grid.window[0]
        kept = held - step
        sums = self.sums
        for tensor, rows, empty in (
            (sums.total, 1, 0),
            (sums.vote, 0, NO_VOTE),
            (sums.disagree, 0, False),
        ):
            if kept:
                tensor.narrow(rows, 0, kept).copy_(tensor.narrow(rows, step, kept).clone())
            tensor.narrow(rows, kept, held - kept).fill_(empty)
        self.row += step


def window_weight(
    grid: Grid, ramps: Sequence[NDArray[np.float64]], device: str, sides: tuple[tuple[bool, bool], ...]
) -> Tensor:
    """float32 (*window): the blend weight of a window that has a neighbour on these (low, high) sides of each axis."""
    weight = np.ones(())
    for axis, rising, (low, high) in zip(grid.axes, ramps, sides, strict=True):
        weight = np.multiply.outer(weight, axis_weight(rising, axis.window, low=low, high=high))
    return torch.from_numpy(weight.astype(np.float32)).to(device)


_NONE = torch.zeros((), dtype=torch.bool)


@dataclass(frozen=True)
class Decision:
    """Sums (or one window's scores) -> class index and the probability of that class.

    ``thresholds`` is None for argmax, ties to the lowest index. Else the classes are background + the channels:
    without ``order`` the channel with the largest score/threshold, if that is >= 1; with ``order`` (nested
    classes) the last channel of it that reaches its threshold; background where none does.
    """

    thresholds: tuple[float, ...] | None = None
    order: tuple[int, ...] | None = None

    @classmethod
    def of(cls, spec: ModelSpec) -> Decision:
        rule = spec.decision
        if rule.kind == "argmax":
            return cls()
        return cls(rule.thresholds, spec.paint_order)

    def __call__(self, values: Tensor, one: int) -> tuple[Tensor, Tensor]:
        """``values`` (K, *shape) in [0, one], int32 or float32 -> labels int32, winning values (both *shape)."""
        if self.thresholds is None:
            return _argmax(values)
        return self._ordered(values, one) if self.order else self._largest_ratio(values, one)

    def _largest_ratio(self, values: Tensor, one: int) -> tuple[Tensor, Tensor]:
        ratios = torch.stack([v.double() / (t * one) for v, t in zip(values, self.thresholds or (), strict=True)])
        channel, ratio = _argmax(ratios)
        label = torch.where(ratio >= 1, channel + 1, torch.zeros_like(channel))
        return label, self._winning(values, label, one)

    def _ordered(self, values: Tensor, one: int) -> tuple[Tensor, Tensor]:
        thresholds = self.thresholds or ()
        label = torch.zeros(values.shape[1:], dtype=torch.int32, device=values.device)
        for channel in self.order or ():
            label[values[channel].double() >= thresholds[channel] * one] = channel + 1
        return label, self._winning(values, label, one)

    @staticmethod
    def _winning(values: Tensor, label: Tensor, one: int) -> Tensor:
        background = one - values.amax(dim=0)
        chosen = values.gather(0, (label.long() - 1).clamp_(min=0)[None])[0]
        return torch.where(label > 0, chosen, background)


def _argmax(values: Tensor) -> tuple[Tensor, Tensor]:
    """Index and value of the largest along the first axis, ties to the lowest index.

    Compare-and-select: torch.argmax over a leading axis is several times slower and promises nothing on ties.
    """
    best = values[0].clone()
    label = torch.zeros(best.shape, dtype=torch.int32, device=values.device)
    for k in range(1, len(values)):
        label.masked_fill_(values[k] > best, k)
        torch.maximum(best, values[k], out=best)
    return label, best


def to_confidence(value: Tensor) -> Tensor:
    """round(254 p) as uint8 from summed scores of one label, int32."""
    return (value.double() * (254 / SCORE_ONE)).round_().clamp_(0, 254).to(torch.uint8)


def settle(sums: Sums, decision: Decision, *, keep_scores: bool) -> Parts:
    """Decide pixels whose windows are all in: labels (int32), confidence, disagree, and scores as uint16 if kept."""
    label, value = decision(sums.total, SCORE_ONE)
    decided: Parts = {
        "labels": label.cpu().numpy(),
        "confidence": to_confidence(value).cpu().numpy(),
        "disagree": sums.disagree.cpu().numpy(),
    }
    if keep_scores:
        scaled = (sums.total.double() * (65535 / SCORE_ONE)).round_().clamp_(0, 65535)
        decided["scores"] = scaled.cpu().numpy().astype(np.uint16)
    return decided
