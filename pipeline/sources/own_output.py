"""Recognising what Seamline itself wrote: a second run over a folder does not segment its masks, and an export
writes over nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.sources.files import head_bytes, open_binary, stat
from pipeline.store import Store

_RUN, _SAMPLE = "run", "sample"
_WITHIN = {_RUN: "provenance", _SAMPLE: "sample"}  # of the attribute ``seamline`` of a zarr group
_HEAD_BYTES = 65536
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GDAL_METADATA = 42112


def is_own_output(uri: str) -> bool:
    """Whether a file or zarr store is an export of a run, by the mark that each carries.

    Looked for in the tags of a TIFF, the first 64 KiB of other files (decompressed for gzip), the side-car
    ``.aux.xml``, and the attributes of a zarr group.
    """
    return _is_marked(uri, _RUN)


def is_own_sample(uri: str) -> bool:
    """Whether a file or zarr store is a scene, or its truth, that ``sample`` wrote."""
    return _is_marked(uri, _SAMPLE)


def gdal_item(word: str) -> str:
    """The GDAL metadata item of a tag: ``SEAMLINE_RUN`` for ``run``."""
    return f"SEAMLINE_{word.upper()}"


def _is_marked(uri: str, word: str) -> bool:
    if stat(uri) is None:
        return _marked_zarr(uri, word)
    head = head_bytes(uri, _HEAD_BYTES)
    if _holds(head, word):
        return True
    if head[:4] in _TIFF and _marked_tiff(uri, word):
        return True
    if head[:2] == b"\x1f\x8b" and _holds(_inflated(head), word):
        return True
    return stat(f"{uri}.aux.xml") is not None and _holds(head_bytes(f"{uri}.aux.xml", 1 << 20), word)


def _holds(data: bytes, word: str) -> bool:
    """A GDAL metadata item, a PNG text key, or a line of a NIfTI comment."""
    marks = (gdal_item(word), f"seamline:{word}\0", f"seamline:{word}:")
    return any(mark.encode() in data for mark in marks)


def _marked_tiff(uri: str, word: str) -> bool:
    """The metadata tag may lie anywhere in the file; only the first page is looked at."""
    import tifffile

    with open_binary(uri) as file:
        try:
            with tifffile.TiffFile(file) as tiff:
                tag = tiff.pages.first.tags.get(_GDAL_METADATA)
                text = "" if tag is None else str(tag.value)  # read now: tifffile fetches values late
        except Exception:  # noqa: BLE001  # damaged: it is offered as a scene, and opening it says what is wrong
            return False
    return re.search(rf'name="{gdal_item(word)}"', text) is not None


def _inflated(head: bytes) -> bytes:
    import zlib

    try:
        return zlib.decompressobj(wbits=31).decompress(head, 4096)
    except zlib.error:  # not our gzip, then; opening it says what is wrong
        return b""


def _marked_zarr(uri: str, word: str) -> bool:
    store = Store(uri)
    documents = [store.get_or_none(key) for key in ("zarr.json", ".zattrs")]
    return any(_marked_attributes(document, word) for document in documents if document)


def _marked_attributes(document: bytes, word: str) -> bool:
    try:
        data: Any = json.loads(document)
    except ValueError:  # no metadata of ours; opening it says what is wrong
        return False
    attributes = data.get("attributes", data) if isinstance(data, dict) else {}
    if not isinstance(attributes, dict):
        return False
    own = attributes.get("seamline")
    return gdal_item(word) in attributes or (isinstance(own, dict) and _WITHIN[word] in own)
