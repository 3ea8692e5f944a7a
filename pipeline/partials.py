"""How named arrays are packed into one object: a JSON header, then each array compressed by Blosc.

    b"SEAM1"  header length, 4 bytes little endian  header  blobs in the header's order

Each array is compressed on its own, so that packing needs little more memory than the result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray

_MAGIC = b"SEAM1"
_LENGTH = 4


def pack(parts: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays by name -> bytes; the same bytes for the same arrays."""
    header, blobs = [], []
    for name, array in parts.items():
        blob = _codec(array.dtype).encode(np.ascontiguousarray(array)) if array.size else b""
        header.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "n_bytes": len(blob)})
        blobs.append(blob)
    text = json.dumps(header).encode()
    return b"".join([_MAGIC, len(text).to_bytes(_LENGTH, "little"), text, *blobs])


def unpack(data: bytes) -> dict[str, NDArray[Any]]:
    """The inverse of :func:`pack`. Raises ValueError for anything else."""
    start = len(_MAGIC) + _LENGTH
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"not a packed partial: it begins with {data[: len(_MAGIC)]!r}")
    at = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    parts: dict[str, NDArray[Any]] = {}
    view = memoryview(data)
    for item in json.loads(data[start:at]):
        dtype, shape = np.dtype(item["dtype"]), tuple(item["shape"])
        array: NDArray[Any] = np.empty(shape, dtype)
        if array.size:
            _codec(dtype).decode(view[at : at + item["n_bytes"]], out=array)
        parts[item["name"]] = array
        at += item["n_bytes"]
    if at != len(data):
        raise ValueError(f"a packed partial of {len(data)} bytes should have {at}")
    return parts


def _codec(dtype: np.dtype[Any]) -> Blosc:
    return Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE if dtype.itemsize > 1 else Blosc.NOSHUFFLE)
