"""A driver on a Ray of its own that can be killed, and its workers too: each of them says what it is doing."""

from __future__ import annotations

import multiprocessing
import os
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from flows.serial import SerialEngine
from pipeline.receipts import Job, Receipt
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.worker import Worker
from tests import killed
from tests.runs import ArraySource, drive, make_run, make_worker

WORKERS = 2


def scene() -> ArraySource:
    """108 blocks of 24 x 24: enough that twenty kills, each after some progress, fall into their inference."""
    return killed.scene(extent=(283, 207))


def planned(folder: Path) -> Run:
    return make_run(folder, scene(), killed.model().spec, **killed.SETTINGS)


def segment_serially(folder: Path) -> Run:
    """The rest of the run in this process, as fast as it goes."""
    run = planned(folder)
    drive(run, SerialEngine(make_worker(scene(), killed.model())))
    return run


class WatchedWorker(Worker):
    """Writes the name of its job into a file that bears its process id, for as long as the job takes."""

    def __init__(self, folder: Path, seconds: float, name: str) -> None:
        super().__init__(name, load=lambda _: killed.model(seconds), open_source=lambda _: scene())
        self.mark = marks(folder) / str(os.getpid())
        self.mark.parent.mkdir(exist_ok=True)
        self.mark.touch()

    def run(self, uri: str, job: Job, **options: Any) -> Receipt:
        self.mark.write_text(f"{job.stage}/{job.name}")
        try:
            return super().run(uri, job, **options)
        finally:
            self.mark.write_text("")


def marks(folder: Path) -> Path:
    return folder / "workers"


def drive_to_end(folder: Path, seconds: float, ray_folder: str) -> None:
    """What the killed process runs. ``ray_folder`` has to be short: Ray puts sockets below it."""
    os.environ["RAY_TMPDIR"] = ray_folder
    from flows.workers import RayEngine

    settings = Settings.model_validate({"model": ["fake"], "workers": WORKERS})
    engine = RayEngine(settings, make_worker=partial(WatchedWorker, folder, seconds))
    try:
        drive(planned(folder), engine)
    finally:
        engine.close()


def start_driver(folder: Path, seconds: float, ray_folder: str) -> ForkServerProcess:
    """As ``killed.start_driver``: forked from a process without threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=drive_to_end, args=(folder, seconds, ray_folder), daemon=True)
    process.start()
    return process


def living_workers(folder: Path) -> dict[psutil.Process, str]:
    """Workers that were born and have not ended, and the job of each, empty between jobs.

    The mark of a process that has ended is removed, so that one which inherits its number is never taken for it.
    """
    found = {}
    for mark in marks(folder).glob("*"):
        try:
            process = psutil.Process(int(mark.name))
            if process.create_time() <= mark.stat().st_mtime and process.status() != psutil.STATUS_ZOMBIE:
                found[process] = mark.read_text()
                continue
        except psutil.NoSuchProcess:
            pass
        mark.unlink()
    return found
