"""The command line, the roof: parses, asks the floors below, prints. The only one here that knows `flows`."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tiling.errors import SeamlineError

if TYPE_CHECKING:
    from flows.batch import SceneResult
    from pipeline.scenes import Batch

OK, BAD_INPUT, INCOMPLETE, INTERRUPTED = 0, 2, 3, 130

app = typer.Typer(
    name="seamline",
    help="Segment imagery that is too large for one machine's memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
models_app = typer.Typer(help="List, check and pack model bundles.", invoke_without_command=True, no_args_is_help=False)
app.add_typer(models_app, name="models")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@app.command(
    epilog="Examples:\n\n"
    "`seamline segment scene.tif --model landcover`\n\n"
    "`seamline segment s3://bucket/prefix --model s3://bucket/bundle --out s3://bucket/runs --workers 4`\n\n"
    "`seamline segment volumes/*.nii.gz --model ./bundle --dry-run`\n\n"
    "Exit codes: 0 done, 2 bad input, 3 incomplete (run the same command again), 130 interrupted."
)
def segment(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="File, folder, glob, or bucket prefix.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Bundle: folder, uri or shipped name. Several: an ensemble.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Where run directories go.  [default: runs]")] = None,
    config: Annotated[str | None, typer.Option(help="TOML or YAML file of settings; flags win over it.")] = None,
    window: Annotated[str | None, typer.Option(help="Pixels the network sees: one number, or one per axis.")] = None,
    overlap: Annotated[str | None, typer.Option(help="Pixels that neighbouring windows share.")] = None,
    block: Annotated[str | None, typer.Option(help="Pixels of a unit of work: a multiple of window - overlap.")] = None,
    blend: Annotated[str | None, typer.Option(help="hann, mean, crop, linear or gaussian.  [default: hann]")] = None,
    bands: Annotated[str | None, typer.Option(help="Source channels for the model's: 4,1,2 or names.")] = None,
    nodata: Annotated[
        str | None, typer.Option(help="Value that means no data, or 'none'.  [default: the file's]")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Windows per forward pass.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, serial or ray.  [default: auto]")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.  [default: 1]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.  [default: auto]")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.  [default: auto]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of one worker.")] = None,
    tta: Annotated[str | None, typer.Option(help="Average over flips, or over d4 (flips and rotations).")] = None,
    scales: Annotated[str | None, typer.Option(help="Average over zooms of each window: 0.75,1,1.25.")] = None,
    save_scores: Annotated[bool | None, typer.Option("--save-scores", help="Keep every class's score.")] = None,
    trust_model: Annotated[
        bool | None, typer.Option("--trust-model", help="Allow .pt2 files, which can run code.")
    ] = None,
    memory_limit_mb: Annotated[int | None, typer.Option(help="Refuse a plan whose worker needs more.")] = None,
    to: Annotated[
        str | None, typer.Option(help="Then export: cog, png, overlay, nifti, zarr (comma-separated).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Segment scenes into stitched masks. Run the same command again to resume."""
    given: dict[str, Any] = {
        "model": tuple(model) if model else None, "out": out, "window": window, "overlap": overlap, "block": block,
        "blend": blend, "bands": bands, "nodata": _number_or_text(nodata), "batch": batch, "engine": engine,
        "workers": workers, "device": device, "precision": None if precision == "auto" else precision,
        "threads": threads, "tta": tta, "scales": _floats(scales), "save_scores": save_scores,
        "trust_model": trust_model, "memory_limit_mb": memory_limit_mb,
    }  # fmt: skip
    kinds = _export_kinds(to)
    from pipeline.hardware import detect
    from pipeline.scenes import check_bundles, plan_batch
    from pipeline.settings import make_settings

    settings = make_settings(given, config)
    batch_of = plan_batch(paths, settings, detect(settings))
    if dry_run:
        check_bundles(batch_of)
        raise typer.Exit(_show_plan(batch_of, as_json))
    _tell_before(batch_of)
    results = _run(batch_of)
    exported = _export_results(results, kinds)
    for result in results:
        _show_result(result, exported.get(result.name, []), as_json)
    raise typer.Exit(_exit_code(results))


