"""Text for people: plans, states and results. Returns strings and tables; only the roof prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.export import Exported
from pipeline.plan import Plan
from pipeline.receipts import Failure, Job
from pipeline.run import Run
from pipeline.scenes import Batch, Scene
from pipeline.status import Status
from tiling import FrameError

SHOWN = 10
"""Lines of a list that may be long; ``--json`` has all of them."""


def shape_of(values: tuple[int, ...]) -> str:
    return " x ".join(f"{v:,}" for v in values)


def n_bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000 or unit == "TB":
            return f"{value:,.0f} {unit}" if unit in ("B", "kB") else f"{value:,.1f} {unit}"
        value /= 1000
    raise AssertionError


def speed(mpx_per_second: float) -> str:
    return f"{mpx_per_second:.{2 if mpx_per_second >= 0.1 else 4}f} Mpx/s"


def count(n: int, noun: str) -> str:
    """``1 scene``, ``2 scenes``."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def plan_text(plan: Plan) -> str:
    """One planned scene, as ``--dry-run`` prints it."""
    m, q = plan.manifest, plan.manifest.question
    grid = m.grid
    rows = [
        ("source", f"{q.source.uri} ({q.source.format}, {q.source.dtype})"),
        ("extent", f"{shape_of(grid.extent)} px ({', '.join(m.frame.axes)}), {_resolution(plan)}"),
        ("channels", ", ".join(f"{a} <- {b}" for a, b in zip(m.spec.channels, q.source.channel_names, strict=True))),
        ("model", f"{m.spec.name}, {len(m.spec.classes)} classes: {', '.join(c.name for c in m.spec.classes)}"),
        (
            "windows",
            (
                f"{plan.windows:,} of {shape_of(grid.window)}, overlap {shape_of(grid.overlap)}, blend {q.blend}; "
                f"{plan.planned_per_pixel:.2f} pixels planned per pixel of the scene"
            ),
        ),
        (
            "blocks",
            (
                f"{plan.blocks:,} of {shape_of(grid.block)}, chunks {shape_of(m.layout.chunk)}, "
                f"{count(m.layout.levels, 'level')}"
            ),
        ),
        (
            "numerics",
            f"{m.numerics.device}, {m.numerics.precision}, batch {m.numerics.batch}, threads {m.numerics.threads}",
        ),
        (
            "memory",
            (
                f"{n_bytes(plan.memory.peak)} per worker above the loaded model (ingest {n_bytes(plan.memory.ingest)}, "
                f"infer {n_bytes(plan.memory.infer)}, stitch {n_bytes(plan.memory.stitch)})"
            ),
        ),
        ("output", f"{n_bytes(plan.output_bytes)} of arrays before compression"),
        ("partials", f"at most {n_bytes(plan.partial_bytes)} at once, deleted as blocks are stitched"),
    ]
    if plan.spool_bytes:
        rows.append(("scratch", f"{n_bytes(plan.spool_bytes)}: the source can only be decoded in order"))
    if m.layout.image == "in-place":
        rows.append(("image", f"read in place from {m.layout.array_uri}, not copied"))
    if m.needs_histograms:
        rows.append(
            ("order", f"inference waits for all of ingest: {m.spec.normalisation.kind} needs the scene's statistics")
        )
    rows += [("note", note) for note in plan.notes]
    rows.append(("run", m.run_name))
    return "\n".join([m.scene, *(f"  {name:<9} {text}" for name, text in rows)])


def scene_text(scene: Scene) -> str:
    return f"{scene.name}\n  rejected  {scene.error}" if scene.plan is None else plan_text(scene.plan)


def scene_json(scene: Scene) -> dict[str, Any]:
    """One scene of ``--dry-run --json``; see docs/json.md."""
    if scene.plan is not None:
        return plan_json(scene.plan)
    return {"scene": scene.name, "source": scene.uri, "status": "rejected", "error": str(scene.error)}


