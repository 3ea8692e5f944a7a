"""The engine on a real local Ray: the same bytes, each window once, and deaths that cost nothing."""

from __future__ import annotations

import os
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flows import workers
from flows.actors import portable
from flows.cluster import cluster_hardware, per_worker
from flows.pool import Order, StuckError
from flows.workers import RayEngine, gpu_share
from pipeline.errors import BlockError, SourceChangedError, StoreError
from pipeline.hardware import cpu_count
from pipeline.manifest import SourceRecord
from pipeline.models.base import Model
from pipeline.plan import Hardware
from pipeline.receipts import Job
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.sources.base import SourceInfo
from pipeline.stitch import MissingPieceError
from pipeline.worker import Worker
from tests.fakes import CoordinateModel, RecordingModel, coordinate_image, fake_spec, read_records
from tests.runs import ArraySource, drive, labels_of, make_run, segment

pytestmark = pytest.mark.usefixtures("local_ray")

CUT_2D: dict[str, Any] = {"window": (12, 16), "overlap": (4, 4), "block": (16, 24), "batch": 2, "threads": 1}
CUT_3D: dict[str, Any] = {"window": (4, 8, 6), "overlap": (2, 2, 0), "block": (4, 12, 12), "threads": 1}


@pytest.fixture(scope="module")
def pair(local_ray: None) -> Iterator[RayEngine]:
    """Two actors for the module, both alive: a worker that died is replaced, so tests that kill share it too."""
    for e in closing(engine(2, depth=2)):
        end = time.monotonic() + 120
        while e.room() < 2 * 2:  # or the first would do all the work while the second is still being born
            assert time.monotonic() < end, "two actors did not start in 120 s"
            e.wait(1.0)
        yield e


@pytest.fixture(scope="module")
def single(local_ray: None) -> Iterator[RayEngine]:
    yield from closing(engine(1))


def engine(workers: int, **options: Any) -> RayEngine:
    settings = Settings(model=("fake",), workers=workers)
    return RayEngine(settings, **{"make_worker": PickledWorker, "patience": 120} | options)


def closing(e: RayEngine) -> Iterator[RayEngine]:
    try:
        yield e
    finally:
        e.close()


class PickledWorker(Worker):
    """Finds scene, model and trap as files in the run directory: any actor can take any test's job."""

    def __init__(self, name: str) -> None:
        super().__init__(name, load=lambda run: pickle.loads(run.store.get("model.pkl")), open_source=open_array)

    def run(self, uri: str, job: Job, **options: Any) -> Any:
        trap = Path(uri, "trap.pkl")
        if trap.exists():
            pickle.loads(trap.read_bytes())(job)
        return super().run(uri, job, **options)


class FileSource(ArraySource):
    """An array that is named by its file, so that workers find it."""

    @property
    def info(self) -> SourceInfo:
        return replace(super().info, uri=str(self.path))

    path: Path


def open_array(record: SourceRecord) -> ArraySource:
    return ArraySource(np.load(record.uri))


def scene(folder: Path, extent: tuple[int, ...]) -> FileSource:
    """Pixels that say where they are, and noise in the last channel."""
    where = coordinate_image(extent)
    noise = np.random.default_rng(3).integers(0, 1000, (1, *extent)).astype(where.dtype)
    source = FileSource(np.concatenate([where, noise]))
    source.path = folder / "scene.npy"
    np.save(source.path, source.pixels)
    return source


def model_for(source: ArraySource) -> CoordinateModel:
    return CoordinateModel(fake_spec(5, len(source.pixels), source.pixels.ndim - 1))


def stage(folder: Path, source: ArraySource, model: Model, trap: Trap | None = None, **cut: Any) -> Run:
    """A run that workers elsewhere can do, with a ``trap`` that each of its jobs passes first."""
    run = make_run(folder, source, model.spec, **cut)
    run.store.put("model.pkl", pickle.dumps(model))
    if trap is not None:
        run.store.put("trap.pkl", pickle.dumps(trap))
    return run


def prepare(folder: Path, trap: Trap | None = None) -> tuple[Run, NDArray[Any]]:
    """A run of 3 by 3 blocks, and the labels it has to end with."""
    source = scene(folder, (53, 61))
    model = model_for(source)
    return stage(folder / "ray", source, model, trap, **CUT_2D), labels_of(
        segment(folder / "serial", source, model, **CUT_2D)
    )


Trap = Callable[[Job], None]


