"""SIGKILL at random moments, of Ray workers and of their driver: the same bytes, and nothing is done twice."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest

from pipeline.run import Run
from pipeline.status import read_status
from tests import killed_on_ray as on_ray

BATCH_SECONDS = 0.1
"""Of the fake model: a block has two batches, so that most kills fall into inference."""

PATIENCE = 120.0
"""For anything that is waited for: Ray starts slowly where other tests run beside it."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = on_ray.segment_serially(tmp_path_factory.mktemp("undisturbed"))
    assert read_status(run).status == "complete"
    return run


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """A short path: the names of sockets below it are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        yield folder


def until(what: str, true: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.01)


@dataclass
class Assault:
    """One run that is killed again and again.

    within  how many infer receipts there were at each kill
    doing   the stage that each worker which died was in
    before  modification time of every receipt that was there at the last kill
    """

    folder: Path
    ray_folder: str
    run: Run
    rng: random.Random
    within: list[int] = field(default_factory=list)
    doing: Counter[str] = field(default_factory=Counter)
    before: dict[str, int] = field(default_factory=dict)
    victims: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, folder: Path, ray_folder: str, seed: int) -> Assault:
        return cls(folder, ray_folder, on_ray.planned(folder), random.Random(seed))

    def start(self) -> ForkServerProcess:
        return on_ray.start_driver(self.folder, BATCH_SECONDS, self.ray_folder)

    def receipts(self) -> dict[str, int]:
        found = Path(self.run.uri).glob("receipts/*/*.json")
        return {f"{path.parent.name}/{path.stem}": path.stat().st_mtime_ns for path in found}

    def n_inferred(self) -> int:
        return len(list(Path(self.run.uri).glob("receipts/infer/*.json")))

    def nothing_was_done_twice(self) -> None:
        """Called when nobody writes receipts that were there before: they are as old as they were."""
        now = self.receipts()
        assert {key: now.get(key) for key in self.before} == self.before
        self.before = now

    def wait_for_progress(self, driver: ForkServerProcess, longest: float) -> None:
        """Until inference has gone on since the last kill, and for a random while more."""
        lowest = (self.within[-1] if self.within else 0) + 1
        until("the next block is inferred", lambda: self.n_inferred() >= lowest or not driver.is_alive())
        time.sleep(self.rng.uniform(0, longest))

    def kill_worker(self) -> None:
        """One that lives, and whose job was not yet killed twice: a third time would make it poison, as it should."""
        victims: list[tuple[psutil.Process, str]] = []

        def find() -> bool:
            victims[:] = [(p, job) for p, job in on_ray.living_workers(self.folder).items() if self.victims[job] < 2]
            return bool(victims)

        until("a worker lives", find)
        process, job = self.rng.choice(victims)
        self._count([job])
        process.kill()
        until("the worker is gone", lambda: process not in on_ray.living_workers(self.folder))
        self.nothing_was_done_twice()

    def kill_driver(self, driver: ForkServerProcess) -> None:
        """Its workers have to die with it: they would go on writing beside those of the next driver."""
        self._count(list(on_ray.living_workers(self.folder).values()))
        driver.kill()
        driver.join(PATIENCE)
        until("its workers are gone", lambda: not on_ray.living_workers(self.folder))
        self.nothing_was_done_twice()

    def _count(self, jobs: list[str]) -> None:
        self.within.append(self.n_inferred())
        for job in jobs:
            self.victims[job] += bool(job)
            self.doing[job.partition("/")[0] or "between jobs"] += 1

    def n_within_inference(self) -> int:
        return sum(0 < n < self.n_blocks for n in self.within)

    @property
    def n_blocks(self) -> int:
        return sum(1 for _ in self.run.grid.blocks())

    def finish(self, driver: ForkServerProcess) -> None:
        driver.join(PATIENCE)
        assert driver.exitcode == 0

    def is_the_same_as(self, undisturbed: Run) -> None:
        self.nothing_was_done_twice()
        status = read_status(self.run)
        assert (status.status, status.failures) == ("complete", ())
        assert shards_of(self.run) == shards_of(undisturbed)

    def __str__(self) -> str:
        return (
            f"{len(self.within)} kills, {self.n_within_inference()} between the first and the last of {self.n_blocks} "
            f"infer receipts, which were {self.within}; workers that died were in {dict(self.doing)}"
        )


def shards_of(run: Run) -> dict[str, bytes]:
    """Every stored object of the scene: shards, and the metadata of arrays and groups."""
    return {e.key: run.store.get(e.key) for e in run.store.list("scene.zarr")}


def test_a_worker_and_then_the_driver_are_killed(tmp_path: Path, ray_folder: str, undisturbed: Run) -> None:
    assault = Assault.of(tmp_path, ray_folder, seed=1)
    driver = assault.start()
    assault.wait_for_progress(driver, 0.5)
    assault.kill_worker()
    assault.wait_for_progress(driver, 0.5)
    assault.kill_driver(driver)
    assert assault.n_within_inference() == 2, str(assault)
    assert on_ray.segment_serially(tmp_path).uri == assault.run.uri
    assault.is_the_same_as(undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_workers_are_killed_and_the_run_goes_on(tmp_path: Path, ray_folder: str, undisturbed: Run) -> None:
    assault = Assault.of(tmp_path, ray_folder, seed=2)
    driver = assault.start()
    for _ in range(20):
        assault.wait_for_progress(driver, 0.3)
        assert driver.is_alive(), str(assault)
        assault.kill_worker()
    assault.finish(driver)
    print(assault)  # noqa: T201 - docs/reliability.md has its figures from here
    assert assault.n_within_inference() >= 15, str(assault)
    assault.is_the_same_as(undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_twenty_drivers_are_killed_and_the_next_goes_on(tmp_path: Path, ray_folder: str, undisturbed: Run) -> None:
    assault = Assault.of(tmp_path, ray_folder, seed=3)
    for kill in range(20):
        driver = assault.start()
        if kill:
            assault.wait_for_progress(driver, 0.5)
        else:
            driver.join(assault.rng.uniform(0, 5))  # in the start of Ray, or of its workers
        assert driver.is_alive(), str(assault)
        assault.kill_driver(driver)
    assault.finish(assault.start())
    print(assault)  # noqa: T201 - docs/reliability.md has its figures from here
    assert assault.n_within_inference() >= 15, str(assault)
    assault.is_the_same_as(undisturbed)
