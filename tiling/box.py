"""Half-open n-D integer boxes in scene coordinates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from tiling.errors import GeometryError


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box ``[start, stop)``; axes in scene order, (y, x) or (z, y, x).

    A side of length zero is allowed (the box is then empty); a negative one is not.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop):
            raise GeometryError(f"a box needs as many starts as stops, got {self.start} and {self.stop}")
        if any(b < a for a, b in zip(self.start, self.stop, strict=True)):
            raise GeometryError(f"a box must not end before it starts: start {self.start}, stop {self.stop}")

    @classmethod
    def of_shape(cls, shape: Iterable[int]) -> Box:
        """The box ``[0, shape)``."""
        stop = tuple(shape)
        return cls((0,) * len(stop), stop)

    @property
    def ndim(self) -> int:
        return len(self.start)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of pixels."""
        return prod(self.shape)

    @property
    def is_empty(self) -> bool:
        return self.size == 0

    def intersect(self, other: Box) -> Box:
        """The common part; where the boxes are apart, an empty box at the nearer edge."""
        self._same_ndim(other)
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return Box(start, tuple(map(max, start, stop)))

    def hull(self, other: Box) -> Box:
        """The smallest box that holds both."""
        self._same_ndim(other)
        return Box(tuple(map(min, self.start, other.start)), tuple(map(max, self.stop, other.stop)))

    def contains(self, other: Box) -> bool:
        self._same_ndim(other)
        return all(a <= c for a, c in zip(self.start, other.start, strict=True)) and all(
            d <= b for b, d in zip(self.stop, other.stop, strict=True)
        )

    def shift(self, offset: Iterable[int]) -> Box:
        by = tuple(offset)
        return Box(
            tuple(a + d for a, d in zip(self.start, by, strict=True)),
            tuple(b + d for b, d in zip(self.stop, by, strict=True)),
        )

    def slices(self, origin: Iterable[int] | None = None) -> tuple[slice, ...]:
        """Slices of this box into an array whose first element lies at ``origin`` (default: the scene's).

        Not bounds-checked: a box that starts before ``origin`` raises, because a negative slice would
        silently mean the other end of the array.
        """
        base = (0,) * self.ndim if origin is None else tuple(origin)
        out = tuple(slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, base, strict=True))
        if any(s.start < 0 for s in out):
            raise GeometryError(f"{self} starts before the array that begins at {base}")
        return out

    def _same_ndim(self, other: Box) -> None:
        if self.ndim != other.ndim:
            raise GeometryError(f"boxes of {self.ndim} and {other.ndim} dimensions do not combine: {self}, {other}")

    def __str__(self) -> str:
        return "[" + ", ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True)) + "]"