def plan_json(plan: Plan) -> dict[str, Any]:
    m = plan.manifest
    return {
        "scene": m.scene,
        "source": m.question.source.uri,
        "status": "planned",
        "run_name": m.run_name,
        "extent": list(m.grid.extent),
        "window": list(m.grid.window),
        "overlap": list(m.grid.overlap),
        "block": list(m.grid.block),
        "windows_total": plan.windows,
        "blocks": plan.blocks,
        "planned_per_pixel": round(plan.planned_per_pixel, 4),
        "memory_bytes": plan.memory.peak,
        "output_bytes": plan.output_bytes,
        "partial_bytes": plan.partial_bytes,
        "spool_bytes": plan.spool_bytes,
        "notes": list(plan.notes),
        "numerics": m.numerics.model_dump(),
    }


def batch_text(batch: Batch) -> str:
    """What is about to run: notes of each scene, the sum, what is skipped and why. Empty if nothing is."""
    plans = [scene.plan for scene in batch.planned if scene.plan is not None]
    lines = [f"{plan.manifest.scene}: {note}" for plan in plans for note in plan.notes]
    if plans:
        sizes = f"{count(len(plans), 'scene')}, {count(sum(p.windows for p in plans), 'window')}"
        lines.append(f"{sizes}; {n_bytes(max(p.memory.peak for p in plans))} per worker above the loaded model")
    return "\n".join([*lines, *([skipped_text(batch)] if batch.skipped else [])])


def skipped_json(batch: Batch) -> dict[str, Any]:
    """The last object of ``--dry-run --json``; see docs/json.md."""
    return {"skipped": [{"uri": uri, "reason": reason} for uri, reason in batch.skipped]}


def skipped_text(batch: Batch) -> str:
    """Files that are no scenes, and why."""
    lines = [f"  {uri}: {reason}" for uri, reason in batch.skipped[:SHOWN]]
    if len(batch.skipped) > SHOWN:
        lines.append(f"  and {len(batch.skipped) - SHOWN} more (all of them with --dry-run --json)")
    return "\n".join([f"skipped {len(batch.skipped)}:", *lines])


def result_text(
    status: Status,
    error: str | None = None,
    lost: int = 0,
    exports: Mapping[str, Exported] | None = None,
    export_error: str | None = None,
) -> str:
    """What became of a scene that was not rejected: its run, and what this invocation did besides."""
    lines = [status_text(status)]
    if lost:
        lines.append(f"  healed    {count(lost, 'finished job')} ran again: the output was lost or rotten")
    if error and not status.roots:
        lines.append(f"  stopped   {error}")
    if status.status != "complete":
        lines.append("  next      run the same command again: it goes on where this stopped")
    lines += [f"  exported  {_export_said(done)}" for done in (exports or {}).values()]
    return "\n".join([*lines, *([f"  export    failed: {export_error}"] if export_error else [])])


def export_text(kind: str, done: Exported) -> str:
    return f"{kind:<8} {_export_said(done)}"


def _export_said(done: Exported) -> str:
    said = [
        f"{done.substituted:,} pixels without a prediction are written as background: this format has no nodata"
        if done.substituted
        else "",
        f"{done.unresolved:,} unresolved pixels are written like nodata" if done.unresolved else "",
    ]
    note = "; ".join(filter(None, said))
    return done.path + (f"  ({note})" if note else "")


def export_json(run: Run, kind: str, done: Exported) -> dict[str, Any]:
    """One object of ``export --json``; see docs/json.md."""
    return {"scene": run.manifest.scene, "run": run.uri, "kind": kind, **asdict(done)}


def bundles_text(described: Sequence[Mapping[str, Any]]) -> str:
    """The shipped bundles, as ``models`` prints them."""
    if not described:
        return "no bundles are shipped; make one with `seamline models pack` or `seamline train`"
    return "\n".join(_bundle_text(d) for d in described)


