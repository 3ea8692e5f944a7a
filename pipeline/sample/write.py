"""Sample scenes as files: GeoTIFF, NIfTI or zarr, streamed in flat memory and moved into place whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError, UsageError
from pipeline.export.codes import rgb
from pipeline.export.frames import geotransform
from pipeline.export.nifti import SUFFIXES as NIFTI
from pipeline.export.nifti import write_nifti
from pipeline.export.place import placed
from pipeline.export.view import STRIP_PIXELS, lattice
from pipeline.ome import multiscale
from pipeline.sample.landscape import SAMPLE_CLASSES, Landscape
from pipeline.sample.phantom import Phantom
from pipeline.sources.own_output import is_own_sample
from pipeline.store import is_local, local_path
from tiling import Box

Progress = Callable[[int, int], None]
"""Called with the pixels done and the pixels in all."""
Put = Callable[[Box, NDArray[Any]], None]

_TIFF = (".tif", ".tiff")
_BLOCK = (512, 4096)  # whole tiles of 512, so that each is packed once
_CHUNK, _SHARD = 512, 2048
_CHUNK_3D, _SHARD_3D = 64, 128


def write_sample(
    path: str | Path,
    size: int | tuple[int, ...],
    truth_path: str | Path | None = None,
    seed: int = 0,
    volume: bool = False,
    progress: Progress | None = None,
) -> Landscape | Phantom:
    """Write a sample scene, and its truth if asked; what was written.

    size  a side, or (y, x), or with ``volume`` (z, y, x); a volume of one side n is (n // 4, n, n)

    A landscape goes to *.tif (tiled, deflate, BigTIFF where needed) or *.zarr, a volume to *.nii, *.nii.gz or
    *.zarr (the truth may be of another of these). Raises UsageError for another suffix, a bucket, or a place that
    holds anything but an earlier sample, StoreError for one that cannot be written to.
    """
    scene = sample_scene(size, seed, volume)
    targets = [_target(p) for p in (path, truth_path) if p is not None]
    if len({t.absolute() for t in targets}) != len(targets):
        raise UsageError(f"the scene and its truth cannot both be written to {path}; name two files")
    for target in targets:
        _check_suffix(target, scene)
    if isinstance(scene, Phantom) and any(_is(target, NIFTI) for target in targets):
        _write_volume(scene, targets, progress)
    else:
        _write_blocks(scene, targets, progress)
    return scene


def sample_scene(size: int | tuple[int, ...], seed: int = 0, volume: bool = False) -> Landscape | Phantom:
    """The scene of a size as ``write_sample`` takes it."""
    sides = (size,) if isinstance(size, int) else tuple(size)
    if volume and len(sides) in (1, 3):
        z, y, x = sides if len(sides) == 3 else (max(1, sides[0] // 4), sides[0], sides[0])
        return Phantom((z, y, x), seed=seed)
    if not volume and len(sides) in (1, 2):
        return Landscape((sides[0], sides[-1]), seed)
    wanted = "one side or three (z, y, x)" if volume else "one side or two (y, x); for three add --volume"
    raise UsageError(f"size {sides} does not make a {'volume' if volume else 'landscape'}: give {wanted}")


def _target(path: str | Path) -> Path:
    """Raises UsageError for a bucket, and for a place that holds anything but an earlier sample."""
    if not is_local(str(path)):
        raise UsageError(f"a sample is written to a local file, not to {path}; write it locally and copy it there")
    target = local_path(str(path))
    if os.path.lexists(target) and not is_own_sample(str(target)):
        raise UsageError(f"{target} exists and is no sample of Seamline, so it is not written over; name another place")
    return target


def _check_suffix(path: Path, scene: Landscape | Phantom) -> None:
    known = (*(_TIFF if isinstance(scene, Landscape) else NIFTI), ".zarr")
    if not _is(path, known):
        kind = "landscape" if isinstance(scene, Landscape) else "volume"
        raise UsageError(f"a sample {kind} is written to *{', *'.join(known)}, not to {path}")


def _is(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)


def _write_blocks(scene: Landscape | Phantom, targets: list[Path], progress: Progress | None) -> None:
    """Both files in one pass, so that each block is computed once."""
    from rasterio.errors import RasterioError

    whole, done = Box.of_shape(scene.shape), 0
    zarrs = any(_is(target, (".zarr",)) for target in targets)
    flat = (_SHARD, _SHARD) if zarrs else _BLOCK
    side = flat if len(scene.shape) == 2 else (_SHARD_3D,) * 3
    try:
        with ExitStack() as stack:
            puts = [_opened(stack, target, scene, n == 1) for n, target in enumerate(targets)]
            for box in lattice(whole, side):
                parts: tuple[NDArray[Any], ...] = scene.read(box)
                for put, values in zip(puts, parts, strict=False):
                    put(box, values)
                done += box.size
                if progress is not None:
                    progress(done, whole.size)
    except RasterioError as e:
        raise StoreError(f"cannot write {targets[0]}: {e}; is the folder writable and the disk not full?") from e


def _opened(stack: ExitStack, target: Path, scene: Landscape | Phantom, is_truth: bool) -> Put:
    if _is(target, (".zarr",)):
        whole = stack.enter_context(placed(target))
        return _zarr_array(whole, target.name.removesuffix(".zarr"), scene, is_truth)
    assert isinstance(scene, Landscape)
    return _tiff(stack, stack.enter_context(placed(target)), scene, is_truth)


def _tiff(stack: ExitStack, whole: Path, scene: Landscape, is_truth: bool) -> Put:
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    transform = geotransform(scene.frame)
    assert transform is not None
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1}
    bands = {"count": 1} if is_truth else {"count": 3, "interleave": "pixel", "photometric": "rgb", "predictor": 2}
    stack.enter_context(rasterio.Env(GDAL_CACHEMAX=2**26))
    file = stack.enter_context(
        rasterio.open(
            whole,
            "w",
            driver="GTiff",
            height=scene.shape[0],
            width=scene.shape[1],
            dtype="uint8",
            crs=scene.frame.crs,
            transform=Affine(*transform),
            bigtiff="if_safer",
            **layout,
            **bands,
        )
    )
    file.update_tags(SEAMLINE_SAMPLE=repr(scene))
    if is_truth:
        file.write_colormap(1, {c.value: (*rgb(c.color), 255) for c in SAMPLE_CLASSES})

    def put(box: Box, values: NDArray[Any]) -> None:
        window = Window(box.start[1], box.start[0], box.shape[1], box.shape[0])
        file.write(values if values.ndim == 3 else values[None], window=window)

    return put


def _zarr_array(whole: Path, name: str, scene: Landscape | Phantom, is_truth: bool) -> Put:
    import zarr
    from zarr.codecs import BloscCodec

    flat = len(scene.shape) == 2
    n_channels = 3 if flat and not is_truth else 0
    lead = (n_channels,) if n_channels else ()
    chunk, shard = (_CHUNK, _SHARD) if flat else (_CHUNK_3D, _SHARD_3D)
    dtype = "int16" if not flat and not is_truth else "uint8"
    group = zarr.create_group(str(whole), zarr_format=3)
    array = group.create_array(
        "0",
        shape=lead + scene.shape,
        chunks=lead + (chunk,) * len(scene.shape),
        shards=lead + (shard,) * len(scene.shape),
        dtype=dtype,
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=np.dtype(dtype).itemsize),
        dimension_names=("c",) * len(lead) + scene.frame.axes,
    )
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [
            multiscale(name, scene.frame, {"0": (1,) * len(scene.shape)}, "none", channel=bool(n_channels))
        ],
    }
    if n_channels:
        named = zip(("red", "green", "blue"), ("FF0000", "00FF00", "0000FF"), strict=True)
        window = {"min": 0, "max": 255, "start": 0, "end": 255}
        ome["omero"] = {"channels": [{"label": n, "color": c, "active": True, "window": window} for n, c in named]}
    about: dict[str, Any] = {"frame": scene.frame.to_json(), "sample": repr(scene)}
    group.attrs.update({"ome": ome, "seamline": about})

    def put(box: Box, values: NDArray[Any]) -> None:
        array[(slice(None),) * len(lead) + box.slices()] = values if n_channels or is_truth else values[0]

    return put


def _write_volume(scene: Phantom, targets: list[Path], progress: Progress | None) -> None:
    """NIfTI is written from the first voxel to the last, so image and truth take a pass each."""
    whole, total = Box.of_shape(scene.shape), len(targets)
    planes = max(1, STRIP_PIXELS // 8 // (scene.shape[1] * scene.shape[2]))
    for number, target in enumerate(targets):
        if not _is(target, NIFTI):
            with ExitStack() as stack:
                put = _opened(stack, target, scene, number == 1)
                for box in lattice(whole, (_SHARD_3D,) * 3):
                    put(box, scene.read(box)[number])
            continue

        def slabs(number: int = number) -> Iterator[NDArray[Any]]:
            for box in lattice(whole, (planes, *scene.shape[1:])):
                image, truth = scene.read(box)
                yield truth if number else image[0]
                if progress is not None:
                    progress((number * whole.size + box.stop[0] * box.size // box.shape[0]) // total, whole.size)

        dtype = np.dtype(np.uint8 if number else np.int16)
        write_nifti(target, slabs(), scene.shape, dtype, scene.frame, tags={"seamline:sample": repr(scene)})
