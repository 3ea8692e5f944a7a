"""Mergeable histograms of pixels: integer counts, so the merge is exact in any order and any grouping.

8-bit and 16-bit integers have one bin per value. Everything else goes to 65,536 bins by the top 16 bits of
its float32, in an order-preserving form: sign, exponent and 7 bits of mantissa, a relative width of 1/128.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_EXACT = {"uint8": 0, "int8": 128, "uint16": 0, "int16": 32_768}  # dtype -> what makes the lowest value bin 0
_MAGIC = b"SLH1"
_PIECE = 1 << 18  # counting takes 8 bytes or more a value: in pieces, so that a block costs no copy of itself


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of the values of one channel.

    dtype   name of the dtype of the values
    counts  int64, shape ``(n_bins,)``, bins in ascending order of value
    """

    dtype: str
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, dtype: Any) -> Histogram:
        name = np.dtype(dtype).name
        return cls(name, np.zeros(_n_bins(name), np.int64))

    @classmethod
    def of(cls, values: NDArray[Any], dtype: Any) -> Histogram:
        """Of finite values of shape ``(n,)``. Raises ValueError on a NaN or an infinity: filter by validity first."""
        histogram, flat = cls.empty(dtype), np.ravel(values)
        for start in range(0, len(flat), _PIECE):
            bins = _bin_of(flat[start : start + _PIECE], histogram.dtype)
            histogram.counts[:] += np.bincount(bins, minlength=len(histogram.counts))
        return histogram

    def __add__(self, other: Histogram) -> Histogram:
        if self.dtype != other.dtype:
            raise ValueError(f"cannot add histograms of {self.dtype} and {other.dtype}")
        return Histogram(self.dtype, self.counts + other.counts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.dtype == other.dtype and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def without_zero(self) -> Histogram:
        """The same without the values that are 0 (for floats: that fall into the bins of +0 and -0)."""
        counts = self.counts.copy()
        zeros = np.array([0], np.dtype(self.dtype)) if self.dtype in _EXACT else np.array([0.0, -0.0], np.float32)
        counts[_bin_of(zeros, self.dtype)] = 0
        return Histogram(self.dtype, counts)

    def values(self) -> NDArray[np.float64]:
        """One value per bin, ascending: the value itself, or the middle of a float bin (0 for those of +0 and -0)."""
        if self.dtype in _EXACT:
            return np.arange(len(self.counts), dtype=np.float64) - _EXACT[self.dtype]
        return _float_middles()

    def quantile(self, q: float) -> float:
        """The ``q``-quantile, ``0 <= q <= 1``: linear between ranks as ``numpy.quantile`` does.

        Exact for 8 and 16 bits; else off by less than the width of one bin. NaN if the histogram is empty.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile lies between 0 and 1, got {q}")
        if not self.count:
            return float("nan")
        rank = q * (self.count - 1)
        ends = np.cumsum(self.counts)
        low, high = (int(np.searchsorted(ends, r, side="right")) for r in (np.floor(rank), np.ceil(rank)))
        below, above = self.values()[[low, high]]
        return float(below + (above - below) * (rank - np.floor(rank)))

    def mean_std(self, clip: tuple[float, float] | None = None) -> tuple[float, float]:
        """Mean and population standard deviation, of the values clipped if asked; NaN if the histogram is empty."""
        if not self.count:
            return float("nan"), float("nan")
        used = np.flatnonzero(self.counts)
        values, weights = self.values()[used], self.counts[used] / self.count
        if clip is not None:
            values = np.clip(values, *clip)
        mean = float(values @ weights)
        return mean, float(np.sqrt(((values - mean) ** 2) @ weights))

    def to_bytes(self) -> bytes:
        """A portable form without pickle: dtype, then (bin, count) of the bins in use, little-endian."""
        used = np.flatnonzero(self.counts)
        name = self.dtype.encode()
        body = used.astype("<u4").tobytes() + self.counts[used].astype("<i8").tobytes()
        return _MAGIC + bytes([len(name)]) + name + len(used).to_bytes(4, "little") + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Histogram:
        """Raises ValueError if these are not the bytes of a histogram, or not all of them."""
        if data[:4] != _MAGIC or len(data) < 5:
            raise ValueError(f"not a histogram: it starts with {data[:4]!r}, not {_MAGIC!r}")
        at = 5 + data[4]
        n = int.from_bytes(data[at : at + 4], "little")
        if len(data) != at + 4 + 12 * n:
            raise ValueError(f"a histogram of {n} bins in use takes {at + 4 + 12 * n} bytes, got {len(data)}")
        empty = cls.empty(data[5:at].decode())
        bins = np.frombuffer(data, "<u4", n, at + 4)
        if n and int(bins.max()) >= len(empty.counts):
            raise ValueError(f"bin {int(bins.max())} in a histogram of {len(empty.counts)} bins")
        empty.counts[bins] = np.frombuffer(data, "<i8", n, at + 4 + 4 * n)
        return empty


def _n_bins(dtype: str) -> int:
    return 256 if dtype in ("uint8", "int8") else 65_536


def _bin_of(values: NDArray[Any], dtype: str) -> NDArray[np.int64]:
    if dtype in _EXACT:
        return values.astype(np.int64) + _EXACT[dtype]
    largest = np.finfo(np.float32).max
    # beyond float32: the outermost finite bin; plus 0 because -0 and 0 are one value
    floats = np.clip(values, -largest, largest).astype(np.float32) + np.float32(0)
    if np.isnan(floats).any() or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        raise ValueError("a histogram takes finite values only: leave out what is not valid")
    bits = floats.view(np.uint32)
    # IEEE 754 floats order like sign-magnitude integers: flip negatives whole, and the sign of the rest
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    bins: NDArray[np.int64] = (ordered >> 16).astype(np.int64)
    return bins


def _float_middles() -> NDArray[np.float64]:
    low = (np.arange(65_536, dtype=np.uint32) << 16).astype(np.uint32)
    edges = [_float_of(low), _float_of(low | np.uint32(0xFFFF))]
    with np.errstate(invalid="ignore"):  # the outermost bins are NaNs and infinities, and always empty
        middles = (edges[0] + edges[1]) / 2
    middles[~np.isfinite(middles)] = 0.0
    middles[[0x7FFF, 0x8000]] = 0.0
    return middles


def _float_of(ordered: NDArray[np.uint32]) -> NDArray[np.float64]:
    bits = np.where(ordered >> 31, ordered & np.uint32(0x7FFFFFFF), ~ordered).astype(np.uint32)
    with np.errstate(invalid="ignore"):
        return bits.view(np.float32).astype(np.float64)
