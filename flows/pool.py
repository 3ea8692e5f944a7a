"""The one job loop: every engine is driven by it, and the Prefect flow too.

It keeps a bounded number of jobs in flight, starts each when what it reads exists, retries what may pass,
quarantines what does not, and never waits without a limit. Only job names go out, only receipts come back.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol

from pipeline.errors import NumericsError, RunError, SeamlineError, SourceChangedError, StoreError
from pipeline.ledger import Ledger
from pipeline.receipts import Failure, Job, Receipt
from pipeline.stitch import MissingPieceError
from tiling import Index


@dataclass(frozen=True, slots=True)
class Order:
    """A job of one run, as it is sent to a worker. ``device`` is what it needs: every worker has a cpu."""

    uri: str
    job: Job
    missing: tuple[Index, ...]
    attempt: int
    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back: a receipt, or the error. ``lost`` if it was the worker that failed, not the job."""

    order: Order
    receipt: Receipt | None = None
    error: BaseException | None = None
    lost: bool = False
    worker: str = ""


class Engine(Protocol):
    """Runs orders somewhere. ``room`` is how many more it takes now, perhaps 0; ``wait`` returns what has ended."""

    def room(self) -> int: ...

    def submit(self, order: Order) -> None: ...

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """What ended within ``seconds``, perhaps nothing. Raises StuckError if it can never go on.

        Only a call with nothing to return may last that long: an outcome is handed over at once.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a run, for whoever shows progress."""

    kind: Literal["done", "retry", "failed", "healed"]
    ledger: Ledger
    job: Job
    receipt: Receipt | None = None
    message: str = ""


@dataclass
class Tries:
    """How often each job of one run has been tried, and its fatal error if it has one."""

    attempts: Counter[Job] = field(default_factory=Counter)
    losses: Counter[Job] = field(default_factory=Counter)
    heals: Counter[Job] = field(default_factory=Counter)
    not_before: dict[Job, float] = field(default_factory=dict)
    fatal: BaseException | None = None


MAX_LOSSES = 3
"""Workers that may die over one job before it is quarantined as poison."""

MAX_HEALS = 3
"""Pieces that may turn out to be gone for one job before that counts as a failure of the job."""


class StuckError(RunError):
    """No worker can take the jobs that are left: of one run if it is an outcome's error, of all if it is raised."""


def run_jobs(
    ledgers: Sequence[Ledger],
    engine: Engine,
    *,
    attempts: int = 2,
    on_event: Callable[[Event], None] = lambda _: None,
    tick: float = 1.0,
) -> dict[str, BaseException]:
    """Drive every ledger to its end. Returns the runs that were given up as a whole, uri -> why.

    A failed block does not stop the rest. What stops a whole run is a source that changed, a store that refuses
    to be read or written, or the lack of a worker: going on would only fail every block in turn.
    """
    pool = _Pool(list(ledgers), engine, attempts, on_event)
    while pool.start():
        try:
            outcomes = engine.wait(tick)
        except StuckError as e:
            pool.stop(e)
            break
        for outcome in outcomes:
            pool.take(outcome)
    return {ledger.run.uri: t.fatal for ledger, t in pool.runs() if t.fatal}