@app.command(epilog="Example: `seamline status runs/scene-0123456789ab`")
def status(run: RunArgument, as_json: Json = False) -> None:
    """What a run directory says of itself: counts, throughput, failures."""
    from pipeline.run import open_run
    from pipeline.show import status_text
    from pipeline.status import read_status

    found = read_status(open_run(run))
    print(json.dumps(found.to_json()) if as_json else status_text(found))


@app.command(epilog="Example: `seamline export runs/* --to cog --out 'masks/{scene}.tif'`")
def export(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run directories.")],
    to: Annotated[str, typer.Option(help="cog, png, overlay, nifti or zarr; several with commas.")],
    out: Annotated[str | None, typer.Option(help="Pattern with {scene}.  [default: exports/ in the run]")] = None,
    allow_incomplete: Annotated[bool, typer.Option(help="Export what there is of an incomplete run.")] = False,
    as_json: Json = False,
) -> None:
    """Write finished masks in formats that other programs open."""
    from pipeline.errors import UsageError
    from pipeline.export.of_run import export_run
    from pipeline.run import open_run

    opened = [open_run(run) for run in runs]
    kinds = _export_kinds(to)
    if out and "{scene}" not in out and len(opened) * len(kinds) > 1:
        raise UsageError(
            f"--out {out!r} would write {len(opened) * len(kinds)} files to one place; put {{scene}} in it"
        )
    for run in opened:
        for kind in kinds:
            done = export_run(run, kind, out, allow_incomplete=allow_incomplete)
            print(json.dumps(_exported_json(run.manifest.scene, kind, done)) if as_json else _exported_text(kind, done))


@app.command(
    epilog="Examples: `seamline sample scene.tif --size 8192 --truth truth.tif`, "
    "`seamline sample phantom.nii.gz --size 256 --volume`"
)
def sample(
    path: Annotated[str, typer.Argument(help="*.tif or *.zarr; volumes *.nii, *.nii.gz or *.zarr.")],
    size: Annotated[str, typer.Option(help="Side in pixels, or one number per axis.")] = "4096",
    truth: Annotated[str | None, typer.Option(help="Also write the exact mask.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    volume: Annotated[bool, typer.Option("--volume", help="A 3-D phantom.")] = False,
) -> None:
    """Write a procedural scene with exact truth, of any size, in flat memory."""
    from pipeline.errors import UsageError
    from pipeline.sample import write_sample

    try:
        numbers = tuple(int(part) for part in size.replace("x", ",").split(","))
    except ValueError:
        raise UsageError(
            f"--size takes a number of pixels, or one per axis (8192 or 4096,8192), got {size!r}"
        ) from None
    write_sample(path, numbers if len(numbers) > 1 else numbers[0], truth, seed, volume)
    print(path if truth is None else f"{path}\n{truth}")


@app.command(epilog="Example: `seamline train examples/nuclei.toml --out my-model`")
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="TOML or YAML file; see examples/.")],
    out: Annotated[str | None, typer.Option(help="Folder of the bundle; wins over the file.")] = None,
    as_json: Json = False,
) -> None:
    """Train a bundle on your own masks. Run the same command again to resume."""
    from pipeline.training.config import read_config
    from pipeline.training.train import train as run_training

    settings = read_config(config, **({"out": out} if out else {}))
    report = (
        (lambda record: print(json.dumps(record), flush=True)) if as_json else (lambda record: _say(_record(record)))
    )
    print(run_training(settings, report))


@models_app.callback()
def models(context: typer.Context, as_json: Json = False) -> None:
    """List the shipped bundles; `check` and `pack` are for your own."""
    if context.invoked_subcommand is not None:
        return
    from pipeline.models.bundle import describe, shipped

    described = [describe(path) for path in shipped()]
    if as_json:
        print(json.dumps(described))
        return
    for d in described:
        score = d["scores"] or {}
        iou = score.get("mean_iou")
        shown = f", mean IoU {iou:.3f} on its {score['split']} split" if iou is not None else ""
        names = ", ".join(c["name"] for c in d["classes"])
        print(f"{d['name']}  ({d['domain'] or 'any domain'}{shown})\n  classes  {names}\n  bundle   {d['path']}")


