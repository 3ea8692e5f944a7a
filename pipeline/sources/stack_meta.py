"""What a multi-page TIFF says of itself: axes by name, spacing, channel names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from xml.etree import ElementTree

from pipeline.errors import SourceError
from tiling import Frame

PLANE_AXES = frozenset({"YX", "YXS", "SYX"})
_SEQUENCE = "ZIQRAP"  # axes tifffile gives to pages that follow each other; Z if nothing better is said
_MICRONS = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "\\u00b5m": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_PAST_BMP_ESCAPE = re.compile(r"\\u00b5", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the planes (y, x[, samples]) of a series stand for channels and z.

    n_z, n_c    planes along each; n_samples channels within each plane
    z_stride    step in plane number for one z; c_stride for one channel
    is_volume   whether there is a z axis at all
    """

    n_z: int
    n_c: int
    n_samples: int
    z_stride: int
    c_stride: int
    is_volume: bool

    @property
    def n_channels(self) -> int:
        return self.n_c * self.n_samples

    def plane(self, z: int, channel: int) -> tuple[int, int]:
        """Plane number and sample within it of one channel at one z."""
        c, sample = divmod(channel, self.n_samples)
        return z * self.z_stride + c * self.c_stride, sample


def layout_of(axes: str, shape: Sequence[int], plane_axes: str, uri: str) -> Layout:
    """From tifffile's axes of a series and of its page. Raises SourceError for time series and unknown axes."""
    if plane_axes not in PLANE_AXES or not axes.endswith(plane_axes):
        raise SourceError(f"{uri} has axes {axes} over pages of {plane_axes}, which is not understood; save it as ZYX")
    leading = axes[: -len(plane_axes)]
    sizes = dict(zip(leading, shape, strict=False))
    strides = {a: prod(shape[i + 1 : len(leading)]) for i, a in enumerate(leading)}
    if sizes.get("T", 1) > 1:
        raise SourceError(
            f"{uri} is a time series of {sizes['T']} points (axes {axes}, shape {tuple(shape)}); "
            "save each time point as a file of its own, or, if they are slices, name the axis Z"
        )
    deep = [a for a in leading if a in _SEQUENCE and sizes[a] > 1]
    other = [a for a in leading if a not in _SEQUENCE and a not in "CT" and sizes[a] > 1]
    if len(deep) > 1 or other:
        raise SourceError(f"{uri} has axes {axes} of {tuple(shape)}; only Z, C, Y, X can be read: save it as CZYX")
    z = deep[0] if deep else ""
    samples = shape[axes.index("S")] if "S" in plane_axes else 1
    return Layout(
        sizes.get(z, 1),
        sizes.get("C", 1),
        samples,
        strides.get(z, 0),
        strides.get("C", 0),
        bool(deep) or "Z" in leading,
    )


def spacing_frame(tiff: Any, axes: tuple[str, ...]) -> tuple[Frame, list[str]]:
    """Spacing from OME or ImageJ metadata, in micrometres; unit px where an axis has none."""
    found: dict[str, float] = {}
    if tiff.is_ome:
        found = ome_spacing(tiff.ome_metadata)
    elif tiff.is_imagej:
        found = imagej_spacing(tiff.imagej_metadata, _resolution(tiff.pages.first))
    if all(found.get(a, 0) > 0 for a in axes):
        return Frame.of_spacing(axes, tuple(found[a] for a in axes), "um"), []
    known = ", ".join(f"{a} {v:g} um" for a, v in found.items() if a in axes)
    return Frame.pixels(axes), [f"spacing is not known along every axis ({known or 'none'}): lengths in px"]


def ome_spacing(xml: str) -> dict[str, float]:
    """Micrometres by axis name, of the first image; axes without a size or with an unknown unit are absent."""
    pixels = _first_pixels(xml)
    found = {}
    for axis in "XYZ":
        size = pixels.get(f"PhysicalSize{axis}") if pixels is not None else None
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm") if pixels is not None else ""
        if size is not None and unit in _MICRONS:
            found[axis.lower()] = float(size) * _MICRONS[unit]
    return found


def imagej_spacing(metadata: dict[str, Any], resolution: tuple[float, float] | None) -> dict[str, float]:
    """``resolution`` is pixels per unit along (y, x). Nothing if ImageJ was not told the unit."""
    unit = _PAST_BMP_ESCAPE.sub("µ", str(metadata.get("unit", "")))
    if unit not in _MICRONS:
        return {}
    found = {"z": float(metadata["spacing"]) * _MICRONS[unit]} if "spacing" in metadata else {}
    if resolution and min(resolution) > 0:
        found |= {"y": _MICRONS[unit] / resolution[0], "x": _MICRONS[unit] / resolution[1]}
    return found


def channel_names(tiff: Any, layout: Layout, samples: Sequence[str]) -> tuple[str, ...]:
    """OME channel names, else colours of samples, else numbers."""
    named = ome_channels(tiff.ome_metadata) if tiff.is_ome else []
    if len(named) != layout.n_c or not all(named) or len(set(named)) < len(named):
        named = [f"channel {c + 1}" for c in range(layout.n_c)]
    if layout.n_samples == 1:
        return tuple(named) if layout.n_c > 1 or tiff.is_ome else ("gray",)
    return tuple(s if layout.n_c == 1 else f"{c} {s}" for c in named for s in samples)


def ome_channels(xml: str) -> list[str]:
    pixels = _first_pixels(xml)
    return [] if pixels is None else [c.get("Name", "") for c in pixels if c.tag.endswith("}Channel")]


def sample_names(page: Any) -> tuple[str, ...]:
    """Names of the samples of one pixel; ``alpha`` for one that is."""
    n = int(page.samplesperpixel)
    base = ["red", "green", "blue"] if int(page.photometric) in (2, 6) and n >= 3 else []
    alphas = {i for i, kind in enumerate(page.extrasamples, start=n - len(page.extrasamples)) if int(kind) in (1, 2)}
    return tuple("alpha" if i in alphas else base[i] if i < len(base) else f"sample {i + 1}" for i in range(n))


def nodata_of(page: Any) -> float | None:
    """GDAL's nodata tag, if it is a number."""
    tag = page.tags.get(42113)
    try:
        return None if tag is None else float(str(tag.value).strip("\0 "))
    except ValueError:
        return None


def _first_pixels(xml: str) -> ElementTree.Element | None:
    for element in ElementTree.fromstring(xml).iter():
        if element.tag.endswith("}Pixels"):
            return element
    return None


def _resolution(page: Any) -> tuple[float, float] | None:
    tags = [page.tags.get(name) for name in ("YResolution", "XResolution")]
    if any(tag is None or not tag.value[1] for tag in tags):
        return None
    y, x = (tag.value[0] / tag.value[1] for tag in tags)
    return y, x
