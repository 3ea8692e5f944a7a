"""Exports of a run: its mask as the writers of this package take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.export import EXPORTS, Exported, MaskView, export, out_pattern
from pipeline.infer import read_image
from pipeline.manifest import Manifest
from pipeline.run import Run
from pipeline.store import is_local, join, local_path
from tiling import Box

_FLAT = {"cog": "nifti or zarr", "png": "nifti or zarr"}
"""Kinds for images alone, and what a volume is exported to instead."""


def view_of(run: Run) -> MaskView:
    """The run's mask with its classes, frame and provenance."""
    m = run.manifest
    tags = {
        "run": m.run_name,
        "version": m.seamline,
        "model": m.spec.name,
        "model_sha256": m.question.bundles[0],
        "source": m.question.source.uri,
    }
    return MaskView(
        labels=run.array("labels"), classes=m.spec.classes, frame=m.frame, block=m.layout.block, name=m.scene, tags=tags
    )


def check_targets(manifests: Sequence[Manifest], kinds: Sequence[str], out: str | None = None) -> None:
    """Raise UsageError for masks that a kind cannot hold, and for an ``out`` that names one place for several files."""
    for m in manifests:
        for kind in kinds:
            other = {"nifti": "cog or png"}.get(kind) if m.ndim == 2 else _FLAT.get(kind)
            if other:
                what = "an image" if m.ndim == 2 else "a volume"
                raise UsageError(f"{m.scene} is {what} of {m.question.source.shape}, not for {kind}: use --to {other}")
    places = [out_pattern(out, m.scene) for m in manifests for _ in kinds] if out else []
    if len(set(places)) < len(places):
        cure = "put {scene} in it" if len(kinds) == 1 else "export one kind at a time, or leave --out away"
        raise UsageError(f"--out {out!r} would write {len(places)} files to {len(set(places))} place(s): {cure}")


def export_run(run: Run, kind: str, out: str | None = None, *, allow_incomplete: bool = False) -> Exported:
    """Export one run; without ``out`` (a pattern with ``{scene}``) into the run's own ``exports/``."""
    if kind not in EXPORTS:
        raise UsageError(f"cannot export to {kind!r}; known are {', '.join(EXPORTS)}")
    path = out_pattern(out, run.manifest.scene) if out else default_path(run, kind)
    if is_local(path):
        local_path(path).parent.mkdir(parents=True, exist_ok=True)
    overlay = kind == "overlay"
    return export(
        kind,
        view_of(run),
        path,
        image=ImageView(run) if overlay else None,
        valid=run.array("valid") if overlay else None,
        allow_incomplete=allow_incomplete,
    )


def default_path(run: Run, kind: str) -> str:
    """``<run>/exports/<scene>_overlay.png`` and the like."""
    mark = {"overlay": "_overlay", "png": "_mask", "cog": "_mask", "nifti": "_mask", "zarr": "_mask"}[kind]
    return join(run.uri, "exports", f"{run.manifest.scene}{mark}{EXPORTS[kind]}")


class ImageView:
    """The run's image as an array ``(C, *spatial)``, wherever its level 0 lies; read by slices without steps."""

    def __init__(self, run: Run) -> None:
        self._run = run
        source = run.manifest.question.source
        self.shape = (len(source.channels), *run.grid.extent)
        self.dtype = np.dtype(source.dtype)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        channels, *spatial = (*key, *(slice(None),) * (len(self.shape) - len(key)))
        bounds = [s.indices(n) for s, n in zip(spatial, self.shape[1:], strict=True)]
        box = Box(tuple(b[0] for b in bounds), tuple(max(b[0], b[1]) for b in bounds))
        return read_image(self._run, box)[(channels, *(slice(None, None, b[2]) for b in bounds))]
