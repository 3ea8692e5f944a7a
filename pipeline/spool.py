"""Spooling: a source that can only be decoded in order is decoded once, to tiled scratch in the run directory.

Several drivers may spool at once: the same whole chunks, put over each other. The marker is written after the
last chunk and removed before the first, so a reader that finds it afterwards has read no hole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from pipeline.arrays import put_absent, writing, zarr_store
from pipeline.errors import SourceError
from pipeline.receipts import Output
from pipeline.run import Run
from pipeline.sources.base import Source, SourceInfo
from pipeline.store import Store
from tiling import Box

SCRATCH = "scratch/spool.zarr"
MARKER = "scratch/whole"
_TILE = 1024


@dataclass(frozen=True, slots=True)
class Spooled:
    """What was written: the marker for the receipt, bytes of pixels, and bytes of the stored chunks."""

    outputs: dict[str, Output]
    n_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class SpooledSource:
    """Reads boxes back from scratch; ``info`` is the source's own, but for its access."""

    info: SourceInfo
    run: Run
    channels: tuple[int, ...]

    def read(self, box: Box, channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if channels != self.channels:
            raise SourceError(f"the spool of {self.info.uri} holds channels {self.channels}, not {channels}")
        where, store = box.slices(), self.run.store.within(SCRATCH)
        pixels = np.asarray(_open(store, "pixels")[(slice(None), *where)])
        valid = np.asarray(_open(store, "valid")[where]) != 0
        if not self.run.store.exists(MARKER):
            raise SourceError(f"the scratch of {self.info.uri} in {self.run.uri} was removed while it was read")
        return pixels, valid

    def close(self) -> None:
        return


def spooled(run: Run, info: SourceInfo) -> SpooledSource:
    return SpooledSource(replace(info, access="random"), run, run.manifest.question.source.channels)


def spool(run: Run, source: Source) -> Spooled:
    """Decode the whole source once, in order, slab by slab."""
    info, channels = source.info, run.manifest.question.source.channels
    row = len(channels) * info.dtype.itemsize * int(np.prod(info.shape[1:], dtype=np.int64))
    boxes = slab_boxes(info.shape, info.tile, row)
    chunk = (boxes[0].shape[0], *(min(_TILE, e) for e in info.shape[1:]))
    store = run.store.within(SCRATCH)
    n_bytes = 0
    pixels = _create(store, "pixels", (len(channels), *info.shape), (len(channels), *chunk), str(info.dtype))
    valid = _create(store, "valid", info.shape, chunk, "uint8")
    for box in boxes:
        data, ok = source.read(box, channels)
        with writing(store):
            pixels[(slice(None), *box.slices())], valid[box.slices()] = data, ok.astype(np.uint8)
        n_bytes += data.nbytes
    stored_bytes = stored({entry.key: entry.n_bytes for entry in run.store.list(SCRATCH)})
    return Spooled(run.write_bytes(MARKER, b"whole"), n_bytes, stored_bytes)


def stored(sizes: Mapping[str, int]) -> int:
    """Bytes that lie in scratch, of a listing of the run."""
    return sum(n_bytes for key, n_bytes in sizes.items() if key.startswith(f"{SCRATCH}/"))


def slab_boxes(shape: tuple[int, ...], tile: tuple[int, ...], row_bytes: int, limit: int = 64 << 20) -> list[Box]:
    """Slabs along the first axis, whole native tiles thick, at most ``limit`` bytes where a tile allows it."""
    tiles = max(1, limit // max(1, row_bytes * tile[0]))
    step = min(shape[0], tile[0] * tiles)
    return [Box((a, *(0,) * (len(shape) - 1)), (min(a + step, shape[0]), *shape[1:])) for a in range(0, shape[0], step)]


def forget(run: Run) -> None:
    """Drop the scratch, once every block has been ingested."""
    run.store.delete(MARKER)
    run.store.delete_all("scratch")


def _create(store: Store, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> zarr.Array[Any]:
    memory = MemoryStore()
    zarr.create_array(memory, name=name, shape=shape, chunks=chunks, dtype=dtype, fill_value=0)
    put_absent(store, memory)
    array = zarr.open_array(zarr_store(store), path=name, mode="r+")
    assert isinstance(array, zarr.Array)
    # empty chunks too: a chunk that is absent has been lost (open_array takes a configuration and ignores it)
    return array.with_config({"write_empty_chunks": True})


def _open(store: Store, name: str) -> zarr.Array[Any]:
    array = zarr.open_array(zarr_store(store, read_only=True), path=name, mode="r")
    assert isinstance(array, zarr.Array)
    return array
