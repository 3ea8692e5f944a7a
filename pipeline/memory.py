"""Memory: what a worker will need, from the plan alone, and what a process has used."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from math import prod

import numpy as np

from pipeline.manifest import Manifest
from tiling import Grid, Index, pieces


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of one worker above its loaded, warmed-up model, at the worst block, by stage."""

    ingest: int
    infer: int
    stitch: int
    pyramid: int

    @property
    def peak(self) -> int:
        return max(self.ingest, self.infer, self.stitch, self.pyramid)


def plan_memory(manifest: Manifest) -> MemoryPlan:
    """Sum what each stage holds at once, over the fullest block."""
    grid, source = manifest.grid, manifest.question.source
    j = fullest_block(grid)
    item = np.dtype(source.dtype).itemsize
    label = np.dtype(manifest.label_dtype).itemsize
    channels, k, ndim = len(source.channels), manifest.spec.n_scores, grid.ndim
    block = grid.write(j).size
    ingest = block * (2 * channels * item + 2)
    infer = _infer(manifest, grid, j, channels, item, label)
    per_pixel = label + 2 + (2 * k if manifest.question.save_scores else 0)
    coming = sum(piece_bytes(k) * b.size for b in pieces(grid, j).forward.values())
    low = sum(piece_bytes(k) * b.size for b in pieces(grid, j).low)
    stitch = block * (2 * per_pixel + 2 + 8) + 2 * (coming + low)
    rows = prod(min(2 * s, e) for s, e in zip((manifest.layout.chunk[0], *grid.block[1:]), grid.extent, strict=True))
    pyramid = block * (channels * item + label) + rows * (channels * (item + 1) + label + 20 // 2**ndim + 8)
    return MemoryPlan(ingest, infer, stitch, pyramid)


def piece_bytes(n_scores: int) -> int:
    """Bytes of a pixel whose sums are filed: int32 sums, the vote, whether votes disagree."""
    return 4 * n_scores + 2 + 1


def seam_bytes(manifest: Manifest) -> int:
    """Bytes of all partials of the run, if they lay there at once; an upper bound of what does."""
    grid, k = manifest.grid, manifest.spec.n_scores
    total = 0
    for j in grid.blocks():
        parts = pieces(grid, j)
        total += piece_bytes(k) * sum(b.size for b in (*parts.low, *parts.forward.values()))
        total += parts.settled.size * (3 + (2 * k if manifest.question.save_scores else 0))
    return total


def fullest_block(grid: Grid) -> Index:
    """A block with neighbours on both sides where there is one: no block holds more."""
    return tuple(min(1, n - 1) if n > 2 else 0 for n in grid.n_blocks)


def peak_bytes() -> int:
    """Largest resident set of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _infer(manifest: Manifest, grid: Grid, j: Index, channels: int, item: int, label: int) -> int:
    k, window = manifest.spec.n_scores, prod(grid.window)
    read = grid.read(j).size * (channels * item + 2)
    slab = grid.window[0] * prod(grid.reach(j).shape[1:]) * (4 * k + 5)
    parts = pieces(grid, j)
    kept = 2 * k if manifest.question.save_scores else 0
    settled = parts.settled.size * (label + 2 + kept)
    filed = piece_bytes(k) * sum(b.size for b in (*parts.low, *parts.forward.values()))
    one_window = window * (channels * 4 + 1) * manifest.numerics.batch + window * (3 * 4 * k + 16)
    largest = max([settled + filed // 3, *(piece_bytes(k) * b.size for b in parts.forward.values())])
    deciding = slab  # the head of the slab is decided while the slab is held
    return read + slab + deciding + settled + filed + one_window + 2 * largest
