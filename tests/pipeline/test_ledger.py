"""The ledger: what may start when, what goes on without what failed, and what another driver did meanwhile."""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.pool import Event, run_jobs
from flows.serial import SerialEngine
from pipeline import plan
from pipeline import run as run_module
from pipeline.errors import StoreError
from pipeline.ledger import Ledger, all_jobs
from pipeline.receipts import STAGES, Job, Receipt, index_of
from pipeline.run import Run
from pipeline.status import read_status
from pipeline.store import Store
from tests.fakes import CoordinateModel, IdentityModel, fake_spec
from tests.runs import ArraySource, drive, labels_of, make_run, make_worker, segment

WINDOWS = {"window": (12,), "overlap": (4,), "block": (16,)}
ZSCORE = {"kind": "zscore"}


def source_of(extent: tuple[int, ...] = (50, 40), access: str = "random") -> ArraySource:
    pixels = np.random.default_rng(1).integers(0, 5, (1, *extent)).astype(np.uint8)
    return ArraySource(pixels, access=access)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Planned, with every stage that there is; nothing is written to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "COARSEST", 16)
        spec = fake_spec(5, normalisation=ZSCORE)
        return make_run(tmp_path_factory.mktemp("ledger"), source_of(access="sequential"), spec, **WINDOWS)


def walk(ledger: Ledger, choose: Any, fails: Any = lambda job: False) -> list[Job]:
    """Do every job, up to five at a time, ended in any order; the order in which they started."""
    started: list[Job] = []
    in_flight: list[Job] = []
    while True:
        while len(in_flight) < 5 and (job := ledger.pop()) is not None:
            if ledger.hopeless(job):
                ledger.fail(job)
                continue
            started.append(job)
            in_flight.append(job)
        if not in_flight:
            return started
        job = in_flight.pop(choose(len(in_flight)))
        if fails(job):
            ledger.fail(job)
        else:
            ledger.complete(Receipt(stage=job.stage, index=job.index, outputs={}, missing=ledger.missing(job)))


@given(st.data())
@settings(max_examples=20)
def test_every_job_starts_once_and_after_what_it_reads(run: Run, data: st.DataObject) -> None:
    ledger = Ledger(run)
    seed = data.draw(st.integers(0, 9999))
    rng = np.random.default_rng(seed)
    started = walk(ledger, lambda n: int(rng.integers(n)))
    assert Counter(started) == Counter(all_jobs(run))
    assert ledger.remaining == 0
    assert ledger.total == len(started)
    at = {job: n for n, job in enumerate(started)}
    for job in started:
        for need in ledger._needs(job):
            assert at[need] < at[job], (need, job)
    assert {job.stage for job in started} == set(STAGES)


