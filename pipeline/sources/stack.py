"""Multi-page TIFF, OME-TIFF and ImageJ stacks as volumes, through tifffile.

Planes are decoded segment by segment (strip or tile) here, so that a box costs the segments it touches
and a damaged one is an error: GDAL sees only the first page, and tifffile reads a cut file as a shorter one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.sources import fingerprint, stack_meta
from pipeline.sources.base import NodataRule, SourceInfo
from pipeline.sources.files import normal, open_binary, reason
from pipeline.sources.names import scene_name
from pipeline.sources.validity import (
    check_dtype,
    check_extent,
    check_read,
    nodata_notes,
    resolve_nodata,
    valid_pixels,
)
from pipeline.store import is_local
from tiling import Box

NOT_STACKS = ("svs", "ndpi", "scn", "philips", "bif", "qpi", "eer")


def open_if_stack(uri: str, nodata: NodataRule = "source") -> StackSource | None:
    """The source if this TIFF is more than one plane (or says its axes itself), else None: a raster.

    Raises SourceError for a file that is cut between its pages.
    """
    tiff = _open(uri)
    if tiff is None:
        return None
    try:
        _check_chain(tiff, uri)
        if not _is_stack(tiff):
            tiff.close()
            return None
        return StackSource(uri, tiff, nodata)
    except SourceError:
        tiff.close()
        raise
    except Exception as e:
        tiff.close()
        raise SourceError(f"cannot open {uri}: {reason(e)}") from e


class StackSource:
    """Planes of a TIFF as (C, z, y, x), or (C, y, x) where there is one. See ``Source``."""

    def __init__(self, uri: str, tiff: Any, nodata: NodataRule) -> None:
        self._tiff, self._series = tiff, tiff.series[0]
        self._page = self._series.keyframe
        axes, shape = self._series.axes, self._series.shape
        self._layout = stack_meta.layout_of(axes, shape, self._page.axes, uri)
        self._samples = stack_meta.sample_names(self._page)
        self._read_samples = [i for i, s in enumerate(self._samples) if s != "alpha"]
        self._check_planes(uri)
        self._info = self._describe(uri, nodata)

    @property
    def info(self) -> SourceInfo:
        return self._info

    def read(self, box: Box, channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        check_read(self._info, box, channels)
        pixels = np.empty((len(channels), *box.shape), self._info.dtype)
        valid = np.ones(box.shape, np.bool_)
        try:
            self._fill(box, channels, pixels, valid)
        except Exception as e:
            raise SourceError(f"cannot read box {box} of {self._info.uri}: {reason(e)}") from e
        valid &= valid_pixels(pixels, [self._info.nodata[c] for c in channels])
        return pixels, valid

    def close(self) -> None:
        self._tiff.close()

    def _fill(self, box: Box, channels: tuple[int, ...], pixels: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        rows, cols = slice(box.start[-2], box.stop[-2]), slice(box.start[-1], box.stop[-1])
        zs = range(box.start[0], box.stop[0]) if len(box.start) == 3 else range(1)
        for i, z in enumerate(zs):
            into = i if len(box.start) == 3 else ...
            for number, wanted in self._planes(z, channels):
                plane = self._plane(number, rows, cols)
                for k, sample in wanted:
                    pixels[k, into] = plane[sample]
                for alpha in (j for j, s in enumerate(self._samples) if s == "alpha"):
                    valid[into] &= plane[alpha] != 0

    def _planes(self, z: int, channels: tuple[int, ...]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Each plane to decode once, with (place among the channels read, sample of the plane)."""
        wanted: dict[int, list[tuple[int, int]]] = {}
        for k, channel in enumerate(channels):
            c, s = divmod(channel, len(self._read_samples))
            number, _ = self._layout.plane(z, c * self._layout.n_samples)
            wanted.setdefault(number, []).append((k, self._read_samples[s]))
        yield from wanted.items()

    def _plane(self, number: int, rows: slice, cols: slice) -> NDArray[Any]:
        """Samples of one plane within rows and columns, shape ``(S, y, x)``."""
        if self._series.dataoffset is not None and len(self._series) != self._n_planes:
            return self._plane_of_one_run(number, rows, cols)
        page = self._series[number]
        if page is None:
            raise SourceError(f"plane {number} is missing from the file")
        out = np.zeros((len(self._samples), rows.stop - rows.start, cols.stop - cols.start), self._page.dtype)
        for index in self._segments(rows, cols):
            _paste(self._decode(page, number, index), rows, cols, out)
        return out

    def _segments(self, rows: slice, cols: slice) -> Iterator[int]:
        """Numbers of the strips or tiles of a page that touch the rows and columns."""
        page = self._page
        high, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        down, across = -(-page.imagelength // high), -(-page.imagewidth // wide)
        for s in range(page.samplesperpixel if int(page.planarconfig) == 2 else 1):
            for r in range(rows.start // high, -(-rows.stop // high)):
                for c in range(cols.start // wide, -(-cols.stop // wide)):
                    yield (s * down + r) * across + c

    def _decode(
        self, page: Any, number: int, index: int
    ) -> tuple[NDArray[Any] | None, tuple[int, ...], tuple[int, ...]]:
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        file = self._tiff.filehandle
        if offset + count > file.size:
            raise SourceError(f"segment {index} of plane {number} lies past the end of the file, which is truncated")
        file.seek(offset)
        data = file.read(count) if count else None
        keyframe = page.keyframe
        segment, at, shape = keyframe.decode(data, index, jpegtables=page.jpegtables, jpegheader=keyframe.jpegheader)
        if data is not None and segment is None:
            raise SourceError(f"segment {index} of plane {number} cannot be decoded")
        return segment, at, shape

    def _plane_of_one_run(self, number: int, rows: slice, cols: slice) -> NDArray[Any]:
        """A plane of an uncompressed stack whose pages share one header (ImageJ past 4 GB)."""
        page, file = self._page, self._tiff.filehandle
        dtype = np.dtype(self._tiff.byteorder + page.dtype.char)
        row = page.imagewidth * page.samplesperpixel * dtype.itemsize
        n = (rows.stop - rows.start) * row
        file.seek(self._series.dataoffset + number * page.imagelength * row + rows.start * row)
        data = file.read(n)
        if len(data) != n:
            raise SourceError(f"plane {number} lies past the end of the file, which is truncated")
        run = np.frombuffer(data, dtype).reshape(-1, page.imagewidth, page.samplesperpixel)
        return np.moveaxis(run[:, cols], -1, 0)

    @property
    def _n_planes(self) -> int:
        return self._layout.n_z * self._layout.n_c

    def _check_planes(self, uri: str) -> None:
        series, n = self._series, self._n_planes
        one_run = series.dataoffset is not None and len(series) == 1 and int(self._page.planarconfig) == 1
        told = int(self._tiff.imagej_metadata.get("images", 1)) if self._tiff.is_imagej else n
        if n < told:
            raise SourceError(f"{uri} says it holds {told} planes but {n} can be read; it is truncated, fetch it again")
        if len(series) != n and not one_run:
            raise SourceError(f"{uri} should hold {n} planes but has {len(series)}; fetch the file again")
        if one_run and series.dataoffset + series.nbytes > self._tiff.filehandle.size:
            raise SourceError(f"{uri} is truncated: {series.nbytes} bytes of pixels do not fit in the file")
        if self._page.imagedepth != 1:
            raise SourceError(f"{uri} has pages of depth {self._page.imagedepth}, which are not read; save it as ZYX")

    def _describe(self, uri: str, rule: NodataRule) -> SourceInfo:
        page, layout = self._page, self._layout
        plane, depth = (page.imagelength, page.imagewidth), (layout.n_z,) if layout.is_volume else ()
        dtype = np.dtype(page.dtype or "V").newbyteorder("=")
        names = [s for s in self._samples if s != "alpha"]
        read = stack_meta.Layout(layout.n_z, layout.n_c, len(names), 0, 0, layout.is_volume)
        channels = stack_meta.channel_names(self._tiff, read, names)
        check_dtype(uri, dtype)
        check_extent(uri, (*depth, *plane), len(channels))
        frame, notes = stack_meta.spacing_frame(self._tiff, ("z", "y", "x") if layout.is_volume else ("y", "x"))
        files = _files(uri, self._series)
        nodata = resolve_nodata(rule, [stack_meta.nodata_of(page)] * len(channels))
        tile = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, plane[0]), plane[1])
        return SourceInfo(
            uri=uri,
            name=scene_name(uri),
            format="ome-tiff" if self._tiff.is_ome else "tiff-stack",
            shape=(*depth, *plane),
            dtype=dtype,
            channels=channels,
            frame=frame,
            nodata=nodata,
            masked="alpha" in self._samples,
            tile=((1,) if depth else ()) + tile,
            fingerprint=fingerprint.of_files(files),
            files=tuple(files),
            notes=(*notes, *self._notes(), *nodata_notes(nodata, dtype)),
        )

    def _notes(self) -> list[str]:
        axes = self._series.axes
        notes = [f"pages are read as {axes} of {self._series.shape}"]
        if "Z" not in axes and self._layout.is_volume:
            notes.append("its pages are taken as slices along z, in file order")
        others = len(self._tiff.series) - 1
        if others:
            notes.append(f"{others} other image series in the file are not read")
        if "alpha" in self._samples:
            notes.append("its last sample is alpha: a mask (0 is no data), not a channel")
        if getattr(self._page, "is_geotiff", False):
            notes.append("the georeference of its pages is not used for a volume")
        return notes


def _paste(
    decoded: tuple[NDArray[Any] | None, tuple[int, ...], tuple[int, ...]], rows: slice, cols: slice, out: NDArray[Any]
) -> None:
    """Copy the part of a segment (1, y, x, samples) that lies within rows and columns to ``out`` (S, y, x)."""
    segment, (sample, _, top, left, _), (_, high, wide, n_samples) = decoded
    if segment is None:  # a sparse segment: never written, 0 by the format
        return
    y0, y1 = max(rows.start, top), min(rows.stop, top + high)
    x0, x1 = max(cols.start, left), min(cols.stop, left + wide)
    part = segment[0, y0 - top : y1 - top, x0 - left : x1 - left]
    into = out[sample : sample + n_samples, y0 - rows.start : y1 - rows.start, x0 - cols.start : x1 - cols.start]
    into[...] = np.moveaxis(part, -1, 0)


def _open(uri: str) -> Any:
    """An open TiffFile, or None for what tifffile does not take for a TIFF."""
    source = normal(uri) if is_local(uri) else open_binary(uri)
    try:
        return tifffile.TiffFile(source)
    except SourceError:
        raise
    except Exception:  # noqa: BLE001  # whatever it is, GDAL is asked next and has the last word on the file
        return None


def _is_stack(tiff: Any) -> bool:
    if any(getattr(tiff, f"is_{kind}", False) for kind in NOT_STACKS) or not tiff.series:
        return False
    if tiff.is_ome or tiff.is_imagej:
        return True
    first = tiff.series[0]
    return bool(first.keyframe.axes in stack_meta.PLANE_AXES and first.ndim > len(first.keyframe.axes))


def _check_chain(tiff: Any, uri: str) -> None:
    """Raise SourceError unless the last page says that it is the last: tifffile stops quietly at a broken link."""
    file, form = tiff.filehandle, tiff.tiff
    n_pages = len(tiff.pages)
    if n_pages == 0:
        raise SourceError(f"{uri} is a TIFF without a readable page; it is truncated or damaged, fetch it again")
    file.seek(tiff.pages[n_pages - 1].offset)
    n_tags = struct.unpack(form.tagnoformat, file.read(form.tagnosize))[0]
    file.seek(n_tags * form.tagsize, 1)
    link = file.read(form.offsetsize)
    following = struct.unpack(form.offsetformat, link)[0] if len(link) == form.offsetsize else -1
    if following != 0:
        raise SourceError(
            f"{uri} is truncated or damaged after page {n_pages}: the next should begin at byte {following} "
            f"of {file.size}; fetch the file again"
        )


def _files(uri: str, series: Any) -> list[str]:
    """The file, and for an OME-TIFF of several files the others."""
    if not is_local(uri):
        return [uri]
    others = sorted({p.parent.filehandle.path for p in series if p is not None} - {normal(uri)})
    return [uri, *(p for p in others if p)]