@models_app.command("check", epilog="Example: `seamline models check ./bundle`")
def models_check(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE")],
    trust_model: Annotated[bool, typer.Option("--trust-model", help="Allow .pt2 files, which can run code.")] = False,
    as_json: Json = False,
) -> None:
    """Load a bundle, run random windows through it, and hold it against what it says of itself."""
    from pipeline.models.pack import check

    report = check(bundle, trust=trust_model)
    data = report.to_dict()
    print(json.dumps(data) if as_json else "\n".join(f"{key:<18} {value}" for key, value in data.items()))
    raise typer.Exit(OK if not data.get("problems") else BAD_INPUT)


@models_app.command(
    "pack",
    epilog="Example: `seamline models pack weights.ckpt --arch unet --encoder resnet34 --classes classes.csv "
    "--channels r,g,b --mean 123.7,116.3,103.5 --std 58.4,57.1,57.4 --out ./bundle`",
)
def models_pack(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A state dict or Lightning checkpoint.")],
    arch: Annotated[str, typer.Option(help="An smp architecture: unet, deeplabv3plus, ...")],
    encoder: Annotated[str, typer.Option(help="An smp encoder: resnet34, ...")],
    classes: Annotated[str, typer.Option(help="CSV with name and optionally value, color, role; or names: a,b,c.")],
    channels: Annotated[str, typer.Option(help="What the network reads, in order: r,g,b.")],
    out: Annotated[str, typer.Option(help="Folder of the bundle.")],
    mean: Annotated[str | None, typer.Option(help="Per channel, in stored units (0..255 for uint8).")] = None,
    std: Annotated[str | None, typer.Option(help="Per channel, in stored units.")] = None,
    normalisation: Annotated[str | None, typer.Option(help="As JSON, in place of --mean and --std.")] = None,
    activation: Annotated[Literal["softmax", "sigmoid"] | None, typer.Option()] = None,
    window: Annotated[str | None, typer.Option(help="Window it was trained with.")] = None,
    divisor: Annotated[int | None, typer.Option()] = None,
    domain: Annotated[str | None, typer.Option(help="geo, medical or microscopy.")] = None,
    options: Annotated[str | None, typer.Option(help="JSON for smp's constructor.")] = None,
) -> None:
    """Make a bundle from weights that you have."""
    from pipeline.models.pack import pack

    listed = classes if classes.endswith(".csv") else [c.strip() for c in classes.split(",")]
    print(
        pack(
            weights, arch=arch, encoder=encoder, classes=listed, channels=[c.strip() for c in channels.split(",")],
            out=out, normalisation=_normalisation(mean, std, normalisation), options=_json(options, "options"),
            activation=activation, window=_ints(window), divisor=divisor, domain=domain,
        )
    )  # fmt: skip


# segment, in parts ------------------------------------------------------------------------------------------


def _show_plan(batch: Batch, as_json: bool) -> int:
    from pipeline.show import plan_json, plan_text, skipped_text

    for scene in batch.scenes:
        if scene.plan is not None:
            print(json.dumps(plan_json(scene.plan)) if as_json else plan_text(scene.plan))
        elif as_json:
            print(
                json.dumps({"scene": scene.name, "source": scene.uri, "status": "rejected", "error": str(scene.error)})
            )
        else:
            print(f"{scene.name}\n  rejected  {scene.error}")
    if as_json:
        print(json.dumps({"skipped": [{"uri": uri, "reason": reason} for uri, reason in batch.skipped]}))
    elif batch.skipped:
        print(skipped_text(batch))
    return BAD_INPUT if any(s.error for s in batch.scenes) else OK


def _tell_before(batch: Batch) -> None:
    from pipeline.show import n_bytes, skipped_text

    for scene in batch.planned:
        assert scene.plan is not None
        for note in scene.plan.notes:
            _say(f"{scene.name}: {note}")
    if batch.planned:
        windows = sum(s.plan.windows for s in batch.planned if s.plan)
        peak = max(s.plan.memory.peak for s in batch.planned if s.plan)
        _say(f"{len(batch.planned)} scene(s), {windows:,} windows; {n_bytes(peak)} per worker above the loaded model")
    if batch.skipped:
        _say(skipped_text(batch))