@dataclass(frozen=True)
class Dies:
    """Ends the process as it begins ``job``: the first ``times``, over all processes."""

    marks: Path
    job: Job
    times: int

    def __call__(self, job: Job) -> None:
        if job == self.job and self.deaths < self.times:
            self.marks.mkdir(exist_ok=True)
            (self.marks / f"{os.getpid()}").touch()
            time.sleep(0.3)  # as a real job would: the answer to the one before it has left
            os._exit(9)

    @property
    def deaths(self) -> int:
        return len(list(self.marks.glob("*")))


@dataclass(frozen=True)
class Raises:
    job: Job
    make: Callable[[], Exception]

    def __call__(self, job: Job) -> None:
        if job == self.job:
            raise self.make()


@dataclass(frozen=True)
class Loses:
    """Removes a piece, once, as its reader begins."""

    folder: Path
    key: str
    reader: Job

    def __call__(self, job: Job) -> None:
        mark = self.folder / "lost"
        if job == self.reader and not mark.exists():
            mark.touch()
            next(self.folder.glob(f"ray/*/{self.key}")).unlink()


@pytest.mark.parametrize(("extent", "cut"), [((53, 61), CUT_2D), ((9, 29, 23), CUT_3D)])
@pytest.mark.parametrize("workers", [1, 2])
def test_labels_are_the_serial_ones_and_each_window_is_seen_once(
    request: pytest.FixtureRequest, tmp_path: Path, extent: tuple[int, ...], cut: dict[str, Any], workers: int
) -> None:
    source = scene(tmp_path, extent)
    model = model_for(source)
    expected = labels_of(segment(tmp_path / "serial", source, model, **cut))
    assert len(np.unique(expected)) == 5
    log = tmp_path / "windows"
    run = stage(tmp_path / "ray", source, RecordingModel(model, log), **cut)
    ledger, given_up = drive(run, request.getfixturevalue("single" if workers == 1 else "pair"))
    assert (given_up, ledger.failed, ledger.remaining) == ({}, set(), 0)
    np.testing.assert_array_equal(labels_of(run), expected)
    records = list(read_records(log))
    seen = Counter(tuple(map(int, r.first[: len(extent)])) for r in records)
    assert seen == Counter(run.grid.window_box(k).start for j in run.grid.blocks() for k in run.grid.owned(j))
    assert len({r.process for r in records}) == workers
    assert len({r.worker for r in run.receipts("infer")}) == workers


def test_a_worker_that_dies_in_the_middle_costs_nothing(tmp_path: Path, pair: RayEngine) -> None:
    dies = Dies(tmp_path / "marks", Job("infer", (1, 1)), times=1)
    run, expected = prepare(tmp_path, dies)
    ledger, given_up = drive(run, pair)
    assert dies.deaths == 1
    assert (given_up, ledger.failed, ledger.remaining) == ({}, set(), 0)
    np.testing.assert_array_equal(labels_of(run), expected)
    attempts = {r.job: r.attempt for r in run.receipts()}
    assert attempts.pop(dies.job) == 2
    assert set(attempts.values()) == {1}, "the job that was queued behind the deadly one was not to blame"


def test_a_block_that_kills_every_worker_is_quarantined_and_named(tmp_path: Path, pair: RayEngine) -> None:
    poison = Job("infer", (1, 0))
    dies = Dies(tmp_path / "marks", poison, times=99)
    run, _ = prepare(tmp_path, dies)
    ledger, given_up = drive(run, pair)
    assert (given_up, ledger.failed) == ({}, {poison})
    assert dies.deaths == 3
    (failure,) = run.failures()
    assert (failure.stage, failure.index, failure.attempts) == ("infer", (1, 0), 3)
    assert "ActorDiedError" in failure.error
    assert failure.worker
    assert {r.index for r in run.receipts("stitch") if r.missing} == {(1, 0), (1, 1), (2, 0), (2, 1)}


def changed() -> Exception:
    return SourceChangedError("the scene changed")


def test_a_source_that_changed_ends_its_run_and_not_the_workers(tmp_path: Path, pair: RayEngine) -> None:
    run, _ = prepare(tmp_path, Raises(Job("ingest", (0, 1)), changed))
    _, given_up = drive(run, pair)
    (error,) = given_up.values()
    assert type(error) is SourceChangedError
    assert str(error) == "the scene changed"


