"""Masks over pixels: contrast, translucent class colours with firm outlines, hatching where nothing is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.export.codes import rgb
from pipeline.export.view import MaskView

Picture = NDArray[np.uint8]
_ALPHA = np.float32(0.42)
_NODATA, _UNRESOLVED = ((236, 236, 236), (190, 190, 190)), ((255, 232, 246), (214, 0, 122))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Linear contrast: ``low`` becomes black, ``high`` white; one pair for each drawn channel."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def apply(self, pixels: NDArray[np.float32]) -> Picture:
        """``(channels, h, w)`` -> ``(h, w, 3)`` uint8."""
        shape = (-1, 1, 1)
        low = np.asarray(self.low, np.float32).reshape(shape)
        span = np.maximum(np.asarray(self.high, np.float32).reshape(shape) - low, np.float32(1e-12))
        grey = np.clip((pixels - low) / span * np.float32(255), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(grey, (3, *grey.shape[1:])).transpose(1, 2, 0))


def stretch_of(pixels: NDArray[np.float32], known: NDArray[np.bool_], together: bool) -> Stretch:
    """From the 2nd to the 98th percentile of the known pixels, for each channel or for all ``together``."""
    n = len(pixels)
    if not known.any():
        return Stretch((0.0,) * n, (1.0,) * n)
    values = pixels[:, known]
    if together:
        low, high = np.percentile(values, (2, 98))
        return Stretch((float(low),) * n, (float(high),) * n)
    limits = np.percentile(values, (2, 98), axis=1)
    return Stretch(tuple(limits[0].tolist()), tuple(limits[1].tolist()))


def tinted(picture: Picture, labels: NDArray[Any], view: MaskView, *, scale: int = 1, firm: float = 1.0) -> Picture:
    """The picture (h, w, 3) with the mask (h, w) over it, each pixel drawn as ``scale`` x ``scale``.

    The background is left as it is. Outlines are one drawn pixel wide, inside the class;
    ``firm`` is their opacity beyond the tint's (a small overview of many small objects would be all outline).
    """
    picture, labels = enlarged(picture, scale), enlarged(labels, scale)
    colours, drawn = _palette(view)
    known = np.minimum(labels, len(view.classes))
    tint = drawn[known]
    body = picture * (np.float32(1) - _ALPHA) + colours[known] * _ALPHA
    out = np.where(tint[..., None], body, picture)
    line = tint & _outline(labels)
    out[line] += (colours[known][line] - out[line]) * np.float32(firm)
    hatch(out, labels == view.nodata_index, *_NODATA, sign=1)
    hatch(out, labels == view.unresolved_index, *_UNRESOLVED, sign=-1)
    return out.astype(np.uint8)


def enlarged(values: NDArray[Any], scale: int) -> NDArray[Any]:
    return values if scale == 1 else values.repeat(scale, axis=0).repeat(scale, axis=1)


def hatch(
    out: NDArray[Any], where: NDArray[np.bool_], paper: tuple[int, int, int], ink: tuple[int, int, int], *, sign: int
) -> None:
    """Diagonal lines over ``where``; ``sign`` tells which way they run."""
    if not where.any():
        return
    y, x = (np.arange(n) for n in where.shape)
    lines = (x[None, :] + sign * y[:, None]) % 8 < 2
    out[where] = paper
    out[where & lines] = ink


def swatch(view: MaskView, index: int, side: int) -> Picture:
    """A sample of how a class (or the nodata or unresolved index) is drawn."""
    labels = np.full((side, side), index, dtype=view.dtype)
    picture = tinted(np.full((side, side, 3), 150, np.uint8), labels, view)
    frame = np.array((120, 120, 120), np.uint8)
    if index < len(view.classes):
        frame = np.array(rgb(view.classes[index].color), np.uint8)
        picture[:] = frame if view.classes[index].role != "background" else picture
    picture[[0, -1]], picture[:, [0, -1]] = frame, frame
    return picture


def _palette(view: MaskView) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    colours = [rgb(c.color) for c in view.classes] + [(0, 0, 0)]
    drawn = [c.role != "background" for c in view.classes] + [False]
    return np.asarray(colours, np.float32), np.asarray(drawn, np.bool_)


def _outline(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels beside another label; the border of the picture is none."""
    out = np.zeros(labels.shape, dtype=np.bool_)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    out[:, 1:] |= across
    out[:, :-1] |= across
    out[1:] |= down
    out[:-1] |= down
    return out
