"""From the command line on a Ray of its own: the bytes of a real network, a clean stdout, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from flows.batch import hardware_for, run_batch
from pipeline.run import open_run
from pipeline.scenes import plan_batch
from pipeline.settings import Settings

REPOSITORY = Path(__file__).parents[2]


def test_two_workers_on_a_ray_of_their_own_give_the_serial_bytes(bundle: Path, scenes: Path, tmp_path: Path) -> None:
    settings = Settings(
        model=(str(bundle),), out=str(tmp_path / "serial"), window=(32,), overlap=(8,), block=(48,), threads=1,
        batch=2, device="cpu",
    )  # fmt: skip
    serial = {r.name: r.status for r in run_batch(plan_batch([str(scenes)], settings, hardware_for(settings)))}
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "pipeline", "segment", str(scenes), "--model", str(bundle), "--json"]
    flags = [
        "--window",
        "32",
        "--overlap",
        "8",
        "--block",
        "72",
        "--threads",
        "1",
        "--batch",
        "2",
        "--device",
        "cpu",
        "--workers",
        "2",
    ]
    # as a person's shell has it: whatever the tests choose for Ray is not there
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PREFECT_"))} | {"HOME": str(home)}
    done = subprocess.run(
        [*command, *flags, "--out", str(tmp_path / "ray")],
        cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert {r["scene"]: r["status"] for r in results} == {"east": "complete", "west": "complete"}
    workers = set()
    for r in results:
        run, alone = open_run(r["run"]), serial[r["scene"]]
        assert alone is not None
        assert run.manifest.layout.block != open_run(alone.run).manifest.layout.block
        for name in ("labels", "confidence"):
            ours, theirs = run.array(name)[...], open_run(alone.run).array(name)[...]  # type: ignore[arg-type]
            np.testing.assert_array_equal(ours, theirs)
        workers |= {receipt.worker for receipt in run.receipts("infer")}
    assert len(workers) == 2
    assert not (home / ".ray").exists(), "a token file there would lock this user's other clients out"
