"""The pure functions of the stages, chained over arrays in memory: no disk, no engine, any order of blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import infer, ingest, stitch
from pipeline.blend import Decision
from pipeline.infer import BlockPixels, BlockScores
from pipeline.manifest import Manifest
from pipeline.models.base import Model
from pipeline.models.spec import ModelSpec
from pipeline.plan import make_plan
from pipeline.settings import Settings
from tests.runs import HARDWARE, ArraySource
from tiling import Grid, Index, upstream

Arrays = dict[str, NDArray[Any]]


def manifest_of(source: ArraySource, spec: ModelSpec, grid: Grid | None = None, **settings: Any) -> Manifest:
    """What the plan makes of a scene; with ``grid`` its window, overlap and block, one number per axis."""
    if grid is not None:
        settings = {"window": grid.window, "overlap": grid.overlap, "block": grid.block} | settings
    chosen = Settings(model=("fake",), **settings)
    return make_plan(chosen, source.info, spec, ("0" * 64,), HARDWARE, scene="scene").manifest


def whole(
    manifest: Manifest, source: ArraySource, model: Model, *, seed: int = 0, failed: Sequence[Index] = ()
) -> tuple[Arrays, dict[str, int]]:
    """Every array of the finished scene, ``(*extent)`` or ``(K, *extent)``, and the sum of the blocks' tallies.

    Blocks are inferred and stitched in an order drawn from ``seed``; those in ``failed`` have no scores.
    """
    grid, random = manifest.grid, Random(seed)
    valid = np.ones(grid.extent, bool) if source.valid is None else source.valid
    done = ingest.compute(source.pixels, valid, count=False)
    blocks = list(grid.blocks())
    scores = {j: scores_of(manifest, j, done, model) for j in shuffled(blocks, random) if j not in failed}
    out: Arrays = {}
    tallies: dict[str, int] = {}
    for j in shuffled(blocks, random):
        missing = tuple(i for i in (j, *upstream(grid, j)) if i in failed)
        given = stitch.Pieces(
            scores[j].own if j in scores else None,
            {i: scores[i].forward[j] for i in shuffled(list(upstream(grid, j)), random) if i in scores},
            done.valid[grid.write(j).slices()],
        )
        result = stitch.compute(manifest, j, given, missing)
        for name, data in result.arrays.items():
            target = out.setdefault(name, np.empty((*data.shape[: data.ndim - grid.ndim], *grid.extent), data.dtype))
            where: Any = (..., *grid.write(j).slices())
            target[where] = data
        tallies = {name: tallies.get(name, 0) + n for name, n in result.pixels.items()}
    return out, tallies


def scores_of(manifest: Manifest, j: Index, done: ingest.Ingested, model: Model) -> BlockScores:
    box = manifest.grid.read(j)
    block = BlockPixels(box, done.pixels[(slice(None), *box.slices())], done.valid[box.slices()])
    return infer.compute(
        manifest.grid,
        j,
        block,
        model,
        Decision.of(manifest.spec),
        n_scores=manifest.spec.n_scores,
        blend=manifest.question.blend,
        batch=manifest.numerics.batch,
        keep_scores=manifest.question.save_scores,
        label_dtype=manifest.label_dtype,
    )


def shuffled(blocks: list[Index], random: Random) -> list[Index]:
    return random.sample(blocks, len(blocks))


def numpy_scores(model: Model) -> Callable[[NDArray[Any], NDArray[np.bool_]], NDArray[np.floating]]:
    """The model as a function of NumPy arrays, for the whole-image oracle."""
    import torch

    def run(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.floating]:
        given = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
        return np.asarray(model.scores(torch.from_numpy(given.copy()), torch.from_numpy(valid.copy())))

    return run
