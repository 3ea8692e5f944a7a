"""The overlay: what is drawn is what the arrays say, whatever the block, and odd scenes are drawn too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.measure import block_reduce

from pipeline.errors import UsageError
from pipeline.export import export
from pipeline.export.overlay import Ruler, export_overlay
from pipeline.export.sheet import fitted, font, round_length
from pipeline.export.shrink import Plane, borders, busiest, shrink
from pipeline.export.tint import stretch_of, tinted
from tiling import Box, Frame


def picture(shape: tuple[int, ...], n: int = 3, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(3).integers(0, 200, (n, *shape)).astype(dtype)


def drawn(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


class TestShrink:
    @pytest.mark.parametrize("factor", [1, 2, 3, 7])
    def test_means_labels_and_borders_of_each_cell(self, masks: Any, factor: int) -> None:
        labels, image = masks.labels((131, 97)), picture((131, 97), 1)
        valid = labels != 254
        small = shrink(Plane(masks.view(labels), image, valid, (0,)), factor)
        cell = (factor, factor)
        n = block_reduce(valid.astype(float), cell, np.sum)
        total = block_reduce(np.where(valid, image[0], 0).astype(float), cell, np.sum)
        np.testing.assert_allclose(small.pixels[0], total / np.maximum(n, 1), rtol=1e-6)
        np.testing.assert_array_equal(small.known, n > 0)
        votes = np.stack([block_reduce((labels == k).astype(int), cell, np.sum) for k in (0, 1, 2, 254)])
        votes[3, votes[:3].any(axis=0)] = 0  # nodata wins only where there is nothing else
        np.testing.assert_array_equal(small.labels, np.array([0, 1, 2, 254])[votes.argmax(axis=0)])

    def test_the_block_does_not_show(self, masks: Any, recording: Any, tmp_path: Path) -> None:
        image = picture((1301, 523))
        labels = np.repeat(np.repeat(masks.labels((131, 53)), 10, 0), 10, 1)[:1301, :523]
        for name, block in (("a", (64, 128)), ("b", (2000, 2000)), ("c", (100, 37))):
            seen, pixels = recording(labels), recording(image)
            export_overlay(masks.view(seen, block=block), pixels, None, tmp_path / f"{name}.png")
            # details are read whole: 300 x 300 at most, a channel at a time
            assert max(seen.largest, pixels.largest) <= max(block[0] * block[1], 300 * 300)
        assert len({(tmp_path / f"{n}.png").read_bytes() for n in "abc"}) == 1

    def test_nan_is_not_known(self, masks: Any) -> None:
        image = picture((9, 8), 1, "float32")
        image[0, 2, 3] = np.nan
        small = shrink(Plane(masks.view(np.zeros((9, 8), np.uint8)), image, None, (0,)), 1)
        assert not small.known[2, 3]
        assert small.known.sum() == 71
        assert np.isfinite(small.pixels).all()

    def test_nodata_makes_no_border(self) -> None:
        labels, none = np.array([[0, 0, 254], [1, 1, 254]], np.uint8), np.empty((0, 3), np.uint8)
        np.testing.assert_array_equal(borders(labels, 254, none, np.empty((2, 0), np.uint8)), [[0, 0, 0], [1, 1, 0]])
        beside = np.array([[1], [1]], np.uint8)
        np.testing.assert_array_equal(borders(labels, 254, none, beside), [[1, 0, 0], [1, 1, 0]])

    def test_refuses_an_image_of_another_shape_and_missing_channels(self, masks: Any) -> None:
        view = masks.view(masks.labels((9, 8)))
        with pytest.raises(UsageError, match=r"image of \(3, 8, 9\) does not lie under the mask of \(9, 8\)"):
            Plane(view, picture((8, 9)), None, (0,))
        with pytest.raises(UsageError, match=r"cannot draw channels \(0, 3, 1\) of 3"):
            Plane(view, picture((9, 8)), None, (0, 3, 1))


class TestDetails:
    def test_they_lie_where_classes_meet_and_apart(self, masks: Any) -> None:
        labels = np.zeros((1000, 1400), np.uint8)
        labels[620:680:2, 1010:1090] = 1
        labels[30:60:4, 40:90] = 2
        view = masks.view(labels)
        small = shrink(Plane(view, picture(labels.shape, 1), None, (0,)), 2)
        first, second = busiest(small, labels.shape, 200, 3, 3)  # a third would hold no border
        assert first.contains(Box((620, 1010), (680, 1090)))
        assert second.contains(Box((30, 40), (60, 90)))

    @given(st.integers(0, 9), st.integers(1, 4), st.integers(10, 90))
    def test_they_are_boxes_of_the_scene(self, masks: Any, seed: int, factor: int, side: int) -> None:
        labels = np.random.default_rng(seed).integers(0, 3, (71, 103)).astype(np.uint8)
        small = shrink(Plane(masks.view(labels), picture(labels.shape, 1), None, (0,)), factor)
        boxes = busiest(small, labels.shape, side, 3, 3)
        assert 1 <= len(boxes) <= 3
        for k, box in enumerate(boxes):
            assert Box.of_shape(labels.shape).contains(box)
            assert box.shape == (min(side, 71), min(side, 103))
            assert all(box.intersect(other).is_empty for other in boxes[:k])


class TestTint:
    def test_each_pixel_is_drawn_as_what_it_is(self, masks: Any) -> None:
        labels = np.zeros((30, 40), np.uint8)
        labels[5:25, 5:25] = 1
        labels[:, 30:] = 254
        grey = np.full((30, 40, 3), 100, np.uint8)
        out = tinted(grey, labels, masks.view(labels))
        np.testing.assert_array_equal(out[2, 2], (100, 100, 100))  # background: as it was
        np.testing.assert_array_equal(out[5, 10], (0, 0, 255))  # outline: the class's colour
        np.testing.assert_allclose(out[15, 15], (58, 58, 165), atol=1)  # inside: 42 % of it
        assert len(np.unique(out[:, 30:].reshape(-1, 3), axis=0)) == 2  # nodata: hatched

    def test_nodata_and_unresolved_differ(self, masks: Any) -> None:
        codes = [np.full((16, 16), c, np.uint8) for c in (254, 255)]
        one, other = (tinted(np.zeros((16, 16, 3), np.uint8), c, masks.view(c)) for c in codes)
        assert not {tuple(p) for p in one.reshape(-1, 3)} & {tuple(p) for p in other.reshape(-1, 3)}

    def test_stretch(self) -> None:
        pixels = np.stack([np.linspace(0, 100, 10_000), np.linspace(0, 1000, 10_000)]).reshape(2, 100, 100)
        pixels = pixels.astype(np.float32)
        known = np.ones((100, 100), bool)
        each, both = stretch_of(pixels, known, together=False), stretch_of(pixels, known, together=True)
        np.testing.assert_allclose(each.high, (98, 980), rtol=1e-3)
        assert both.high[0] == both.high[1] > 900
        assert stretch_of(pixels[:1], ~known, together=True).apply(pixels[:1]).shape == (100, 100, 3)


class TestSheet:
    @given(st.floats(1e-9, 1e9))
    def test_bar_lengths_are_round_and_fit(self, longest: float) -> None:
        length = round_length(longest)
        assert longest / 2.51 <= length <= longest * (1 + 1e-6)
        assert f"{length:.6e}"[0] in "125"

    def test_long_text_is_cut(self) -> None:
        assert fitted("short", font(15), 500) == "short"
        cut = fitted("x" * 200, font(15), 100)
        assert cut.endswith("...")
        assert font(15).getlength(cut) <= 100

    def test_a_sheared_or_unitless_frame_has_no_bar(self, masks: Any) -> None:
        sheared = Frame(("y", "x"), ((1.0, 0.5, 0.0), (0.0, 1.0, 0.0)), "m")
        labels = masks.labels((9, 8))
        assert Ruler.of(masks.view(labels, frame=sheared)).unit is None
        assert Ruler.of(masks.view(labels, frame=Frame.pixels(("y", "x")))).unit is None
        assert Ruler.of(masks.view(labels)) == Ruler((0.5, 0.25), "m")
        # at 60 N a degree is 111,412 m of meridian and 55,800 m of parallel
        degrees = Frame(("y", "x"), ((-0.001, 0.0, 60.02), (0.0, 0.001, 9.0)), "degree", "EPSG:4326", "corner")
        ruler = Ruler.of(masks.view(np.zeros((40, 30), np.uint8), frame=degrees))
        assert ruler.unit == "m"
        np.testing.assert_allclose(ruler.spacing, (111.412, 55.800), rtol=1e-5)


class TestWhole:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 1301), (1301, 1), (131, 97), (401, 1223), (17, 53, 29), (1, 5, 3)])
    @pytest.mark.parametrize("n", [1, 4])
    def test_odd_scenes(self, masks: Any, tmp_path: Path, shape: tuple[int, ...], n: int) -> None:
        labels = masks.labels(shape)
        export_overlay(masks.view(labels), picture(shape, n, "uint16"), labels != 254, tmp_path / "a.png")
        sheet = drawn(tmp_path / "a.png")
        assert sheet.shape[0] > 120
        blue = (sheet == (0, 0, 255)).all(axis=-1).sum()
        assert blue >= 400 * ((labels == 1).sum() > 0)  # at least the legend's swatch

    def test_all_nodata_and_many_classes(self, masks: Any, make_class: Any, tmp_path: Path) -> None:
        labels = np.full((131, 97), 254, np.uint8)
        export_overlay(masks.view(labels), picture((131, 97)), labels != 254, tmp_path / "a.png")
        classes = tuple(make_class(f"a long class name {k}", k, f"#{k:02x}40c0") for k in range(200))
        labels = np.random.default_rng(0).integers(0, 200, (131, 97)).astype(np.uint8)
        export_overlay(masks.view(labels, classes=classes), picture((131, 97)), None, tmp_path / "b.png")
        assert drawn(tmp_path / "b.png").shape[0] > drawn(tmp_path / "a.png").shape[0] + 300

    def test_real_buildings(self, masks: Any, make_class: Any, shared_data: Path, tmp_path: Path) -> None:
        folder = shared_data / "buildings_oam"
        with rasterio.open(folder / "kampala_rgb.tif") as rgb, rasterio.open(folder / "kampala_mask.tif") as mask:
            image, labels = rgb.read(), mask.read(1)
        classes = (make_class("background", 0, "#000000", "background"), make_class("building", 1, "#ff00ff"))
        view = masks.view(labels, classes=classes, block=(512, 512))
        done = export("overlay", view, tmp_path / "a.png", image=image)
        sheet = drawn(tmp_path / "a.png").astype(int)
        magenta = (sheet[..., 0] > sheet[..., 1] + 60) & (sheet[..., 2] > sheet[..., 1] + 60)
        assert 0.02 < magenta.mean() < 0.5
        assert done.n_bytes == (tmp_path / "a.png").stat().st_size
