"""Which channels go to the model: evident, or asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError, UsageError
from pipeline.sources import SourceInfo, choose_channels
from tiling import Frame

INFO = SourceInfo(
    uri="data/a.tif",
    name="a",
    format="geotiff",
    shape=(5, 7),
    dtype=np.dtype("uint8"),
    channels=("red", "green", "blue", "nir"),
    frame=Frame.pixels(("y", "x")),
    nodata=(None,) * 4,
    tile=(5, 7),
    fingerprint="",
)


@given(st.permutations(INFO.channels))
def test_the_same_names_in_another_order_go_by_name(wanted: list[str]) -> None:
    chosen = choose_channels(INFO, wanted, None)
    assert [INFO.channels[i] for i in chosen] == wanted


def test_other_names_of_the_same_count_go_by_order() -> None:
    assert choose_channels(INFO, ("r", "g", "b", "n"), None) == (0, 1, 2, 3)
    assert choose_channels(INFO, ("Nir", "RED", "green", "blue"), None) == (3, 0, 1, 2)


def test_another_count_prints_both_lists_and_the_flag() -> None:
    with pytest.raises(SourceError) as caught:
        choose_channels(INFO, ("red", "nir", "green"), None)
    assert str(caught.value) == (
        "data/a.tif has 4 channels (red, green, blue, nir) but the model wants 3 channels (red, nir, green); "
        "say which to read, in the model's order, with --bands (e.g. --bands 1,4,2)"
    )
    with pytest.raises(SourceError, match=r"has 1 channel \(gray\) .*--bands 1,1,1"):
        choose_channels(replace(INFO, channels=("gray",)), ("r", "g", "b"), None)


@pytest.mark.parametrize("bands", ["4,1,2", "nir,red,green", " NIR , 1, green "])
def test_bands_by_number_from_one_or_by_name(bands: str) -> None:
    assert choose_channels(INFO, ("a", "b", "c"), bands) == (3, 0, 1)


def test_one_band_may_be_read_several_times() -> None:
    assert choose_channels(INFO, ("r", "g", "b"), "1,1,1") == (0, 0, 0)


@pytest.mark.parametrize("part", ["0", "5", "swir", "-1"])
def test_a_band_that_is_not_there(part: str) -> None:
    with pytest.raises(
        UsageError, match=rf"--bands {part}: '{part}' is not one of the channels of data/a\.tif, which has 4"
    ):
        choose_channels(INFO, ("x",), part)


def test_too_few_bands_named() -> None:
    with pytest.raises(UsageError, match=r"--bands 1,2 names 2 channels but the model wants 3 channels \(a, b, c\)"):
        choose_channels(INFO, ("a", "b", "c"), "1,2")
