"""One invocation: planned scenes through one pool of workers, and what became of each."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import Literal

from flows.pool import Engine, Event, run_jobs
from flows.progress import Watcher
from flows.serial import SerialEngine
from pipeline import spool
from pipeline.errors import SeamlineError
from pipeline.export import Exported
from pipeline.hardware import detect
from pipeline.ledger import Ledger
from pipeline.manifest import Numerics
from pipeline.plan import Hardware
from pipeline.run import Run, open_run
from pipeline.scenes import Batch, Scene, check_bundles, probe_output, start_run
from pipeline.settings import Settings
from pipeline.show import failures_text
from pipeline.status import Status, read_status

Fate = Literal["complete", "incomplete", "rejected"]


@dataclass(frozen=True, slots=True)
class SceneResult:
    """What became of one scene in one invocation.

    run              uri of the run directory; None for a rejected scene
    status           of the run; None for a rejected scene, and where the run could not be read at the end
    error            why it was rejected, or what is missing
    seconds          from the start of the work until its last job ended
    windows_run_now  of this invocation; the run's own count is ``status.windows_run``
    lost             finished jobs that ran again, because their output was gone or rotten
    exports          what was written, by kind;  ``export_error`` if one could not be
    """

    name: str
    uri: str
    fate: Fate
    run: str | None = None
    status: Status | None = None
    error: str | None = None
    seconds: float = 0.0
    windows_run_now: int = 0
    lost: int = 0
    exports: dict[str, Exported] = field(default_factory=dict)
    export_error: str | None = None

    def to_json(self) -> dict[str, object]:
        """The stable object of ``segment --json``; see docs/json.md."""
        data: dict[str, object] = {"scene": self.name, "source": self.uri, "status": self.fate}
        if self.run is not None:
            data |= {
                "run": self.run,
                "windows_run": self.windows_run_now,
                "seconds": round(self.seconds, 3),
                "healed": self.lost,
            }
        if self.status is not None:
            data |= {
                "windows_total": self.status.windows_total,
                "windows_before": max(0, self.status.windows_run - self.windows_run_now),
                "windows_skipped": self.status.windows_skipped,
                "peak_bytes": self.status.peak_bytes,
                "pixels": self.status.pixels,
            }
        optional = {
            "error": self.error,
            "exports": {kind: done.path for kind, done in self.exports.items()},
            "substituted": {kind: done.substituted for kind, done in self.exports.items() if done.substituted},
            "export_error": self.export_error,
        }
        return data | {key: value for key, value in optional.items() if value}


def run_batch(
    batch: Batch,
    *,
    on_event: Callable[[Event], None] = lambda _: None,
    on_start: Callable[[Sequence[Ledger]], None] = lambda _: None,
) -> list[SceneResult]:
    """Run every planned scene to its end on the engine the settings name. Results are in the order of the scenes.

    on_start  is called once, with what each run has left to do;  on_event  for everything that happens then
    Raises ModelError or StoreError where no scene could run.
    """
    check_bundles(batch)
    probe_output(batch)
    meter = _Meter(on_event)
    ledgers, results = _start(batch)
    on_start(list(ledgers.values()))
    given_up = _drive(list(ledgers.values()), batch.settings, meter)
    for scene in batch.planned:
        if scene.uri in ledgers:
            ledger = ledgers[scene.uri]
            results[scene.uri] = _finished(scene, ledger, given_up.get(ledger.run.uri), meter)
    return [results[scene.uri] for scene in batch.scenes]


def export_results(results: Sequence[SceneResult], kinds: Sequence[str]) -> list[SceneResult]:
    """Export every complete scene, into its run; what cannot be written is told in its result and stops no other."""
    return [_exported(result, kinds) if kinds and result.fate == "complete" else result for result in results]


@dataclass
class Work:
    """One invocation in its two parts, each done once: whoever watches may fail in between, and nothing is lost.

    error  what ended a part, if it was not done
    """

    batch: Batch
    kinds: Sequence[str] = ()
    ran: list[SceneResult] | None = None
    exported: list[SceneResult] | None = None
    error: BaseException | None = None

    def run(self, watcher: Watcher | None = None) -> list[SceneResult]:
        if self.ran is None:
            with self._kept():
                self.ran = (
                    run_batch(self.batch, on_event=watcher, on_start=watcher.start)
                    if watcher
                    else run_batch(self.batch)
                )
        return self.ran

    def export(self) -> list[SceneResult]:
        if self.exported is None:
            with self._kept():
                self.exported = export_results(self.run(), self.kinds)
        return self.exported

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except BaseException as e:
            self.error = e
            raise


def make_engine(settings: Settings, numerics: Sequence[Numerics]) -> Engine:
    """The engine for runs of these ``numerics``: GPU workers if one needs them, and CPUs for the most threads."""
    if engine_name(settings) == "serial":
        return SerialEngine()
    from flows.workers import RayEngine

    cuda = any(n.device == "cuda" for n in numerics)
    return RayEngine(settings, device="cuda" if cuda else "cpu", threads=max(n.threads for n in numerics))


def engine_name(settings: Settings) -> Literal["serial", "ray"]:
    """In this process for one worker; Ray for more, or where a cluster is named by RAY_ADDRESS."""
    if settings.engine != "auto":
        return settings.engine
    return "ray" if settings.workers > 1 or os.environ.get("RAY_ADDRESS") else "serial"


def hardware_for(settings: Settings) -> Hardware:
    """What ``auto`` is resolved with: of the workers that will run, which on a cluster are other machines."""
    if engine_name(settings) == "serial" or not os.environ.get("RAY_ADDRESS"):
        return detect(settings)
    from flows.cluster import cluster_hardware

    return cluster_hardware(settings)


class _Meter:
    """Counts windows per run as they happen, notes when each run was last heard of, and passes events on."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self.on_event = on_event
        self.windows: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    def __call__(self, event: Event) -> None:
        uri = event.ledger.run.uri
        self.seconds[uri] = time.monotonic() - self._started
        if event.receipt is not None:
            self.windows[uri] += event.receipt.windows_run
        self.on_event(event)