def _bundle_text(d: Mapping[str, Any]) -> str:
    score = d["scores"] or {}
    iou = score.get("mean_iou")
    shown = f", mean IoU {iou:.3f} on its {score['split']} split" if iou is not None else ""
    names = ", ".join(c["name"] for c in d["classes"])
    return f"{d['name']}  ({d['domain'] or 'any domain'}{shown})\n  classes  {names}\n  bundle   {d['path']}"


def check_text(report: Mapping[str, Any]) -> str:
    """What ``models check`` prints: facts, then problems, one a line."""
    facts = [f"{key:<14} {value}" for key, value in report.items() if key != "problems"]
    return "\n".join([*facts, *(f"problem        {p}" for p in report["problems"] or ("none",))])


def record_text(record: Mapping[str, Any]) -> str:
    """One record of training: numbers short, tables left out."""
    return "  ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in record.items()
        if not isinstance(v, dict | list)
    )


def status_text(status: Status) -> str:
    """The state of a run, as ``status`` prints it."""
    stages = "  ".join(
        f"{name} {s.done}/{s.total}" + (f" ({s.failed} failed)" if s.failed else "")
        for name, s in status.stages.items()
    )
    lines = [
        f"{status.scene}: {status.status}",
        f"  run       {status.run}",
        f"  jobs      {stages}",
        f"  windows   {status.windows_run:,} run, {status.windows_skipped:,} skipped, of {status.windows_total:,}",
        f"  pixels    {pixels_text(status)}",
        (
            f"  speed     {speed(status.mpx_per_second)} per worker in inference, {status.seconds:,.1f} s of work "
            f"by {count(status.workers, 'worker')} over {status.wall_seconds:,.0f} s"
        ),
        f"  memory    {n_bytes(status.peak_bytes)} at most in a worker, model included",
    ]
    return "\n".join([*lines, *_failure_lines(status)])


def _failure_lines(status: Status) -> Iterator[str]:
    yield from (f"  failed    {job_of(f)}: {f.error}" for f in status.roots[:SHOWN])
    if len(status.roots) > SHOWN:
        yield f"            and {len(status.roots) - SHOWN} more, each with its traceback in {status.run}/failures"
    if waiting := len(status.failures) - len(status.roots):
        yield f"            {count(waiting, 'job')} could not run because of that"


def job_of(failure: Failure) -> Job:
    return Job(failure.stage, failure.index)


def failures_text(status: Status) -> str | None:
    """What failed, in one sentence; None if nothing did."""
    roots = status.roots
    if not roots:
        return None
    names = ", ".join(str(job_of(f)) for f in roots[:5]) + (", ..." if len(roots) > 5 else "")
    return f"{count(len(roots), 'job')} failed ({names}); the first: {roots[0].error}"


def pixels_text(status: Status) -> str:
    """predicted + nodata + failed, the rest still to come; then each class's share of what is predicted."""
    counts = {k: status.pixels.get(k, 0) for k in ("predicted", "nodata", "failed")}
    left = status.extent_pixels - sum(counts.values())
    bad = status.pixels.get("nonfinite", 0)
    why = {"nodata": f" ({bad:,} of it NaN or infinite)" if bad else ""}
    text = ", ".join(f"{v:,} {k}{why.get(k, '')}" for k, v in counts.items() if v) or "none yet"
    text += f", {left:,} to come" if left else ""
    predicted = counts["predicted"]
    shares = [
        f"{k.removeprefix('class:')} {v / predicted:.1%}"
        for k, v in status.pixels.items()
        if k.startswith("class:") and predicted
    ]
    return f"{text} ({', '.join(shares)})" if shares else text


def _resolution(plan: Plan) -> str:
    frame = plan.manifest.frame
    if frame.unit == "px":
        return "no georeference"
    try:
        spacing = " x ".join(f"{s:g}" for s in frame.spacing)
    except FrameError:
        return "sheared"
    return f"{spacing} {frame.unit}" + (", with a CRS" if frame.crs else "")
