"""What a source is: a file of which boxes can be read. The formats live in the modules beside this one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tiling import Box, Frame

GDAL_CACHE_BYTES = 64 << 20
"""GDAL's cache of decoded tiles, of the whole process; blocks are read in whole tiles, so a row of tiles is plenty."""

NodataRule = float | Literal["source", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What a source says of itself, read once when it is opened.

    uri, name    where it is; the scene's name (file name without its suffixes)
    format       "geotiff", "png", "tiff-stack", "nifti", "zarr", ...
    shape        spatial extent, (y, x) or (z, y, x)
    dtype        of the pixels that ``read`` returns, as stored
    channels     names of the channels that can be read, in file order; alpha and mask bands are not among them
    frame        index -> world
    nodata       per channel the value that means "no data" under the rule it was opened with, None for none
    masked       whether alpha, a mask band or a validity array also decides what is valid
    access       "random", or "sequential" where reading boxes out of order costs decoding from the start
    tile         native tile or chunk, spatial: reads aligned to it decode each tile once
    fingerprint  changes when the content may have changed
    files        uris of all that the fingerprint is of, so that it can be taken again without opening anything; a
                 folder ends in a slash; () where there is no file
    array_uri    for zarr: where the level-0 array lies, if blocks can be read from it in place of a copy
    notes        sentences about anything in the file that is not read, and how what is read was understood
    """

    uri: str
    name: str
    format: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels: tuple[str, ...]
    frame: Frame
    nodata: tuple[float | None, ...]
    masked: bool = False
    access: Literal["random", "sequential"] = "random"
    tile: tuple[int, ...]
    fingerprint: str
    files: tuple[str, ...] = ()
    array_uri: str | None = None
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """An open source. Not shared between threads; each worker opens its own."""

    @property
    def info(self) -> SourceInfo: ...

    def read(self, box: Box, channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels of shape ``(len(channels), *box.shape)`` as stored, and validity of shape ``box.shape``.

        A pixel is valid iff each of these channels is valid (nodata, alpha, masks) and finite. Invalid
        pixels keep their stored value. The box must lie within the source. Raises SourceError, naming the
        uri and the box, if a part cannot be read.
        """
        ...

    def close(self) -> None: ...
