"""The job loop, driven by a scripted engine: what it starts, repeats, heals, gives up, and that it always ends."""

from __future__ import annotations

import tempfile
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flows import pool
from flows.pool import MAX_HEALS, MAX_LOSSES, Event, Order, Outcome, StuckError, run_jobs
from pipeline.errors import BlockError, SourceChangedError, StoreError
from pipeline.ledger import Ledger, all_jobs
from pipeline.receipts import Job
from pipeline.run import Run
from pipeline.stitch import MissingPieceError
from tests.fakes import CoordinateModel, fake_spec
from tests.runs import ArraySource, drive, labels_of, make_run, make_worker, segment
from tests.strategies import busy_grids
from tiling import Grid, Index

Script = Callable[[Order], Exception | None]
"""What goes wrong with an order: nothing, an error of the job, or LOST."""


class LostError(Exception):
    """The worker is gone."""


@dataclass
class ScriptedEngine:
    """Does jobs in this process, but for what the script says; ends them in any order that ``pick`` chooses."""

    worker: Any
    script: Script = lambda order: None
    slots: int = 3
    pick: Callable[[int], int] = lambda n: 0
    orders: list[Order] = field(default_factory=list)
    flying: deque[Order] = field(default_factory=deque)
    waits: int = 0

    def room(self) -> int:
        return self.slots - len(self.flying)

    def submit(self, order: Order) -> None:
        assert self.room() > 0
        self.orders.append(order)
        self.flying.append(order)

    def wait(self, seconds: float) -> Sequence[Outcome]:
        self.waits += 1
        assert self.waits < 20_000, "the loop spins"
        if not self.flying:
            return ()
        self.flying.rotate(-self.pick(len(self.flying)))
        order = self.flying.popleft()
        error = self.script(order)
        if error is not None:
            return (Outcome(order, error=error, lost=isinstance(error, LostError), worker="w"),)
        try:
            return (
                Outcome(order, self.worker.run(order.uri, order.job, missing=order.missing, attempt=order.attempt)),
            )
        except Exception as e:  # noqa: BLE001 - as engines do
            return (Outcome(order, error=e, worker="w"),)

    def close(self) -> None:
        return

    @property
    def counts(self) -> Counter[Job]:
        return Counter(order.job for order in self.orders)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backing off is a matter of the clock; here each look at it is ten seconds later."""
    ticks = iter(range(0, 10**9, 10))
    monkeypatch.setattr(pool.time, "monotonic", lambda: float(next(ticks)))


CUT: dict[str, Any] = {"window": (12, 16), "overlap": (4, 4), "block": (16, 24)}


@dataclass(frozen=True)
class Case:
    folder: Path
    source: ArraySource
    model: CoordinateModel

    @property
    def worker(self) -> Any:
        return make_worker(self.source, self.model)

    def run(self, **cut: Any) -> Run:
        return make_run(self.folder / "run", self.source, self.model.spec, **(cut or CUT))

    def engine(self, script: Script = lambda order: None, **options: Any) -> ScriptedEngine:
        return ScriptedEngine(self.worker, script, **options)

    def expected(self, **cut: Any) -> NDArray[Any]:
        return labels_of(segment(self.folder / "expected", self.source, self.model, **(cut or CUT)))


def case_of(folder: Path, extent: tuple[int, ...]) -> Case:
    pixels = np.random.default_rng(5).integers(0, 256, (1, *extent)).astype(np.uint8)
    return Case(folder, ArraySource(pixels), CoordinateModel(fake_spec(4, 1, len(extent))))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return case_of(tmp_path, (40, 60))


def once(job: Job, error: Exception, times: int = 1) -> Script:
    left = [times]

    def script(order: Order) -> Exception | None:
        if order.job != job or not left[0]:
            return None
        left[0] -= 1
        return error

    return script


def always(*jobs: Job) -> Script:
    return lambda order: BlockError("broken") if order.job in jobs else None


def failed_windows(run: Run, blocks: set[Index]) -> NDArray[np.bool_]:
    """Which pixels a window of one of these blocks would have covered, window by window."""
    lacking = np.zeros(run.grid.extent, bool)
    for j in blocks:
        for k in run.grid.owned(j):
            lacking[run.grid.window_box(k).slices()] = True
    return lacking


# ordinary runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2, 5, 100])
def test_every_job_runs_once(case: Case, slots: int) -> None:
    run, engine = case.run(), case.engine(slots=slots)
    ledger, given_up = drive(run, engine)
    assert (given_up, ledger.remaining) == ({}, 0)
    assert engine.counts == Counter(all_jobs(run))
    np.testing.assert_array_equal(labels_of(run), case.expected())


def test_a_job_starts_when_what_it_reads_exists_and_the_most_urgent_first(case: Case) -> None:
    """One slot: a stitch starts as soon as it can, and the scene is never ingested ahead of inference."""
    run, engine = case.run(), case.engine(slots=1)
    drive(run, engine)
    order = {o.job: n for n, o in enumerate(engine.orders)}
    grid = run.grid
    for j in grid.blocks():
        assert all(order[Job("ingest", i)] < order[Job("infer", j)] for i in grid.touching(grid.read(j)))
        assert order[Job("infer", j)] < order[Job("stitch", j)]
    first_stitch = min(n for job, n in order.items() if job.stage == "stitch")
    last_ingest = max(n for job, n in order.items() if job.stage == "ingest")
    assert first_stitch < last_ingest


def test_two_runs_share_the_workers(tmp_path: Path) -> None:
    cases = [case_of(tmp_path / name, (40, 60)) for name in "ab"]
    runs = [c.run() for c in cases]
    engine = cases[0].engine(slots=200)
    assert run_jobs([Ledger(run) for run in runs], engine) == {}
    assert {o.uri for o in engine.orders[:20]} == {run.uri for run in runs}
    for run, c in zip(runs, cases, strict=True):
        np.testing.assert_array_equal(labels_of(run), c.expected())


def test_an_engine_without_room_is_waited_for(case: Case) -> None:
    """Ray's actors take seconds to start: until then there is no room, and the run must not end for that."""

    class Late(ScriptedEngine):
        def room(self) -> int:
            return super().room() if self.waits >= 5 else 0

    engine = Late(case.worker)
    ledger, _ = drive(case.run(), engine)
    assert ledger.remaining == 0
    assert engine.waits > 5


