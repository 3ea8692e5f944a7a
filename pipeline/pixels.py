"""Reading what ingest wrote: validity that may not be guessed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError
from pipeline.run import Run
from tiling import Box

UNKNOWN = 255
"""Validity of pixels that were not ingested, and fill value: neither valid nor not."""


def read_valid(run: Run, box: Box) -> NDArray[np.bool_]:
    """Validity of ``box``, shape ``box.shape``. Raises BlockError where none has been written.

    A lost shard reads as fill. Taken for "no data", it would turn pixels into nodata in silence.
    """
    stored = np.asarray(run.array("valid")[box.slices()])
    if (stored == UNKNOWN).any():
        raise BlockError(
            f"{run.uri} does not say which pixels of {box} are valid: its ingest was lost; run the same command again"
        )
    return np.asarray(stored != 0)