class _Pool:
    def __init__(self, ledgers: list[Ledger], engine: Engine, attempts: int, on_event: Callable[[Event], None]) -> None:
        self.ledgers, self.engine, self.max_attempts, self.on_event = ledgers, engine, attempts, on_event
        self.tries = [Tries() for _ in ledgers]
        self.at = {ledger.run.uri: n for n, ledger in enumerate(ledgers)}
        self.in_flight: set[tuple[str, Job]] = set()
        # ended runs are dropped from it: a batch of many small scenes would spend its time looking at them
        self.active = OrderedDict((ledger.run.uri, (ledger, t)) for ledger, t in self.runs() if ledger.remaining)

    def runs(self) -> list[tuple[Ledger, Tries]]:
        return list(zip(self.ledgers, self.tries, strict=True))

    def start(self) -> bool:
        """Submit what may start while there is room; False when nothing is in flight and nothing can come of waiting.

        An engine without room may have some later. One with room, and jobs that remain though none of them is in
        flight, waits for its time, or may start, is a mistake in the ledger: an error rather than a loop for ever.
        """
        waiting, visited = False, []
        for uri, (ledger, tries) in self.active.items():
            if self.engine.room() <= 0:
                break
            visited.append(uri)
            with _fatal_store(tries):
                waiting |= self._start_of(ledger, tries)
        for uri in visited:
            self._drop_ended(uri)
        if self.in_flight or waiting:
            return True
        left = {uri: ledger.remaining for uri, (ledger, _) in self.active.items()}
        if left and self.engine.room() > 0:
            raise RunError(f"jobs remain that wait for none that runs: {left}; this is a mistake in Seamline")
        return bool(left)

    def stop(self, error: StuckError) -> None:
        """Give up every run that has work left."""
        for _, tries in self.active.values():
            tries.fatal = error

    def _drop_ended(self, uri: str) -> None:
        entry = self.active.get(uri)
        if entry and (entry[1].fatal or not entry[0].remaining):
            del self.active[uri]

    def _start_of(self, ledger: Ledger, tries: Tries) -> bool:
        """Submit jobs of one run; whether some of them wait for their time."""
        later = []
        while self.engine.room() > 0 and (job := ledger.pop()) is not None:
            if culprit := ledger.hopeless(job):
                self._give_up(ledger, job, f"{culprit} failed before it", "", 0, "")
            elif tries.not_before.get(job, 0.0) > time.monotonic():
                later.append(job)
            else:
                self._submit(ledger, tries, job)
        for job in later:
            ledger.push(job)
        return bool(later)

    def _submit(self, ledger: Ledger, tries: Tries, job: Job) -> None:
        attempt = tries.attempts[job] + tries.losses[job] + 1
        device = ledger.run.manifest.numerics.device if job.stage == "infer" else "cpu"
        self.in_flight.add((ledger.run.uri, job))
        self.engine.submit(Order(ledger.run.uri, job, ledger.missing(job), attempt, device))

    def take(self, outcome: Outcome) -> None:
        order = outcome.order
        self.in_flight.discard((order.uri, order.job))
        ledger, tries = self.ledgers[self.at[order.uri]], self.tries[self.at[order.uri]]
        with _fatal_store(tries):
            if outcome.receipt is not None:
                ledger.complete(outcome.receipt)
                self.on_event(Event("done", ledger, order.job, outcome.receipt))
            elif receipt := self._done_elsewhere(ledger, order.job):
                ledger.complete(receipt)
                self.on_event(Event("done", ledger, order.job, receipt))
            elif isinstance(outcome.error, MissingPieceError):
                self._heal(ledger, tries, order, outcome.error)
            elif isinstance(outcome.error, NumericsError | SourceChangedError | StuckError):
                tries.fatal = tries.fatal or outcome.error
            else:
                self._retry(ledger, tries, outcome)
        self._drop_ended(order.uri)

    @staticmethod
    def _done_elsewhere(ledger: Ledger, job: Job) -> Receipt | None:
        """The receipt of another driver, who did the job meanwhile and may have removed what it reads."""
        receipt = ledger.run.receipt(job)
        return None if receipt is None or receipt.missing else receipt

    def _heal(self, ledger: Ledger, tries: Tries, order: Order, error: MissingPieceError) -> None:
        """The piece's writer runs again."""
        tries.heals[order.job] += 1
        if tries.heals[order.job] > MAX_HEALS:
            self._retry(ledger, tries, Outcome(order, error=error))
        else:
            ledger.void(error.writer, order.job)
            self.on_event(Event("healed", ledger, order.job, message=f"runs infer {error.writer} again: {error}"))

    def _retry(self, ledger: Ledger, tries: Tries, outcome: Outcome) -> None:
        order, error = outcome.order, outcome.error
        counter, most = (tries.losses, MAX_LOSSES) if outcome.lost else (tries.attempts, self.max_attempts)
        counter[order.job] += 1
        message = str(error) if isinstance(error, SeamlineError) else f"{type(error).__name__}: {error}"
        if counter[order.job] < most:
            tries.not_before[order.job] = time.monotonic() + min(0.2 * 2 ** counter[order.job], 10.0)
            self.on_event(Event("retry", ledger, order.job, message=message))
            ledger.push(order.job)
        elif isinstance(error, StoreError):
            tries.fatal = tries.fatal or error
        else:
            detail = "".join(traceback.format_exception(error)) if error else ""
            self._give_up(ledger, order.job, message, detail, counter[order.job], outcome.worker)

    def _give_up(self, ledger: Ledger, job: Job, message: str, detail: str, attempts: int, worker: str) -> None:
        failure = Failure(
            stage=job.stage,
            index=job.index,
            error=message,
            detail=detail,
            attempts=attempts,
            worker=worker,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        ledger.run.store.put(job.failure_key, failure.model_dump_json(indent=1).encode())
        ledger.fail(job)
        self.on_event(Event("failed", ledger, job, message=message))


@contextmanager
def _fatal_store(tries: Tries) -> Iterator[None]:
    """A store that refuses the loop's own reads and writes ends that run, not the loop."""
    try:
        yield
    except StoreError as e:
        tries.fatal = tries.fatal or e
