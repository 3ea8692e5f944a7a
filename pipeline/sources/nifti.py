"""NIfTI volumes through nibabel, turned from its (x, y, z) into our (z, y, x)."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from contextlib import suppress
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.sources import fingerprint
from pipeline.sources.base import NodataRule, SourceInfo
from pipeline.sources.files import head_bytes, open_binary, reason
from pipeline.sources.names import scene_name
from pipeline.sources.validity import (
    check_dtype,
    check_extent,
    check_read,
    nodata_notes,
    resolve_nodata,
    valid_pixels,
)
from tiling import Box, Frame, FrameError

_UNITS = {1: "m", 2: "mm", 3: "um"}  # codes of xyzt_units, of which the lowest three bits are for lengths
AXES = ("z", "y", "x")


class NiftiSource:
    """A NIfTI-1 or -2 volume with channels (C, z, y, x). See ``Source``.

    The file stays open, so that slabs of a ``.nii.gz`` read in order along z are decompressed once.
    """

    def __init__(self, uri: str, nodata: NodataRule = "source") -> None:
        self._raw = open_binary(uri)
        try:
            self._gzipped = head_bytes(uri, 2) == b"\x1f\x8b"
            self._file: Any = gzip.GzipFile(fileobj=self._raw) if self._gzipped else self._raw
            self._image = _image(self._file, uri)
            self._n_extra = _extra_axis(self._image.shape, uri)
            self._is_unpacked = not (self._gzipped and self._n_extra > 1)
            self._scaled = _is_scaled(self._image.dataobj)
            self._info = self._describe(uri, nodata)
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> SourceInfo:
        return self._info

    def read(self, box: Box, channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        check_read(self._info, box, channels)
        try:
            self._unpack()
            pixels = np.stack([self._channel(box, c) for c in channels])
        except Exception as e:
            raise SourceError(f"cannot read box {box} of {self._info.uri}: {reason(e)}") from e
        return pixels, valid_pixels(pixels, [self._info.nodata[c] for c in channels])

    def close(self) -> None:
        with suppress(AttributeError):  # opening may have failed before there was a decompressor
            self._file.close()
        self._raw.close()

    def _unpack(self) -> None:
        """Decompress once to a temporary file where channels lie one after the other.

        A slab of all channels would otherwise be decompressed from the start for each.
        """
        if self._is_unpacked:
            return
        plain = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the source
        try:
            self._file.seek(0)
            shutil.copyfileobj(self._file, plain, 1 << 20)
        except BaseException:
            plain.close()
            raise
        self._file.close()
        self._file, self._image, self._is_unpacked = plain, _image(plain, self._info.uri), True

    def _channel(self, box: Box, channel: int) -> NDArray[Any]:
        """One channel of a box, (z, y, x), in native byte order."""
        if box.is_empty:
            return np.empty(box.shape, self._info.dtype)
        proxy = self._image.dataobj
        where = (*reversed(box.slices()), *self._extra(channel))[: len(proxy.shape)]
        volume = np.asarray(proxy[where]).reshape(tuple(reversed(box.shape)))
        return volume.transpose(2, 1, 0).astype(self._info.dtype)

    def _extra(self, channel: int) -> tuple[int, ...]:
        """Index of the axes past the third: the channel along the one that is longer than 1."""
        return tuple(channel if n > 1 else 0 for n in self._image.shape[3:])

    def _describe(self, uri: str, rule: NodataRule) -> SourceInfo:
        header, proxy = self._image.header, self._image.dataobj
        stored = header.get_data_dtype().newbyteorder("=")
        check_dtype(uri, stored)
        dtype = np.dtype(np.float32) if self._scaled else stored
        xyz = (*self._image.shape[:3], 1, 1)[:3]
        check_extent(uri, xyz, self._n_extra)
        frame, notes = _frame(self._image, uri)
        nodata = resolve_nodata(rule, [None] * self._n_extra)
        if self._scaled:
            notes.append(f"{stored} values are scaled as the file asks: float32 of {proxy.slope:g} v + {proxy.inter:g}")
        if self._n_extra > 1:
            notes.append(f"its {len(self._image.shape)}th axis, of {self._n_extra}, is read as channels")
        if not self._is_unpacked:
            notes.append("it is decompressed to a temporary file on first reading")
        return SourceInfo(
            uri=uri,
            name=scene_name(uri),
            format="nifti",
            shape=tuple(int(n) for n in reversed(xyz)),
            dtype=dtype,
            channels=_channel_names(self._n_extra),
            frame=frame,
            nodata=nodata,
            access="sequential" if self._gzipped else "random",
            tile=(1, int(xyz[1]), int(xyz[0])),
            fingerprint=fingerprint.of_files([uri]),
            files=(uri,),
            notes=(*notes, *nodata_notes(nodata, dtype)),
        )


def _image(file: Any, uri: str) -> Any:
    """The image over an open file. Nothing but the header is read."""
    try:
        file.seek(0)
        header = file.read(4)
        file.seek(0)
        is_two = 540 in (int.from_bytes(header, "little"), int.from_bytes(header, "big"))
        kind = nibabel.Nifti2Image if is_two else nibabel.Nifti1Image
        holder = nibabel.FileHolder(fileobj=file)
        image = kind.from_file_map({"header": holder, "image": holder})  # type: ignore[no-untyped-call]
    except (
        ImageFileError,
        OSError,
        EOFError,
        ValueError,
        gzip.BadGzipFile,
        zlib.error,
        nibabel.spatialimages.HeaderDataError,
    ) as e:
        raise SourceError(f"cannot open {uri}: not a readable NIfTI file ({reason(e)})") from e
    if image.header["magic"].tobytes()[:2] == b"ni":
        raise SourceError(f"{uri} is a header whose pixels lie in an .img file; save the pair as one .nii file")
    return image


def _extra_axis(shape: tuple[int, ...], uri: str) -> int:
    """Number of channels: the length of the one axis past the third that is not 1."""
    extra = [n for n in shape[3:] if n != 1]
    if len(extra) > 1:
        raise SourceError(f"{uri} has {len(shape)} axes {shape}; at most one past (x, y, z) can be read, as channels")
    return int(extra[0]) if extra else 1


def _is_scaled(proxy: Any) -> bool:
    return (float(proxy.slope), float(proxy.inter)) != (1.0, 0.0)


def _channel_names(n: int) -> tuple[str, ...]:
    return ("intensity",) if n == 1 else tuple(f"volume {i + 1}" for i in range(n))


def _frame(image: Any, uri: str) -> tuple[Frame, list[str]]:
    """World is (z, y, x) of NIfTI's own (right, anterior, superior), in the header's unit."""
    header, notes = image.header, []
    code = int(header["xyzt_units"]) % 8
    if code not in _UNITS:
        told = f"the unit of length {code}, which NIfTI does not define" if code else "no unit of length"
        notes.append(f"the file names {told}: mm is assumed, as is usual for NIfTI")
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        notes.append("the file names no position in space: only its voxel size is known")
    matrix = np.asarray(image.affine, dtype=np.float64)
    rows = np.column_stack([matrix[2::-1, 2::-1], matrix[2::-1, 3]])
    try:
        return Frame(AXES, tuple(map(tuple, rows.tolist())), _UNITS.get(code, "mm"), None, "centre"), notes
    except FrameError as e:
        raise SourceError(f"{uri} has an affine that cannot be used: {e}") from e
