"""Class indices become the classes' values, and nothing that is not a class becomes one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RunError, UsageError
from pipeline.export import export, out_pattern
from pipeline.export.codes import codes_of, rgb
from pipeline.export.view import pieces
from tiling import Box


@given(values=st.lists(st.integers(0, 400), min_size=1, max_size=12, unique=True), with_nodata=st.booleans())
def test_each_class_gets_its_value_and_nodata_none_of_them(
    masks: Any, make_class: Any, values: list[int], with_nodata: bool
) -> None:
    classes = tuple(make_class(f"c{v}", v, "#123456") for v in values)
    labels = np.array([[*range(len(values)), 254, 255]], dtype=np.uint8)
    codes = codes_of(masks.view(labels, classes=classes), with_nodata=with_nodata)
    written, missing = codes.apply(labels)
    assert written[0, :-2].tolist() == values
    assert missing == 2
    assert codes.dtype == (np.uint8 if max(values) <= 255 else np.uint16)
    assert codes.nodata is not None  # without a background there is nothing else to give them
    assert written[0, -2:].tolist() == [codes.nodata] * 2
    assert codes.nodata not in values


@pytest.mark.parametrize(
    ("values", "nodata"), [((0, 1), 255), ((0, 255), 254), ((255, 254, 9), 253), ((0, 300), 65535), ((65535, 1), 65534)]
)
def test_nodata_is_the_highest_free_code(masks: Any, make_class: Any, values: tuple[int, ...], nodata: int) -> None:
    classes = tuple(make_class(str(v), v, "#000000") for v in values)
    assert codes_of(masks.view(masks.labels((5, 3)), classes=classes)).nodata == nodata


def test_256_values_leave_no_byte_for_nodata(masks: Any, make_class: Any) -> None:
    classes = tuple(make_class(str(v), v, "#000000") for v in range(256))
    codes = codes_of(masks.view(np.zeros((2, 3), np.uint16), classes=classes))
    assert (codes.dtype, codes.nodata) == (np.uint16, 65535)


def test_without_nodata_the_background_takes_its_place(masks: Any) -> None:
    codes = codes_of(masks.view(masks.labels((5, 3))), with_nodata=False)
    assert (codes.nodata, codes.missing) == (None, 2)


def test_refuses_values_that_no_format_holds(masks: Any, make_class: Any) -> None:
    with pytest.raises(UsageError, match=r"\[70000, 70000, 70000\].*use 0 to 65535"):
        codes_of(masks.view(masks.labels((5, 3)), classes=(make_class("a", 70000, "#000000"),) * 3))
    with pytest.raises(UsageError, match=r"\[4\].*two classes"):
        codes_of(masks.view(masks.labels((5, 3)), classes=(make_class("a", 4, "#000000"),) * 3))


def test_colours() -> None:
    assert rgb("#ff8001") == (255, 128, 1)
    with pytest.raises(UsageError, match="#rrggbb, got 'red'"):
        rgb("red")


class TestView:
    @pytest.mark.parametrize("shape", [(131, 97), (1, 1), (1, 211), (17, 53, 29)])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_counts_every_pixel_once_and_reads_no_more_than_a_block(
        self, masks: Any, recording: Any, shape: tuple[int, ...], dtype: str
    ) -> None:
        labels = recording(masks.labels(shape, dtype))
        view = masks.view(labels)
        counts = view.counts()
        assert counts.classes == tuple(int((labels.values == k).sum()) for k in range(3))
        assert counts.nodata == (labels.values == np.iinfo(dtype).max - 1).sum()
        assert counts.total == labels.values.size
        assert labels.largest <= np.prod(view.block)

    @given(limit=st.integers(1, 5000), shape=st.sampled_from([(131, 97), (7, 13, 11), (1, 1), (1, 97)]))
    def test_strips_are_the_array_in_its_order(self, masks: Any, limit: int, shape: tuple[int, ...]) -> None:
        values = np.arange(np.prod(shape)).reshape(shape)
        strips = list(masks.view(np.zeros(shape, np.uint8)).strips(limit))
        np.testing.assert_array_equal(np.concatenate([values[s.slices()].ravel() for s in strips]), values.ravel())
        assert max(s.size for s in strips) <= max(limit, shape[-1])

    @given(st.integers(0, 50), st.integers(1, 40), st.integers(0, 50), st.integers(1, 40))
    def test_pieces_partition_a_box_along_the_lattice(self, y: int, h: int, x: int, w: int) -> None:
        box, seen = Box((y, x), (y + h, x + w)), np.zeros((100, 100), int)
        for part in pieces(box, (7, 11)):
            seen[part.slices()] += 1
            assert part.start[0] // 7 == (part.stop[0] - 1) // 7
            assert part.start[1] // 11 == (part.stop[1] - 1) // 11
        assert seen[box.slices()].all()
        assert seen.sum() == box.size

    def test_refuses_an_index_that_is_no_class(self, masks: Any) -> None:
        labels = masks.labels((131, 97))
        labels[100, 90] = 3
        with pytest.raises(
            RunError, match=r"class index 3 in \[64:128, 0:97\].*only 3 classes \(ground, water, road\)"
        ):
            masks.view(labels).counts()

    def test_refuses_other_dtypes_and_mixed_dimensions(self, masks: Any) -> None:
        with pytest.raises(UsageError, match="uint8 or uint16 class indices, got int64"):
            masks.view(np.zeros((3, 3), np.int64))
        with pytest.raises(UsageError, match=r"blocks of \(4, 4, 4\) do not belong together"):
            masks.view(np.zeros((3, 3), np.uint8), block=(4, 4, 4))


class TestRefusals:
    def test_an_incomplete_mask(self, masks: Any, tmp_path: Any) -> None:
        labels = masks.labels((31, 17))
        labels[0, :3] = 255
        with pytest.raises(RunError, match=r"3 of 527 pixels are unresolved.*--allow-incomplete"):
            export("png", masks.view(labels), tmp_path / "a.png")
        assert not list(tmp_path.iterdir())
        done = export("png", masks.view(labels), tmp_path / "a.png", allow_incomplete=True)
        assert done.unresolved == 3

    def test_an_unknown_kind(self, masks: Any, tmp_path: Any) -> None:
        with pytest.raises(UsageError, match="cannot export to 'jpg'; known are cog, png, overlay, nifti, zarr"):
            export("jpg", masks.view(masks.labels((3, 5))), tmp_path / "a")

    def test_an_overlay_without_an_image(self, masks: Any, tmp_path: Any) -> None:
        with pytest.raises(UsageError, match="needs the image"):
            export("overlay", masks.view(masks.labels((3, 5))), tmp_path / "a.png")


class TestOutPattern:
    def test_fills_in_the_scene(self) -> None:
        assert out_pattern("masks/{scene}.tif", "a.b-1") == "masks/a.b-1.tif"
        assert out_pattern("s3://b/{scene}/m.zarr", "x") == "s3://b/x/m.zarr"
        assert out_pattern("one.tif", "x") == "one.tif"

    @pytest.mark.parametrize("pattern", ["{name}.tif", "{scene.x}.tif", "{scene!r}.tif", "{0}.tif", "{}.tif"])
    def test_refuses_other_fields(self, pattern: str) -> None:
        with pytest.raises(UsageError, match=r"the only field is \{scene\}"):
            out_pattern(pattern, "x")

    @pytest.mark.parametrize("pattern", ["{scene", "a}.tif"])
    def test_refuses_half_braces(self, pattern: str) -> None:
        with pytest.raises(UsageError, match="is not a pattern"):
            out_pattern(pattern, "x")

    @pytest.mark.parametrize("scene", ["../x", "a/b", "..", "", "a\\b", "/etc"])
    def test_refuses_scenes_that_leave_the_folder(self, scene: str) -> None:
        with pytest.raises(UsageError, match="would leave its folder"):
            out_pattern("{scene}.tif", scene)

    def test_refuses_a_folder(self) -> None:
        with pytest.raises(UsageError, match=r"names a folder; add a file name"):
            out_pattern("masks/", "x")