# failures -----------------------------------------------------------------------------------------------------


def test_a_failure_that_passes_is_repeated(case: Case) -> None:
    run, events = case.run(), []
    job = Job("infer", (1, 1))
    engine = case.engine(once(job, BlockError("a hiccup")))
    ledger, given_up = drive(run, engine, on_event=events.append)
    assert (given_up, ledger.failed) == ({}, set())
    assert engine.counts[job] == 2
    (retry,) = [e for e in events if e.kind != "done"]
    assert (retry.kind, retry.job) == ("retry", job)
    assert "a hiccup" in retry.message
    receipt = run.receipt(job)
    assert receipt is not None
    assert receipt.attempt == 2
    assert run.failures() == []


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_a_failure_that_stays_is_quarantined_after_so_many_attempts(case: Case, attempts: int) -> None:
    run, job = case.run(), Job("infer", (0, 1))
    engine = case.engine(always(job))
    ledger, given_up = drive(run, engine, attempts=attempts)
    assert (given_up, ledger.failed) == ({}, {job})
    assert engine.counts[job] == attempts
    (failure,) = run.failures()
    assert (failure.stage, failure.index, failure.attempts, failure.worker) == ("infer", (0, 1), attempts, "w")
    assert "broken" in failure.error
    assert "BlockError: broken" in failure.detail


def test_a_job_that_kills_its_workers_is_poison(case: Case) -> None:
    run, job = case.run(), Job("infer", (0, 0))
    engine = case.engine(lambda o: LostError("died") if o.job == job else None)
    ledger, _ = drive(run, engine, attempts=1)
    assert ledger.failed == {job}
    assert engine.counts[job] == MAX_LOSSES == run.failures()[0].attempts


def test_workers_lost_to_other_causes_do_not_count_as_attempts(case: Case) -> None:
    run, job = case.run(), Job("infer", (0, 0))
    ledger, _ = drive(run, case.engine(once(job, LostError("preempted"), MAX_LOSSES - 1)), attempts=1)
    assert ledger.failed == set()
    np.testing.assert_array_equal(labels_of(run), case.expected())


