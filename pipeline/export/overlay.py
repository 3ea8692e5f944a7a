"""The picture a person looks at: the whole scene under its mask, details at full resolution, a legend with shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngInfo

from pipeline.errors import FrameError
from pipeline.export.frames import ground_spacing
from pipeline.export.place import Exported, local_target, placed, size_on_disk
from pipeline.export.sheet import GAP, MARGIN, Sheet, round_length
from pipeline.export.shrink import Plane, Small, busiest, shrink
from pipeline.export.tint import Stretch, enlarged, stretch_of, swatch, tinted
from pipeline.export.view import ArrayLike, Counts, MaskView
from tiling import Box

OVERVIEW, DETAIL, SLICE = 980, 300, 420
"""Longest side of the overview, of a detail, and of a slice, in drawn pixels."""
N_DETAILS, N_SLICES = 3, 3
_HEADER, _CAPTION = 84, 24
_UNITS = {"m": "m", "metre": "m", "mm": "mm", "um": "um", "µm": "um", "nm": "nm", "micrometer": "um"}


def export_overlay(
    view: MaskView,
    image: ArrayLike,
    valid: ArrayLike | None,
    path: str | Path,
    *,
    channels: tuple[int, ...] | None = None,
    counts: Counts | None = None,
) -> Exported:
    """Write ``path`` (*.png).

    image     ``(C, *spatial)``, drawn with one 2 to 98 % stretch for the whole scene
    valid     spatial, nonzero where the image is known; None if everywhere
    channels  one (grey) or three (red, green, blue) of the image's; default the first three, else the first
    counts    of the view, if they are known already

    A map gets an overview and up to three details where most classes meet; a small one is shown beside its
    pixels instead. A volume gets slices at the quartiles of what was found in it. All of it is read in blocks.
    """
    target = local_target(path, "an overlay", (".png",), view.tags.get("source"))
    counts = view.counts() if counts is None else counts
    if channels is None:
        channels = (0, 1, 2) if image.shape[0] >= 3 else (0,)
    plane = Plane(view, image, valid, channels)
    sheet = Sheet()
    ruler = Ruler.of(view)
    bottom, right = (_volume(sheet, plane, ruler), None) if view.ndim == 3 else _map(sheet, plane, ruler)
    _legend(sheet, view, counts, bottom, right)
    _title(sheet, view, counts)
    with placed(target, ".png") as whole:
        sheet.finished().save(whole, compress_level=6, pnginfo=_provenance(view))
    return Exported(str(target), size_on_disk(target))


@dataclass(frozen=True, slots=True)
class Ruler:
    """Ground length of a pixel along (y, x), and its unit; unit None where nothing is known."""

    spacing: tuple[float, float] = (1.0, 1.0)
    unit: str | None = None

    @classmethod
    def of(cls, view: MaskView) -> Ruler:
        try:
            along, unit = ground_spacing(view.frame, view.shape)
        except FrameError:  # a sheared frame has no length per pixel: no scale bar
            return cls()
        return cls((along[-2], along[-1]), _UNITS.get(unit))

    def bar(self, sheet: Sheet, corner: tuple[int, int], drawn_per_pixel: float, shape: tuple[int, ...]) -> None:
        """A scale bar in the lower right corner of a picture, if there is a unit and it is large enough."""
        height, width = shape[:2]
        if self.unit is None or width < 120 or height < 80:
            return
        per_drawn = self.spacing[1] / drawn_per_pixel
        length = round_length(per_drawn * width / 4)
        sheet.bar(corner[0] - 8, corner[1] - 8, round(length / per_drawn), f"{length:g} {self.unit}")


def _map(sheet: Sheet, plane: Plane, ruler: Ruler) -> tuple[int, int | None]:
    """Overview and details, or a small scene beside its pixels; the legend goes below y, left of x."""
    height, width = plane.shape
    small = shrink(plane, max(1, -(-max(height, width) // OVERVIEW)))
    together = np.dtype(plane.image.dtype) == np.uint8
    stretch = stretch_of(small.pixels, small.known, together)
    if max(height, width) <= 2 * DETAIL:
        scale = max(1, min(4, 2 * DETAIL // max(height, width)))
        return _pair(sheet, small, stretch, plane.view, ruler, scale=scale), None
    firm = 1.0 if small.factor == 1 else 0.35
    picture = tinted(stretch.apply(small.pixels), small.labels, plane.view, firm=firm)
    left, top = MARGIN, _HEADER
    drawn = _thick(picture)
    times = drawn.shape[0] // picture.shape[0], drawn.shape[1] // picture.shape[1]
    sheet.put(drawn, (left, top))
    corner = left + int(drawn.shape[1]), top + int(drawn.shape[0])
    ruler.bar(sheet, corner, times[1] / small.factor, drawn.shape)
    boxes = busiest(small, plane.shape, DETAIL, N_DETAILS, len(plane.view.classes))
    for number, box in enumerate(boxes, 1):
        a, b = (tuple(v * k // small.factor for v, k in zip(end, times, strict=True)) for end in (box.start, box.stop))
        sheet.mark((left + a[1], top + a[0], left + b[1] - 1, top + b[0] - 1), str(number))
        y = top + (number - 1) * (box.shape[0] + _CAPTION + GAP)
        _detail(sheet, plane, stretch, box, (corner[0] + 2 * GAP, y), number)
    return corner[1], corner[0] if boxes else None


def _pair(sheet: Sheet, small: Small, stretch: Stretch, view: MaskView, ruler: Ruler, *, scale: int) -> int:
    picture = stretch.apply(small.pixels)
    right = _thick(tinted(picture, small.labels, view, scale=scale))
    left = _thick(enlarged(picture, scale))
    sheet.put(left, (MARGIN, _HEADER))
    sheet.put(right, (MARGIN + GAP + left.shape[1], _HEADER))
    corner = MARGIN + GAP + 2 * int(left.shape[1]), _HEADER + int(left.shape[0])
    ruler.bar(sheet, corner, scale / small.factor, left.shape)
    return corner[1]


def _detail(sheet: Sheet, plane: Plane, stretch: Stretch, box: Box, at: tuple[int, int], number: int) -> None:
    pixels, _ = plane.pixels(box)
    picture = stretch.apply(pixels)
    sheet.put(picture, at)
    sheet.put(tinted(picture, plane.labels(box), plane.view), (at[0] + picture.shape[1] + 4, at[1]))
    sheet.tag(at, str(number))
    below = at[1] + picture.shape[0]
    rows, columns = (f"{a}-{b - 1}" for a, b in zip(box.start, box.stop, strict=True))
    sheet.text((at[0], below + 4), f"rows {rows}, columns {columns}, full resolution", 14, faint=True)


def _volume(sheet: Sheet, plane: Plane, ruler: Ruler) -> int:
    """Slices across z, pixels above and mask below; the y below them."""
    view = plane.view
    factor = max(1, -(-max(plane.shape) // SLICE))
    chosen = _slices(view)
    planes = [Plane(view, plane.image, plane.valid, plane.channels, z) for z in chosen]
    smalls = [shrink(p, factor) for p in planes]
    pixels = np.concatenate([s.pixels for s in smalls], axis=1)
    stretch = stretch_of(pixels, np.concatenate([s.known for s in smalls]), together=False)
    scale = max(1, min(8, SLICE // max(smalls[0].labels.shape)))
    x = MARGIN
    corner = MARGIN, _HEADER
    for z, small in zip(chosen, smalls, strict=True):
        picture = stretch.apply(small.pixels)
        drawn = _square(enlarged(picture, scale), ruler)
        masked = _square(tinted(picture, small.labels, view, scale=scale), ruler)
        sheet.put(drawn, (x, _HEADER))
        sheet.put(masked, (x, _HEADER + drawn.shape[0] + 4))
        corner = x + int(drawn.shape[1]), _HEADER + 2 * int(drawn.shape[0]) + 4
        sheet.text((x, corner[1] + 4), f"z = {z} of {view.shape[0]}", 14, faint=True)
        x = corner[0] + GAP
    shrunk = masked.shape[1] / plane.shape[1]
    ruler.bar(sheet, corner, shrunk, masked.shape)
    return corner[1] + _CAPTION


def _slices(view: MaskView) -> list[int]:
    """The slices at the quartiles of what is not background; of the volume, if nothing was found."""
    found = np.zeros(view.shape[0], dtype=np.int64)
    wanted = np.zeros(view.unresolved_index + 1, dtype=np.bool_)
    wanted[: len(view.classes)] = [c.role != "background" for c in view.classes]
    for box in view.blocks():
        found[box.start[0] : box.stop[0]] += wanted[view.read(box)].sum(axis=(1, 2))
    if not found.any():
        found[:] = 1
    share = found.cumsum() / found.sum()
    at = [int(np.searchsorted(share, (k + 1) / (N_SLICES + 1))) for k in range(N_SLICES)]
    return sorted({min(z, view.shape[0] - 1) for z in at})


def _square(picture: NDArray[np.uint8], ruler: Ruler) -> NDArray[np.uint8]:
    """Rows or columns repeated so that the slice has its true proportions."""
    along_y, along_x = ruler.spacing
    height, width = picture.shape[:2]
    high, wide = max(1, round(height * max(1.0, along_y / along_x))), max(1, round(width * max(1.0, along_x / along_y)))
    rows, columns = np.arange(high) * height // high, np.arange(wide) * width // wide
    return np.ascontiguousarray(picture[rows][:, columns])


def _thick(picture: NDArray[np.uint8], least: int = 24) -> NDArray[np.uint8]:
    """A scene of a few rows or columns drawn as a strip that can be seen."""
    for axis in (0, 1):
        picture = picture.repeat(-(-least // min(least, picture.shape[axis])), axis=axis)
    return picture


def _legend(sheet: Sheet, view: MaskView, counts: Counts, top: int, right: int | None) -> None:
    """A swatch, name and share for each class that occurs, then nodata and unresolved; in rows."""
    entries = [(i, c.name, n) for i, (c, n) in enumerate(zip(view.classes, counts.classes, strict=True))]
    entries += [(view.nodata_index, "nodata", counts.nodata), (view.unresolved_index, "unresolved", counts.unresolved)]
    shown = [e for e in entries if e[2] or e[0] < min(len(view.classes), 12)]
    right = max(sheet.image.width, MARGIN + 600) if right is None else right
    x, y = MARGIN, top + GAP
    for index, name, n in shown:
        label = f"{name}  {_percent(n, counts.total)}"
        wide = 22 + 8 + 9 * len(label) + 24
        if x > MARGIN and x + wide > right:
            x, y = MARGIN, y + 30
        sheet.put(swatch(view, index, 20), (x, y))
        x += 30 + sheet.text((x + 30, y + 1), label, 15, width=right - x - 30) + 28


def _percent(n: int, total: int) -> str:
    share = 100 * n / total
    if n and share < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if n < total and share > 99.9 else f"{share:.1f} %"


def _title(sheet: Sheet, view: MaskView, counts: Counts) -> None:
    room = max(sheet.image.width - MARGIN, 600)
    sheet.text((MARGIN, 20), view.name, 26, width=room)
    facts = [" x ".join(f"{n:,}" for n in view.shape) + (" voxels" if view.ndim == 3 else " pixels")]
    facts += [f"{key} {view.tags[key]}" for key in ("model", "run") if key in view.tags]
    if counts.unresolved:
        facts.append(f"INCOMPLETE: {counts.unresolved:,} unresolved")
    sheet.text((MARGIN, 54), "   ".join(facts), 15, faint=True, width=room)


def _provenance(view: MaskView) -> PngInfo:
    """Text chunks under the keys that a mask as PNG has: a later run over the folder passes both over."""
    info = PngInfo()
    for key, value in view.tags.items():
        info.add_text(f"seamline:{key}", value)
    return info
