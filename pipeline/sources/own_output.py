"""Recognising what Seamline itself wrote, so that a second run over a folder does not segment its masks."""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.sources.files import head_bytes, open_binary, stat
from pipeline.store import Store

MARK = "SEAMLINE_RUN"  # GDAL metadata item, zarr attribute
_MARKS = (MARK.encode(), b"seamline:run\0", b"seamline:run:")  # also: a PNG text key, a line of a NIfTI comment
_HEAD_BYTES = 65536
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GDAL_METADATA = 42112


def is_own_output(uri: str) -> bool:
    """Whether a file or zarr store carries Seamline's mark.

    Looked for in the tags of a TIFF, the first 64 KiB of other files (decompressed for gzip), the side-car
    ``.aux.xml``, and the attributes of a zarr group.
    """
    if stat(uri) is None:
        return _marked_zarr(uri)
    head = head_bytes(uri, _HEAD_BYTES)
    if _marked(head):
        return True
    if head[:4] in _TIFF and _marked_tiff(uri):
        return True
    if head[:2] == b"\x1f\x8b" and _marked(_inflated(head)):
        return True
    return stat(f"{uri}.aux.xml") is not None and _marked(head_bytes(f"{uri}.aux.xml", 1 << 20))


def _marked(data: bytes) -> bool:
    return any(mark in data for mark in _MARKS)


def _marked_tiff(uri: str) -> bool:
    """The metadata tag may lie anywhere in the file; only the first page is looked at."""
    import tifffile

    with open_binary(uri) as file:
        try:
            with tifffile.TiffFile(file) as tiff:
                tag = tiff.pages.first.tags.get(_GDAL_METADATA)
                text = "" if tag is None else str(tag.value)  # read now: tifffile fetches values late
        except Exception:  # noqa: BLE001  # damaged: it is offered as a scene, and opening it says what is wrong
            return False
    return re.search(rf'name="{MARK}"', text) is not None


def _inflated(head: bytes) -> bytes:
    import zlib

    try:
        return zlib.decompressobj(wbits=31).decompress(head, 4096)
    except zlib.error:  # not our gzip, then; opening it says what is wrong
        return b""


def _marked_zarr(uri: str) -> bool:
    store = Store(uri)
    documents = [store.get_or_none(key) for key in ("zarr.json", ".zattrs")]
    return any(_marked_attributes(document) for document in documents if document)


def _marked_attributes(document: bytes) -> bool:
    try:
        data: Any = json.loads(document)
    except ValueError:  # no metadata of ours; opening it says what is wrong
        return False
    attributes = data.get("attributes", data) if isinstance(data, dict) else {}
    if not isinstance(attributes, dict):
        return False
    own = attributes.get("seamline")
    return MARK in attributes or (isinstance(own, dict) and "provenance" in own)
