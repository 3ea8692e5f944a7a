"""What the tests of all formats share: the property that a box is a slice of the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.sources import Source
from tiling import Box

BoxCheck = Callable[..., None]


@pytest.fixture
def check_boxes() -> BoxCheck:
    """Assert that any box and any choice of channels equals slicing ``whole`` (C, *spatial) and ``valid``."""

    def check(source: Source, whole: NDArray[Any], valid: NDArray[np.bool_] | None = None, n: int = 12) -> None:
        info = source.info
        assert (len(info.channels), *info.shape) == whole.shape
        assert info.dtype == whole.dtype
        rng = np.random.default_rng(7)
        boxes = [Box.of_shape(info.shape), *(_random_box(rng, info.shape) for _ in range(n))]
        for box in boxes:
            channels = tuple(int(c) for c in rng.permutation(len(info.channels))[: rng.integers(1, len(whole) + 1)])
            pixels, ok = source.read(box, channels)
            where = box.slices()
            assert pixels.dtype == whole.dtype
            assert pixels.dtype.isnative
            assert ok.dtype == np.bool_
            np.testing.assert_array_equal(pixels, whole[(list(channels), *where)])
            if valid is not None:
                np.testing.assert_array_equal(ok, valid[where])

    return check


def _random_box(rng: np.random.Generator, shape: tuple[int, ...]) -> Box:
    ends = [np.sort(rng.integers(0, n + 1, 2)) for n in shape]
    start = tuple(min(int(a), n - 1) for (a, _), n in zip(ends, shape, strict=True))
    return Box(start, tuple(max(int(b), s + 1) for (_, b), s in zip(ends, start, strict=True)))