def _start(batch: Batch) -> tuple[dict[str, Ledger], dict[str, SceneResult]]:
    """Ledgers of the scenes that can run, and results of those that cannot, by uri of the scene."""
    ledgers: dict[str, Ledger] = {}
    rejected = {scene.uri: _rejected(scene, scene.error) for scene in batch.scenes if scene.error is not None}
    for scene in batch.planned:
        try:
            ledgers[scene.uri] = Ledger(start_run(scene, batch))
        except SeamlineError as e:
            rejected[scene.uri] = _rejected(scene, e)
    return ledgers, rejected


def _drive(ledgers: Sequence[Ledger], settings: Settings, meter: _Meter) -> dict[str, BaseException]:
    """Do what remains; no engine is started for nothing. Returns the runs that were given up, uri -> why."""
    if not any(ledger.remaining for ledger in ledgers):
        return {}
    # Ray tells on stdout of workers that died, and stdout is for results
    with redirect_stdout(sys.stderr):
        engine = make_engine(settings, [ledger.run.manifest.numerics for ledger in ledgers])
        try:
            return run_jobs(ledgers, engine, attempts=settings.attempts, on_event=meter)
        finally:
            engine.close()


def _finished(scene: Scene, ledger: Ledger, fatal: BaseException | None, meter: _Meter) -> SceneResult:
    uri = ledger.run.uri
    done = SceneResult(
        name=scene.name,
        uri=scene.uri,
        fate="incomplete",
        run=uri,
        seconds=meter.seconds.get(uri, 0.0),
        windows_run_now=meter.windows[uri],
        lost=len(ledger.lost),
    )
    try:
        status = _concluded(ledger.run)
    except SeamlineError as e:  # a bucket that died: the other scenes have results too
        return replace(done, error=str(fatal or e))
    return replace(done, fate=status.status, status=status, error=str(fatal) if fatal else failures_text(status))


def _concluded(run: Run) -> Status:
    """What the disk says; a complete run gives up its scratch."""
    status = read_status(run)
    if status.status == "complete":
        spool.forget(run)
        run.store.delete_all("partials")
    return status


def _exported(result: SceneResult, kinds: Sequence[str]) -> SceneResult:
    from pipeline.export.of_run import export_run

    assert result.run is not None
    exports: dict[str, Exported] = {}
    try:
        run = open_run(result.run)
        for kind in kinds:
            exports[kind] = export_run(run, kind)
    except SeamlineError as e:
        return replace(result, exports=exports, export_error=str(e))
    return replace(result, exports=exports)


def _rejected(scene: Scene, error: SeamlineError | None) -> SceneResult:
    return SceneResult(scene.name, scene.uri, "rejected", error=str(error))