def _run(batch: Batch) -> list[SceneResult]:
    """Drive the loop here; where a Prefect API is configured, as a flow run that shows up there."""
    if os.environ.get("PREFECT_API_URL"):
        from flows.segment import segment_batch

        return segment_batch(batch)
    from flows.batch import run_batch
    from flows.progress import progress

    with progress(batch) as on_event:
        return run_batch(batch, on_event=on_event)


def _export_results(results: list[SceneResult], kinds: list[str]) -> dict[str, list[str]]:
    from pipeline.export.of_run import export_run
    from pipeline.run import open_run

    exported: dict[str, list[str]] = {}
    for result in results:
        if result.fate == "complete" and result.status is not None:
            run = open_run(result.status.run)
            exported[result.name] = [str(export_run(run, kind).path) for kind in kinds]
    return exported


def _show_result(result: SceneResult, exported: list[str], as_json: bool) -> None:
    from pipeline.show import status_text

    if as_json:
        print(json.dumps(result.to_json() | ({"exports": exported} if exported else {})), flush=True)
        return
    if result.status is None:
        _say(f"{result.name}: rejected: {result.error}")
        return
    print(status_text(result.status))
    if result.lost:
        print(f"  healed    {result.lost} finished job(s) whose output was lost or rotten ran again")
    if result.fate != "complete":
        print(f"  next      {result.error or 'interrupted'}\n            run the same command again to finish it")
    for path in exported:
        print(f"  exported  {path}")


def _exit_code(results: list[SceneResult]) -> int:
    fates = {r.fate for r in results}
    return INCOMPLETE if "incomplete" in fates else BAD_INPUT if "rejected" in fates else OK


# parsing ----------------------------------------------------------------------------------------------------


def _number_or_text(value: str | None) -> float | str | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def _floats(value: str | None) -> tuple[float, ...] | None:
    return None if value is None else tuple(_parsed(float, part, value) for part in value.split(","))


def _ints(value: str | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(_parsed(int, part, value) for part in value.replace("x", ",").split(","))


def _parsed(kind: type, part: str, whole: str) -> Any:
    from pipeline.errors import UsageError

    try:
        return kind(part)
    except ValueError:
        raise UsageError(f"{whole!r} must be numbers separated by commas; {part!r} is none") from None


def _json(value: str | None, name: str) -> Any:
    from pipeline.errors import UsageError

    try:
        return None if value is None else json.loads(value)
    except ValueError as e:
        raise UsageError(f"--{name} is not valid JSON: {e}") from None


def _normalisation(mean: str | None, std: str | None, text: str | None) -> Any:
    from pipeline.errors import UsageError

    if text is not None:
        return _json(text, "normalisation")
    if mean is None or std is None:
        raise UsageError("say how the network's pixels were normalised: --mean and --std, or --normalisation as JSON")
    return {"kind": "constant", "mean": _floats(mean), "std": _floats(std)}


def _export_kinds(to: str | None) -> list[str]:
    if to is None:
        return []
    from pipeline.errors import UsageError
    from pipeline.export import EXPORTS

    kinds = [part.strip() for part in to.split(",") if part.strip()]
    unknown = [kind for kind in kinds if kind not in EXPORTS]
    if unknown or not kinds:
        raise UsageError(f"cannot export to {', '.join(unknown) or 'nothing'}; known are {', '.join(EXPORTS)}")
    return kinds


def _exported_json(scene: str, kind: str, done: Any) -> dict[str, Any]:
    return {"scene": scene, "kind": kind, "path": str(done.path), "unresolved": done.unresolved}


def _exported_text(kind: str, done: Any) -> str:
    return f"{kind:<8} {done.path}" + (f"  ({done.note})" if getattr(done, "note", None) else "")


def _record(record: dict[str, Any]) -> str:
    return "  ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in record.items()
        if not isinstance(v, dict | list)
    )


def main() -> None:
    """The entry point: every error of ours is one sentence and an exit code, never a traceback."""
    try:
        code = app(standalone_mode=False)
    except SeamlineError as e:
        _say(f"error: {e}")
        code = BAD_INPUT
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to go on")
        code = INTERRUPTED
    except Exception as e:
        show = getattr(e, "show", None)  # click's own errors say which option is wrong
        if show is None:
            raise
        show()
        code = BAD_INPUT
    sys.exit(code if isinstance(code, int) else OK)


if __name__ == "__main__":
    main()
