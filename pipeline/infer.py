"""Inference over one block: its windows through the model, blended into what the block settles and what it hands on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.blend import Decision, Parts, Slab, Sums, settle
from pipeline.errors import BlockError
from pipeline.pixels import read_image, read_valid
from pipeline.receipts import Output
from pipeline.run import Run
from tiling import Box, Grid, Index, RampName, pieces

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.base import Model


@dataclass(frozen=True, slots=True)
class BlockPixels:
    """What a block's windows read: pixels (C, *box.shape) as stored, valid (*box.shape) bool."""

    box: Box
    pixels: NDArray[Any]
    valid: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BlockScores:
    """A block's results: ``own`` for itself, ``forward`` for each downstream block, as named arrays.

    own      labels, confidence, disagree over the settled box (scores if kept), and per low-seam box n
             ``low<n>.total`` int32 (K, *box), ``low<n>.vote`` uint16, ``low<n>.disagree`` bool
    forward  total, vote, disagree over the piece
    """

    own: Parts
    forward: dict[Index, Parts]
    windows_run: int
    windows_skipped: int


def read(run: Run, j: Index) -> BlockPixels:
    """The hull of block ``j``'s windows."""
    box = run.grid.read(j)
    if box.is_empty:
        channels = len(run.manifest.question.source.channels)
        return BlockPixels(
            box, np.empty((channels, *box.shape), run.manifest.question.source.dtype), np.empty(box.shape, bool)
        )
    return BlockPixels(box, read_image(run, box), read_valid(run, box))


def compute(
    grid: Grid,
    j: Index,
    block: BlockPixels,
    model: Model,
    decision: Decision,
    *,
    n_scores: int,
    blend: RampName,
    batch: int,
    device: str = "cpu",
    keep_scores: bool = False,
    label_dtype: str = "uint8",
) -> BlockScores:
    """Run each of the block's windows once, blend, decide what is settled. Pure but for the model."""
    import torch

    collect = _Collector(grid, j, decision, n_scores, label_dtype, keep_scores)
    slab = Slab(grid, j, n_scores, blend, device)
    counts = [0, 0]
    with torch.inference_mode():
        for windows, pixels, valid in _batches(grid, j, block, batch, counts):
            scores = model.scores(torch.from_numpy(pixels).to(device), torch.from_numpy(valid).to(device))
            _check(scores, windows, grid)
            for n, k in enumerate(windows):
                vote, _ = decision(scores[n], 1)
                for box, sums in slab.add(k, scores[n], vote):
                    collect(box, sums)
        for box, sums in slab.finish():
            collect(box, sums)
    return BlockScores(collect.own(), collect.forward, counts[0], counts[1])


def write(run: Run, j: Index, result: BlockScores) -> dict[str, Output]:
    """File the block's own sums and the pieces for its neighbours, each whole."""
    outputs = run.write_partial(j, j, result.own)
    for d, parts in result.forward.items():
        outputs |= run.write_partial(d, j, parts)
    return outputs


def _batches(
    grid: Grid, j: Index, block: BlockPixels, batch: int, counts: list[int]
) -> Iterator[tuple[list[Index], NDArray[Any], NDArray[np.bool_]]]:
    """Windows in scan order, with (batch, C, *window) pixels and (batch, *window) validity.

    Windows without a valid pixel are left out and counted. The last batch is filled up with windows without one,
    so that the network sees one static shape; ``counts`` is [run, skipped].
    """
    dtype = block.pixels.dtype if block.pixels.dtype == np.uint8 else np.dtype(np.float32)
    pixels = np.zeros((batch, len(block.pixels), *grid.window), dtype)
    valid = np.zeros((batch, *grid.window), bool)
    windows: list[Index] = []
    for k in grid.owned(j):
        seen, seen_pixels = _window(grid, k, block)
        if not seen.any():
            counts[1] += 1
            continue
        with np.errstate(over="ignore"):  # float64 beyond float32 is not valid, and masked by the model
            pixels[len(windows)], valid[len(windows)] = seen_pixels, seen
        windows.append(k)
        if len(windows) == batch:
            counts[0] += batch
            yield windows, pixels, valid
            windows = []
    if windows:
        counts[0] += len(windows)
        valid[len(windows) :] = False
        yield windows, pixels, valid


def _window(grid: Grid, k: Index, block: BlockPixels) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Validity (*window) and pixels (C, *window) of one window; views, where nothing is reflected."""
    box, start = grid.window_box(k), block.box.start
    if block.box.contains(box):
        where = box.slices(start)
        return block.valid[where], block.pixels[(slice(None), *where)]
    index: tuple[Any, ...] = np.ix_(*(i - s for i, s in zip(grid.window_indices(k), start, strict=True)))
    return block.valid[index], block.pixels[(slice(None), *index)]


def _check(scores: Tensor, windows: list[Index], grid: Grid) -> None:
    """Non-finite scores would become class 0 in silence. One sum a window tells: it is finite iff they all are."""
    finite = scores[: len(windows)].flatten(1).sum(1).isfinite().tolist()
    if not all(finite):
        where = grid.window_box(windows[finite.index(False)])
        raise BlockError(
            f"the model gave scores that are not finite in the window at {where}; "
            "check its weights and normalisation, or use --precision fp32"
        )


@dataclass
class _Collector:
    """Files finished rows under the piece of the block's reach that they belong to."""

    grid: Grid
    j: Index
    decision: Decision
    n_scores: int
    label_dtype: str
    keep_scores: bool
    forward: dict[Index, Parts] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = pieces(self.grid, self.j)
        shape = self.parts.settled.shape
        self.settled: Parts = {
            "labels": np.zeros(shape, self.label_dtype),
            "confidence": np.zeros(shape, np.uint8),
            "disagree": np.zeros(shape, bool),
        }
        if self.keep_scores:
            self.settled["scores"] = np.zeros((self.n_scores, *shape), np.uint16)
        self.low = [self._empty(box) for box in self.parts.low]
        self.forward = {d: self._empty(box) for d, box in self.parts.forward.items()}

    def __call__(self, box: Box, sums: Sums) -> None:
        self._settle(box, sums)
        for target, parts in zip(self.parts.low, self.low, strict=True):
            self._file(box, sums, target, parts)
        for d, target in self.parts.forward.items():
            self._file(box, sums, target, self.forward[d])

    def own(self) -> Parts:
        return self.settled | {f"low{n}.{name}": a for n, part in enumerate(self.low) for name, a in part.items()}

    def _settle(self, box: Box, sums: Sums) -> None:
        common = box.intersect(self.parts.settled)
        if common.is_empty:
            return
        decided = settle(sums[common.slices(box.start)], self.decision, keep_scores=self.keep_scores)
        there = common.slices(self.parts.settled.start)
        for name, value in decided.items():
            self.settled[name][(slice(None), *there) if name == "scores" else there] = value

    def _empty(self, box: Box) -> Parts:
        return {
            "total": np.zeros((self.n_scores, *box.shape), np.int32),
            "vote": np.zeros(box.shape, np.uint16),
            "disagree": np.zeros(box.shape, bool),
        }

    @staticmethod
    def _file(box: Box, sums: Sums, target: Box, parts: Parts) -> None:
        common = box.intersect(target)
        if common.is_empty:
            return
        there = common.slices(target.start)
        for name, value in sums[common.slices(box.start)].to_numpy().items():
            parts[name][(slice(None), *there) if name == "total" else there] = value
