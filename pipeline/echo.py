"""Lines for whoever reads: that the reader has gone never stops the work."""

from __future__ import annotations

import os
from typing import TextIO


def write_line(stream: TextIO, text: str) -> None:
    """Write one line at once. After a reader that has gone (``| head``) the stream leads nowhere, in silence."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
            os.dup2(nowhere.fileno(), stream.fileno())
