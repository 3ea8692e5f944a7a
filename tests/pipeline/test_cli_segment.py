"""`segment` and `status` as a person and as a program meet them: objects, exit codes, resume, settings, exports."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from flows.pool import run_jobs
from pipeline.errors import StoreError
from pipeline.run import open_run
from pipeline.store import Store
from pipeline.worker import Worker
from tests.cli import Cli, pixels, receipts_of, write_tiff

PROMISED = {"scene", "run", "status", "windows_total", "windows_run", "windows_skipped", "seconds", "peak_bytes"}


def test_json_is_one_object_a_scene_with_the_promised_keys(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    for n in range(2):
        write_tiff(tmp_path / "in" / f"scene{n}.tif", pixels(seed=n))
    write_tiff(tmp_path / "in" / "thin.tif", pixels((2, 60, 80)))
    ran = cli.segment(tmp_path / "in", "--model", rgb_bundle, "--out", tmp_path / "runs", "--json")
    assert ran.code == 2, "one scene was rejected"
    assert [o["scene"] for o in ran.objects] == ["scene0", "scene1", "thin"], "in the order of the scenes"
    for done in ran.objects[:2]:
        assert done.keys() >= PROMISED
        assert done["status"] == "complete"
        assert (done["windows_total"], done["windows_run"], done["windows_skipped"]) == (9, 9, 0)
        assert done["seconds"] > 0
        assert done["peak_bytes"] > 50e6, "a process that has loaded torch"
        assert Path(done["run"], "manifest.json").is_file()
        assert "error" not in done
    rejected = ran.objects[2]
    assert rejected["status"] == "rejected"
    assert "2 channels" in rejected["error"]
    assert "--bands" in rejected["error"]
    assert "run" not in rejected


def test_every_pixel_is_accounted_for(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    image = pixels()
    image[:, :10, :20] = 0
    source = write_tiff(tmp_path / "scene.tif", image, nodata=0)
    (done,) = cli.segment(source, "--model", rgb_bundle, "--out", tmp_path / "runs", "--json").objects
    counts = done["pixels"]
    assert counts["predicted"] + counts["nodata"] + counts["failed"] == 60 * 80
    assert counts["nodata"] == int((image == 0).any(axis=0).sum())
    assert sum(v for k, v in counts.items() if k.startswith("class:")) == counts["predicted"]


def test_the_second_run_runs_no_window_and_touches_no_receipt(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path
) -> None:
    command = (scene, "--model", rgb_bundle, "--out", tmp_path / "runs")
    (first,) = cli.segment(*command, "--json").objects
    before = receipts_of(first["run"])
    (second,) = cli.segment(*command, "--json").objects
    assert (first["windows_run"], first["windows_before"]) == (9, 0)
    assert (second["windows_run"], second["windows_before"]) == (0, 9)
    assert second["run"] == first["run"]
    assert receipts_of(first["run"]) == before
    again = cli.segment(*command)
    assert f"scene: goes on with {first['run']}" in again.err


def test_without_json_a_person_reads_text(cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path) -> None:
    ran = cli.segment(scene, "--model", rgb_bundle, "--out", tmp_path / "runs")
    assert ran.code == 0
    assert "scene: complete" in ran.out
    assert "9 run, 0 skipped, of 9" in ran.out
    assert "4,800 predicted" in ran.out
    assert "1 scene, 9 windows" in ran.err
    assert "4/4 blocks" in ran.err, "plain lines where there is no terminal"
    assert "\x1b" not in ran.text


@pytest.mark.parametrize(
    ("flag", "given", "made_with"), [("--block", "72", "48,48"), ("--batch", "3", "1"), ("--threads", "2", "1")]
)
def test_a_flag_that_contradicts_the_run_names_both_values(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path, flag: str, given: str, made_with: str
) -> None:
    command = ("segment", scene, "--model", rgb_bundle, "--out", tmp_path / "runs", "--window", "32", "--overlap", "8")
    first = ("--block", "48", "--threads", "1", "--device", "cpu")
    assert cli(*command, *first).code == 0
    ran = cli(*command, "--device", "cpu", flag, given)
    assert ran.code == 2
    shown = ",".join([given] * len(made_with.split(",")))
    assert f"{flag} {shown} contradicts the run that is there, which was made with {made_with}" in ran.err
    assert "another --out" in ran.err


def test_without_the_flag_the_run_is_adopted(cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path) -> None:
    command = ("segment", scene, "--model", rgb_bundle, "--out", tmp_path / "runs", "--window", "32", "--overlap", "8")
    (first,) = cli(*command, "--block", "48", "--threads", "1", "--json").objects
    (second,) = cli(*command, "--json").objects
    assert (second["run"], second["windows_run"]) == (first["run"], 0)


def test_another_question_is_another_run(cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path) -> None:
    command = (scene, "--model", rgb_bundle, "--out", tmp_path / "runs", "--json")
    (hann,) = cli.segment(*command).objects
    (mean,) = cli.segment(*command, "--blend", "mean").objects
    assert mean["run"] != hann["run"]
    assert mean["windows_run"] == 9


def test_a_block_that_fails_leaves_an_incomplete_run_that_goes_on(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Worker._infer

    def broken(self: Worker, context: object, job: object, *rest: object) -> object:
        if job.index == (1, 1):  # type: ignore[attr-defined]
            raise ZeroDivisionError("a cosmic ray")
        return whole(self, context, job, *rest)  # type: ignore[arg-type]

    command = (scene, "--model", rgb_bundle, "--out", tmp_path / "runs")
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_infer", broken)
        ran = cli.segment(*command)
    assert ran.code == 3
    assert "infer 1.1 will be tried again: ZeroDivisionError: a cosmic ray" in ran.err
    assert "scene: incomplete" in ran.out
    assert "failed    infer 1.1: ZeroDivisionError: a cosmic ray" in ran.out
    assert "run the same command again" in ran.out
    assert "Traceback" not in ran.text
    (run,) = (tmp_path / "runs").iterdir()
    (told,) = cli("status", run, "--json").objects
    assert told["status"] == "incomplete"
    (failure,) = told["failures"]
    assert (failure["stage"], failure["index"], failure["attempts"]) == ("infer", [1, 1], 2)
    assert "Traceback" in failure["detail"], "the run directory keeps what a person does not want to read first"
    refused = cli("export", run, "--to", "cog")
    assert refused.code == 2
    assert "--allow-incomplete" in refused.err
    assert cli("export", run, "--to", "cog", "--allow-incomplete").code == 0
    (healed,) = cli.segment(*command, "--json").objects
    assert (healed["status"], healed["windows_run"], healed["windows_before"]) == ("complete", 1, 8)


def test_an_incomplete_scene_is_not_exported(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a cosmic ray")

    monkeypatch.setattr(Worker, "_infer", broken)
    ran = cli.segment(scene, "--model", rgb_bundle, "--out", tmp_path / "runs", "--to", "cog", "--json")
    assert ran.code == 3
    (told,) = ran.objects
    assert told["status"] == "incomplete"
    assert "4 jobs failed (infer 0.0, infer 0.1" in told["error"]
    assert "exports" not in told
    assert not list((tmp_path / "runs").glob("*/exports/*"))


def test_to_exports_what_is_complete(cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path) -> None:
    ran = cli.segment(scene, "--model", rgb_bundle, "--out", tmp_path / "runs", "--to", "cog, png", "--json")
    (done,) = ran.objects
    assert ran.code == 0
    assert set(done["exports"]) == {"cog", "png"}
    with rasterio.open(done["exports"]["cog"]) as mask, rasterio.open(scene) as source:
        assert (mask.crs, mask.transform, mask.shape) == (source.crs, source.transform, source.shape)
        labels = np.asarray(open_run(done["run"]).array("labels")[...])
        np.testing.assert_array_equal(mask.read(1), labels)


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_a_store_that_dies_at_the_end_loses_no_result(
    cli: Cli, rgb_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: tuple[str, ...]
) -> None:
    for n in range(2):
        write_tiff(tmp_path / "in" / f"scene{n}.tif", pixels(seed=n))
    listed, ended = Store.list, []

    def work(*args: Any, **options: Any) -> Any:
        ended.append(run_jobs(*args, **options))
        return ended[0]

    def dies(store: Store, prefix: str = "") -> Any:
        if ended and "scene0" in store.uri:
            raise StoreError("cannot list it: connection refused")
        return listed(store, prefix)

    monkeypatch.setattr("flows.batch.run_jobs", work)
    monkeypatch.setattr(Store, "list", dies)
    ran = cli.segment(tmp_path / "in", "--model", rgb_bundle, "--out", tmp_path / "runs", *flag)
    assert ran.code == 3
    if flag:
        lost, done = ran.objects
        assert (lost["scene"], lost["status"], lost["windows_run"]) == ("scene0", "incomplete", 9)
        assert (done["scene"], done["status"], done["windows_run"]) == ("scene1", "complete", 9)
        assert "connection refused" in lost["error"]
        assert Path(lost["run"], "manifest.json").is_file()
    else:
        assert "scene0: incomplete: cannot list it: connection refused; run the same command again" in ran.err
        assert "scene1: complete" in ran.out


def test_what_an_export_writes_as_background_is_counted(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    image = pixels()
    image[:, :20] = 0
    command = (write_tiff(tmp_path / "a.tif", image, nodata=0), "--model", rgb_bundle, "--out", tmp_path / "runs")
    ran = cli.segment(*command, "--to", "png,cog")
    assert re.search(r"a_mask.png  \([\d,]+ pixels without a prediction are written as background", ran.out)
    (done,) = cli.segment(*command, "--to", "png,cog", "--json").objects
    assert done["substituted"] == {"png": done["pixels"]["nodata"]}
    assert done["substituted"]["png"] >= 20 * 80
    assert Path(done["exports"]["png"]).is_file()


def test_an_export_that_fails_loses_no_result(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("cannot write there: the disk is full")

    monkeypatch.setattr("pipeline.export.of_run.export_run", full)
    ran = cli.segment(scene, "--model", rgb_bundle, "--out", tmp_path / "runs", "--to", "cog", "--json")
    (done,) = ran.objects
    assert ran.code == 2
    assert done["status"] == "complete"
    assert "disk is full" in done["export_error"]


@pytest.mark.parametrize(
    ("kind", "words"), [("gif", ["cannot export to gif", "overlay"]), ("nifti", ["an image", "use --to cog or png"])]
)
def test_an_export_that_cannot_be_is_refused_before_any_work(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path, kind: str, words: list[str]
) -> None:
    ran = cli.segment(scene, "--model", rgb_bundle, "--out", tmp_path / "runs", "--to", kind)
    assert ran.code == 2
    for word in words:
        assert word in ran.err
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_all_and_writes_nothing(cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    command = (tmp_path, "--model", rgb_bundle, "--out", tmp_path / "runs", "--dry-run")
    before = sorted(tmp_path.rglob("*"))
    ran = cli.segment(*command)
    assert ran.code == 0
    for word in ("9 of 32 x 32", "4 of 48 x 48", "1.92 pixels planned per pixel", "memory", "output", "notes.txt"):
        assert word in ran.out
    as_json = cli.segment(*command, "--json")
    plan, skipped = as_json.objects
    assert plan["status"] == "planned"
    assert (plan["scene"], plan["windows_total"], plan["blocks"]) == ("scene", 9, 4)
    assert plan["window"] == [32, 32]
    assert plan["memory_bytes"] > 0
    assert [Path(s["uri"]).name for s in skipped["skipped"]] == ["notes.txt"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_a_bad_scene_is_bad_input(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "five.tif", pixels((5, 60, 80)))
    ran = cli.segment(source, "--model", rgb_bundle, "--dry-run", "--json")
    assert ran.code == 2
    assert ran.objects[0]["status"] == "rejected"


def test_flags_win_over_the_file_and_the_file_over_defaults(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'model = "{rgb_bundle}"\nwindow = 32\noverlap = 8\nblock = "48,72"\nblend = "mean"\n')
    (plan,) = cli("segment", scene, "--config", config, "--block", "24", "--dry-run", "--json").objects
    assert (plan["window"], plan["block"]) == ([32, 32], [24, 24])
    text = cli("segment", scene, "--config", config, "--dry-run").out
    assert "blend mean" in text
    assert "of 48 x 72" in text


def test_a_wrong_setting_is_named_as_it_was_given(cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"model: {rgb_bundle}\nblende: hann\nbatch: 0\n")
    ran = cli("segment", scene, "--config", config, "--window", "tall")
    assert ran.code == 2
    assert f"blende in {config} is no setting; did you mean blend?" in ran.err
    assert f"batch in {config}: must be greater than or equal to 1, got 0" in ran.err
    assert "--window: must be whole numbers of pixels" in ran.err
    assert "got 'tall'" in ran.err


def test_precision_auto_is_a_setting_like_any_other(cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('precision = "auto"\n')
    command = ("segment", scene, "--model", rgb_bundle, "--device", "cpu", "--dry-run", "--json")
    for flags in (("--precision", "auto"), ("--config", config)):
        (plan,) = cli(*command, *flags).objects
        assert plan["numerics"]["precision"] == "fp32"


def test_a_path_without_a_scheme_may_be_a_bucket(cli: Cli, rgb_bundle: Path) -> None:
    ran = cli.segment("some-bucket/prefix/scene.tif", "--model", rgb_bundle)
    assert ran.code == 2
    assert "did you mean s3://some-bucket/prefix/scene.tif?" in ran.err


def test_no_model_says_how_to_name_one(cli: Cli, scene: Path) -> None:
    ran = cli("segment", scene)
    assert ran.code == 2
    assert "give --model" in ran.err
    assert "seamline models" in ran.err


def test_status_takes_a_folder_of_runs(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> None:
    for n in range(2):
        write_tiff(tmp_path / "in" / f"scene{n}.tif", pixels(seed=n))
    cli.segment(tmp_path / "in", "--model", rgb_bundle, "--out", tmp_path / "runs")
    told = cli("status", tmp_path / "runs", "--json").objects
    assert [t["scene"] for t in told] == ["scene0", "scene1"]
    for t in told:
        assert t["status"] == "complete"
        assert (t["windows_total"], t["windows_run"], t["windows_skipped"]) == (9, 9, 0)
        assert t["stages"]["infer"] == t["stages"]["infer"] | {"done": 4, "total": 4, "failed": 0}
        assert t["mpx_per_second"] > 0
    assert cli("status", tmp_path / "runs" / "scene0-*").out.startswith("scene0: complete")


@pytest.mark.parametrize("place", ["nowhere", ".", "no-*-match"])
def test_status_of_what_is_no_run_says_so(cli: Cli, tmp_path: Path, place: str) -> None:
    ran = cli("status", tmp_path / place)
    assert ran.code == 2
    assert "no run directory" in ran.err or "not a run directory" in ran.err


def test_status_of_a_run_that_has_not_begun_has_all_to_come(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path
) -> None:
    (done,) = cli.segment(scene, "--model", rgb_bundle, "--out", tmp_path / "runs", "--json").objects
    for folder in ("receipts", "partials"):
        shutil.rmtree(Path(done["run"], folder), ignore_errors=True)
    ran = cli("status", done["run"])
    assert ran.code == 0
    assert "scene: incomplete" in ran.out
    assert "4,800 to come" in ran.out


def test_lost_output_is_computed_again_and_counted(cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path) -> None:
    command = (scene, "--model", rgb_bundle, "--out", tmp_path / "runs")
    (first,) = cli.segment(*command, "--json").objects
    before = np.asarray(open_run(first["run"]).array("labels")[...])
    Path(first["run"], "scene.zarr/labels/mask/0/c/1/1").unlink()
    ran = cli.segment(*command)
    assert ran.code == 0
    assert "healed" in ran.out
    assert "the output was lost or rotten" in ran.out
    np.testing.assert_array_equal(open_run(first["run"]).array("labels")[...], before)


def test_json_lines_stay_clean_whatever_is_said_on_the_side(
    cli: Cli, rgb_bundle: Path, scene: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    ran = cli.segment(tmp_path, "--model", rgb_bundle, "--out", tmp_path / "runs", "--json")
    assert len(ran.out.splitlines()) == 1
    assert json.loads(ran.out)["scene"] == "scene"
    assert "skipped 1:" in ran.err
