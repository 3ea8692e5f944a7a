"""Text for people: plans, states and results. Returns strings and tables; only the roof prints."""

from __future__ import annotations

from typing import Any

from pipeline.plan import Plan
from pipeline.scenes import Batch
from pipeline.status import Status
from tiling import FrameError


def shape_of(values: tuple[int, ...]) -> str:
    return " x ".join(f"{v:,}" for v in values)


def n_bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000 or unit == "TB":
            return f"{value:,.0f} {unit}" if unit in ("B", "kB") else f"{value:,.1f} {unit}"
        value /= 1000
    raise AssertionError


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
            f"{plan.blocks:,} of {shape_of(grid.block)}, chunks {shape_of(m.layout.chunk)}, {m.layout.levels} levels",
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


def skipped_text(batch: Batch, most: int = 10) -> str:
    """Files that are no scenes, and why."""
    lines = [f"  {uri}: {reason}" for uri, reason in batch.skipped[:most]]
    if len(batch.skipped) > most:
        lines.append(f"  and {len(batch.skipped) - most} more (all of them with --json)")
    return "\n".join([f"skipped {len(batch.skipped)}:", *lines]) if lines else ""


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
            f"  speed     {status.mpx_per_second:.2f} Mpx/s per worker in inference, {status.seconds:,.1f} s of work "
            f"by {status.workers} worker(s) over {status.wall_seconds:,.0f} s"
        ),
        f"  memory    {n_bytes(status.peak_bytes)} at most in a worker, model included",
    ]
    lines += [f"  failed    {f.stage} {'.'.join(map(str, f.index))}: {f.error}" for f in status.failures[:10]]
    return "\n".join(lines)


def pixels_text(status: Status) -> str:
    """predicted + nodata + failed, the rest still to come; then each class's share of what is predicted."""
    counts = {k: status.pixels.get(k, 0) for k in ("predicted", "nodata", "failed")}
    left = status.extent_pixels - sum(counts.values())
    text = ", ".join(f"{v:,} {k}" for k, v in counts.items() if v) or "none yet"
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
