"""What a GDAL data set says of itself, in our terms: channels, validity, frame, and what is not read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags

from pipeline.errors import SourceError
from pipeline.sources.base import NodataRule
from pipeline.sources.files import head_bytes, open_binary
from tiling import Frame, FrameError

SEQUENTIAL_DRIVERS = frozenset({"PNG", "JPEG", "GIF", "WEBP"})
SEQUENTIAL_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
LARGE_STRIP_BYTES = 32 * 2**20  # decoding a compressed strip anew for each box is dear from about here
WIDE_STRIP = 8192  # and so is decoding it for each column of blocks, of which a wider scene has several
_NAMELESS = (ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette)
_UNITS = {"metre": "m", "meter": "m", "us survey foot": "us-ft", "foot_us": "us-ft", "foot": "ft", "kilometre": "km"}
_MPP = re.compile(r"\bMPP\s*=\s*([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Bands:
    """GDAL band numbers (from 1).

    read   the channels, in file order
    alpha  bands that say by 0 where there is no data
    masks  bands whose GDAL mask must be read too (internal or side-car mask, per-band masks)
    """

    read: tuple[int, ...]
    alpha: tuple[int, ...]
    masks: tuple[int, ...]


def bands_of(data: Any, rule: NodataRule) -> Bands:
    alpha = tuple(b for b, c in zip(data.indexes, data.colorinterp, strict=True) if c == ColorInterp.alpha)
    read = tuple(b for b in data.indexes if b not in alpha)
    masks = tuple(b for b in read if _has_mask(data.mask_flag_enums[b - 1], rule))
    shared = bool(masks) and all(MaskFlags.per_dataset in data.mask_flag_enums[b - 1] for b in masks)
    return Bands(read, alpha, masks[:1] if shared else masks)


def _has_mask(flags: list[MaskFlags], rule: NodataRule) -> bool:
    """Whether GDAL's mask of a band holds more than its nodata value and alpha, which we evaluate ourselves."""
    if MaskFlags.all_valid in flags or MaskFlags.alpha in flags:
        return False
    if MaskFlags.nodata in flags:  # with per_dataset: the NODATA_VALUES tag, one colour for all bands together
        return MaskFlags.per_dataset in flags and rule == "source"
    return True


def channel_names(data: Any, bands: Bands) -> tuple[str, ...]:
    """Descriptions, else colours, else ``band 3``; a name that would occur twice gets its number."""
    names = [_name(data, b, len(bands.read)) for b in bands.read]
    return tuple(n if names.count(n) == 1 else f"{n} {b}" for n, b in zip(names, bands.read, strict=True))


def _name(data: Any, band: int, n_read: int) -> str:
    description, colour = data.descriptions[band - 1], data.colorinterp[band - 1]
    if description:
        return str(description)
    if colour not in _NAMELESS:
        return str(colour.name)
    return "gray" if n_read == 1 and colour == ColorInterp.gray else f"band {band}"


def pixel_dtype(data: Any, bands: Bands) -> np.dtype[Any]:
    return np.result_type(*(np.dtype(data.dtypes[b - 1]) for b in bands.read))


def frame_of(data: Any) -> tuple[Frame, list[str]]:
    """Corner-anchored (y, x) frame from GDAL's (x, y) geotransform, and what to say about it."""
    t, axes = data.transform, ("y", "x")
    if t.is_identity:
        return _frame_without_geotransform(data)
    matrix = ((t.e, t.d, t.f), (t.b, t.a, t.c))
    unit = unit_of(data.crs)
    try:
        frame = Frame(axes, matrix, unit, data.crs.to_wkt() if data.crs else None, "corner")
    except FrameError:
        return Frame.pixels(axes), [f"its geotransform maps pixels to nothing ({tuple(t)[:6]}) and is not used"]
    return frame, [] if data.crs else ["a geotransform without a coordinate system: the unit of its lengths is unknown"]


def _frame_without_geotransform(data: Any) -> tuple[Frame, list[str]]:
    notes = []
    if data.gcps[0]:
        notes.append(f"placed only by {len(data.gcps[0])} ground control points, which are not used: lengths in px")
    elif data.crs:
        notes.append("a coordinate system without a geotransform is not used: lengths in px")
    micron = _MPP.search(data.tags().get("TIFFTAG_IMAGEDESCRIPTION", ""))
    if micron and float(micron.group(1)) > 0:
        size = float(micron.group(1))
        return Frame.of_spacing(("y", "x"), (size, size), "um", anchor="corner"), [
            *notes,
            f"slide at {size} um a pixel",
        ]
    return Frame.pixels(("y", "x")), notes


