"""The Prefect flow. It drives the very same loop; the disk decides, Prefect watches.

Tasks are stages of an invocation, not blocks: blocks are repeated by the loop alone, so tasks have no retries, and
nothing is cached, because what is done is told by receipts. Importing this module imports Prefect.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar
from uuid import UUID

from prefect import Flow, State, flow, task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from flows.batch import SceneResult, Work, hardware_for
from flows.pool import Event
from flows.progress import Meter, Watcher
from pipeline.echo import write_line
from pipeline.export.of_run import check_targets, targets_in
from pipeline.ledger import Ledger
from pipeline.scenes import Batch, plan_batch
from pipeline.settings import Settings
from pipeline.store import first_line

F = TypeVar("F", bound=Callable[..., Any])

ExportKind = Literal["cog", "png", "overlay", "nifti", "zarr"]
"""The keys of ``pipeline.export.EXPORTS``, spelt out so that a form can offer them."""

EVERY_SECONDS = 2.0
"""Between two updates of the progress artifact: each is a request."""

AWAY_SECONDS = 60.0
"""The same, after one that failed."""

SHOWN = 5
"""Scenes that a failed flow run names in its message."""


def stage(name: str) -> Callable[[F], Any]:
    """A task that is neither repeated nor cached nor stored."""
    return task(name=name, retries=0, cache_policy=NO_CACHE, persist_result=False)


@flow(name="segment", retries=0, persist_result=False, validate_parameters=True)
def segment(paths: list[str], settings: Settings, to: list[ExportKind] | None = None) -> State[Any]:
    """Segment scenes into stitched masks; run it again with the same parameters to resume.

    paths     files, folders, globs or bucket prefixes
    settings  as on the command line, with the same checks
    to        formats to export finished masks to, into ``exports/`` of each run

    Completed if every scene is complete, with the JSON objects of ``segment --json`` as its result; else Failed,
    with the blocks that are missing and the command that goes on in its message.
    """
    batch = plan(paths, settings, list(to or ()))
    return conclusion(watched(Work(batch, tuple(to or ()))), resume_command(paths, settings))


def segment_batch(batch: Batch, to: Sequence[str] = (), watcher: Watcher | None = None) -> list[SceneResult]:
    """The same as a flow run for scenes that are planned already, for the command line; never raises for a scene.

    A server that cannot be reached, or no longer, costs a line of warning: what it did not see is done without it.
    """
    work = Work(batch, tuple(to))

    def as_flow(paths: list[str], settings: Settings, to: list[str]) -> State[Any]:
        return conclusion(watched(work, watcher), resume_command(paths, settings))

    run: Flow[..., State[Any]] = flow(name="segment", retries=0, persist_result=False)(as_flow)
    trouble: Exception | None = None
    try:
        state = run([scene.uri for scene in batch.scenes], batch.settings, list(to), return_state=True)
        if work.exported is None:
            state.result(raise_on_failure=True)
    except Exception as e:  # noqa: BLE001 - the work's own are kept by it; what is left is Prefect's, which only watches
        trouble = e
    if work.error is not None:
        raise work.error
    if trouble is not None:
        _warn(trouble)
    work.run(watcher)
    return work.export()


def watched(work: Work, watcher: Watcher | None = None) -> list[SceneResult]:
    """The tasks after the plan, inside a flow run."""
    # quoted, because Prefect would otherwise look into every array and handle for futures
    results: list[SceneResult] = blocks(quote(work), quote(watcher))
    results = export(quote(work)) if work.kinds else work.export()
    with _only_watching():
        create_table_artifact(table_of(results), key="segment-scenes", description="Scenes of this run of `segment`")
    return results


@stage("plan")
def plan(paths: list[str], settings: Settings, to: list[str]) -> Batch:
    """Find the scenes, plan each, and see whether it can be exported so; nothing is written."""
    batch = plan_batch(paths, settings, hardware_for(settings))
    check_targets(targets_in(batch.settings.out, [scene.plan.manifest for scene in batch.planned if scene.plan], to))
    return batch


@stage("blocks")
def blocks(work: Work, watcher: Watcher | None) -> list[SceneResult]:
    """The one loop, for all stages of all scenes."""
    artifact = Artifact(watcher)
    try:
        return work.run(artifact)
    finally:
        artifact.tell()


@stage("export")
def export(work: Work) -> list[SceneResult]:
    """Export every complete scene; what cannot be written is told in its result and stops no other."""
    return work.export()


class Artifact:
    """The progress artifact of a flow run, at most every two seconds; passes on to another ``watcher``."""

    def __init__(self, watcher: Watcher | None) -> None:
        self._watcher = watcher
        self._meter = Meter()
        self._artifact: UUID | None = None
        self._not_before = 0.0

    def start(self, ledgers: Sequence[Ledger]) -> None:
        self._meter = Meter(tuple(ledgers))
        if self._watcher:
            self._watcher.start(ledgers)
        self.tell()

    def __call__(self, event: Event) -> None:
        self._meter.add(event)
        if self._watcher:
            self._watcher(event)
        if time.monotonic() >= self._not_before:
            self.tell()

    def tell(self) -> None:
        """Update the artifact. A server that is away for a while misses an update; the run goes on."""
        done, total = self._meter.jobs
        percent = 100.0 * done / total if total else 100.0
        left = self._meter.left_text if done < total else ""
        text = ", ".join(
            filter(None, (f"{done:,} of {total:,} jobs", self._meter.blocks_text, self._meter.speed_text, left))
        )
        # asked less often while it is away, for each try may wait
        self._not_before = time.monotonic() + AWAY_SECONDS
        with _only_watching():
            if self._artifact is None:
                self._artifact = _created(create_progress_artifact(percent, key="segment-blocks", description=text))
            else:
                update_progress_artifact(self._artifact, percent, description=text)
            self._not_before = time.monotonic() + EVERY_SECONDS


@contextmanager
def _only_watching() -> Iterator[None]:
    """What Prefect is told here it can do without: no error of it (its client raises what it likes) stops the work."""
    try:
        yield
    except Exception as e:  # noqa: BLE001
        get_logger("seamline").debug("Prefect missed an artifact: %s", e)


def _warn(trouble: Exception) -> None:
    where = PREFECT_API_URL.value() or "its API"
    said = first_line(trouble).removesuffix("/")
    write_line(sys.stderr, f"warning: Prefect at {where} does not answer ({said}); going on without it")


def _created(artifact: object) -> UUID:
    """Prefect's functions are typed for async callers as well."""
    assert isinstance(artifact, UUID)
    return artifact


