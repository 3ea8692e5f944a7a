"""A worker: runs one job after another, in this process, on one device. Knows no engine."""

from __future__ import annotations

import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline import infer, ingest, memory, pyramid, spool, stitch
from pipeline.blend import Decision
from pipeline.errors import NumericsError, SourceChangedError
from pipeline.manifest import Numerics, SourceRecord
from pipeline.models.normalise import resolve
from pipeline.receipts import Job, Output, Receipt, Seconds
from pipeline.run import Run, open_run
from pipeline.sources import open_source
from pipeline.sources.base import Source, SourceInfo
from pipeline.sources.watch import Watch
from tiling import Box, Index

if TYPE_CHECKING:
    from pipeline.models.base import Model

T = TypeVar("T")
_OPEN_RUNS = 4


@dataclass
class Context:
    """A run as one worker holds it: opened once, with its source; ``key`` tells which model it needs."""

    run: Run
    source: Source | None = None
    key: tuple[object, ...] | None = None

    def close(self) -> None:
        if self.source is not None:
            self.source.close()


@dataclass
class Clock:
    """Wall seconds of the parts of a job."""

    parts: dict[str, float] = field(default_factory=dict)

    def __call__(self, part: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        try:
            return work()
        finally:
            self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Done:
    """What a stage tells of itself, for the receipt."""

    outputs: dict[str, Output]
    windows_run: int = 0
    windows_skipped: int = 0
    pixels: dict[str, int] = field(default_factory=dict)


class Worker:
    """Runs jobs of any run. Keeps the last few runs open; holds at most one model at a time.

    ``load`` builds the model of a run on this worker's device, ``open_source`` opens its source.
    """

    def __init__(
        self,
        name: str = "",
        load: Callable[[Run], Model] | None = None,
        open_source: Callable[[SourceRecord], Source] | None = None,
    ) -> None:
        memory.one_arena()
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._load = load or load_run_model
        self._open_source = open_source or open_run_source
        self._held: tuple[tuple[object, ...], Model] | None = None
        self._contexts: OrderedDict[str, Context] = OrderedDict()

    def run(self, uri: str, job: Job, *, missing: tuple[Index, ...] = (), attempt: int = 1) -> Receipt:
        """Do one job and write its receipt, last. Running it twice is harmless: same bytes, whole objects."""
        context = self._context(uri)
        clock = Clock()
        done = getattr(self, f"_{job.stage}")(context, job, clock, missing)
        receipt = Receipt(
            stage=job.stage,
            index=job.index,
            outputs=done.outputs,
            windows_run=done.windows_run,
            windows_skipped=done.windows_skipped,
            pixels=done.pixels,
            missing=missing,
            seconds=Seconds(**{k: round(v, 4) for k, v in clock.parts.items()}),
            peak_bytes=memory.peak_bytes(),
            device=context.run.manifest.numerics.device if job.stage == "infer" else "cpu",
            worker=self.name,
            attempt=attempt,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        context.run.record(receipt)
        if job.stage == "stitch" and not missing:
            stitch.clean(context.run, job.index)
        memory.trim()
        return receipt

    def close(self) -> None:
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()

    # stages: read, compute, write ---------------------------------------------------------------------------

    def _spool(self, context: Context, job: Job, clock: Clock, missing: object) -> Done:
        spooled = clock("read", lambda: spool.spool(context.run, self._source(context)))
        return Done(spooled.outputs, pixels={"bytes": spooled.n_bytes, "stored_bytes": spooled.stored_bytes})

    def _ingest(self, context: Context, job: Job, clock: Clock, missing: object) -> Done:
        run, j = context.run, job.index
        source = self._source(context)
        if run.manifest.layout.spool:
            source = spool.spooled(run, source.info)
        pixels, valid = clock("read", lambda: ingest.read(run, j, source))
        result = clock("model", lambda: ingest.compute(pixels, valid, count=run.manifest.needs_histograms))
        outputs = clock("write", lambda: ingest.write(run, j, result))
        return Done(outputs, pixels=result.pixels_by_kind)

    def _constants(self, context: Context, job: Job, clock: Clock, missing: object) -> Done:
        run = context.run
        manifest = run.manifest
        histograms = clock("read", lambda: ingest.merge_histograms(run)) if manifest.needs_histograms else None
        constants = [resolve(s.normalisation, histograms, manifest.question.source.dtype) for s in manifest.specs]
        return Done(clock("write", lambda: run.write_constants(constants)))

    def _infer(self, context: Context, job: Job, clock: Clock, missing: object) -> Done:
        run, j, numerics = context.run, job.index, context.run.manifest.numerics
        block = clock("read", lambda: infer.read(run, j))
        self._look(context)
        model = self._model(context)
        result = clock(
            "model",
            lambda: infer.compute(
                run.grid,
                j,
                block,
                model,
                Decision.of(run.manifest.spec),
                n_scores=run.manifest.spec.n_scores,
                blend=run.manifest.question.blend,
                batch=numerics.batch,
                device=numerics.device,
                keep_scores=run.manifest.question.save_scores,
                label_dtype=run.manifest.label_dtype,
            ),
        )
        outputs = clock("write", lambda: infer.write(run, j, result))
        return Done(outputs, result.windows_run, result.windows_skipped)

    def _stitch(self, context: Context, job: Job, clock: Clock, missing: tuple[Index, ...]) -> Done:
        run, j = context.run, job.index
        given = clock("read", lambda: stitch.read(run, j, missing))
        result = clock("model", lambda: stitch.compute(run.manifest, j, given, missing))
        outputs = clock("write", lambda: stitch.write(run, j, result))
        return Done(outputs, pixels=result.pixels)

    def _pyramid(self, context: Context, job: Job, clock: Clock, missing: object) -> Done:
        level, *index = job.index
        outputs = clock("write", lambda: pyramid.build(context.run, level, tuple(index)))
        # every block lies below a shard of the last level, so the looks there vouch for all that was read
        self._look(context, now=level == context.run.manifest.layout.levels - 1)
        return Done(outputs)

    def _look(self, context: Context, *, now: bool = False) -> None:
        """Look at a source that is read in place, and so by no ``Source``."""
        if context.run.manifest.layout.image == "in-place":
            source = self._source(context)
            if isinstance(source, UnchangedSource):
                source.look(now=now)

    # what is kept open --------------------------------------------------------------------------------------

    def _context(self, uri: str) -> Context:
        if uri not in self._contexts:
            self._contexts[uri] = Context(open_run(uri))
            while len(self._contexts) > _OPEN_RUNS:
                self._contexts.popitem(last=False)[1].close()
        self._contexts.move_to_end(uri)
        return self._contexts[uri]

    def _source(self, context: Context) -> Source:
        if context.source is None:
            context.source = self._open_source(context.run.manifest.question.source)
        return context.source

    def _model(self, context: Context) -> Model:
        if context.key is None:
            context.key = model_key(context.run)
        if self._held is None or self._held[0] != context.key:
            self._held = None  # before the next one is loaded: there may be no room for two
            self._held = (context.key, self._load(context.run))
        return self._held[1]


def model_key(run: Run) -> tuple[object, ...]:
    """What a loaded model depends on: runs that agree in it share the model."""
    m = run.manifest
    return (m.question.bundles, m.specs, m.question.tta, m.question.scales, m.question.source.dtype, m.ndim,
            m.numerics, run.constants())  # fmt: skip


def load_run_model(run: Run) -> Model:
    """The model of a run, from the bundles copied into it, on the device its numerics name.

    Raises NumericsError where this worker would not give the bytes that the run was planned with.
    """
    from pipeline.models.bundle import bundle_digest, cache_folder, load_model, resolve_bundle

    numerics, question = run.manifest.numerics, run.manifest.question
    check_arithmetic(numerics)
    bundles = [resolve_bundle(run.bundle(n).uri, cache_folder()) for n in range(len(question.bundles))]
    for bundle, digest in zip(bundles, question.bundles, strict=True):
        if bundle_digest(bundle) != digest:
            raise NumericsError(
                f"the copy of the model in {bundle} is not the one that {run.uri} was planned with; "
                "run the same command again, which copies it anew"
            )
    return load_model(
        bundles,
        device=numerics.device,
        precision=numerics.precision,
        constants=run.constants(),
        trust=True,  # its digest is that of the bundle which the plan let in, and the plan asks
        tta=question.tta,  # type: ignore[arg-type]
        scales=question.scales or (1.0,),
        ndim=run.manifest.ndim,
        dtype=question.source.dtype,
        threads=numerics.threads,
    )


def check_arithmetic(numerics: Numerics) -> None:
    """Raises NumericsError for another device, torch or instruction set than the run's: its bytes could differ."""
    import torch

    from pipeline.hardware import arithmetic

    if numerics.device == "cuda" and not torch.cuda.is_available():
        raise NumericsError("this run was planned for cuda, and this worker has none; go on where there is one")
    here = arithmetic(numerics.device)
    if numerics.arithmetic not in ("", here):
        raise NumericsError(
            f"this run was begun with {numerics.arithmetic}, and this worker has {here}, which may round otherwise; "
            "go on where it was begun, or choose another --out for a new run"
        )


@dataclass(frozen=True)
class UnchangedSource:
    """A source that is looked at again after reads: blocks of two versions must not mix."""

    inner: Source
    watch: Watch

    @property
    def info(self) -> SourceInfo:
        return self.inner.info

    def read(self, box: Box, channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        # afterwards, and also when it failed: a file that changed is a better reason than what it broke
        try:
            return self.inner.read(box, channels)
        finally:
            self.look()

    def close(self) -> None:
        self.inner.close()

    def look(self, *, now: bool = False) -> None:
        """Raise SourceChangedError if it changed; see ``Watch``."""
        try:
            self.watch.look(now=now)
        except SourceChangedError as e:
            raise SourceChangedError(f"{e}; run the same command again: it will make a new run") from None


def open_run_source(record: SourceRecord) -> Source:
    """The source of a run, guarded against changing under it."""
    source = open_source(record.uri, nodata=record.nodata)  # type: ignore[arg-type]
    return UnchangedSource(source, Watch(source.info, record.fingerprint))
