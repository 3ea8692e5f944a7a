"""The command line, the roof: parses, asks the floors below, prints. The only one here that knows `flows`."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import options
from pipeline.echo import write_line
from pipeline.options import Activation, Blend, Device, Engine, Precision, Symmetry
from tiling.errors import SeamlineError

if TYPE_CHECKING:
    from flows.batch import SceneResult
    from pipeline.scenes import Batch
    from pipeline.settings import Settings

OK, BAD_INPUT, INCOMPLETE, INTERRUPTED = 0, 2, 3, 130
EXIT_CODES = "Exit codes: 0 done, 2 bad input, 3 incomplete (run the same command again), 130 interrupted."

app = typer.Typer(
    name="seamline",
    help="Segment imagery that is too large for one machine's memory: windows, blocks, stitched masks.",
    epilog="Start with `seamline models`, then `seamline segment scene.tif --model NAME --dry-run`. "
    "Each command has examples in its own `--help`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
models_app = typer.Typer(help="List, check and pack model bundles.", invoke_without_command=True, no_args_is_help=False)
app.add_typer(models_app, name="models")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, for programs.")]
Trust = Annotated[
    bool, typer.Option("--trust-model", help="Allow .pt2 files, which can run code when they are loaded.")
]
_NUMBERS = {"metavar": "N[,N...]", "rich_help_panel": "Windows and blocks (one number, or one per axis)"}
_READS: dict[str, Any] = {"rich_help_panel": "How the source is read"}
_SCORES: dict[str, Any] = {"rich_help_panel": "How windows are scored"}
_WORKS: dict[str, Any] = {"rich_help_panel": "What does the work"}


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        _tell(f"seamline {version('seamline')}")
        raise typer.Exit


@app.callback()
def _any_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    return


@app.command(
    epilog="Examples:\n\n"
    "`seamline segment scene.tif --model landcover --to cog,overlay`\n\n"
    "`seamline segment s3://bucket/prefix --model s3://bucket/bundle --out s3://bucket/runs --workers 4`\n\n"
    "`seamline segment volumes/*.nii.gz --model ./bundle --dry-run`\n\n" + EXIT_CODES
)
def segment(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="File, folder, glob, or bucket prefix.")],
    model: Annotated[
        list[str] | None, typer.Option(metavar="BUNDLE", help="Folder, uri or shipped name. Several: an ensemble.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where run directories go.  [default: runs]")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="TOML or YAML file of these settings; flags win over it.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="KIND[,KIND...]", help="Then export: cog, png, overlay, nifti, zarr.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Json = False,
    window: Annotated[
        str | None, typer.Option(help="Pixels the network sees.  [default: the bundle's]", **_NUMBERS)
    ] = None,
    overlap: Annotated[
        str | None, typer.Option(help="Pixels that neighbouring windows share.  [default: a fifth]", **_NUMBERS)
    ] = None,
    block: Annotated[
        str | None, typer.Option(help="Pixels of a unit of work, a multiple of window - overlap.", **_NUMBERS)
    ] = None,
    blend: Annotated[
        Blend | None, typer.Option(help="How windows share their overlap.  [default: hann]", **_SCORES)
    ] = None,
    tta: Annotated[Symmetry | None, typer.Option(help="Average over flips, or flips and rotations.", **_SCORES)] = None,
    scales: Annotated[
        str | None, typer.Option(metavar="X,X...", help="Average over zooms of each window: 0.75,1,1.25.", **_SCORES)
    ] = None,
    save_scores: Annotated[
        bool | None, typer.Option("--save-scores", help="Keep every class's score.", **_SCORES)
    ] = None,
    trust_model: Annotated[
        bool | None,
        typer.Option("--trust-model", help="Allow .pt2 files, which can run code when they are loaded.", **_SCORES),
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Source channels for the model's, in its order: 4,1,2 or names.", **_READS)
    ] = None,
    nodata: Annotated[
        str | None, typer.Option(metavar="V|none", help="Value that means no data.  [default: the file's]", **_READS)
    ] = None,
    engine: Annotated[Engine | None, typer.Option(help="[default: auto: ray if there are several]", **_WORKS)] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.  [default: 1]", **_WORKS)] = None,
    device: Annotated[Device | None, typer.Option(help="[default: auto: cuda where it is]", **_WORKS)] = None,
    precision: Annotated[Precision | None, typer.Option(help="Of the forward pass.  [default: auto]", **_WORKS)] = None,
    batch: Annotated[int | None, typer.Option(help="Windows per forward pass.", **_WORKS)] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of one worker.", **_WORKS)] = None,
    attempts: Annotated[
        int | None, typer.Option(help="Tries of a block before it is put aside.  [default: 2]", **_WORKS)
    ] = None,
    memory_limit_mb: Annotated[
        int | None, typer.Option(metavar="MB", help="Refuse a plan whose worker needs more.", **_WORKS)
    ] = None,
) -> None:
    """Segment scenes into stitched masks. Run the same command again to resume."""
    given: dict[str, Any] = {
        "model": tuple(model) if model else None, "out": out, "window": window, "overlap": overlap, "block": block,
        "blend": blend, "bands": bands, "nodata": options.number_or_word(nodata), "batch": batch, "engine": engine,
        "workers": workers, "device": device, "precision": precision, "threads": threads, "attempts": attempts,
        "tta": tta,
        "scales": options.floats(scales, "--scales"), "save_scores": save_scores, "trust_model": trust_model,
        "memory_limit_mb": memory_limit_mb,
    }  # fmt: skip
    kinds = options.export_kinds(to)
    from pipeline.settings import make_settings

    planned = _plan(paths, make_settings(given, config), kinds)
    if dry_run:
        raise typer.Exit(_show_plan(planned, as_json))
    results = _run(planned, kinds)
    for result in results:
        _show_result(result, as_json)
    raise typer.Exit(_exit_code(results))


@app.command(epilog="Examples:\n\n`seamline status runs/scene-0123456789ab`\n\n`seamline status runs --json`")
def status(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run directories, or a folder of them.")],
    as_json: Json = False,
) -> None:
    """What a run directory says of itself: counts, throughput, failures."""
    from pipeline.runs import open_runs
    from pipeline.show import status_text
    from pipeline.status import read_status

    for run in open_runs(runs):
        found = read_status(run)
        _tell(json.dumps(found.to_json()) if as_json else status_text(found))


@app.command(
    epilog="Examples:\n\n`seamline export runs/scene-0123456789ab --to overlay`\n\n"
    "`seamline export runs --to cog --out 'masks/{scene}.tif'`"
)
def export(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run directories, or a folder of them.")],
    to: Annotated[str, typer.Option(metavar="KIND[,KIND...]", help="cog, png, overlay, nifti, zarr.")],
    out: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Path with {scene}.  [default: exports/ in the run]")
    ] = None,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Export what there is of an incomplete run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write finished masks in formats that other programs open."""
    from pipeline.export.of_run import check_targets, export_run, targets_of
    from pipeline.runs import open_runs
    from pipeline.show import export_json, export_text

    opened, kinds = open_runs(runs), options.export_kinds(to)
    check_targets(targets_of(opened, kinds, out), out)
    for run in opened:
        for kind in kinds:
            done = export_run(run, kind, out, allow_incomplete=allow_incomplete)
            _tell(json.dumps(export_json(run, kind, done)) if as_json else export_text(kind, done))