def table_of(results: Sequence[SceneResult]) -> list[dict[str, Any]]:
    """One row a scene, of what a table can show."""
    return [
        {
            "scene": r.name,
            "status": r.fate,
            "windows": r.status.windows_total if r.status else 0,
            "windows run": r.windows_run_now,
            "seconds": round(r.seconds, 1),
            "Mpx/s": r.status.mpx_per_second if r.status else 0.0,
            "run": r.run or "",
            "exports": ", ".join(done.path for done in r.exports.values()),
            "error": "; ".join(filter(None, (r.error, r.export_error))),
        }
        for r in results
    ]


def conclusion(results: Sequence[SceneResult], command: str) -> State[Any]:
    """The state of the flow run: only a batch without a hole in it is Completed."""
    bad = [r for r in results if r.fate != "complete" or r.export_error]
    if not bad:
        return Completed(message=f"{len(results)} scenes are complete", data=[r.to_json() for r in results])
    named = [f"{r.name} is {_fate(r)}: {r.error or r.export_error or 'jobs remain'}" for r in bad[:SHOWN]]
    more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
    return Failed(
        message="; ".join([f"{len(bad)} of {len(results)} scenes", *named, *more]) + f". Go on with: {command}"
    )


def _fate(result: SceneResult) -> str:
    return "not exported" if result.fate == "complete" else result.fate


def resume_command(paths: Sequence[str], settings: Settings) -> str:
    """The command line that asks the same question again: every flag that differs from its default."""
    flags: list[str] = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name != "model" and value == field.default:
            continue
        flag = "--" + name.replace("_", "-")
        for part in value if name == "model" else (value,):
            flags += [flag] if part is True else [flag, _text(part)]
    return shlex.join(["python", "-m", "pipeline", "segment", *paths, *flags])


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
