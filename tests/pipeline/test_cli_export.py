"""`export` of many runs, what it prints, and that docs/json.md tells every key that is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli import Cli, pixels, write_tiff

PAGE = Path(__file__).parents[2] / "docs" / "json.md"


@pytest.fixture
def runs(cli: Cli, rgb_bundle: Path, tmp_path: Path) -> Path:
    """A folder of two complete runs, one with nodata."""
    for n, fields in enumerate(({}, {"nodata": 0})):
        image = pixels(seed=n)
        image[:, :20] = 0
        write_tiff(tmp_path / "in" / f"scene{n}.tif", image, **fields)
    assert cli.segment(tmp_path / "in", "--model", rgb_bundle, "--out", tmp_path / "runs").code == 0
    return tmp_path / "runs"


def test_a_folder_of_runs_is_exported_by_the_name_of_each_scene(cli: Cli, runs: Path, tmp_path: Path) -> None:
    ran = cli("export", runs, "--to", "cog", "--out", str(tmp_path / "masks" / "{scene}.tif"), "--json")
    assert ran.code == 0
    assert [(o["scene"], o["kind"], Path(o["path"]).name) for o in ran.objects] == [
        ("scene0", "cog", "scene0.tif"),
        ("scene1", "cog", "scene1.tif"),
    ]
    assert all(Path(o["path"]).stat().st_size <= o["n_bytes"] for o in ran.objects)


def test_several_kinds_go_to_the_run_itself(cli: Cli, runs: Path) -> None:
    one = sorted(runs.iterdir())[0]
    ran = cli("export", one, "--to", "png,overlay")
    assert ran.code == 0
    assert {p.name for p in (one / "exports").iterdir()} >= {"scene0_mask.png", "scene0_overlay.png"}


def test_a_format_without_nodata_prints_how_much_became_background(cli: Cli, runs: Path) -> None:
    one = sorted(runs.iterdir())[1]
    ran = cli("export", one, "--to", "png")
    assert "pixels without a prediction are written as background: this format has no nodata" in ran.out
    (told,) = cli("export", one, "--to", "png", "--json").objects
    assert told["substituted"] >= 20 * 80


@pytest.mark.parametrize(
    ("to", "out", "words"),
    [
        ("cog", "x.tif", "would write 2 files to 1 place(s): put {scene} in it"),
        ("cog,png", "{scene}.tif", "would write 4 files to 2 place(s): export one kind at a time"),
        ("cog", "{name}.tif", "the only field is {scene}"),
        ("cog", "masks/", "names a folder"),
        ("gif", None, "cannot export to gif; known are cog"),
        ("nifti", None, "an image of (60, 80), not for nifti: use --to cog or png"),
    ],
)
def test_what_cannot_be_exported_is_told_before_anything_is_written(
    cli: Cli, runs: Path, tmp_path: Path, to: str, out: str | None, words: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    ran = cli("export", runs, "--to", to, *(("--out", str(tmp_path / out) + "/" * out.endswith("/")) if out else ()))
    assert ran.code == 2
    assert words in ran.err
    assert sorted(tmp_path.rglob("*")) == before


def section(title: str) -> set[str]:
    """The names in backticks of one section of the page."""
    text = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`([a-z_0-9]+)`", text))


def test_the_page_tells_every_key_that_is_printed(cli: Cli, rgb_bundle: Path, runs: Path, tmp_path: Path) -> None:
    segment = ("--model", rgb_bundle, "--out", runs, "--json")
    write_tiff(tmp_path / "in" / "thin.tif", pixels((2, 60, 80)))
    (tmp_path / "in" / "notes.txt").write_text("no image")
    printed = {
        "segment": cli.segment(tmp_path / "in", *segment, "--to", "png").objects,
        "segment --dry-run": cli.segment(tmp_path / "in", *segment, "--dry-run").objects,
        "status": cli("status", runs, "--json").objects,
        "export": cli("export", runs, "--to", "cog", "--json").objects,
        "models": [*cli("models", "--json").objects[0], *cli("models", "check", rgb_bundle, "--json").objects],
    }
    common = section("segment")
    for title, objects in printed.items():
        assert objects
        for told in objects:
            assert told.keys() <= section(title) | common | {"skipped"}, title
    assert {"scene", "run", "status", "error", "exports"} <= common
