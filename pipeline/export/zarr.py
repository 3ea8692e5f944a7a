"""A mask as an OME-NGFF 0.5 label image of its own: codes, a pyramid by mode, colours and names."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arrays import writing
from pipeline.export.codes import Codes, codes_of, rgb
from pipeline.export.place import Exported, check_free, placed, size_on_disk
from pipeline.export.view import MaskView, lattice
from pipeline.mode import most_frequent
from pipeline.ome import multiscale
from pipeline.store import Store, is_local, local_path
from tiling import Box


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid: its shape, and how many mask pixels one of its pixels covers, per axis."""

    shape: tuple[int, ...]
    factor: tuple[int, ...]


def export_zarr(view: MaskView, uri: str | Path) -> Exported:
    """Write a zarr v3 group at ``uri`` (a local path, moved into place whole, or a bucket).

    Level 0 holds the codes, in shards of the view's block; each further level halves every side longer than
    1 until the largest is at most a chunk. Nodata has a code of its own, shown transparent. Raises UsageError
    if something is at ``uri`` that is no export of ours, StoreError if it cannot be written.
    """
    check_free(str(uri), view.tags.get("source"))
    if is_local(str(uri)):
        target = local_path(str(uri))
        with placed(target) as whole:
            whole.mkdir()
            _write(view, Store(str(whole)))
        return Exported(str(target), size_on_disk(target))
    store = Store(str(uri))
    store.delete_all("")
    _write(view, store)
    return Exported(str(uri), sum(entry.n_bytes for entry in store.list()))


def levels_of(shape: tuple[int, ...], chunk: tuple[int, ...]) -> list[Level]:
    """The pyramid: halved until no side is longer than the longest side of a chunk."""
    levels = [Level(shape, (1,) * len(shape))]
    while max(levels[-1].shape) > max(chunk):
        last = levels[-1]
        step = tuple(2 if n > 1 else 1 for n in last.shape)
        levels.append(
            Level(
                tuple(-(-n // s) for n, s in zip(last.shape, step, strict=True)),
                tuple(f * s for f, s in zip(last.factor, step, strict=True)),
            )
        )
    return levels


def storage_of(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``(chunk, shard)``: per axis the shard is the block, and the chunk divides it.

    A chunk has at most 512 (2-D) or 64 (3-D) pixels a side, unless the block has no such divisor worth having.
    An axis shorter than its block ends its shard with the last chunk.
    """
    limit = 512 if len(block) == 2 else 64
    chunk = tuple(min(_divisor(b, limit), n) for b, n in zip(block, shape, strict=True))
    shard = tuple(min(b // c * c, -(-n // c) * c) for b, c, n in zip(block, chunk, shape, strict=True))
    return chunk, shard


def _divisor(side: int, limit: int) -> int:
    best = next(d for d in range(min(limit, side), 0, -1) if side % d == 0)
    return best if best * 8 >= min(limit, side) else side


def _write(view: MaskView, store: Store) -> None:
    import zarr
    from zarr.storage import ObjectStore

    codes = codes_of(view)
    chunk, shard = storage_of(view.shape, view.block)
    levels = levels_of(view.shape, chunk)
    about = attributes(view, codes, levels)
    with writing(store), zarr.config.set({"array.write_empty_chunks": True}):
        # whose it is first, so that what a kill leaves in a bucket may be written over
        own = {"seamline": about.pop("seamline")}
        group = zarr.create_group(ObjectStore(store.client), zarr_format=3, attributes=own)
        arrays = [
            _array(group, str(n), level, chunk=chunk, shard=shard, codes=codes, axes=view.frame.axes)
            for n, level in enumerate(levels)
        ]
        for box in lattice(Box.of_shape(view.shape), shard):
            arrays[0][box.slices()] = codes.apply(view.read(box))[0]
        for fine, coarse, step in zip(arrays, arrays[1:], _steps(levels), strict=False):
            _fill(fine, coarse, step, shard, codes)
        # last, so that a folder which says it is a multiscale image is a whole one
        group.attrs.update(about)


def _array(
    group: Any,
    name: str,
    level: Level,
    *,
    chunk: tuple[int, ...],
    shard: tuple[int, ...],
    codes: Codes,
    axes: tuple[str, ...],
) -> Any:
    from zarr.codecs import BloscCodec

    typesize = codes.dtype.itemsize
    return group.create_array(
        name,
        shape=level.shape,
        dtype=codes.dtype.name,
        chunks=chunk,
        shards=shard,
        fill_value=codes.missing,
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=typesize),
        dimension_names=axes,
    )


def _fill(fine: Any, coarse: Any, step: tuple[int, ...], shard: tuple[int, ...], codes: Codes) -> None:
    whole = Box.of_shape(fine.shape)
    for box in lattice(Box.of_shape(coarse.shape), shard):
        start = tuple(a * s for a, s in zip(box.start, step, strict=True))
        stop = tuple(b * s for b, s in zip(box.stop, step, strict=True))
        children = np.asarray(fine[Box(start, stop).intersect(whole).slices()])
        coarse[box.slices()] = most_frequent(children, step, () if codes.nodata is None else (codes.nodata,))


def _steps(levels: list[Level]) -> list[tuple[int, ...]]:
    return [tuple(b // a for a, b in zip(p.factor, q.factor, strict=True)) for p, q in pairwise(levels)]


def attributes(view: MaskView, codes: Codes, levels: list[Level]) -> dict[str, Any]:
    """The group's attributes: OME-NGFF 0.5, and under ``seamline`` the whole frame and the provenance."""
    colours = [
        {"label-value": c.value, "rgba": [*rgb(c.color), 0 if c.role == "background" else 255]} for c in view.classes
    ]
    properties = [{"label-value": c.value, "name": c.name} for c in view.classes]
    if codes.nodata is not None:
        colours.append({"label-value": codes.nodata, "rgba": [0, 0, 0, 0]})
        properties.append({"label-value": codes.nodata, "name": "nodata"})
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [
                multiscale(view.name, view.frame, {str(n): v.factor for n, v in enumerate(levels)}, "mode")
            ],
            "image-label": {"colors": colours, "properties": properties},
        },
        "seamline": {"frame": view.frame.to_json(), "nodata": codes.nodata, "provenance": dict(view.tags)},
    }
