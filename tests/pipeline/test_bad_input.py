"""Bad input gets a clear error and loses nothing; odd input that is valid runs. By what a person reads."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from flows import batch as batches
from flows.batch import hardware_for, run_batch
from flows.pool import Event
from pipeline.models.folder import SPEC, WEIGHTS
from pipeline.run import open_run
from pipeline.scenes import plan_batch
from pipeline.settings import Settings
from tests.cli import Cli, Ran, make_bundle, pixels, write_tiff

CHATTER = ("Traceback", "Errno", "os error", "SourceError", "StoreError", "ModelError", "UsageError", "<class")


def reads_well(ran: Ran) -> bool:
    return not any(word in ran.text for word in CHATTER)


# valid runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def complete(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> Any:
    """Segments a source, which must succeed; its JSON object."""

    def run(source: Path, *argv: object) -> Any:
        ran = cli.segment(source, "--model", rgb_bundle, "--out", tmp_path / "runs", "--json", *argv)
        assert ran.code == 0, ran.text
        (done,) = ran.objects
        assert done["status"] == "complete"
        return done

    return run


def test_a_scene_without_any_data_runs_no_window(complete: Any, tmp_path: Path) -> None:
    done = complete(write_tiff(tmp_path / "none.tif", np.zeros((3, 60, 80), np.uint8), nodata=0))
    assert (done["windows_run"], done["windows_skipped"]) == (0, 9)
    assert done["pixels"]["nodata"] == 60 * 80
    assert (np.asarray(open_run(done["run"]).array("labels")[...]) == 254).all()


def test_nan_and_infinity_are_nodata_and_counted(cli: Cli, complete: Any, tmp_path: Path) -> None:
    image = pixels(dtype="float32")
    image[0, 5:9, 5:9], image[1, 20, 20], image[2, 30, :3] = np.nan, np.inf, -np.inf
    done = complete(write_tiff(tmp_path / "holes.tif", image))
    assert done["pixels"]["nonfinite"] == done["pixels"]["nodata"] == 16 + 1 + 3
    labels = np.asarray(open_run(done["run"]).array("labels")[...])
    np.testing.assert_array_equal(labels == 254, ~np.isfinite(image).all(axis=0))
    assert "20 nodata (20 of it NaN or infinite)" in cli("status", done["run"]).out


@pytest.mark.parametrize("transform", [Affine.rotation(30) @ Affine.scale(0.5, -0.5), None], ids=["rotated", "missing"])
def test_any_geotransform_or_none_is_kept(complete: Any, tmp_path: Path, transform: Affine | None) -> None:
    place = {"transform": transform, "crs": "EPSG:32633"} if transform else {}
    done = complete(write_tiff(tmp_path / "placed.tif", pixels(), **place), "--to", "cog")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # that is the point
        mask = rasterio.open(done["exports"]["cog"])
    with mask:
        assert mask.transform.almost_equals(transform or Affine.identity())


@pytest.mark.parametrize("shape", [(1, 80), (80, 1), (1, 1), (9, 7)])
def test_a_scene_may_be_thinner_than_a_window(complete: Any, tmp_path: Path, shape: tuple[int, int]) -> None:
    done = complete(write_tiff(tmp_path / "thin.tif", pixels((3, *shape))))
    assert done["pixels"]["predicted"] == shape[0] * shape[1]
    assert open_run(done["run"]).array("labels").shape == shape


# files that are damaged -------------------------------------------------------------------------------------


def cut(path: Path, share: float = 0.5) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def png(path: Path) -> Path:
    Image.fromarray(np.moveaxis(pixels(), 0, -1)).save(path)
    return path


def nifti(path: Path) -> Path:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(pixels((20, 30, 10), "int16"), np.eye(4)), path)
    return path


def damaged(kind: str, tmp_path: Path) -> Path:
    path = tmp_path / f"bad.{kind.partition(' ')[2]}"
    if kind.startswith("cut"):
        makers = {"tif": lambda p: write_tiff(p, pixels()), "png": png, "jpg": png, "nii.gz": nifti, "nii": nifti}
        return cut(makers[path.name.partition(".")[2]](path))
    path.write_bytes(b"" if kind.startswith("empty") else b"II*\0" + bytes(range(200)) * 3)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cut tif", ["truncated", "fetch the file again"]),
        ("cut png", ["truncated", "fetch the file again"]),
        ("cut jpg", ["truncated", "fetch the file again"]),
        ("cut nii.gz", ["bad.nii.gz"]),
        ("cut nii", ["bad.nii"]),
        ("garbage tif", ["truncated or damaged"]),
        ("empty tif", ["is empty (0 bytes)"]),
    ],
)
def test_a_damaged_file_is_refused_before_any_work(
    cli: Cli, rgb_bundle: Path, tmp_path: Path, kind: str, words: list[str]
) -> None:
    ran = cli.segment(damaged(kind, tmp_path), "--model", rgb_bundle, "--out", tmp_path / "runs")
    assert ran.code == 2, ran.text
    assert reads_well(ran), ran.text
    for word in ["bad: rejected: ", *words]:
        assert word in ran.err
    assert not list((tmp_path / "runs").glob("*/receipts"))


def test_damage_inside_a_file_fails_its_blocks_and_names_the_box(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "scene.tif", pixels((3, 156, 80)), compress="deflate", blockysize=16, tiled=False)
    import tifffile

    with tifffile.TiffFile(source) as tiff:
        at, n = tiff.pages.first.dataoffsets[-1], tiff.pages.first.databytecounts[-1]
    data = bytearray(source.read_bytes())
    data[at : at + n] = b"\xff" * n
    source.write_bytes(data)
    ran = cli.segment(source, "--model", rgb_bundle, "--out", tmp_path / "runs")
    assert ran.code == 3
    assert reads_well(ran), ran.text
    assert "failed    ingest 3.0: cannot read box [144:156, 0:48] of" in ran.out
    assert "could not run because of that" in ran.out
    (told,) = cli("status", tmp_path / "runs", "--json").objects
    assert told["pixels"]["predicted"] > 0, "the blocks that could be read were not lost"


def test_an_image_of_zero_size_is_refused(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    import zarr

    zarr.create_array(str(tmp_path / "none.zarr"), shape=(3, 0, 80), dtype="uint8", dimension_names=("c", "y", "x"))
    ran = cli.segment(tmp_path / "none.zarr", "--model", rgb_bundle)
    assert ran.code == 2
    assert "none: rejected: " in ran.err
    assert "0" in ran.err
    assert "pixel" in ran.err


def test_what_is_no_image_says_so(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.tif").write_text("Dear Sir or Madam\n" * 20)
    ran = cli.segment(tmp_path / "letter.tif", "--model", rgb_bundle)
    assert ran.code == 2
    assert "not an image in a format that is read here" in ran.err


# settings that do not fit -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--window", "32", "--overlap", "20"), ["overlap 20, window 32", "use --overlap 16 or less"]),
        (
            ("--window", "32", "--overlap", "8", "--block", "50"),
            ["multiple of the stride", "got 50", "--block 48 or 72"],
        ),
        (("--window", "33"), ["multiples of 8", "use --window 32,32"]),
        (("--window", "1,32,32"), ["--window 1,32,32 has 3 numbers for a scene of 2 axes"]),
        (("--window", "0"), ["--window: must be 1 or more on every axis, got 0"]),
        (("--overlap", "-5"), ["--overlap: must be 0 or more on every axis, got -5"]),
        (("--block", "0"), ["--block: must be 1 or more on every axis, got 0"]),
        (("--bands", "1,2"), ["--bands 1,2 names 2 channels", "c1, c2, c3"]),
        (("--bands", "1,2,9"), ["'9' is not one of the channels", "red, green, blue"]),
    ],
)
def test_a_setting_that_does_not_fit_says_which_and_what_would(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path, flags: tuple[str, ...], words: list[str]
) -> None:  # fmt: skip
    ran = cli.segment(scene, "--model", rgb_bundle, "--out", tmp_path / "runs", flags=flags)
    assert ran.code == 2
    assert reads_well(ran), ran.text
    for word in words:
        assert word in ran.err
    assert not (tmp_path / "runs").exists()


def test_a_wrong_number_of_bands_prints_both_lists_and_the_flag(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    ran = cli.segment(write_tiff(tmp_path / "five.tif", pixels((5, 60, 80))), "--model", rgb_bundle)
    assert ran.code == 2
    assert "has 5 channels (" in ran.err
    assert "wants 3 channels (c1, c2, c3)" in ran.err
    assert "--bands" in ran.err


# models -----------------------------------------------------------------------------------------------------


def test_classes_that_do_not_match_the_weights_are_refused(cli: Cli, scene: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "odd")
    spec = json.loads((bundle / SPEC).read_text())
    spec["classes"].append({"name": "one too many", "value": 9})
    (bundle / SPEC).write_text(json.dumps(spec))
    for more in ((), ("--dry-run",)):
        ran = cli.segment(scene, "--model", bundle, "--out", tmp_path / "runs", *more)
        assert ran.code == 2
        assert reads_well(ran)
        assert "give 3 scores a pixel" in ran.err
        assert "4 classes (ground, class 1, class 2, one too many)" in ran.err
        assert "seamline.json" in ran.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("file", "data", "word"), [(SPEC, b"{", "not valid JSON"), (WEIGHTS, b"\0" * 99, "may be truncated")]
)
def test_a_broken_bundle_is_one_error_for_all_scenes(
    cli: Cli, tmp_path: Path, file: str, data: bytes, word: str
) -> None:
    bundle = make_bundle(tmp_path / "broken")
    (bundle / file).write_bytes(data)
    for n in range(2):
        write_tiff(tmp_path / "in" / f"{n}.tif", pixels(seed=n))
    ran = cli.segment(tmp_path / "in", "--model", bundle, "--out", tmp_path / "runs")
    assert ran.code == 2
    assert ran.err.count(word) == 1
    assert file in ran.err


# places -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_that_cannot_be_written_is_told_before_any_work(
    cli: Cli, rgb_bundle: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    for n in range(2):
        write_tiff(tmp_path / "in" / f"{n}.tif", pixels(seed=n))
    ran = cli.segment(tmp_path / "in", "--model", rgb_bundle, "--out", tmp_path / place)
    assert ran.code == 2
    assert reads_well(ran), ran.text
    assert ran.err.count("cannot write to") == 1, "once, not once a scene"
    assert "choose another --out" in ran.err
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_stops_the_run_and_keeps_what_is_done(
    cli: Cli, rgb_bundle: Path, tmp_path: Path, small_disk: Path
) -> None:
    source = write_tiff(tmp_path / "scene.tif", pixels((3, 300, 400)))
    command = (source, "--model", rgb_bundle, "--out", small_disk / "runs", "--window", "64", "--overlap", "16")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 3_500_000)
    ran = cli.segment(*command, flags=("--block", "96"))
    assert ran.code in (2, 3)
    assert reads_well(ran), ran.text
    assert "disk is full" in ran.text or "No space left" in ran.text
    assert "run the same command again" in ran.text
    ballast.unlink()
    (done,) = cli.segment(*command, "--json", flags=("--block", "96")).objects
    assert done["status"] == "complete"
    assert done["pixels"]["predicted"] == 300 * 400


def test_a_bucket_that_cannot_be_read_says_what_to_check(
    cli: Cli, rgb_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # nobody listens there
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    ran = cli.segment("s3://no-such-bucket/scene.tif", "--model", rgb_bundle)
    assert ran.code == 2
    assert reads_well(ran)
    assert "cannot read s3://no-such-bucket/scene.tif" in ran.err
    assert "check the name, the credentials and the endpoint" in ran.err


# prefixes and batches ---------------------------------------------------------------------------------------


def test_a_prefix_without_scenes_lists_what_is_there_instead(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "nothing is there" in cli.segment(tmp_path / "in", "--model", rgb_bundle).err
    (tmp_path / "in" / "readme.md").write_text("no image")
    ran = cli.segment(tmp_path / "in", "--model", rgb_bundle)
    assert ran.code == 2
    assert "no scenes in" in ran.err
    assert "readme.md: a side-car or a document" in ran.err


def test_two_scenes_of_one_name_are_told_apart_by_the_person(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    one, two = (write_tiff(tmp_path / folder / "scene.tif", pixels()) for folder in ("north", "south"))
    ran = cli.segment(tmp_path / "north", tmp_path / "south", "--model", rgb_bundle, "--out", tmp_path / "runs")
    assert ran.code == 2
    assert f"two scenes would be called 'scene': {one} and {two}" in ran.err
    assert "rename one, or run them separately with different --out" in ran.err


def test_a_prefix_skips_and_lists_what_is_no_scene(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in" / "scene.tif", pixels())
    (tmp_path / "in" / "scene.tif.aux.xml").write_text("<PAMDataset/>")
    (tmp_path / "in" / "scene.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    out = tmp_path / "in" / "runs"
    (done,) = cli.segment(source, "--model", rgb_bundle, "--out", out, "--json").objects
    assert cli("export", out, "--to", "cog,png,zarr", "--out", str(tmp_path / "x")).code == 2, "one place for three"
    for kind, suffix in (("cog", "tif"), ("png", "png"), ("zarr", "zarr")):
        assert cli("export", out, "--to", kind, "--out", str(tmp_path / "in" / f"{{scene}}_{kind}.{suffix}")).code == 0
    ran = cli.segment(tmp_path / "in", "--model", rgb_bundle, "--out", out, "--dry-run", "--json")
    *plans, skipped = ran.objects
    assert [p["scene"] for p in plans] == ["scene"]
    reasons = {Path(s["uri"]).name: s["reason"] for s in skipped["skipped"]}
    assert "side-car" in reasons["scene.tif.aux.xml"]
    assert "side-car" in reasons["scene.tfw"]
    assert reasons[Path(done["run"]).name] == "a run directory of Seamline"
    for own in ("scene_cog.tif", "scene_png.png", "scene_zarr.zarr"):
        assert reasons[own] == "an output of Seamline itself"


def test_one_bad_scene_does_not_stop_the_others(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    write_tiff(tmp_path / "in" / "a.tif", pixels())
    cut(write_tiff(tmp_path / "in" / "b.tif", pixels()))
    write_tiff(tmp_path / "in" / "c.tif", pixels(seed=1))
    ran = cli.segment(tmp_path / "in", "--model", rgb_bundle, "--out", tmp_path / "runs", "--json")
    assert ran.code == 2
    assert [(o["scene"], o["status"]) for o in ran.objects] == [("a", "complete"), ("b", "rejected"), ("c", "complete")]


# a source that changes --------------------------------------------------------------------------------------


def test_a_source_that_changes_while_it_is_read_stops_its_run_and_no_other(rgb_bundle: Path, tmp_path: Path) -> None:
    steady = write_tiff(tmp_path / "steady.tif", pixels())
    source = write_tiff(tmp_path / "moving.tif", pixels())
    settings = Settings(
        model=(str(rgb_bundle),), out=str(tmp_path / "runs"), window=(32,), overlap=(8,), block=(48,), threads=1,
        device="cpu",
    )  # fmt: skip
    changed = False

    def change(event: Event) -> None:
        nonlocal changed
        if not changed and event.job.stage == "ingest" and event.ledger.run.manifest.scene == "moving":
            write_tiff(source, pixels((3, 60, 81), seed=1))
            changed = True

    batch = plan_batch([str(steady), str(source)], settings, hardware_for(settings))
    results = {r.name: r for r in run_batch(batch, on_event=change)}
    assert changed
    assert results["steady"].fate == "complete"
    assert results["moving"].fate == "incomplete"
    assert "changed since it was planned" in (results["moving"].error or "")
    assert "run the same command again: it will make a new run" in (results["moving"].error or "")
    first = results["moving"].status
    again = batches.run_batch(plan_batch([str(source)], settings, hardware_for(settings)))
    assert first is not None
    assert again[0].status is not None
    assert (again[0].fate, again[0].status.run != first.run) == ("complete", True)
