"""Zarr v2 and v3 arrays, and OME-Zarr images, as sources."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import ObjectStore

from pipeline.errors import SourceError, StoreError
from pipeline.sources import fingerprint, zarr_meta
from pipeline.sources.base import NodataRule, SourceInfo
from pipeline.sources.files import reason
from pipeline.sources.names import scene_name
from pipeline.sources.validity import (
    check_dtype,
    check_extent,
    check_read,
    nodata_notes,
    resolve_nodata,
    valid_pixels,
)
from pipeline.store import Store, join
from tiling import Box, Frame

MOST_DECODED, MOST_CHANNELS, LARGEST_CHUNK = 4, 4, 64 << 20
_BLOCK = {2: 2048, 3: 256}  # a usual block's side, of which a source knows nothing


class ZarrSource:
    """One array of a zarr store (level 0 of an image) with channels (C, *spatial). See ``Source``."""

    def __init__(self, uri: str, nodata: NodataRule = "source") -> None:
        node = _open_node(uri)
        self._array, self._image, self._attributes, found = _array_of(node, uri)
        self._array_uri = join(uri, self._array.path) if self._array.path else uri.rstrip("/")
        self._order, axes_notes = self._find_order()
        self._valid = _own_validity(node, self._array, self._order)
        self._info = self._describe(uri, nodata, [*found, *axes_notes])

    @property
    def info(self) -> SourceInfo:
        return self._info

    def read(self, box: Box, channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        check_read(self._info, box, channels)
        try:
            pixels = self._pixels(box, channels)
            masked = np.ones(box.shape, np.bool_) if self._valid is None else np.asarray(self._valid[box.slices()]) != 0
        except Exception as e:
            raise SourceError(f"cannot read box {box} of {self._info.uri}: {reason(e)}") from e
        return pixels, masked & valid_pixels(pixels, [self._info.nodata[c] for c in channels])

    def close(self) -> None:
        """Nothing is held open."""

    def _pixels(self, box: Box, channels: tuple[int, ...]) -> NDArray[Any]:
        """One read over the hull of the channels, so that chunks with several channels decode once."""
        order, where = self._order, [slice(0, 1)] * self._array.ndim
        for axis, part in zip(order.spatial, box.slices(), strict=True):
            where[axis] = part
        if order.channel is not None and channels:
            where[order.channel] = slice(min(channels), max(channels) + 1)
        stored = np.asarray(self._array[tuple(where)])
        wanted = ((order.channel,) if order.channel is not None else ()) + order.spatial
        pixels = stored.transpose(*order.single, *wanted).reshape(-1, *box.shape)
        first = min(channels, default=0) if order.channel is not None else 0
        return pixels[[c - first for c in channels]].astype(self._info.dtype, copy=False)

    def _find_order(self) -> tuple[zarr_meta.Order, list[str]]:
        array, notes = self._array, list[str]()
        if self._image is not None:
            axes = self._image.axes
        elif (named := _dimension_names(array)) is not None:
            axes = named
        else:
            axes, note = zarr_meta.plain_axes(array.ndim, self._array_uri)
            notes.append(note)
        return zarr_meta.order_of(axes, array.shape, self._array_uri), notes

    def _describe(self, uri: str, rule: NodataRule, notes: list[str]) -> SourceInfo:
        array, order = self._array, self._order
        n_channels = 1 if order.channel is None else array.shape[order.channel]
        shape = tuple(array.shape[i] for i in order.spatial)
        check_dtype(uri, array.dtype)
        check_extent(uri, shape, n_channels)
        frame, frame_notes = self._frame()
        attributes = {**array.attrs.asdict()}
        nodata = resolve_nodata(rule, [zarr_meta.fill_value_of(attributes)] * n_channels)
        if attributes.get("scale_factor", 1) != 1 or attributes.get("add_offset", 0) != 0:
            notes.append("scale_factor and add_offset are not applied: pixels are read as stored")
        native = array.dtype.newbyteorder("=")
        in_place = order.is_native and array.dtype.isnative and self._valid is None and _has_small_chunks(array, order)
        return SourceInfo(
            uri=uri,
            name=scene_name(uri),
            format="zarr" if self._image is None else "ome-zarr",
            shape=shape,
            dtype=native,
            channels=zarr_meta.omero_channels(self._attributes, n_channels),
            frame=frame,
            nodata=nodata,
            masked=self._valid is not None,
            tile=tuple(min(array.chunks[i], array.shape[i]) for i in order.spatial),
            fingerprint=fingerprint.of_tree(self._array_uri),
            files=(f"{self._array_uri}/",),
            array_uri=self._array_uri if in_place else None,
            notes=(*notes, *frame_notes, *nodata_notes(nodata, native)),
        )

    def _frame(self) -> tuple[Frame, list[str]]:
        both = {**self._attributes, **self._array.attrs.asdict()}
        own = zarr_meta.own_frame(both, self._order)
        if own is not None:
            return own, []
        geo = zarr_meta.geozarr_frame(both, self._order, _wkt)
        if geo is not None:
            return geo, []
        if self._image is not None:
            return zarr_meta.ome_frame(self._image, self._order)
        return Frame.pixels(self._order.names), []


def _has_small_chunks(array: Any, order: zarr_meta.Order) -> bool:
    """Whether reading blocks in place is cheap, which happens several times: for each neighbour, and for the pyramid.

    A chunk is decoded whole. A block that lies anywhere may need at most ``MOST_DECODED`` times the pixels that it has,
    from chunks of no more than ``LARGEST_CHUNK`` bytes and of few channels.
    """
    side = _BLOCK[len(order.spatial)]
    decoded = 1.0
    for axis in order.spatial:
        extent, chunk = array.shape[axis], min(array.chunks[axis], array.shape[axis])
        block = min(side, extent)
        decoded *= min(block + chunk - 1, extent) / block
    channels = 1 if order.channel is None else min(array.chunks[order.channel], array.shape[order.channel])
    n_bytes = prod(map(min, array.chunks, array.shape)) * array.dtype.itemsize
    return decoded <= MOST_DECODED and channels <= MOST_CHANNELS and n_bytes <= LARGEST_CHUNK


def _open_node(uri: str) -> Any:
    try:
        return zarr.open(ObjectStore(Store(uri).client, read_only=True), mode="r")
    except StoreError as e:
        raise SourceError(str(e)) from e
    except Exception as e:
        raise SourceError(f"cannot open {uri} as zarr: {reason(e)}") from e


def _array_of(node: Any, uri: str) -> tuple[Any, zarr_meta.Multiscale | None, Mapping[str, Any], list[str]]:
    """The array to read, its multiscale metadata, the attributes of its group, and what to say about the choice."""
    if isinstance(node, zarr.Array):
        return node, None, node.attrs.asdict(), []
    attributes = node.attrs.asdict()
    image = zarr_meta.multiscale_of(attributes, uri)
    if image is not None:
        return _member(node, image.path, uri), image, attributes, _unread(attributes)
    if "bioformats2raw.layout" in attributes.get("ome", attributes) and "0" in node:
        if "1" in node:
            raise SourceError(f"{uri} holds several images; open one of them, e.g. {join(uri, '0')}")
        array, inner, inner_attributes, notes = _array_of(node["0"], join(uri, "0"))
        return array, inner, inner_attributes, [*notes, "its only image is read"]
    return _only_array(node, attributes, uri)


def _only_array(node: Any, attributes: Mapping[str, Any], uri: str) -> tuple[Any, None, Mapping[str, Any], list[str]]:
    names = sorted(name for name, _ in node.arrays())
    if len(names) != 1:
        held = f"arrays {', '.join(names)}" if names else f"groups {', '.join(sorted(node.group_keys())) or 'none'}"
        raise SourceError(f"{uri} is a zarr group and no OME-Zarr image; it holds {held}: name one, e.g. {uri}/NAME")
    return node[names[0]], None, attributes, [f"its only array, {names[0]}, is read"]


def _member(node: Any, path: str, uri: str) -> Any:
    try:
        found = node[path]
    except Exception as e:
        raise SourceError(f"{uri} names level 0 at {path!r}, which cannot be opened: {reason(e)}") from e
    if not isinstance(found, zarr.Array):
        raise SourceError(f"{uri} names level 0 at {path!r}, which is no array")
    return found


def _unread(attributes: Mapping[str, Any]) -> list[str]:
    n = len(attributes.get("ome", attributes)["multiscales"])
    return [f"the first of its {n} multiscale images is read"] if n > 1 else []


def _dimension_names(array: Any) -> tuple[str, ...] | None:
    """v3 ``dimension_names``, or xarray's ``_ARRAY_DIMENSIONS`` in v2; None unless every axis has one."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return tuple(map(str, names)) if names and all(names) else None


def _own_validity(node: Any, array: Any, order: zarr_meta.Order) -> Any:
    """Level 0 of ``valid`` beside the image, as a scene that Seamline wrote has it, else None."""
    valid = node.get("valid/0") if isinstance(node, zarr.Group) else None
    shape = tuple(array.shape[i] for i in order.spatial)
    is_ours = isinstance(valid, zarr.Array) and valid.shape == shape and valid.dtype.kind in "bu"
    return valid if is_ours else None


def _wkt(crs: Any) -> tuple[str, str]:
    """(WKT, unit) of an authority code, WKT or PROJJSON."""
    import rasterio.crs

    from pipeline.sources.raster_meta import unit_of

    parsed = rasterio.crs.CRS.from_user_input(crs)
    return str(parsed.to_wkt()), unit_of(parsed)
