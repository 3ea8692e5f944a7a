"""What a worker refuses: to compute other bytes than the run was planned with, or to guess validity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flows.serial import SerialEngine
from pipeline.errors import BlockError, NumericsError
from pipeline.hardware import arithmetic
from pipeline.manifest import Manifest, Numerics
from pipeline.models.locate import resolve_bundle
from pipeline.pixels import read_valid
from pipeline.run import Run
from pipeline.worker import check_arithmetic, load_run_model
from tests.fakes import IdentityModel, fake_spec
from tests.runs import ArraySource, drive, make_run, make_worker, segment
from tiling import Box

NUMERICS = Numerics(backend="eager", precision="fp32", device="cpu", batch=1, threads=1, algorithm=1)


def test_this_arithmetic_is_taken_and_another_refused_with_both() -> None:
    here = arithmetic("cpu")
    check_arithmetic(NUMERICS.model_copy(update={"arithmetic": here}))
    with pytest.raises(NumericsError, match=r"begun with torch 0\.1, ABACUS, and this worker has torch .*--out"):
        check_arithmetic(NUMERICS.model_copy(update={"arithmetic": "torch 0.1, ABACUS"}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_run_planned_for_cuda_is_refused_without_one() -> None:
    with pytest.raises(NumericsError, match="planned for cuda, and this worker has none"):
        check_arithmetic(NUMERICS.model_copy(update={"device": "cuda"}))


def small_run(folder: Path) -> Run:
    source = ArraySource(np.zeros((1, 20, 20), np.uint8))
    return make_run(folder, source, fake_spec(2), window=(8,), overlap=(2,), block=(12,))


def test_a_copy_of_the_model_that_was_changed_is_not_loaded(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    for file in resolve_bundle("nuclei").iterdir():
        run.bundle(0).put(file.name, file.read_bytes())
    with pytest.raises(NumericsError, match=r"is not the one that .* was planned with"):
        load_run_model(run)  # the plan names a digest of zeros


def test_numerics_that_differ_end_a_run_and_are_told(tmp_path: Path) -> None:
    source, model = ArraySource(np.zeros((1, 20, 20), np.uint8)), IdentityModel(fake_spec(2))
    run = small_run(tmp_path)

    def refuse(run: Run) -> IdentityModel:
        raise NumericsError("another abacus")

    worker = make_worker(source, model)
    worker._load = refuse
    _, given_up = drive(run, SerialEngine(worker))
    assert "another abacus" in str(given_up[run.uri])
    assert not run.failures()


def test_validity_that_was_lost_is_not_nodata(tmp_path: Path) -> None:
    source, model = ArraySource(np.ones((1, 20, 20), np.uint8)), IdentityModel(fake_spec(2))
    run = segment(tmp_path, source, model, window=(8,), overlap=(2,), block=(12,))
    assert read_valid(run, Box((0, 0), (20, 20))).all()
    (tmp_path / run.manifest.run_name / "scene.zarr/valid/0/c/1/0").unlink()
    assert read_valid(run, Box((0, 0), (12, 20))).all()
    with pytest.raises(BlockError, match=r"does not say which pixels of .* are valid"):
        read_valid(run, Box((0, 0), (13, 20)))


def test_where_a_source_lay_is_no_part_of_the_question(tmp_path: Path) -> None:
    manifest = small_run(tmp_path).manifest
    moved = manifest.question.source.model_copy(update={"uri": "elsewhere"})
    changed = manifest.question.source.model_copy(update={"fingerprint": "other"})
    assert manifest.model_copy(update={"question": with_source(manifest, moved)}).digest == manifest.digest
    assert manifest.model_copy(update={"question": with_source(manifest, changed)}).digest != manifest.digest


def with_source(manifest: Manifest, source: object) -> object:
    return manifest.question.model_copy(update={"source": source})


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a\\b"])
def test_a_manifest_cannot_name_a_scene_outside_its_folder(tmp_path: Path, name: str) -> None:
    data = small_run(tmp_path).manifest.model_dump(mode="json") | {"scene": name}
    with pytest.raises(ValueError, match="part of file names"):
        Manifest.model_validate(data)
