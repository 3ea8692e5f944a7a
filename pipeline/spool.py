"""Spooling: a source that can only be decoded in order is decoded once, to tiled scratch in the run directory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.arrays import zarr_store
from pipeline.errors import SourceError
from pipeline.ingest import slab_boxes
from pipeline.run import Run
from pipeline.sources.base import Source, SourceInfo
from pipeline.store import Store
from tiling import Box

SCRATCH = "scratch/spool.zarr"
_TILE = 1024


@dataclass(frozen=True)
class SpooledSource:
    """Reads boxes back from scratch; ``info`` is the source's own, but for its access."""

    info: SourceInfo
    store: Store
    channels: tuple[int, ...]

    def read(self, box: Box, channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if channels != self.channels:
            raise SourceError(f"the spool of {self.info.uri} holds channels {self.channels}, not {channels}")
        where = box.slices()
        pixels = np.asarray(_open(self.store, "pixels")[(slice(None), *where)])
        return pixels, np.asarray(_open(self.store, "valid")[where]) != 0

    def close(self) -> None:
        return


def spooled(run: Run, info: SourceInfo) -> SpooledSource:
    random = replace(info, access="random")
    return SpooledSource(random, run.store.within(SCRATCH), run.manifest.question.source.channels)


def spool(run: Run, source: Source) -> int:
    """Decode the whole source once, in order, slab by slab; the bytes of pixels that were written."""
    info, channels = source.info, run.manifest.question.source.channels
    run.store.delete_all(SCRATCH)
    row = len(channels) * info.dtype.itemsize * int(np.prod(info.shape[1:], dtype=np.int64))
    boxes = slab_boxes(info.shape, info.tile, row)
    chunk = (boxes[0].shape[0], *(min(_TILE, e) for e in info.shape[1:]))
    store = run.store.within(SCRATCH)
    pixels = _create(store, "pixels", (len(channels), *info.shape), (len(channels), *chunk), str(info.dtype))
    valid = _create(store, "valid", info.shape, chunk, "uint8")
    n_bytes = 0
    for box in boxes:
        data, ok = source.read(box, channels)
        pixels[(slice(None), *box.slices())], valid[box.slices()] = data, ok.astype(np.uint8)
        n_bytes += data.nbytes
    return n_bytes


def forget(run: Run) -> None:
    """Drop the scratch, once every block has been ingested."""
    run.store.delete_all(SCRATCH)


def _create(store: Store, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> zarr.Array[Any]:
    return zarr.create_array(zarr_store(store), name=name, shape=shape, chunks=chunks, dtype=dtype, fill_value=0)


def _open(store: Store, name: str) -> zarr.Array[Any]:
    array = zarr.open_array(zarr_store(store, read_only=True), path=name, mode="r")
    assert isinstance(array, zarr.Array)
    return array
