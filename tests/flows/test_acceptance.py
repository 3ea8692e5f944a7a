"""Promise 1 with a network that was trained, on real pixels: one answer, whatever cuts it and whatever computes it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data, io

from flows import batch
from pipeline.models.base import Model
from pipeline.plan import Hardware
from pipeline.run import Run, open_run
from pipeline.scenes import plan_batch
from pipeline.settings import Settings
from pipeline.worker import Worker, load_run_model
from tests.oracles.whole_image import oracle
from tests.runs import ShuffledEngine

HARDWARE = Hardware(device="cpu", threads=1, memory_bytes=4 << 30)
WINDOW, OVERLAP = 128, 32
EXTENT = (416, 512)  # (extent - overlap) is a multiple of the stride: MONAI's lattice is then ours
NAMES = ("labels", "confidence", "disagreement")


@dataclass(frozen=True)
class Case:
    blend: str = "hann"
    block: int = 192
    workers: int = 1
    engine: str = "serial"
    shuffle: int | None = None


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stained tissue that scikit-image ships, cut so that rows and columns differ."""
    path = tmp_path_factory.mktemp("tissue") / "tissue.png"
    io.imsave(path, data.immunohistochemistry()[: EXTENT[0], : EXTENT[1]], check_contrast=False)
    return path


def run(tissue: Path, out: Path, case: Case) -> Run:
    """As the command does it; with ``shuffle``, the seed of the order in which the jobs are done."""
    settings = Settings(
        model=("nuclei",), out=str(out), window=(WINDOW,), overlap=(OVERLAP,), block=(case.block,), threads=1,
        blend=case.blend, workers=case.workers, engine=case.engine,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        if case.shuffle is not None:
            engine = ShuffledEngine(Worker(), case.shuffle)
            patch.setattr(batch, "make_engine", lambda *_: engine)
        (result,) = batch.run_batch(plan_batch([str(tissue)], settings, HARDWARE))
    assert result.fate == "complete", result.error
    assert result.status is not None
    return open_run(result.status.run)


def arrays_of(run: Run) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(run.array(name)[...]) for name in NAMES}  # type: ignore[arg-type]


@pytest.mark.usefixtures("local_ray")
def test_blocks_engines_and_workers_do_not_change_a_byte(tissue: Path, tmp_path: Path) -> None:
    cases = (Case(), Case(block=96), Case(block=960), Case(engine="ray"), Case(engine="ray", workers=2, block=96))
    found = [arrays_of(run(tissue, tmp_path / str(n), case)) for n, case in enumerate(cases)]
    assert 0.02 < (found[0]["labels"] == 1).mean() < 0.98
    for one, other in pairwise(found):
        for name in NAMES:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def order_of(run: Run) -> list[str]:
    """Blocks as they were inferred."""
    receipts = sorted(Path(run.uri, "receipts", "infer").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [path.stem for path in receipts]


def test_the_order_of_jobs_does_not_change_a_byte(tissue: Path, tmp_path: Path) -> None:
    runs = [run(tissue, tmp_path / str(n), Case(block=96, shuffle=n)) for n in (None, 1, 2)]
    assert len({tuple(order_of(run)) for run in runs}) == 3
    first, *others = map(arrays_of, runs)
    for other in others:
        for name in NAMES:
            np.testing.assert_array_equal(first[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def blended_by_mean(tissue: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Model]:
    done = run(tissue, tmp_path_factory.mktemp("mean"), Case(blend="mean", block=96))
    return done, load_run_model(done)


def pixels_of(run: Run) -> NDArray[Any]:
    return np.asarray(run.array("image")[...])


def test_the_whole_image_oracle_agrees_wherever_it_is_sure(blended_by_mean: tuple[Run, Model]) -> None:
    run, model = blended_by_mean

    def scores(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
        with torch.inference_mode():
            return np.asarray(model.scores(torch.from_numpy(pixels), torch.from_numpy(valid)).numpy())

    image = pixels_of(run)
    everywhere = np.ones(image.shape[1:], bool)
    labels, _, gap = oracle(image, everywhere, scores, (WINDOW,) * 2, (OVERLAP,) * 2, "mean")
    sure = gap > 1e-5
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(run.array("labels")[...])[sure], labels[sure])


def test_monai_agrees_where_its_lattice_is_ours(blended_by_mean: tuple[Run, Model]) -> None:
    inferers = pytest.importorskip("monai.inferers")
    run, model = blended_by_mean
    image = torch.from_numpy(pixels_of(run))[None]

    def predictor(pixels: torch.Tensor) -> torch.Tensor:
        return model.scores(pixels, torch.ones((len(pixels), *pixels.shape[2:]), dtype=torch.bool))

    with torch.inference_mode():
        scores = inferers.sliding_window_inference(
            image.float(), (WINDOW,) * 2, 1, predictor, overlap=OVERLAP / WINDOW, mode="constant"
        )[0].numpy()
    best, second = -np.sort(-scores, axis=0)[:2]
    sure = best - second > 1e-5
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(run.array("labels")[...])[sure], scores.argmax(0)[sure])
