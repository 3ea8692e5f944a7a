"""One invocation: planned scenes through one pool of workers, and what became of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from flows.pool import Engine, Event, run_jobs
from flows.serial import SerialEngine
from pipeline import spool
from pipeline.errors import SeamlineError
from pipeline.ledger import Ledger
from pipeline.manifest import Numerics
from pipeline.scenes import Batch, Scene, check_bundles, start_run
from pipeline.settings import Settings
from pipeline.status import Status, read_status

Fate = Literal["complete", "incomplete", "rejected"]


@dataclass(frozen=True, slots=True)
class SceneResult:
    """What became of one scene. ``status`` is None for a rejected one; ``error`` says why something is missing."""

    name: str
    uri: str
    fate: Fate
    status: Status | None = None
    error: str | None = None
    seconds: float = 0.0
    windows_run_now: int = 0
    lost: int = 0

    def to_json(self) -> dict[str, object]:
        """The stable object of ``segment --json``."""
        data: dict[str, object] = {"scene": self.name, "source": self.uri, "status": self.fate}
        if self.status is not None:
            data |= {
                "run": self.status.run,
                "windows_total": self.status.windows_total,
                "windows_run": self.windows_run_now,
                "windows_skipped": self.status.windows_skipped,
                "seconds": round(self.seconds, 3),
                "peak_bytes": self.status.peak_bytes,
                "pixels": self.status.pixels,
                "healed": self.lost,
            }
        if self.error:
            data["error"] = self.error
        return data


def run_batch(batch: Batch, *, on_event: Callable[[Event], None] = lambda _: None) -> list[SceneResult]:
    """Run every planned scene to its end on the engine the settings name; rejected ones are reported as such."""
    started = time.monotonic()
    check_bundles(batch)
    results = [_rejected(s, s.error) for s in batch.scenes if s.error is not None]
    ledgers: list[tuple[Scene, Ledger]] = []
    for scene in batch.planned:
        try:
            ledgers.append((scene, Ledger(start_run(scene, batch))))
        except SeamlineError as e:
            results.append(_rejected(scene, e))
    if ledgers:
        meter = _Meter(on_event)
        engine = make_engine(batch.settings, [ledger.run.manifest.numerics for _, ledger in ledgers])
        try:
            given_up = run_jobs(
                [ledger for _, ledger in ledgers], engine, attempts=batch.settings.attempts, on_event=meter
            )
        finally:
            engine.close()
        for scene, ledger in ledgers:
            results.append(_finished(scene, ledger, given_up.get(ledger.run.uri), meter, started))
    return results


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


class _Meter:
    """Counts windows per run as they happen, and passes each event on."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self.on_event = on_event
        self.windows: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        if event.receipt is not None:
            uri = event.ledger.run.uri
            self.windows[uri] = self.windows.get(uri, 0) + event.receipt.windows_run
        self.on_event(event)


def _finished(scene: Scene, ledger: Ledger, fatal: BaseException | None, meter: _Meter, started: float) -> SceneResult:
    status = read_status(ledger.run)
    if status.status == "complete":
        spool.forget(ledger.run)
        ledger.run.store.delete_all("partials")
    return SceneResult(
        name=scene.name,
        uri=scene.uri,
        fate=status.status,
        status=status,
        error=str(fatal) if fatal else _why(status),
        seconds=time.monotonic() - started,
        windows_run_now=meter.windows.get(ledger.run.uri, 0),
        lost=len(ledger.lost),
    )


def _why(status: Status) -> str | None:
    if not status.failures:
        return None
    first = status.failures[0]
    blocks = ", ".join(f"{f.stage} {'.'.join(map(str, f.index))}" for f in status.failures[:5])
    return f"{len(status.failures)} jobs failed ({blocks}); the first: {first.error}"


def _rejected(scene: Scene, error: SeamlineError | None) -> SceneResult:
    return SceneResult(scene.name, scene.uri, "rejected", error=str(error))