def test_a_piece_that_is_gone_is_made_again_by_its_writer(tmp_path: Path, pair: RayEngine) -> None:
    """MissingPieceError crosses from the actor with the block that has to run again."""
    run, expected = prepare(tmp_path)
    loses = Loses(tmp_path, run.partial_key((1, 1), (0, 0)), Job("stitch", (1, 1)))
    run.store.put("trap.pkl", pickle.dumps(loses))
    ledger, given_up = drive(run, pair)
    assert (given_up, ledger.failed, ledger.lost) == ({}, set(), {Job("infer", (0, 0))})
    np.testing.assert_array_equal(labels_of(run), expected)


class UnportableError(RuntimeError):
    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} is not {right}")


@pytest.mark.parametrize(
    "error",
    [
        MissingPieceError((1, 2), "gone"),
        SourceChangedError("changed"),
        StoreError("disk is full"),
        BlockError("no"),
        FileNotFoundError(2, "No such file", "a.tif"),
    ],
)
def test_errors_keep_their_type_and_say_where_they_came_from(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        raise error
    arrived = pickle.loads(pickle.dumps(portable(raised.value)))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert "in the worker: Traceback" in arrived.__notes__[0]
    if isinstance(error, MissingPieceError):
        assert arrived.writer == (1, 2)


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    arrived = portable(UnportableError(1, 2))
    assert type(arrived) is BlockError
    assert str(arrived) == "UnportableError: 1 is not 2"


def dead_on_arrival(name: str) -> Worker:
    raise ModuleNotFoundError("No module named 'seamline_of_the_driver'")


def test_workers_that_never_live_end_the_run_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_STILLBORN", 2)  # each costs the start of a process
    run, _ = prepare(tmp_path)
    for e in closing(engine(1, make_worker=dead_on_arrival)):
        _, given_up = drive(run, e)
    message = str(given_up[run.uri])
    assert "2 workers died as they started" in message
    assert "No module named 'seamline_of_the_driver'" in message
    assert "the same command goes on where this one stopped" in message


def test_a_cluster_that_is_too_small_is_an_error_not_a_wait(tmp_path: Path) -> None:
    run, _ = prepare(tmp_path)
    for e in closing(engine(1, threads=64, patience=1.5)):
        _, given_up = drive(run, e)
    error = given_up[run.uri]
    assert isinstance(error, StuckError)
    assert "no worker came to life in 2 s: a worker needs CPUs, and the Ray cluster has 4 CPU, 1 GPU" in str(error)
    assert "use fewer --workers" in str(error)


def test_a_gpu_that_torch_cannot_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This Ray claims a GPU: the actor gets it, and no CPU, and finds that torch has none."""
    monkeypatch.setattr(workers, "MAX_STILLBORN", 1)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    run, _ = prepare(tmp_path)
    for e in closing(engine(1, device="cuda")):
        _, given_up = drive(run, e)
    assert "the GPU '0', but torch sees no CUDA device" in str(given_up[run.uri])
    assert "use --device cpu" in str(given_up[run.uri])


def test_cpu_workers_take_no_inference_of_a_run_planned_for_cuda(pair: RayEngine) -> None:
    order = Order("runs/a", Job("infer", (0, 0)), (), 1, "cuda")
    pair.submit(order)
    (outcome,) = pair.wait(1.0)
    assert outcome.order == order
    assert isinstance(outcome.error, StuckError)
    assert "was planned for cuda and these workers have none" in str(outcome.error)


def test_shares_of_a_gpu() -> None:
    def share(gpus: float, **settings: Any) -> tuple[int, float]:
        return gpu_share(Settings(model=("fake",), **settings), gpus)

    assert share(4) == (4, 1.0)
    assert share(4, workers=2) == (2, 1.0)
    assert share(4, workers=8) == (8, 0.5)
    assert share(2, workers=5) == (5, 0.3333)
    assert share(0) == (1, 1.0)
    assert share(0, workers=3) == (3, 1.0)


def test_what_the_cluster_is_said_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cancel", None)  # not of a task that has answered: Ray 2.60 then aborts at times
    found = cluster_hardware(Settings(model=("fake",), device="cpu"), patience=120)
    assert found == replace(found, device="cpu", threads=cpu_count(), bf16=False)
    assert found.memory_bytes > 0


def test_every_worker_of_a_cluster_gets_an_even_share() -> None:
    node = Hardware("cpu", threads=16, memory_bytes=64)
    assert per_worker(node, 1, 4) == node
    assert per_worker(node, 4, 4) == Hardware("cpu", 64, 256)
    assert per_worker(node, 6, 4) == Hardware("cpu", 48, 192)  # two on a node: 8 threads and 32 bytes each
    assert per_worker(node, 3, 0) == Hardware("cpu", 15, 63)
