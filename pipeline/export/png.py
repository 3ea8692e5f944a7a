"""A mask as PNG: the codes in one grey channel, 8 or 16 bit, streamed row by row."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.export.codes import codes_of
from pipeline.export.place import Exported, local_target, placed, size_on_disk
from pipeline.export.view import MaskView, pieces

MAX_PIXELS = 2**28
"""16,384 x 16,384, the largest picture that browsers open."""
MAX_SIDE = 65_535


def export_png(view: MaskView, path: str | Path) -> Exported:
    """Write ``path`` (*.png): the classes' values as grey levels, so that any reader gets the numbers back.

    PNG has no nodata: those pixels get the background's code and are counted. Raises UsageError for a volume
    and for a picture that viewers would not open.
    """
    if view.ndim != 2:
        raise UsageError(f"{view.name} is a volume of {view.shape}; a PNG is a picture: use --to nifti or --to zarr")
    check_png(view.name, view.shape)
    target = local_target(path, "PNG", (".png",), view.tags.get("source"))
    codes = codes_of(view, with_nodata=False)
    substituted = 0

    def bands() -> Iterator[NDArray[Any]]:
        nonlocal substituted
        for strip in view.strips():
            band = np.empty(strip.shape, dtype=codes.dtype)
            for box in pieces(strip, view.block):
                band[box.slices(strip.start)], n = codes.apply(view.read(box))
                substituted += n
            yield band

    with placed(target) as whole, whole.open("wb") as file:
        _write_grey(file, bands(), view.shape, codes.dtype.itemsize * 8, dict(view.tags))
    return Exported(str(target), size_on_disk(target), substituted if codes.nodata is None else 0)


def check_png(name: str, shape: tuple[int, ...]) -> None:
    """Raise UsageError for a mask (y, x) of more pixels than viewers open."""
    height, width = shape
    if height * width > MAX_PIXELS or max(shape) > MAX_SIDE:
        raise UsageError(
            f"{name} has {height} x {width} pixels; viewers open PNGs of up to {MAX_PIXELS:,} pixels "
            f"and {MAX_SIDE:,} a side: use --to cog, or --to overlay for a picture of it"
        )


def _write_grey(
    file: IO[bytes], bands: Iterator[NDArray[Any]], shape: tuple[int, ...], depth: int, tags: dict[str, str]
) -> None:
    """A greyscale PNG (ISO/IEC 15948) from runs of whole rows."""
    file.write(b"\x89PNG\r\n\x1a\n")
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", shape[1], shape[0], depth, 0, 0, 0, 0))
    for key, value in tags.items():
        _chunk(
            file, b"tEXt", f"seamline:{key}".encode("latin-1", "replace") + b"\0" + value.encode("latin-1", "replace")
        )
    packer = zlib.compressobj(6)
    for band in bands:
        # every row begins with its filter type; 0 is none, which packs flat areas best
        raw = np.zeros((band.shape[0], 1 + band.shape[1] * depth // 8), dtype=np.uint8)
        raw[:, 1:] = np.ascontiguousarray(band, dtype=band.dtype.newbyteorder(">")).view(np.uint8)
        _chunk(file, b"IDAT", packer.compress(raw.data))
    _chunk(file, b"IDAT", packer.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: IO[bytes], kind: bytes, data: bytes) -> None:
    if not data and kind == b"IDAT":
        return
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
