"""Where outputs may go is settled before any work: places that are taken, and buckets for what is local."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.export import png
from tests.cli import Cli


def test_an_export_beside_the_sources_leaves_them_alone(cli: Cli, rgb_bundle: Path, scene: Path) -> None:
    folder, before = scene.parent, scene.read_bytes()
    assert cli.segment(scene, "--model", rgb_bundle, "--out", folder / "runs").code == 0
    ran = cli("export", folder / "runs", "--to", "cog", "--out", str(folder / "{scene}.tif"))
    assert ran.code == 2
    assert "scene.tif is the scene itself, which an export would replace; name another place with --out" in ran.err
    assert scene.read_bytes() == before


def test_no_mask_of_a_batch_is_written_where_one_place_is_taken(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path
) -> None:
    (tmp_path / "b.tif").write_bytes(scene.read_bytes())
    cli.segment(scene, tmp_path / "b.tif", "--model", rgb_bundle, "--out", tmp_path / "runs")
    (tmp_path / "scene_mask.tif").write_bytes(b"mine")
    ran = cli("export", tmp_path / "runs", "--to", "cog", "--out", str(tmp_path / "{scene}_mask.tif"))
    assert ran.code == 2
    assert not (tmp_path / "b_mask.tif").exists()


def test_a_folder_that_cannot_be_made_and_a_mask_that_is_cut(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path
) -> None:
    assert cli.segment(scene, "--model", rgb_bundle, "--out", tmp_path / "runs").code == 0
    ran = cli("export", tmp_path / "runs", "--to", "cog", "--out", str(scene / "x.tif"))
    assert (ran.code, "cannot write" in ran.err) == (2, True)
    for shard in tmp_path.glob("runs/*/scene.zarr/labels/mask/0/c/0/0"):
        shard.write_bytes(shard.read_bytes()[:-7])
    ran = cli("export", tmp_path / "runs", "--to", "cog")
    assert ran.code == 2
    assert "run `segment` again to heal it" in ran.err


@pytest.mark.parametrize("kind", ["cog", "png", "overlay"])
def test_what_a_bucket_cannot_hold_is_refused_before_the_work(
    cli: Cli, rgb_bundle: Path, scene: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.scenes.find_run", lambda *_: None)
    ran = cli.segment(scene, "--model", rgb_bundle, "--out", "s3://b/runs", "--to", kind)
    assert ran.code == 2
    assert "is written to a local file, not to s3://b/runs/scene-" in ran.err
    assert "windows" not in ran.text


def test_a_png_that_no_viewer_opens_is_refused_before_the_work(
    cli: Cli, rgb_bundle: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png, "MAX_PIXELS", 60 * 80 - 1)
    ran = cli.segment(scene, "--model", rgb_bundle, "--out", scene.parent / "runs", "--to", "png")
    assert ran.code == 2
    assert "scene has 60 x 80 pixels; viewers open PNGs of up to 4,799 pixels" in ran.err
    assert not (scene.parent / "runs").exists()


def test_samples_are_written_over_samples_only(cli: Cli, tmp_path: Path) -> None:
    for name, more in (("a.tif", ()), ("a.zarr", ()), ("a.nii.gz", ("--volume",)), ("a.nii", ("--volume",))):
        path, truth = tmp_path / name, tmp_path / f"truth_{name}"
        for _ in range(2):
            assert cli("sample", path, "--size", "16", "--truth", truth, *more).code == 0
        path = tmp_path / f"mine_{name}"
        path.write_bytes(b"mine")
        for argv in ((path,), (tmp_path / f"b_{name}", "--truth", path)):
            ran = cli("sample", *argv, "--size", "16", *more)
            assert ran.code == 2
            assert "exists and is no sample of Seamline, so it is not written over" in ran.err
        assert path.read_bytes() == b"mine"


def test_buckets_are_refused_where_files_are_made(cli: Cli, tmp_path: Path) -> None:
    ran = cli("sample", "s3://b/a.tif", "--size", "16")
    assert (ran.code, "a sample is written to a local file, not to s3://b/a.tif" in ran.err) == (2, True)
    argv = ("models", "pack", "w.pt", "--arch", "unet", "--encoder", "resnet34", "--classes", "a,b", "--channels", "r")
    ran = cli(*argv, "--mean", "1", "--std", "1", "--out", "s3://b/bundle")
    assert ran.code == 2
    assert "a bundle is written to a local folder, not to s3://b/bundle" in ran.err
    config = Path(__file__).parents[2] / "examples" / "nuclei.toml"
    ran = cli("train", config, "--out", "s3://b/bundle")
    assert ran.code == 2
    assert "a bundle is written to a local folder, not to s3://b/bundle" in ran.err
