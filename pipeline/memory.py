"""Memory: what a worker will need, from the plan alone, and what a process has used."""

from __future__ import annotations

import ctypes
import resource
import sys
from dataclasses import dataclass
from math import prod

import numpy as np

from pipeline.manifest import Manifest
from pipeline.sources.base import GDAL_CACHE_BYTES
from tiling import Grid, Index, pieces, seam_pixels

HEAP_SHARE = 1.25
"""Of what the heap takes for what it is asked: holes between arrays of a stage. Measured by tests/scale."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of one worker above its loaded, warmed-up model, at the worst block: what stays, and arrays by stage."""

    cache: int
    ingest: int
    infer: int
    stitch: int
    pyramid: int

    @property
    def peak(self) -> int:
        return self.cache + int(HEAP_SHARE * max(self.ingest, self.infer, self.stitch, self.pyramid))


def plan_memory(manifest: Manifest) -> MemoryPlan:
    """Sum what each stage holds at once, over the fullest block. Held to measurements by ``tests/scale``."""
    grid, source = manifest.grid, manifest.question.source
    j = fullest_block(grid)
    pixel = len(source.channels) * np.dtype(source.dtype).itemsize
    block = grid.write(j).size
    rows = min(manifest.layout.chunk[0], grid.extent[0]) * prod(
        min(2 * b, e) for b, e in zip(grid.block[1:], grid.extent[1:], strict=True)
    )
    halving = rows * (2 * pixel + 2) + rows // 2**grid.ndim * 32  # what is read, and sums in double precision
    return MemoryPlan(
        cache=0 if source.format in _WITHOUT_GDAL else GDAL_CACHE_BYTES,
        ingest=block * (2 * pixel + 3),
        infer=_infer(manifest, grid, j, pixel),
        stitch=_stitch(manifest, grid, j),
        pyramid=block * (pixel + 2) + halving,
    )


_WITHOUT_GDAL = ("nifti", "zarr", "tiff-stack", "sample", "array")


def piece_bytes(n_scores: int) -> int:
    """Bytes of a pixel whose sums are filed: int32 sums, the vote, whether votes disagree."""
    return 4 * n_scores + 2 + 1


def seam_bytes(manifest: Manifest) -> int:
    """Bytes of all partials of the run, if they lay there at once; an upper bound of what does."""
    grid = manifest.grid
    total = 0
    for j in grid.blocks():
        total += _filed(manifest, grid, j) + _settled(manifest, grid, j)
    return total


def fullest_block(grid: Grid) -> Index:
    """A block with neighbours on both sides where there is one: no block holds more."""
    return tuple(min(1, n - 1) if n > 2 else 0 for n in grid.n_blocks)


def peak_bytes() -> int:
    """Largest resident set of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


_M_ARENA_MAX = -8
"""glibc's number for the option, from its malloc.h."""


def one_arena() -> None:
    """Let all threads allocate from one heap, where the C library can (glibc). Before threads start.

    Each thread of a codec or store would else get a heap of its own, whose top is never given back: that grew to
    80 MB over the first sixty blocks of 4096 squared.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_M_ARENA_MAX, 1)


def trim() -> None:
    """Give freed memory back to the system, where the C library can (glibc): freed blocks would count as used."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)


def _infer(manifest: Manifest, grid: Grid, j: Index, pixel: int) -> int:
    k, window, batch = manifest.spec.n_scores, prod(grid.window), manifest.numerics.batch
    across = prod(grid.reach(j).shape[1:])
    read = grid.read(j).size * (pixel + 1)
    slab = grid.window[0] * across * (4 * k + 5)
    one_window = window * (8 * k + 16) + batch * window * (len(manifest.question.source.channels) * 4 + 1)
    deciding = grid.stride[0] * across * (4 + 4 + 16 + (8 * k if manifest.question.save_scores else 0))
    return read + slab + one_window + deciding + _settled(manifest, grid, j) + _filed(manifest, grid, j)


def _stitch(manifest: Manifest, grid: Grid, j: Index) -> int:
    """Its pieces and the forward neighbours' (as many as its own), the arrays they become, and four masks."""
    block, kept = grid.write(j).size, _kept(manifest)
    label = np.dtype(manifest.label_dtype).itemsize
    return _settled(manifest, grid, j) + block * (label + 2 + kept + 4) + 2 * _filed(manifest, grid, j)


def _settled(manifest: Manifest, grid: Grid, j: Index) -> int:
    label = np.dtype(manifest.label_dtype).itemsize
    return pieces(grid, j).settled.size * (label + 2 + _kept(manifest))


def _filed(manifest: Manifest, grid: Grid, j: Index) -> int:
    return piece_bytes(manifest.spec.n_scores) * seam_pixels(grid, j)


def _kept(manifest: Manifest) -> int:
    return 2 * manifest.spec.n_scores if manifest.question.save_scores else 0
