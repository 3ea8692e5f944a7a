"""``sample:8192x8192?seed=3`` as a source: a scene of any size without a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError, UsageError
from pipeline.sample.landscape import Landscape
from pipeline.sample.phantom import SPACING_MM, Phantom
from pipeline.sources.base import SourceInfo
from pipeline.sources.names import scene_name
from pipeline.sources.validity import check_read
from tiling import Box

VERSION = 1
"""Raised by hand when the pixels of a sample scene change, so that an unfinished run is not resumed with others."""

_URI = re.compile(r"^sample:(\d+(?:x\d+){1,2})(?:\?(.*))?$")
_EXAMPLES = "sample:8192x8192?seed=3 (height x width) or sample:64x512x512?spacing=2.5,0.8,0.8 (z, y, x)"


@dataclass(frozen=True, slots=True)
class SampleSource:
    """A landscape (three uint8 channels) or, with three sides, a phantom (one int16 channel). See ``Source``.

    Every pixel is valid. Raises SourceError for a uri that names no scene.
    """

    uri: str

    def __post_init__(self) -> None:
        self.scene  # noqa: B018 - a source that exists can be read

    @property
    def scene(self) -> Landscape | Phantom:
        return parse_sample(self.uri)

    @property
    def info(self) -> SourceInfo:
        scene = self.scene
        flat = isinstance(scene, Landscape)
        channels = ("red", "green", "blue") if flat else ("intensity",)
        return SourceInfo(
            uri=self.uri,
            name=scene_name(self.uri),
            format="sample",
            shape=scene.shape,
            dtype=np.dtype(np.uint8 if flat else np.int16),
            channels=channels,
            frame=scene.frame,
            nodata=(None,) * len(channels),
            tile=(512, 512) if flat else (32, 128, 128),
            fingerprint=f"sample-{VERSION}:{scene!r}",
        )

    def read(self, box: Box, channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        check_read(self.info, box, channels)
        pixels, _ = self.scene.read(box)
        return pixels[list(channels)], np.ones(box.shape, dtype=np.bool_)

    def close(self) -> None:
        """Nothing is open."""


def parse_sample(uri: str) -> Landscape | Phantom:
    """The scene that a ``sample:`` uri names. Raises SourceError if it names none."""
    match = _URI.match(uri)
    if match is None:
        raise SourceError(f"{uri!r} names no sample scene; write for example {_EXAMPLES}")
    shape = tuple(int(n) for n in match.group(1).split("x"))
    options = dict(parse_qsl(match.group(2) or "", keep_blank_values=True))
    known = {"seed"} if len(shape) == 2 else {"seed", "spacing"}
    if unknown := sorted(set(options) - known):
        raise SourceError(f"{uri!r} has {', '.join(unknown)}; known are {', '.join(sorted(known))}: {_EXAMPLES}")
    try:
        seed = int(options.get("seed", "0"))
        if len(shape) == 2:
            return Landscape((shape[0], shape[1]), seed)
        spacing = [float(s) for s in options["spacing"].split(",")] if "spacing" in options else SPACING_MM
        return Phantom((shape[0], shape[1], shape[2]), tuple(spacing), seed)  # type: ignore[arg-type]
    except UsageError as e:
        raise SourceError(f"{uri!r} names no sample scene: {e}") from e
    except ValueError as e:
        raise SourceError(f"{uri!r} has options that are no numbers: {e}; write for example {_EXAMPLES}") from e