@app.command(
    epilog="Examples:\n\n`seamline sample scene.tif --size 8192 --truth truth.tif`\n\n"
    "`seamline sample phantom.nii.gz --size 64,256,256 --volume`"
)
def sample(
    path: Annotated[str, typer.Argument(metavar="PATH", help="*.tif or *.zarr; volumes *.nii, *.nii.gz or *.zarr.")],
    size: Annotated[str, typer.Option(metavar="N[,N...]", help="Side in pixels, or one number per axis.")] = "4096",
    truth: Annotated[str | None, typer.Option(metavar="PATH", help="Also write the exact mask.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another scene.")] = 0,
    volume: Annotated[bool, typer.Option("--volume", help="A 3-D phantom.")] = False,
) -> None:
    """Write a procedural scene with exact truth, of any size, in flat memory."""
    from flows.progress import pixels_done
    from pipeline.sample import write_sample

    numbers = options.integers(size, "--size") or ()
    with pixels_done(Path(path).name) as progress:  # a whole path would leave no room for the bar
        write_sample(path, numbers if len(numbers) > 1 else numbers[0], truth, seed, volume, progress)
    _tell(path if truth is None else f"{path}\n{truth}")


@app.command(epilog="Example: `seamline train examples/nuclei.toml --out my-model`")
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="TOML or YAML file; see examples/.")],
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Of the bundle; wins over the file.")] = None,
    as_json: Json = False,
) -> None:
    """Train a bundle on your own masks. Run the same command again to resume."""
    from pipeline.show import record_text
    from pipeline.training.config import read_config
    from pipeline.training.train import train as run_training

    def report(record: dict[str, Any]) -> None:
        _tell(json.dumps(record)) if as_json else _say(record_text(record))

    _tell(str(run_training(read_config(config, **({"out": out} if out else {})), report)))


@models_app.callback(epilog="Examples:\n\n`seamline models`\n\n`seamline models check ./bundle`")
def models(context: typer.Context, as_json: Json = False) -> None:
    """List the shipped bundles; `check` and `pack` are for your own."""
    if context.invoked_subcommand is not None:
        return
    from pipeline.models.bundle import describe, shipped
    from pipeline.show import bundles_text

    described = [describe(path) for path in shipped()]
    _tell(json.dumps(described) if as_json else bundles_text(described))


