"""Help that teaches and starts fast; `models`, `sample`; usage errors. The entry points as a shell would start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli import FLAGS, SMALL, Cli, make_bundle, pixels, write_tiff
from tests.fakes import fake_spec
from tests.runs import ArraySource, make_run

REPOSITORY = Path(__file__).parents[2]
COMMANDS = ("segment", "status", "export", "sample", "train", "models", "models check", "models pack")
HEAVY = ("torch", "ray", "prefect", "zarr", "rasterio", "segmentation_models_pytorch", "nibabel", "tifffile", "skimage")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cli: Cli, command: str) -> None:
    ran = cli(*command.split(), "--help")
    assert ran.code == 0
    assert "Example" in ran.out
    assert f"seamline {command}" in " ".join(ran.out.split())


def test_the_first_page_names_every_command_and_where_to_start(cli: Cli) -> None:
    ran = cli("--help")
    for command in ("segment", "status", "export", "sample", "train", "models"):
        assert f" {command} " in ran.out
    assert "seamline models" in ran.out
    assert "segment" in cli().text, "no command at all is a question for help"


def test_help_shows_what_a_flag_takes(cli: Cli) -> None:
    text = " ".join(cli("segment", "--help").out.split())
    for shown in ("serial", "flips", "fp32", "--window", "N[,N...]", "Exit codes", "default: hann"):
        assert shown in text


@pytest.mark.parametrize("argv", [("--help",), ("segment", "--help"), ("--version",), ("status", "RUN")])
def test_what_computes_nothing_imports_nothing_heavy(argv: tuple[str, ...], tmp_path: Path) -> None:
    heavy = HEAVY
    if argv[0] == "status":
        source = ArraySource(np.zeros((1, 8, 8), np.uint8))
        run = make_run(tmp_path, source, fake_spec(2), window=(8,), overlap=(0,), block=(8,))
        argv, heavy = ("status", run.uri), tuple(name for name in HEAVY if name != "zarr")
    code = (
        "import sys\n"
        "from pipeline.__main__ import main\n"
        f"sys.argv = ['seamline', *{argv!r}]\n"
        "try:\n    main()\n"
        "finally:\n"
        f"    found = [name for name in {heavy!r} if name in sys.modules]\n"
        "    print('imported:', found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert "imported: []" in done.stdout, done.stdout + done.stderr


def test_both_entry_points_say_their_version() -> None:
    script = Path(sys.executable).with_name("seamline")
    commands = [[sys.executable, "-m", "pipeline"]] + ([[str(script)]] if script.exists() else [])
    for command in commands:
        done = subprocess.run(
            [*command, "--version"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
        )
        assert done.stdout.startswith("seamline 0.")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("segment", "x.tif", "--modell", "m"), "--model"),
        (("segment", "x.tif", "--blend", "cosine"), "hann"),
        (("segment", "x.tif", "--batch", "many"), "--batch"),
        (("segment",), "PATH"),
        (("frobnicate",), "frobnicate"),
        (("export", "runs"), "--to"),
        (("sample", "x.tif", "--size", "large"), "--size takes whole numbers separated by commas, got 'large'"),
        (("sample", "x.jpg"), "*.tif"),
        (("train", "nowhere.toml"), "nowhere.toml"),
        (("models", "check", "nowhere"), "no bundle at nowhere"),
        (("models", "pack", "w.pt", "--arch", "unet", "--encoder", "resnet18", "--classes", "a,b",
          "--channels", "r", "--out", "b"), "--mean and --std"),
        (("segment", "x.tif", "--model", "m", "--scales", "1,big"), "--scales takes numbers"),
        (("segment", "x.tif", "--model", "m", "--config", "nowhere.toml"), "cannot read the settings file"),
        (("segment", "x.tif", "--model", "m", "--engine", "serial", "--workers", "4"),
         "engine serial is one worker in this process, which workers 4 contradicts: set engine to ray"),
        (("segment", "x.tif", "--model", "m", "--attempts", "0"), "--attempts: must be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_exit_2_and_names_what_is_wrong(cli: Cli, argv: tuple[str, ...], words: str) -> None:
    ran = cli(*argv)
    assert ran.code == 2
    assert ran.out == ""
    assert words in ran.err


@pytest.mark.parametrize(
    "argv",
    [
        ("segment", "x.tif", "--model", "m", "--config", "FILE.toml"),
        ("train", "FILE.yaml"),
        ("models", "pack", "w.pt", "--arch", "unet", "--encoder", "resnet18", "--classes", "FILE.csv",
         "--channels", "r", "--mean", "0", "--std", "1", "--out", "b"),
    ],
)  # fmt: skip
def test_a_text_file_that_is_no_utf8_is_named(cli: Cli, tmp_path: Path, argv: tuple[str, ...]) -> None:
    (name,) = (word for word in argv if word.startswith("FILE"))
    file = tmp_path / name
    file.write_bytes("# Größe\n".encode("latin-1"))
    ran = cli(*(str(file) if word == name else word for word in argv))
    assert ran.code == 2
    assert f"{file}: byte 4 is no UTF-8; save it as UTF-8 text" in ran.err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_gone_stops_no_work(rgb_bundle: Path, tmp_path: Path, stream: str) -> None:
    source = write_tiff(tmp_path / "scene.tif", pixels())
    run = [sys.executable, "-m", "pipeline", "segment", str(source), "--model", str(rgb_bundle), "--json"]
    env = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "RAY_ADDRESS")}
    reader, writer = os.pipe()
    os.close(reader)
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: writer}
    done = subprocess.run(
        [*run, "--out", str(tmp_path / "runs"), *SMALL, *FLAGS],
        cwd=REPOSITORY, env=env, text=True, timeout=120, check=False, **streams,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 0
    said = done.stdout if stream == "stderr" else done.stderr
    assert "BrokenPipe" not in said
    assert "Traceback" not in said
    assert list(tmp_path.glob("runs/*/receipts/stitch/1.1.json"))


def test_models_lists_bundles_for_programs_and_people(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_bundle(tmp_path / "fields", domain="geo")
    monkeypatch.setattr("pipeline.models.bundle.shipped", lambda: [folder])
    (listed,) = cli("models", "--json").objects
    assert [d.keys() >= {"name", "path", "classes", "domain", "scores"} for d in listed] == [True]
    assert (listed[0]["name"], listed[0]["path"], listed[0]["domain"]) == ("fields", str(folder), "geo")
    assert [c["name"] for c in listed[0]["classes"]] == ["ground", "class 1", "class 2"]
    text = cli("models").out
    assert "fields  (geo" in text
    assert "ground, class 1, class 2" in text


def test_without_bundles_models_says_how_to_make_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.models.bundle.shipped", list)
    assert "seamline models pack" in cli("models").out
    assert cli("models", "--json").objects == [[]]


def test_check_lists_facts_and_problems(cli: Cli, rgb_bundle: Path) -> None:
    ran = cli("models", "check", rgb_bundle)
    assert ran.code == 0
    assert "divisor" in ran.out
    assert "problem        none" in ran.out
    (report,) = cli("models", "check", rgb_bundle, "--json").objects
    assert report["problems"] == []
    assert report["finite"]


def test_interrupted_it_says_so_and_the_same_command_goes_on(rgb_bundle: Path, tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "scene.tif", pixels((3, 1200, 1200)))
    command = [
        *(sys.executable, "-m", "pipeline", "segment", str(source), "--model", str(rgb_bundle), "--json"),
        *("--out", str(tmp_path / "runs"), *SMALL[:4], "--block", "96", *FLAGS),
    ]
    env = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "RAY_ADDRESS")}
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/receipts/stitch/*.json")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert "interrupted; nothing that was finished is lost: run the same command again" in err
    assert "Traceback" not in err
    done = len(list(tmp_path.glob("runs/*/receipts/infer/*.json")))
    assert 0 < done < 169
