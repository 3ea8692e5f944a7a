"""The arrays of a run: one function creates them, one opens them, one writes a shard.

Shard = block, so that every stored object has one writer and needs no lock. On zarr 3.1 a shard write reads
the old shard first, fails on a truncated one, and deletes the object when everything is fill value: hence a
shard is encoded in memory and put whole, in one request: whoever reads meanwhile sees the old object or the new
one, never a hole that would read as fill value. What is done is told by receipts, never by a chunk's presence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore, ObjectStore

from pipeline.errors import StoreError
from pipeline.manifest import Manifest
from pipeline.receipts import Output
from pipeline.store import Store, first_line
from tiling import Box, Index

ArrayName = Literal["image", "valid", "labels", "confidence", "disagreement", "scores"]

SCENE = "scene.zarr"
MASK = "labels/mask"
_GROUPS: dict[ArrayName, str] = {
    "image": "",
    "valid": "valid",
    "labels": MASK,
    "confidence": "confidence",
    "disagreement": "disagreement",
    "scores": "scores",
}


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape of one level of one array. ``channels`` is None for arrays without a channel axis."""

    path: str
    dtype: str
    channels: int | None
    fill: int
    extent: tuple[int, ...]
    block: tuple[int, ...]
    chunk: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self._full(self.extent)

    def _full(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        return spatial if self.channels is None else (self.channels, *spatial)

    def shard_key(self, index: Index) -> str:
        """Key of a shard, relative to the run directory."""
        full = index if self.channels is None else (0, *index)
        return f"{SCENE}/{self.path}/c/" + "/".join(map(str, full))

    def box(self, index: Index) -> Box:
        """The pixels of a shard, in this level's coordinates."""
        start = tuple(i * b for i, b in zip(index, self.block, strict=True))
        return Box(start, tuple(min(s + b, e) for s, b, e in zip(start, self.block, self.extent, strict=True)))


def level_extent(extent: tuple[int, ...], level: int) -> tuple[int, ...]:
    """Extent of a pyramid level: half of the one before on every axis, rounded up."""
    return tuple(-(-e // 2**level) for e in extent)


def array_names(manifest: Manifest) -> list[ArrayName]:
    names: list[ArrayName] = ["valid", "labels", "confidence", "disagreement"]
    if manifest.layout.image == "copy":
        names.append("image")
    if manifest.question.save_scores:
        names.append("scores")
    return names


def levels_of(manifest: Manifest, name: ArrayName) -> range:
    """The levels that are stored of an array; a source read in place has no level 0 of its own."""
    if name == "image":
        return range(0 if manifest.layout.image == "copy" else 1, manifest.layout.levels)
    return range(manifest.layout.levels if name == "labels" else 1)


def array_spec(manifest: Manifest, name: ArrayName, level: int = 0) -> ArraySpec:
    source = manifest.question.source
    dtype, channels, fill = {
        "image": (source.dtype, len(source.channels), 0),
        "valid": ("uint8", None, 255),
        "labels": (manifest.label_dtype, None, manifest.unresolved_code),
        "confidence": ("uint8", None, 255),
        "disagreement": ("uint8", None, 0),
        "scores": ("uint16", manifest.spec.n_scores, 0),
    }[name]
    path = "/".join(part for part in (_GROUPS[name], str(level)) if part)
    layout = manifest.layout
    extent = level_extent(source.shape, level)
    return ArraySpec(path, dtype, channels, fill, extent, layout.block, layout.chunk)


def zarr_store(store: Store, *, read_only: bool = False) -> ObjectStore[Any]:
    if not read_only:
        store.make_root()
    return ObjectStore(store.client, read_only=read_only)


def create_arrays(store: Store, manifest: Manifest) -> None:
    """Create every array of the run that is not there yet; existing ones are left as they are.

    Made in memory and put if absent: two drivers may start at once, and zarr's own create looks and then writes.
    """
    memory = MemoryStore()
    axes = manifest.frame.axes
    for name in [*array_names(manifest), *(["image"] if manifest.layout.image == "in-place" else [])]:
        for level in levels_of(manifest, name):  # type: ignore[arg-type]
            spec = array_spec(manifest, name, level)  # type: ignore[arg-type]
            _create(memory, spec, spec.path, spec.shape, axes if spec.channels is None else ("c", *axes))
    put_absent(store.within(SCENE), memory)


def put_absent(store: Store, memory: MemoryStore) -> None:
    """Write every object of ``memory`` that ``store`` does not have."""
    for key, document in memory._store_dict.items():
        store.put_if_absent(key, document.to_bytes())


def _create(
    store: MemoryStore, spec: ArraySpec, name: str, shape: tuple[int, ...], axes: tuple[str, ...] | None = None
) -> zarr.Array[Any]:
    return zarr.create_array(
        store,
        name=name,
        shape=shape,
        dtype=spec.dtype,
        chunks=spec._full(spec.chunk),
        shards=spec._full(spec.block),
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=np.dtype(spec.dtype).itemsize),
        fill_value=spec.fill,
        dimension_names=axes,
        config={"write_empty_chunks": True},
    )


@contextmanager
def writing(store: Store) -> Iterator[None]:
    """What zarr itself writes goes by no ``Store.put``: a full disk is a StoreError there too."""
    try:
        yield
    except (BaseError, OSError) as e:
        if isinstance(e, StoreError):
            raise
        raise StoreError(f"cannot write to {store.uri}: {first_line(e)}") from e


def open_array(store: Store, manifest: Manifest, name: ArrayName, level: int = 0) -> zarr.Array[Any]:
    """One level of an array, ``(*spatial)`` or ``(C, *spatial)``, for reading boxes."""
    if name == "image" and level == 0 and manifest.layout.image == "in-place":
        return _open(str(manifest.layout.array_uri))
    spec = array_spec(manifest, name, level)
    return _open(store.within(SCENE).uri, spec.path)


def write_shard(
    store: Store, manifest: Manifest, name: ArrayName, index: Index, data: NDArray[Any], level: int = 0
) -> dict[str, Output]:
    """Write one whole shard, ``data`` of shape ``(*box)`` or ``(C, *box)``; what a receipt says of it."""
    spec = array_spec(manifest, name, level)
    shape = spec._full(spec.box(index).shape)
    if data.shape != shape:
        raise ValueError(f"shard {index} of {name} has shape {shape}, not {data.shape}")
    key, encoded = spec.shard_key(index), encode_shard(spec, data)
    store.put(key, encoded)
    return {key: Output(n_bytes=len(encoded), sha256=sha256_of(data))}


def encode_shard(spec: ArraySpec, data: NDArray[Any]) -> bytes:
    """The bytes of a shard: those of an array that is this one shard, which may be cut by the far edge."""
    memory = MemoryStore()
    _create(memory, spec, "", data.shape)[...] = data
    shard = memory._store_dict["/".join(["c", *("0",) * data.ndim])]
    return bytes(shard.to_bytes())


def sha256_of(data: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).data.cast("B")).hexdigest()


def _open(uri: str, path: str = "") -> zarr.Array[Any]:
    opened = zarr.open_array(zarr_store(Store(uri), read_only=True), path=path, mode="r")
    assert isinstance(opened, zarr.Array)
    return opened
