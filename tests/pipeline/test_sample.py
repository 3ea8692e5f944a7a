"""The sample scenes: pure functions of coordinates and seed, and files that the libraries of their formats read."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
import rasterio
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError, StoreError, UsageError
from pipeline.sample import (
    PHANTOM_CLASSES,
    SAMPLE_CLASSES,
    Landscape,
    Phantom,
    SampleSource,
    Truth,
    parse_sample,
    sample_scene,
    write_sample,
)
from pipeline.sample.noise import noise, noise_at
from pipeline.sources.opening import open_source
from tiling import Box, Frame

BIG = Landscape((200_000, 199_999), seed=3)
BODY = Phantom((37, 211, 173), seed=5)


@st.composite
def boxes_in(draw: st.DrawFn, outer: Box) -> Box:
    start = tuple(draw(st.integers(a, b - 1)) for a, b in zip(outer.start, outer.stop, strict=True))
    return Box(start, tuple(draw(st.integers(a + 1, b)) for a, b in zip(start, outer.stop, strict=True)))


AREA = Box((99_800, 150_000), (100_400, 150_700))  # more than one tile of the renderer each way


class TestLandscape:
    whole = BIG.read(AREA)

    @settings(max_examples=25, deadline=None)
    @given(boxes_in(AREA))
    def test_any_box_holds_the_pixels_of_the_whole(self, box: Box) -> None:
        rgb, truth = BIG.read(box)
        here = box.slices(AREA.start)
        np.testing.assert_array_equal(rgb, self.whole[0][:, *here])
        np.testing.assert_array_equal(truth, self.whole[1][here])

    def test_shapes_and_dtypes(self) -> None:
        rgb, truth = BIG.read(Box((7, 11), (24, 30)))
        assert (rgb.shape, rgb.dtype, truth.shape, truth.dtype) == ((3, 17, 19), np.uint8, (17, 19), np.uint8)

    def test_every_class_occurs_in_a_square_kilometre_and_none_fills_it(self) -> None:
        _, truth = BIG.read(Box((0, 0), (2000, 2000)))
        share = np.bincount(truth.ravel(), minlength=len(SAMPLE_CLASSES)) / truth.size
        assert len(share) == len(SAMPLE_CLASSES)
        assert (share > 0.005).all()
        assert (share < 0.9).all()

    def test_another_seed_is_another_land(self) -> None:
        box = Box((0, 0), (300, 300))
        one, other = Landscape((300, 300), 0).read(box)[1], Landscape((300, 300), 1).read(box)[1]
        assert (one != other).mean() > 0.05

    def test_the_scene_does_not_depend_on_its_extent(self) -> None:
        box = Box((0, 0), (61, 67))
        np.testing.assert_array_equal(Landscape((61, 67), 9).read(box)[0], Landscape((5000, 5000), 9).read(box)[0])

    def test_classes_differ_in_colour(self) -> None:
        """The pixels must show what the truth says: a nearest-mean rule beats chance by far on new ground."""
        here = BIG.read(Box((0, 0), (1500, 2000)))
        there = Landscape(BIG.shape, seed=0).read(Box((100_000, 100_000), (101_000, 101_000)))
        means = np.stack([here[0][:, here[1] == k].mean(axis=1) for k in range(5)])
        distance = ((there[0][None].astype(float) - means[:, :, None, None]) ** 2).sum(axis=1)
        recall = [(distance.argmin(axis=0)[there[1] == k] == k).mean() for k in range(5)]
        assert np.mean(recall) > 0.5

    def test_memory_does_not_grow_with_the_scene_but_with_the_box(self) -> None:
        def peak(scene: Landscape) -> int:
            scene.read(Box((0, 0), (8, 8)))
            tracemalloc.start()
            scene.read(Box((0, 0), (1024, 1024)))
            high = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return high

        small, large = peak(Landscape((1024, 1024))), peak(BIG)
        assert large < 1.1 * small
        assert large < 160e6

    def test_refuses_what_lies_outside(self) -> None:
        with pytest.raises(UsageError, match=r"\[5:9, 0:3\] does not lie in the landscape of \(7, 3\)"):
            Landscape((7, 3)).read(Box((5, 0), (9, 3)))
        with pytest.raises(UsageError, match=r"two sides of 1 to .* pixels, got \(0, 3\)"):
            Landscape((0, 3))

    def test_truth_slices_like_an_array(self) -> None:
        truth = Truth(BIG)
        assert truth.shape == BIG.shape
        np.testing.assert_array_equal(truth[AREA.slices()], self.whole[1])


class TestPhantom:
    whole = BODY.read(Box.of_shape(BODY.shape))

    @settings(max_examples=25, deadline=None)
    @given(boxes_in(Box.of_shape(BODY.shape)))
    def test_any_box_holds_the_voxels_of_the_whole(self, box: Box) -> None:
        image, truth = BODY.read(box)
        np.testing.assert_array_equal(image[0], self.whole[0][0][box.slices()])
        np.testing.assert_array_equal(truth, self.whole[1][box.slices()])

    def test_every_class_occurs_and_is_of_its_own_density(self) -> None:
        image, truth = self.whole
        assert set(np.unique(truth)) == {c.value for c in PHANTOM_CLASSES}
        means = [image[0][truth == c.value].mean() for c in PHANTOM_CLASSES[1:]]
        assert min(np.diff(sorted(means))) > 20

    def test_spacing_is_anisotropic(self) -> None:
        z, y, x = BODY.frame.spacing
        assert z > 2 * y == 2 * x
        assert BODY.frame.unit == "mm"


@given(st.integers(-5000, 2**31 - 1), st.integers(-5000, 2**31 - 1), st.integers(1, 12))
def test_noise_on_a_grid_is_the_noise_at_its_points(y: int, x: int, log2: int) -> None:
    rows, columns = np.arange(y, y + 40, 3), np.arange(x, x + 30)
    grid = noise(77, rows, columns, log2)
    points = noise_at(77, *np.broadcast_arrays(rows[:, None], columns[None, :]), log2)
    np.testing.assert_allclose(grid, points, atol=1e-6)
    assert np.abs(grid).max() <= 1


class TestSource:
    def test_a_landscape(self) -> None:
        source = SampleSource("sample:311x203?seed=4")
        info = source.info
        assert (info.shape, info.channels, info.dtype) == ((311, 203), ("red", "green", "blue"), np.uint8)
        box = Box((3, 5), (40, 41))
        pixels, valid = source.read(box, (2, 0))
        np.testing.assert_array_equal(pixels, Landscape((311, 203), 4).read(box)[0][[2, 0]])
        assert valid.shape == box.shape
        assert valid.all()

    def test_a_volume(self) -> None:
        info = SampleSource("sample:9x31x29?seed=1&spacing=4,1,2").info
        assert (info.shape, info.channels, info.frame.spacing) == ((9, 31, 29), ("intensity",), (4.0, 1.0, 2.0))

    def test_the_fingerprint_is_the_scene(self) -> None:
        prints = {SampleSource(f"sample:{u}").info.fingerprint for u in ("9x9", "9x9?seed=0", "9x9?seed=1", "9x8")}
        assert len(prints) == 3

    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("sample:20", "names no sample scene; write for example sample:8192x8192"),
            ("sample:0x5", "two sides of 1 to"),
            ("sample:5x5?size=3", "has size; known are seed"),
            ("sample:5x5?seed=x", "options that are no numbers"),
            ("sample:5x5x5?spacing=1,2", "three spacings"),
            ("sample:5x5x5?spacing=1,0,2", "above 0 mm"),
        ],
    )
    def test_refuses_other_uris(self, uri: str, message: str) -> None:
        with pytest.raises(SourceError, match=message):
            parse_sample(uri)

    def test_refuses_a_box_outside(self) -> None:
        with pytest.raises(SourceError, match=r"\[0:9, 0:5\]"):
            SampleSource("sample:5x5").read(Box((0, 0), (9, 5)), (0,))


class TestWrite:
    def test_geotiff_and_truth(self, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        image, truth = tmp_path / "a.tif", tmp_path / "sub" / "t.tif"
        scene = write_sample(image, (701, 523), truth, seed=2, progress=lambda *n: seen.append(n))
        rgb, classes = scene.read(Box.of_shape(scene.shape))
        with rasterio.open(image) as file:
            np.testing.assert_array_equal(file.read(), rgb)
            assert file.crs.to_epsg() == 32633
            assert (file.res, file.block_shapes[0], file.colorinterp[0].name) == ((0.5, 0.5), (512, 512), "red")
        with rasterio.open(truth) as file:
            np.testing.assert_array_equal(file.read(1), classes)
            assert file.colormap(1)[2] == (0x28, 0x78, 0xD2, 255)
            assert file.transform.f == 5_400_000
        assert seen[-1] == (701 * 523, 701 * 523)
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tif", "sub", "t.tif"]

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_nifti_volume(self, tmp_path: Path, suffix: str) -> None:
        image, truth = tmp_path / f"v{suffix}", tmp_path / f"t{suffix}"
        scene = write_sample(image, (7, 53, 41), truth, volume=True)
        voxels, classes = scene.read(Box.of_shape(scene.shape))
        for path, values in ((image, voxels[0]), (truth, classes)):
            file = nibabel.load(path)
            np.testing.assert_array_equal(np.asarray(file.dataobj).transpose(2, 1, 0), values)
            np.testing.assert_allclose(file.header.get_zooms(), scene.frame.spacing[::-1])

    def test_nifti_with_zarr_truth(self, tmp_path: Path) -> None:
        scene = write_sample(tmp_path / "v.nii", (5, 31, 29), tmp_path / "t.zarr", volume=True)
        truth = zarr.open_array(tmp_path / "t.zarr" / "0", mode="r")
        np.testing.assert_array_equal(truth[:], scene.read(Box.of_shape(scene.shape))[1])

    @pytest.mark.parametrize(("size", "volume"), [((601, 523), False), ((5, 31, 29), True)])
    def test_zarr(self, tmp_path: Path, size: tuple[int, ...], volume: bool) -> None:
        import yaozarrs

        scene = write_sample(tmp_path / "a.zarr", size, tmp_path / "t.zarr", volume=volume)
        image, truth = scene.read(Box.of_shape(scene.shape))
        stored = zarr.open_group(tmp_path / "a.zarr", mode="r")
        np.testing.assert_array_equal(stored["0"][:], image[0] if volume else image)
        np.testing.assert_array_equal(zarr.open_array(tmp_path / "t.zarr" / "0", mode="r")[:], truth)
        assert Frame.from_json(stored.attrs["seamline"]["frame"]) == scene.frame
        yaozarrs.validate_zarr_store(str(tmp_path / "a.zarr"))

    def test_our_own_sources_read_them_back(self, tmp_path: Path) -> None:
        for name in ("a.zarr", "a.tif"):
            scene = write_sample(tmp_path / name, (61, 47), seed=1)
            info = open_source(str(tmp_path / name)).info
            assert (info.shape, info.channels) == ((61, 47), ("red", "green", "blue"))
            assert info.frame.matrix == scene.frame.matrix

    def test_sizes(self) -> None:
        assert sample_scene(9).shape == (9, 9)
        assert sample_scene((9, 8)).shape == (9, 8)
        assert sample_scene(64, volume=True).shape == (16, 64, 64)
        with pytest.raises(UsageError, match=r"two \(y, x\); for three add --volume"):
            sample_scene((1, 2, 3))

    def test_refuses_other_suffixes(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"landscape is written to \*\.tif, \*\.tiff, \*\.zarr"):
            write_sample(tmp_path / "a.nii", 9)
        with pytest.raises(UsageError, match=r"volume is written to \*\.nii"):
            write_sample(tmp_path / "a.tif", 9, volume=True)
        with pytest.raises(UsageError, match="cannot both be written"):
            write_sample(tmp_path / "a.tif", 9, tmp_path / "a.tif")

    def test_an_unwritable_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match=r"cannot write .*file/a\.tif.*is the folder writable"):
            write_sample(tmp_path / "file" / "a.tif", 9)

    def test_nothing_is_left_of_a_failed_write(self, tmp_path: Path) -> None:
        def fail(done: int, total: int) -> None:
            raise RuntimeError("stop")

        for name in ("a.tif", "a.zarr"):
            with pytest.raises(RuntimeError, match="stop"):
                write_sample(tmp_path / name, 100, progress=fail)
        assert list(tmp_path.iterdir()) == []