def test_what_depends_on_a_failed_ingest_is_not_even_tried(case: Case) -> None:
    run, bad = case.run(), Job("ingest", (0, 0))
    engine = case.engine(always(bad))
    ledger, given_up = drive(run, engine)
    grid = run.grid
    hopeless = {Job("infer", j) for j in grid.blocks() if (0, 0) in set(grid.touching(grid.read(j)))}
    assert given_up == {}
    assert ledger.failed == {bad} | hopeless
    assert not hopeless & set(engine.counts)
    messages = {(f.stage, f.index): f.error for f in run.failures()}
    assert messages["infer", (0, 0)] == "ingest 0.0 failed before it"


def test_pixels_of_a_block_that_could_not_be_read_are_unresolved_and_not_nodata(case: Case) -> None:
    """What its validity was is not known: it counts as failed, and the tallies still sum to the extent."""
    run = case.run()
    drive(run, case.engine(always(Job("ingest", (0, 0)))))
    labels = labels_of(run)
    assert (labels[run.grid.write((0, 0)).slices()] == 255).all()
    assert not (labels == 254).any()
    pixels = Counter[str]()
    for receipt in run.receipts("stitch"):
        pixels.update(receipt.pixels)
    assert pixels["predicted"] + pixels["nodata"] + pixels["failed"] == labels.size
    assert (pixels["nodata"], pixels["failed"]) == (0, int((labels == 255).sum()))


# what is lost heals ---------------------------------------------------------------------------------------------


def test_a_piece_that_is_gone_is_made_again(case: Case) -> None:
    run, events = case.run(), []
    reader, writer = Job("stitch", (1, 1)), (0, 0)
    seen = []

    def lose(order: Order) -> None:
        if order.job == reader and not seen:
            seen.append(order)
            run.store.delete(run.partial_key((1, 1), writer))

    engine = case.engine(lose)
    ledger, given_up = drive(run, engine, on_event=events.append)
    assert (given_up, ledger.failed, ledger.lost) == ({}, set(), {Job("infer", writer)})
    assert {job: n for job, n in engine.counts.items() if n > 1} == {reader: 2, Job("infer", writer): 2}
    (healed,) = [e for e in events if e.kind == "healed"]
    assert healed.message.startswith("runs infer (0, 0) again")
    np.testing.assert_array_equal(labels_of(run), case.expected())


def test_a_piece_that_is_gone_each_time_fails_the_block_in_the_end(case: Case) -> None:
    run, reader = case.run(), Job("stitch", (1, 1))
    engine = case.engine(lambda o: MissingPieceError((0, 0), "no such piece") if o.job == reader else None)
    ledger, given_up = drive(run, engine)
    assert (given_up, ledger.failed) == ({}, {reader})
    assert engine.counts[reader] == MAX_HEALS + 2
    assert "no such piece" in run.failures()[0].error


def test_a_block_that_another_driver_has_stitched_is_done(case: Case) -> None:
    """Its pieces are gone because the other one removed them; its receipt says so."""
    run, reader = case.run(), Job("stitch", (1, 1))

    def other(order: Order) -> None:
        if order.job == reader:
            case.worker.run(run.uri, reader)

    engine = case.engine(other)
    ledger, given_up = drive(run, engine)
    assert (given_up, ledger.failed, ledger.lost) == ({}, set(), set())
    assert set(engine.counts.values()) == {1}
    np.testing.assert_array_equal(labels_of(run), case.expected())


# what ends a run as a whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [SourceChangedError("other bytes"), StoreError("no space left"), StuckError("no GPU for it")]
)
def test_what_would_fail_every_block_ends_its_run_and_no_other(tmp_path: Path, error: Exception) -> None:
    cases = [case_of(tmp_path / name, (40, 60)) for name in "ab"]
    runs = [c.run() for c in cases]
    ledgers = [Ledger(run) for run in runs]
    engine = cases[0].engine(lambda o: error if o.uri == runs[0].uri and o.job.stage == "infer" else None)
    assert run_jobs(ledgers, engine) == {runs[0].uri: error}
    assert ledgers[0].remaining > 0
    assert ledgers[1].remaining == 0
    assert runs[0].failures() == []
    np.testing.assert_array_equal(labels_of(runs[1]), cases[1].expected())


def test_a_store_that_refuses_once_is_tried_again(case: Case) -> None:
    ledger, given_up = drive(case.run(), case.engine(once(Job("infer", (0, 0)), StoreError("busy"))))
    assert (given_up, ledger.remaining) == ({}, 0)