@models_app.command("check", epilog="Example: `seamline models check ./bundle`")
def models_check(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder, uri or shipped name.")],
    trust_model: Trust = False,
    as_json: Json = False,
) -> None:
    """Load a bundle, run random windows through it, and hold it against what it says of itself."""
    from pipeline.models.pack import check
    from pipeline.show import check_text

    report = check(bundle, trust=trust_model).to_dict()
    _tell(json.dumps(report) if as_json else check_text(report))
    raise typer.Exit(BAD_INPUT if report["problems"] else OK)


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
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Of the bundle.")],
    mean: Annotated[str | None, typer.Option(help="Per channel, in stored units (0..255 for uint8).")] = None,
    std: Annotated[str | None, typer.Option(help="Per channel, in stored units.")] = None,
    normalisation: Annotated[str | None, typer.Option(help="As JSON, in place of --mean and --std.")] = None,
    activation: Annotated[Activation | None, typer.Option(help="What makes scores of its output.")] = None,
    window: Annotated[str | None, typer.Option(help="Window it was trained with.")] = None,
    divisor: Annotated[int | None, typer.Option(help="Its windows' sides are multiples of this.")] = None,
    domain: Annotated[str | None, typer.Option(help="geo, medical or microscopy.")] = None,
    construct: Annotated[str | None, typer.Option("--options", help="JSON for smp's constructor.")] = None,
) -> None:
    """Make a bundle from weights that you have."""
    from pipeline.models.pack import pack

    folder = pack(
        weights, arch=arch, encoder=encoder, classes=classes if classes.endswith(".csv") else options.words(classes),
        channels=options.words(channels), out=out, normalisation=options.normalisation(mean, std, normalisation),
        options=options.from_json(construct, "--options"), activation=activation,
        window=options.integers(window, "--window"), divisor=divisor, domain=domain,
    )  # fmt: skip
    _tell(str(folder))


# segment, in parts ------------------------------------------------------------------------------------------


def _plan(paths: list[str], settings: Settings, kinds: list[str]) -> Batch:
    from flows.batch import hardware_for
    from pipeline.export.of_run import check_targets, targets_in
    from pipeline.scenes import plan_batch

    batch = plan_batch(paths, settings, hardware_for(settings))
    check_targets(targets_in(batch.settings.out, [scene.plan.manifest for scene in batch.planned if scene.plan], kinds))
    return batch


def _show_plan(batch: Batch, as_json: bool) -> int:
    from pipeline.scenes import check_bundles
    from pipeline.show import scene_json, scene_text, skipped_json, skipped_text

    check_bundles(batch)
    for scene in batch.scenes:
        _tell(json.dumps(scene_json(scene)) if as_json else scene_text(scene))
    if batch.skipped:
        _tell(json.dumps(skipped_json(batch)) if as_json else skipped_text(batch))
    return BAD_INPUT if any(scene.error for scene in batch.scenes) else OK


def _run(batch: Batch, kinds: list[str]) -> list[SceneResult]:
    """Drive the loop here; where a Prefect API is configured, as a flow run that shows up there."""
    from flows.batch import export_results, run_batch
    from flows.progress import progress
    from flows.quiet import quiet_environment
    from pipeline.show import batch_text

    if text := batch_text(batch):
        _say(text)
    with progress() as watch:
        if os.environ.get("PREFECT_API_URL"):
            quiet_environment()
            from flows.segment import segment_batch

            return segment_batch(batch, kinds, watch)
        results = run_batch(batch, on_event=watch, on_start=watch.start)
    return export_results(results, kinds)


def _show_result(result: SceneResult, as_json: bool) -> None:
    from pipeline.show import result_text

    if as_json:
        _tell(json.dumps(result.to_json()))
    elif result.status is None:
        cure = "; run the same command again" if result.fate == "incomplete" else ""
        _say(f"{result.name}: {result.fate}: {result.error}{cure}")
    else:
        _tell(result_text(result.status, result.error, result.lost, result.exports, result.export_error))


def _exit_code(results: list[SceneResult]) -> int:
    if any(result.fate == "incomplete" for result in results):
        return INCOMPLETE
    return BAD_INPUT if any(result.fate == "rejected" or result.export_error for result in results) else OK


# the entry point --------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    write_line(sys.stderr, text)


def _tell(text: str) -> None:
    write_line(sys.stdout, text)


def main() -> None:
    """Every error of ours is one sentence and an exit code, never a traceback."""
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong with a file, our errors say
    try:
        code = app(standalone_mode=False)
    except SeamlineError as e:
        _say(f"error: {e}")
        code = BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as e:
        show = getattr(e, "show", None)  # typer's own errors say which option is wrong
        if show is None:
            raise
        show()
        code = BAD_INPUT
    if code == INTERRUPTED:
        _say("interrupted; nothing that was finished is lost: run the same command again to go on")
    sys.exit(code if isinstance(code, int) else OK)


if __name__ == "__main__":
    main()
