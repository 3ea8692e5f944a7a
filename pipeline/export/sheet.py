"""Laying pictures and text out on a sheet. Nothing here knows masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP = 28, 16
_PAPER, _INK, _FAINT = (255, 255, 255), (28, 30, 34), (110, 114, 120)


@dataclass(slots=True)
class Sheet:
    """A white sheet that grows downwards and to the right with what is put on it."""

    image: Image.Image = field(default_factory=lambda: Image.new("RGB", (1, 1), _PAPER))

    def put(self, picture: NDArray[np.uint8], at: tuple[int, int]) -> None:
        """``(h, w, 3)`` at (x, y) of its upper left corner, with a hairline around it."""
        x, y = at
        height, width = picture.shape[:2]
        self._grow(x + width, y + height)
        self.image.paste(Image.fromarray(picture), at)
        self._draw().rectangle((x - 1, y - 1, x + width, y + height), outline=(200, 202, 206))

    def text(self, at: tuple[int, int], text: str, size: int, *, faint: bool = False, width: int | None = None) -> int:
        """Text with its upper left corner at (x, y), cut to ``width`` with an ellipsis; how wide it is."""
        letters = font(size)
        text = text if width is None else fitted(text, letters, width)
        wide = int(letters.getlength(text)) + 1
        self._grow(at[0] + wide, at[1] + round(size * 1.4))
        self._draw().text(at, text, fill=_FAINT if faint else _INK, font=letters)
        return wide

    def mark(self, box: tuple[int, int, int, int], label: str) -> None:
        """A numbered frame (x0, y0, x1, y1) on a picture, visible on light and dark."""
        draw = self._draw()
        x0, y0, x1, y1 = box
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0))
        draw.rectangle((x0, y0, x1, y1), outline=(255, 255, 255), width=2)
        self.tag((x0, y0), label)

    def tag(self, at: tuple[int, int], label: str) -> None:
        """A small dark plate with a label, its upper left corner at (x, y)."""
        letters, draw = font(14), self._draw()
        wide = int(letters.getlength(label)) + 10
        draw.rectangle((*at, at[0] + wide, at[1] + 20), fill=_INK)
        draw.text((at[0] + 5, at[1] + 2), label, fill=_PAPER, font=letters)

    def bar(self, right: int, bottom: int, length: int, label: str) -> None:
        """A scale bar of ``length`` pixels that ends at (right, bottom)."""
        letters, draw = font(14), self._draw()
        wide = max(length, int(letters.getlength(label))) + 16
        draw.rectangle((right - wide, bottom - 36, right, bottom), fill=_INK)
        left = right - wide // 2 - length // 2
        draw.rectangle((left, bottom - 10, left + length, bottom - 7), fill=_PAPER)
        middle = right - wide // 2
        draw.text((middle, bottom - 33), label, fill=_PAPER, font=letters, anchor="ma")

    def finished(self) -> Image.Image:
        """The sheet with a margin on the right and below."""
        width, height = self.image.size
        self._grow(width + MARGIN, height + MARGIN)
        return self.image

    def _draw(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.image)

    def _grow(self, width: int, height: int) -> None:
        wide, high = max(width, self.image.width), max(height, self.image.height)
        if (wide, high) != self.image.size:
            larger = Image.new("RGB", (wide, high), _PAPER)
            larger.paste(self.image)
            self.image = larger


def font(size: int) -> Any:
    return ImageFont.load_default(size)


def fitted(text: str, letters: Any, width: int) -> str:
    """The text, or as much of its beginning as leaves room for an ellipsis."""
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def round_length(longest: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``longest``."""
    power = 10.0 ** np.floor(np.log10(longest))
    return float(max(m * power for m in (1, 2, 5) if m * power <= longest * (1 + 1e-9)))
