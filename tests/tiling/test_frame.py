from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import xy

from tests.strategies import frames
from tiling import Frame, FrameError

SHEARED = ((1.0, 0.3, 0.0), (0.0, 1.0, 0.0))


def of_affine(affine: Affine) -> Frame:
    """A GDAL geotransform, (x, y) over (column, row), with both orders reversed."""
    return Frame(("y", "x"), ((affine.e, affine.d, affine.f), (affine.b, affine.a, affine.c)), "m", "EPSG:32632")


@given(frames(), st.data())
def test_world_and_index_are_inverse(frame: Frame, data: st.DataObject) -> None:
    coordinate = st.floats(-1e4, 1e4)
    points = np.array(data.draw(st.lists(st.tuples(*[coordinate] * frame.ndim), min_size=1, max_size=4)))
    slack = 1e-9 * (1 + np.abs(frame.world(points)).max() / min(frame.spacing))
    np.testing.assert_allclose(frame.index(frame.world(points)), points, rtol=0, atol=slack)
    assert np.array_equal(frame.index(frame.world(points[0])).shape, (frame.ndim,))


@given(frames())
def test_spacing_is_the_distance_of_neighbouring_pixels(frame: Frame) -> None:
    origin = frame.world([0] * frame.ndim)
    steps = frame.world(np.eye(frame.ndim)) - origin
    slack = 1e-9 * np.abs(origin).max()  # a small step from a far origin has few digits left
    np.testing.assert_allclose(frame.spacing, np.linalg.norm(steps, axis=1), rtol=1e-9, atol=slack)


@given(frames())
def test_json_gives_the_same_frame_back(frame: Frame) -> None:
    assert Frame.from_json(json.loads(json.dumps(frame.to_json()))) == frame


@given(frames(), st.data())
def test_a_downsampled_pixel_covers_its_pixels(frame: Frame, data: st.DataObject) -> None:
    factor = tuple(data.draw(st.integers(1, 4)) for _ in range(frame.ndim))
    pixel = np.array([data.draw(st.integers(0, 50)) for _ in range(frame.ndim)])
    coarse = frame.downsampled(factor)
    assert (coarse.axes, coarse.unit, coarse.crs, coarse.anchor) == (frame.axes, frame.unit, frame.crs, frame.anchor)
    half = 0.5 if frame.anchor == "centre" else 0.0  # from what an index names to the pixel's low corner
    for corner in product((0, 1), repeat=frame.ndim):
        fine_corner = (pixel + corner) * factor
        np.testing.assert_allclose(
            coarse.world(pixel + corner - half), frame.world(fine_corner - half), rtol=1e-9, atol=1e-6
        )
    np.testing.assert_allclose(coarse.spacing, np.multiply(frame.spacing, factor), rtol=1e-9)


@pytest.mark.parametrize(
    "affine",
    [
        Affine(0.6, 0, 433_000.25, 0, -0.8, 5_310_400.5),
        Affine.translation(10, 20) @ Affine.rotation(31) @ Affine.scale(2, -3),
    ],
)
def test_world_is_rasterios_xy_in_the_order_of_the_axes(affine: Affine) -> None:
    frame = of_affine(affine)
    rows, cols = np.array([0, 3, 110]), np.array([0, 17, 5])
    for offset, half in (("ul", 0.0), ("center", 0.5)):
        x, y = xy(affine, rows, cols, offset=offset)
        np.testing.assert_allclose(frame.world(np.stack([rows, cols], axis=1) + half), np.stack([y, x], axis=1))


def test_spacing_of_a_rotated_map_is_its_pixel_size() -> None:
    frame = of_affine(Affine.rotation(31) @ Affine.scale(2, -3))
    assert frame.spacing == pytest.approx((3, 2))
    assert not frame.is_axis_aligned
    assert of_affine(Affine(2, 0, 7, 0, -3, 9)).is_axis_aligned


def test_no_georeference_is_the_index_in_pixels() -> None:
    frame = Frame.pixels(("z", "y", "x"))
    assert (frame.unit, frame.crs, frame.spacing, frame.ndim) == ("px", None, (1.0, 1.0, 1.0), 3)
    assert frame.world([4, 5, 6]).tolist() == [4, 5, 6]


def test_of_spacing_is_anisotropic_in_scene_order() -> None:
    frame = Frame.of_spacing(("z", "y", "x"), (5, 0.7, 0.5), "mm")
    assert frame.spacing == (5.0, 0.7, 0.5)
    assert frame.anchor == "centre"
    assert frame.world([2, 10, 10]).tolist() == [10, 7, 5]


def test_downsampling_moves_a_centre_but_not_a_corner() -> None:
    centre = Frame.of_spacing(("y", "x"), (1, 1), "mm").downsampled((2, 4))
    assert centre.world([0, 0]).tolist() == [0.5, 1.5]
    assert Frame.pixels(("y", "x")).downsampled((2, 4)).world([0, 0]).tolist() == [0, 0]


def test_a_sheared_affine_has_no_spacing_and_the_error_has_the_cure() -> None:
    frame = Frame(("y", "x"), SHEARED)  # a valid frame: only distances need a spacing
    with pytest.raises(FrameError, match=r"sheared.*\(1\.0, 0\.3, 0\.0\).*use --unit px to measure in pixels"):
        _ = frame.spacing


def test_a_frame_that_does_not_fit_its_axes_is_an_error() -> None:
    with pytest.raises(FrameError, match=r"over \('z', 'y', 'x'\) needs 3 rows of 4 numbers, got \(\(1\.0, 0\.3"):
        Frame(("z", "y", "x"), SHEARED)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_an_affine_that_loses_pixels_is_an_error_with_its_values(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"maps a pixel to nothing or to infinity: \(\({bad}, 0\.0, 0\.0\)"):
        Frame(("y", "x"), ((bad, 0.0, 0.0), (0.0, 1.0, 0.0)))


def test_an_unknown_anchor_is_an_error() -> None:
    with pytest.raises(FrameError, match="anchor must be 'corner' or 'centre', got 'middle'"):
        Frame(("y", "x"), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), anchor="middle")  # type: ignore[arg-type]