def unit_of(crs: Any) -> str:
    """``m``, ``degree``, ``us-ft`` ...; ``unknown`` where world coordinates have no known unit."""
    if crs is None or not crs:
        return "unknown"
    if crs.is_geographic:
        return "degree"
    name = str(crs.linear_units).lower()
    return _UNITS.get(name, name)


def tile_of(data: Any, access: str) -> tuple[int, int]:
    height, width = data.block_shapes[0]
    if access == "sequential" and (data.driver != "GTiff" or _strip_bytes(data) > LARGE_STRIP_BYTES):
        return 1, data.width
    return min(height, data.height), min(width, data.width)


def access_of(data: Any) -> Literal["random", "sequential"]:
    """Sequential where a box in the middle means decoding what stands before it.

    A striped TIFF is random by rows, unless its compressed strips are so large, or so much wider than a block, that
    each would be decoded again and again.
    """
    if data.driver in SEQUENTIAL_DRIVERS:
        return "sequential"
    if data.driver == "VRT" and any(str(f).lower().endswith(SEQUENTIAL_SUFFIXES) for f in data.files):
        return "sequential"
    height, width = data.block_shapes[0]
    if data.driver != "GTiff" or width != data.width or not data.compression:
        return "random"
    large = height > 1 and _strip_bytes(data) > LARGE_STRIP_BYTES
    return "sequential" if large or width > WIDE_STRIP else "random"


def _strip_bytes(data: Any) -> int:
    height, width = data.block_shapes[0]
    return int(height * width * np.dtype(data.dtypes[0]).itemsize)


def notes_of(data: Any, bands: Bands) -> list[str]:
    return list(_notes(data, bands))


def _notes(data: Any, bands: Bands) -> Iterator[str]:
    if bands.alpha:
        yield f"band {', '.join(map(str, bands.alpha))} is alpha: a mask (0 is no data), not a channel"
    if bands.masks:
        yield "a mask band says where there is data"
    elif any(str(f).lower().endswith(".msk") for f in data.files):
        yield "the .msk beside it is not used: GDAL finds no INTERNAL_MASK_FLAGS in it"
    dtypes = {data.dtypes[b - 1] for b in bands.read}
    if len(dtypes) > 1:
        yield f"bands of {', '.join(sorted(dtypes))} are read as {pixel_dtype(data, bands)}"
    scaled = [b for b in bands.read if (data.scales[b - 1], data.offsets[b - 1]) != (1.0, 0.0)]
    if scaled:
        yield f"scale and offset of bands {scaled} are not applied: pixels are read as stored"
    palettes = [b for b in bands.read if data.colorinterp[b - 1] == ColorInterp.palette]
    if palettes:
        yield f"band {palettes[0]} has a palette: its indices are read, not its colours (gdal_translate -expand rgb)"
    if data.subdatasets:
        yield f"holds {len(data.subdatasets)} images, of which the first is read"


def check_readable(data: Any, uri: str) -> None:
    """Raise SourceError for containers without bands, complex pixels, and PNG files that end early.

    GDAL decodes a truncated PNG to arbitrary pixels without an error, so its end is looked for.
    """
    if data.count == 0:
        parts = ", ".join(data.subdatasets[:4]) or "none"
        raise SourceError(
            f"{uri} is a {data.driver} container without bands of its own; open one of its parts: {parts}"
        )
    complex_dtypes = sorted({d for d in data.dtypes if d.startswith("complex")})
    if complex_dtypes:  # complex_int16 (CInt16) is no dtype of numpy's
        raise SourceError(
            f"{uri} has {', '.join(complex_dtypes)} pixels, which are not real numbers; "
            "store the magnitude or the parts as channels of their own"
        )
    if data.driver == "PNG" and b"IEND" not in _tail(uri):
        raise SourceError(f"{uri} is truncated: a PNG without its end marker; fetch the file again")


def _tail(uri: str, n: int = 65536) -> bytes:
    if not head_bytes(uri, 8).startswith(b"\x89PNG"):
        return b"IEND"  # GDAL found a PNG inside something else, whose end is not this file's end
    with open_binary(uri) as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - n))
        return file.read(n)
