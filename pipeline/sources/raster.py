"""Rasters through GDAL: GeoTIFF, COG, VRT, JPEG 2000, PNG, JPEG and whatever else rasterio opens in 2-D."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from pipeline.errors import SourceError
from pipeline.sources import fingerprint, raster_meta
from pipeline.sources.base import GDAL_CACHE_BYTES, NodataRule, SourceInfo
from pipeline.sources.files import normal, reason, sibling, stat
from pipeline.sources.names import scene_name
from pipeline.sources.validity import (
    check_dtype,
    check_extent,
    check_read,
    nodata_notes,
    resolve_nodata,
    valid_pixels,
)
from pipeline.store import is_local, split
from tiling import Box

# a cut JPEG is otherwise completed in grey with a mere warning; overviews are never what we want to read
_ENV = {
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",
    "GDAL_PAM_ENABLED": "YES",
    "GDAL_CACHEMAX": GDAL_CACHE_BYTES,
}
_FORMATS = {"GTiff": "geotiff", "JP2OpenJPEG": "jpeg2000"}


class RasterSource:
    """A raster with channels (C, y, x). See ``Source``."""

    def __init__(self, uri: str, nodata: NodataRule = "source") -> None:
        self._data = open_dataset(uri)
        try:
            self._bands = raster_meta.bands_of(self._data, nodata)
            self._info = _describe(uri, self._data, self._bands, nodata)
        except BaseException:
            self._data.close()
            raise

    @property
    def info(self) -> SourceInfo:
        return self._info

    def read(self, box: Box, channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        check_read(self._info, box, channels)
        bands = [self._bands.read[c] for c in channels]
        if box.is_empty or not bands:
            return np.empty((len(bands), *box.shape), self._info.dtype), np.ones(box.shape, np.bool_)
        try:
            with rasterio.Env(**_ENV):
                return self._read(box, bands, channels)
        except (RasterioError, SourceError, OSError, MemoryError) as e:
            raise SourceError(f"cannot read box {box} of {self._info.uri}: {reason(e)}") from e

    def close(self) -> None:
        self._data.close()

    def _read(self, box: Box, bands: list[int], channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        (y, x), (height, width) = box.start, box.shape
        window = Window(x, y, width, height)
        pixels, alpha = self._pixels(window, bands)
        valid = valid_pixels(pixels, [self._info.nodata[c] for c in channels])
        valid &= (alpha != 0).all(axis=0)
        for band in self._masks(bands):
            valid &= self._data.read_masks(band, window=window) != 0
        return pixels, valid

    def _pixels(self, window: Window, bands: list[int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Channels and alpha bands; in one call where all have one dtype, so that interleaved tiles decode once."""
        wanted = [*bands, *self._bands.alpha]
        if len({self._data.dtypes[b - 1] for b in wanted}) == 1:
            both = self._data.read(wanted, window=window)
            return both[: len(bands)].astype(self._info.dtype, copy=False), both[len(bands) :]
        pixels = np.stack([self._data.read(b, window=window).astype(self._info.dtype) for b in bands])
        alpha = [self._data.read(b, window=window) != 0 for b in self._bands.alpha]
        return pixels, np.stack(alpha) if alpha else np.ones((0, *pixels.shape[1:]), np.bool_)

    def _masks(self, bands: list[int]) -> tuple[int, ...]:
        shared = len(self._bands.masks) == 1 and len(self._bands.read) > 1
        return self._bands.masks if shared else tuple(b for b in self._bands.masks if b in bands)


def open_dataset(uri: str) -> Any:
    """An open rasterio data set. Raises SourceError."""
    try:
        with warnings.catch_warnings(), rasterio.Env(**_ENV):
            # said in our own words, as a note of the source
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            if is_local(uri):
                return rasterio.open(normal(uri))
            from pipeline.sources.gdal_opener import RemoteContainer

            return rasterio.open(normal(uri), opener=RemoteContainer(uri))
    except (RasterioError, OSError) as e:
        raise SourceError(f"cannot open {uri}: not an image in a format that is read here ({reason(e)})") from e


def _describe(uri: str, data: Any, bands: raster_meta.Bands, rule: NodataRule) -> SourceInfo:
    raster_meta.check_readable(data, uri)
    check_extent(uri, data.shape, len(bands.read))
    dtype = raster_meta.pixel_dtype(data, bands)
    check_dtype(uri, dtype)
    frame, frame_notes = raster_meta.frame_of(data)
    nodata = resolve_nodata(rule, [data.nodatavals[b - 1] for b in bands.read])
    access = raster_meta.access_of(data)
    files = _existing(uri, data)
    return SourceInfo(
        uri=uri,
        name=scene_name(uri),
        format=_FORMATS.get(data.driver, data.driver.lower()),
        shape=tuple(data.shape),
        dtype=dtype,
        channels=raster_meta.channel_names(data, bands),
        frame=frame,
        nodata=nodata,
        masked=bool(bands.alpha or bands.masks),
        access=access,
        tile=raster_meta.tile_of(data, access),
        fingerprint=fingerprint.of_files(files),
        files=tuple(files),
        notes=(*frame_notes, *raster_meta.notes_of(data, bands), *nodata_notes(nodata, dtype)),
    )


def _existing(uri: str, data: Any) -> list[str]:
    files = _files(uri, data)
    for file in files:
        if stat(file) is None:
            raise SourceError(f"{uri} refers to {file}, which does not exist")
    return files


def _files(uri: str, data: Any) -> list[str]:
    """The uris of the files that hold this raster's pixels, the main one first.

    Without overviews, and without GDAL's ``.aux.xml``, into which viewers write statistics: what it decides, the
    georeference and nodata, is part of a run's question by itself.
    """
    names = [str(name) for name in data.files if not str(name).lower().endswith((".ovr", ".aux.xml"))]
    if is_local(uri):
        return [uri, *(n for n in names if n != normal(uri))]
    folder = split(normal(uri))[0]
    marker = folder.partition("://")[2]
    inside = [name.partition(marker + "/")[2] for name in names if marker + "/" in name]
    return [normal(uri), *(sibling(normal(uri), n) for n in inside if n != split(normal(uri))[1])]