@given(st.integers(0, 9999), st.floats(0, 0.5))
@settings(max_examples=20)
def test_whatever_fails_the_walk_ends_and_says_what_is_missing(run: Run, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    ledger = Ledger(run)
    bad = {job for job in all_jobs(run) if job.stage in ("infer", "ingest", "stitch") and rng.random() < share}
    walk(ledger, lambda n: int(rng.integers(n)), lambda job: job in bad)
    assert ledger.remaining == 0
    assert ledger.done | ledger.failed == set(all_jobs(run))
    for job in ledger.failed - bad:
        assert any(need in ledger.failed for need in ledger._needs(job))
    assert ledger.left.total() == 0
    assert ledger.whole == sum(job.stage == "stitch" for job in ledger.done - ledger.partial)
    for job in ledger.done:
        lacks = any(n in ledger.failed or n in ledger.partial for n in ledger._needs(job) if n.stage != "ingest")
        if job.stage == "stitch":
            assert bool(job in ledger.partial) == lacks
        if job.stage == "pyramid":
            assert (job in ledger.partial) == lacks


def test_stitching_comes_before_reading_ahead(tmp_path: Path) -> None:
    """Partials are freed before new ones are made, and ingest runs no further ahead than it must."""
    events: list[Event] = []
    source, spec = source_of((160, 40)), fake_spec(5)
    planned = make_run(tmp_path, source, spec, **WINDOWS)
    drive(planned, SerialEngine(make_worker(source, IdentityModel(spec))), on_event=events.append)
    order = [event.job for event in events]
    for j in planned.grid.blocks():
        assert order.index(Job("stitch", j)) - order.index(Job("infer", j)) < 3
    ahead = Counter(job.stage for job in order[: order.index(Job("infer", (3, 0)))])
    assert ahead["ingest"] <= ahead["infer"] + 2 * planned.grid.n_blocks[1] + 2


def test_names_of_jobs() -> None:
    for job in (Job("stitch", (3, 11)), Job("pyramid", (1, 0, 2, 3)), Job("constants", ())):
        assert index_of(job.name) == job.index
        assert job.key == f"receipts/{job.stage}/{job.name}.json"
        assert job.failure_key == f"failures/{job.stage}/{job.name}.json"
    assert str(Job("constants", ())) == "constants all"


# another driver -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken(IdentityModel):
    def scores(self, pixels: Any, valid: Any) -> Any:
        raise RuntimeError("broken here")


def test_what_another_driver_did_meanwhile_is_no_failure(tmp_path: Path) -> None:
    source, spec = source_of(), fake_spec(5)
    mine = make_run(tmp_path, source, spec, **WINDOWS)
    ledger = Ledger(mine)  # knows of nothing that is done
    segment(tmp_path, source, IdentityModel(spec), **WINDOWS)
    engine = SerialEngine(make_worker(source, Broken(spec)))
    assert run_jobs([ledger], engine, attempts=1) == {}
    assert ledger.failed == set()
    assert ledger.remaining == 0
    assert read_status(mine).failures == ()
    np.testing.assert_array_equal(labels_of(mine), source.pixels[0])


def test_a_piece_voided_after_its_writer_failed_leaves_no_reader_waiting(run: Run) -> None:
    ledger = Ledger(run)
    reader, writer = Job("stitch", (0, 1)), Job("infer", (0, 0))
    waiting = walk(ledger, lambda n: 0, lambda job: job in (writer, reader))
    assert waiting
    ledger.failed.discard(reader)
    ledger._waits[reader] = set()
    ledger.void((0, 0), reader)
    assert ledger.pop() == reader
    assert ledger.missing(reader) == ((0, 0),)


# status ---------------------------------------------------------------------------------------------------


def test_status_counts_what_receipts_say(tmp_path: Path) -> None:
    source, spec = source_of(), fake_spec(5)
    source.valid = np.ones((50, 40), bool)
    source.valid[:20, :20] = False
    done = segment(tmp_path, source, CoordinateModel(spec), **WINDOWS)
    status = read_status(done)
    assert (status.status, status.scene, status.run) == ("complete", "scene", done.uri)
    assert status.windows_total == done.grid.n_windows == status.windows_run + status.windows_skipped
    assert status.windows_skipped > 0
    labels = labels_of(done)
    assert status.pixels["predicted"] == (labels < 5).sum()
    assert [status.pixels[f"class:class {n}"] for n in range(5)] == [(labels == n).sum() for n in range(5)]
    assert status.pixels["nodata"] == 400
    assert status.extent_pixels == 2000
    assert {name: (s.done, s.total, s.failed) for name, s in status.stages.items()} == {
        "ingest": (12, 12, 0),
        "constants": (1, 1, 0),
        "infer": (12, 12, 0),
        "stitch": (12, 12, 0),
    }
    assert status.workers == 1
    assert status.seconds > 0
    assert status.peak_bytes > 10**6
    assert json.loads(json.dumps(status.to_json()))["windows_run"] == status.windows_run


def test_status_of_a_run_that_has_not_begun(tmp_path: Path) -> None:
    status = read_status(make_run(tmp_path, source_of(), fake_spec(2), **WINDOWS))
    assert status.status == "incomplete"
    assert (status.windows_run, status.pixels.get("predicted", 0), status.mpx_per_second) == (0, 0, 0.0)
    assert status.stages["infer"].done == 0


def test_neighbouring_blocks_follow_each_other(tmp_path: Path) -> None:
    events: list[Event] = []
    source, spec = source_of(), fake_spec(5)
    planned = make_run(tmp_path, source, spec, **WINDOWS)
    drive(planned, SerialEngine(make_worker(source, IdentityModel(spec))), on_event=events.append)
    order = [event.job.index for event in events if event.job.stage == "infer"]
    order = [j for j in order if planned.grid.n_owned(j)]  # a thin last block reads nothing, and is done any time
    assert len(order) == 9
    assert all(a < b for a, b in pairwise(order))


# large runs -----------------------------------------------------------------------------------------------

READERS = pytest.mark.parametrize("read", [Ledger, read_status], ids=["ledger", "status"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    source, spec = source_of((160, 90)), fake_spec(5)
    return segment(tmp_path_factory.mktemp("finished"), source, IdentityModel(spec), **WINDOWS)


@READERS
def test_receipts_are_read_one_by_one_and_not_kept(
    finished: Run, read: Callable[[Run], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One takes kilobytes, and a large run has hundreds of thousands."""
    alive: list[weakref.ref[Any]] = []
    most = 0
    parsed = run_module._parsed

    def counted(kind: Any, data: bytes | None) -> Any:
        nonlocal most
        found = parsed(kind, data)
        alive.append(weakref.ref(found))
        most = max(most, sum(r() is not None for r in alive))
        return found

    monkeypatch.setattr(run_module, "_parsed", counted)
    assert read(finished)
    assert len(alive) > 150
    assert most <= 2


@READERS
def test_receipts_are_fetched_several_at_a_time(
    finished: Run, read: Callable[[Run], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a bucket each takes tens of milliseconds, nearly all of them waiting."""
    get, lock, now, most = Store.get, threading.Lock(), 0, 0

    def slow(store: Store, key: str) -> bytes:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1
        return get(store, key)

    monkeypatch.setattr(Store, "get", slow)
    read(finished)
    assert most >= 8


def test_a_store_that_refuses_in_between_is_an_error_and_no_end(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    get = Store.get

    def broken(store: Store, key: str) -> bytes:
        if key.endswith("infer/3.2.json"):
            raise StoreError("cannot read it: connection refused")
        return get(store, key)

    monkeypatch.setattr(Store, "get", broken)
    with pytest.raises(StoreError, match="connection refused"):
        read_status(finished)


def test_what_others_leave_in_the_folders_is_passed_over(tmp_path: Path) -> None:
    source, spec = source_of(), fake_spec(5)
    done = segment(tmp_path, source, IdentityModel(spec), **WINDOWS)
    before = read_status(done)
    for key in ("receipts/infer/.DS_Store", "receipts/.DS_Store", "receipts/infer/0.0 copy.json", "failures/x.json"):
        done.store.put(key, b"Bud1")
    done.store.put("failures/infer/0.0.json", b"cut")
    assert read_status(done) == before
    assert Ledger(done).remaining == 0


@pytest.mark.parametrize(
    ("key", "job"),
    [
        ("receipts/pyramid/1.0.2.json", Job("pyramid", (1, 0, 2))),
        ("failures/constants/all.json", Job("constants", ())),
        ("receipts/infer/1.a.json", None),
        ("receipts/other/1.json", None),
        ("x/receipts/infer/1.json", None),
    ],
)
def test_a_key_names_its_job(key: str, job: Job | None) -> None:
    assert Job.of_key(key) == job
