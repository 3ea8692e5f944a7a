"""Lengths on the ground: what a scale bar says of maps whose own units are not metres there."""

from __future__ import annotations

import pytest
from rasterio.crs import CRS
from rasterio.warp import transform

from pipeline.export.frames import ground_spacing
from tiling import Frame

SHAPE = (4096, 2560)


def north_up(crs: str, x: float, y: float, size: float, unit: str) -> Frame:
    rows = ((-size, 0.0, y), (0.0, size, x))
    return Frame(("y", "x"), rows, unit, CRS.from_string(crs).to_wkt())


def test_web_mercator_is_measured_on_the_ground() -> None:
    """At 27.6 degrees north a metre of the projection is 0.887 m; against UTM, whose scale there is within 0.1 %."""
    size = 0.149290
    frame = north_up("EPSG:3857", 9_486_000.0, 3_201_000.0, size, "m")
    (along_y, along_x), unit = ground_spacing(frame, SHAPE)
    y, x = frame.world([n / 2 for n in SHAPE])
    easting, northing = transform("EPSG:3857", "EPSG:32645", [x, x + 1600 * size, x], [y, y, y - 1600 * size])
    utm_x = ((easting[1] - easting[0]) ** 2 + (northing[1] - northing[0]) ** 2) ** 0.5 / 1600
    utm_y = ((easting[2] - easting[0]) ** 2 + (northing[2] - northing[0]) ** 2) ** 0.5 / 1600
    assert unit == "m"
    assert along_x == pytest.approx(utm_x, rel=2e-3)
    assert along_y == pytest.approx(utm_y, rel=2e-3)
    assert along_x == pytest.approx(0.887 * size, rel=0.01)


def test_a_projection_that_is_true_enough_keeps_its_numbers() -> None:
    frame = north_up("EPSG:32645", 331_000.0, 3_055_000.0, 0.5, "m")
    assert ground_spacing(frame, SHAPE) == ((0.5, 0.5), "m")


def test_degrees_become_metres() -> None:
    frame = north_up("EPSG:4326", 10.0, 60.0, 1e-4, "degree")
    (along_y, along_x), unit = ground_spacing(frame, (100, 100))
    assert unit == "m"
    assert along_y == pytest.approx(11.14, abs=0.01)  # a degree of meridian at 60 degrees north is 111.4 km
    assert along_x == pytest.approx(5.58, abs=0.01)


@pytest.mark.parametrize("frame", [Frame.pixels(("y", "x")), Frame.of_spacing(("z", "y", "x"), (3.0, 1.0, 1.0), "mm")])
def test_what_is_no_map_is_left_alone(frame: Frame) -> None:
    assert ground_spacing(frame, (10,) * frame.ndim) == (frame.spacing, frame.unit)