def test_a_store_that_refuses_the_loop_itself_ends_the_run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure cannot be written down: the run is given up with that reason instead of a traceback."""
    run, job = case.run(), Job("infer", (0, 0))

    def refuse(*args: object) -> None:
        raise StoreError("cannot write failures")

    engine = case.engine(always(job))
    ledger = Ledger(run)
    monkeypatch.setattr(type(run.store), "put", lambda self, key, data: refuse() if "failures" in key else None)
    engine.worker = DoesNothing()
    given_up = run_jobs([ledger], engine)
    assert str(given_up[run.uri]) == "cannot write failures"


class DoesNothing:
    def run(self, uri: str, job: Job, *, missing: tuple[Index, ...], attempt: int) -> Any:
        from pipeline.receipts import Receipt

        return Receipt(stage=job.stage, index=job.index, outputs={})


def test_an_engine_that_is_stuck_gives_up_what_is_left_and_says_why(tmp_path: Path) -> None:
    cases = [case_of(tmp_path / name, (40, 60)) for name in "ab"]
    ledgers = [Ledger(c.run()) for c in cases]
    drive(ledgers[0].run, cases[0].engine())
    done = Ledger(ledgers[0].run)

    class Stuck(ScriptedEngine):
        def wait(self, seconds: float) -> Sequence[Outcome]:
            raise StuckError("no worker came to life")

    given_up = run_jobs([done, ledgers[1]], Stuck(cases[1].worker))
    assert {uri: str(e) for uri, e in given_up.items()} == {ledgers[1].run.uri: "no worker came to life"}


# anything may fail ------------------------------------------------------------------------------------------------


@st.composite
def troubled(draw: st.DrawFn) -> tuple[Grid, float, int]:
    return (
        draw(busy_grids(min_ndim=2, max_ndim=3)),
        draw(st.sampled_from([0.05, 0.2, 0.5])),
        draw(st.integers(0, 2**20)),
    )


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(troubled())
def test_exactly_the_pixels_that_lack_a_window_are_unresolved_and_a_rerun_repairs_them(
    trouble: tuple[Grid, float, int],
) -> None:
    grid, share, seed = trouble
    rng = np.random.default_rng(seed)
    bad = {j for j in grid.blocks() if grid.n_owned(j) and rng.random() < share}
    with tempfile.TemporaryDirectory() as folder:
        case = case_of(Path(folder), grid.extent)
        cut = {"window": grid.window, "overlap": grid.overlap, "block": grid.block}
        expected, run = case.expected(**cut), case.run(**cut)

        def script(order: Order) -> Exception | None:
            if order.job.stage == "infer" and order.job.index in bad:
                return BlockError("broken")
            return LostError("preempted") if order.attempt == 1 and (sum(order.job.index) + seed) % 4 == 0 else None

        first = case.engine(script, slots=3, pick=lambda n: int(rng.integers(n)))
        ledger, given_up = drive(run, first)
        assert given_up == {}
        assert ledger.failed == {Job("infer", j) for j in bad}
        lacking = failed_windows(run, bad)
        np.testing.assert_array_equal(labels_of(run), np.where(lacking, 255, expected))

        second = case.engine(slots=3, pick=lambda n: int(rng.integers(n)))
        again, _ = drive(run, second)
        assert (again.remaining, again.failed) == (0, set())
        np.testing.assert_array_equal(labels_of(run), expected)
        missed = {j for j in grid.blocks() if bad & {j, *upstream_of(grid, j)}}
        reran = Counter(job for job in second.counts.elements() if job.stage != "pyramid")
        assert reran == Counter([Job("infer", j) for j in bad] + [Job("stitch", j) for j in missed])
        assert run.failures() == []


def upstream_of(grid: Grid, j: Index) -> set[Index]:
    """By its definition, block by block: those whose reach enters what ``j`` writes."""
    mine = grid.write(j)
    return {i for i in grid.blocks() if i != j and not grid.reach(i).intersect(mine).is_empty and i <= j}


def test_events_tell_of_every_job_that_was_done(case: Case) -> None:
    events: list[Event] = []
    run = case.run()
    drive(run, case.engine(), on_event=events.append)
    assert Counter(e.job for e in events) == Counter(all_jobs(run))
    assert all(e.receipt is not None and e.receipt.job == e.job for e in events)
