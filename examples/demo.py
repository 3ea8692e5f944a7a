"""The whole way once: a Prefect flow on a local Ray, a shipped model, real pixels, a stitched mask, pictures.

    make demo          or: python examples/demo.py

The picture is one that scikit-image ships; nothing is downloaded. Everything is written to ``demo/``.
"""

from __future__ import annotations

import shutil
import sys
import time
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from flows.quiet import quiet_environment
from pipeline.errors import SeamlineError

if TYPE_CHECKING:
    from flows.batch import SceneResult
    from pipeline.scenes import Batch

FOLDER = Path("demo")
SCENE = FOLDER / "immunohistochemistry.png"
WORKERS = 2
EXPORTS = ("overlay", "cog", "png")  # the picture to look at; the codes as GeoTIFF and as PNG


def main() -> int:
    """Run the demo; 0 if its mask is complete."""
    started = time.monotonic()
    quiet_environment()  # before ray or prefect is imported
    shutil.rmtree(FOLDER / "runs", ignore_errors=True)  # else it would find that everything is done
    save_picture()
    batch = plan()
    (result,) = run_flow(batch)
    if result.fate != "complete" or result.export_error:
        say("failed", result.error or result.export_error or "the run is incomplete")
        return 1
    tell(batch, result)
    for path in (done.path for done in result.exports.values()):
        say("written", path)
    say("all of it", f"{time.monotonic() - started:.0f} s")
    return 0


def save_picture() -> None:
    """Stained tissue, 512 x 512 RGB: nuclei are blue. No known copyright restrictions, says scikit-image."""
    from PIL import Image
    from skimage.data import immunohistochemistry

    FOLDER.mkdir(exist_ok=True)
    Image.fromarray(immunohistochemistry()).save(SCENE)
    say("picture", f"{SCENE}, which scikit-image ships")


def plan() -> Batch:
    """Small windows and blocks, so that a small picture has nine blocks with seams between them."""
    from flows.batch import hardware_for
    from pipeline.scenes import plan_batch
    from pipeline.settings import make_settings

    given = {
        "model": "nuclei", "out": str(FOLDER / "runs"), "window": 256, "overlap": 64, "block": 192,
        "engine": "ray", "workers": WORKERS, "threads": 1, "device": "cpu",
    }  # fmt: skip
    settings = make_settings(given)
    return plan_batch([str(SCENE)], settings, hardware_for(settings))


def run_flow(batch: Batch) -> list[SceneResult]:
    """The Prefect flow, on a server and a Ray that live for as long as it runs."""
    from flows.server import embedded_server

    say("starting", f"a Prefect server, and Ray with {WORKERS} workers")
    with embedded_server(FOLDER / "prefect"):
        from flows.segment import segment_batch

        return segment_batch(batch, EXPORTS)


def tell(batch: Batch, result: SceneResult) -> None:
    """What the receipts say."""
    from pipeline.show import pixels_text

    status = result.status
    plan = batch.planned[0].plan
    assert status is not None
    assert plan is not None
    grid = plan.manifest.grid
    of_a_window, of_a_block = (" x ".join(map(str, side)) for side in (grid.window, grid.block))
    say("windows", f"{status.windows_run} of {status.windows_total} run, each once; {of_a_window} pixels")
    say("blocks", f"{prod(grid.n_blocks)} of {of_a_block} pixels, by {status.workers} workers")
    say("pixels", pixels_text(status))
    say("inference", f"{status.stages['infer'].seconds:.1f} s of work, {status.mpx_per_second:.2f} Mpx/s per worker")
    say("run", status.run)


def say(what: str, text: str) -> None:
    sys.stdout.write(f"{what:<10} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SeamlineError as e:
        say("error", str(e))
        sys.exit(2)
