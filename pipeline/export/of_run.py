"""Exports of a run: its mask as the writers of this package take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.export import EXPORTS, Exported, MaskView, export, out_pattern
from pipeline.export.place import check_free, local_target
from pipeline.export.png import check_png
from pipeline.manifest import Manifest
from pipeline.pixels import read_image
from pipeline.run import Run
from pipeline.sources import check_unchanged
from pipeline.store import join
from tiling import Box

_FLAT = {"cog": "nifti or zarr", "png": "nifti or zarr"}
"""Kinds for images alone, and what a volume is exported to instead."""
_COLOURS = (("r", "red"), ("g", "green"), ("b", "blue"))
_CALLED = {"cog": "a COG", "png": "PNG", "overlay": "an overlay", "nifti": "NIfTI"}


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


@dataclass(frozen=True, slots=True)
class Target:
    """An export that is to be made: of which mask, as what, and where."""

    manifest: Manifest
    kind: str
    path: str


def targets_in(out: str, manifests: Sequence[Manifest], kinds: Sequence[str]) -> list[Target]:
    """Where ``segment --to`` puts its exports: in runs that need not exist yet, below ``out``."""
    return [Target(m, kind, default_path(join(out, m.run_name), m, kind)) for m in manifests for kind in kinds]


def targets_of(runs: Sequence[Run], kinds: Sequence[str], out: str | None) -> list[Target]:
    """Where ``export`` puts them; ``out`` is a pattern, None for the runs themselves."""
    return [Target(run.manifest, kind, _place(run, kind, out)) for run in runs for kind in kinds]


def check_targets(targets: Sequence[Target], out: str | None = None) -> None:
    """Raise UsageError, before anything is spent, for exports that could not be written afterwards.

    That is: a mask that its kind cannot hold, a place that its kind is not written to or that is not free, and an
    ``out`` that names one place for several files.
    """
    for target in targets:
        _check_kind(target)
    _check_distinct([t.path for t in targets], len({t.kind for t in targets}), out)
    for target in targets:
        source = target.manifest.question.source.uri
        if target.kind == "zarr":
            check_free(target.path, source)
        else:
            local_target(target.path, _CALLED.get(target.kind, target.kind), ("",), source)


def _check_kind(target: Target) -> None:
    m, kind = target.manifest, target.kind
    shape = m.question.source.shape
    other = {"nifti": "cog or png"}.get(kind) if m.ndim == 2 else _FLAT.get(kind)
    if other:
        what = "an image" if m.ndim == 2 else "a volume"
        raise UsageError(f"{m.scene} is {what} of {shape}, not for {kind}: use --to {other}")
    if kind == "png":
        check_png(m.scene, shape)


def _check_distinct(places: Sequence[str], n_kinds: int, out: str | None) -> None:
    if len(set(places)) < len(places):
        cure = "put {scene} in it" if n_kinds == 1 else "export one kind at a time, or leave --out away"
        raise UsageError(f"--out {out!r} would write {len(places)} files to {len(set(places))} place(s): {cure}")


def export_run(run: Run, kind: str, out: str | None = None, *, allow_incomplete: bool = False) -> Exported:
    """Export one run; without ``out`` (a pattern with ``{scene}``) into the run's own ``exports/``."""
    if kind not in EXPORTS:
        raise UsageError(f"cannot export to {kind!r}; known are {', '.join(EXPORTS)}")
    path = _place(run, kind, out)
    overlay = kind == "overlay"
    if overlay and run.manifest.layout.image == "in-place":
        check_unchanged(run.manifest.question.source.uri, run.manifest.question.source.fingerprint)
    return export(
        kind,
        view_of(run),
        path,
        image=ImageView(run) if overlay else None,
        valid=run.array("valid") if overlay else None,
        channels=natural_channels(run.manifest) if overlay else None,
        allow_incomplete=allow_incomplete,
    )


def _place(run: Run, kind: str, out: str | None) -> str:
    return out_pattern(out, run.manifest.scene) if out else default_path(run.uri, run.manifest, kind)


def default_path(run: str, manifest: Manifest, kind: str) -> str:
    """``<run>/exports/<scene>_overlay.png`` and the like."""
    mark = {"overlay": "_overlay", "png": "_mask", "cog": "_mask", "nifti": "_mask", "zarr": "_mask"}[kind]
    return join(run, "exports", f"{manifest.scene}{mark}{EXPORTS[kind]}")


def natural_channels(manifest: Manifest) -> tuple[int, int, int] | None:
    """Which of the image's channels are red, green and blue, by the source's names for them, else by the model's.

    None where neither names all three: the first channels are drawn then.
    """
    for names in (manifest.question.source.channel_names, manifest.spec.channels):
        lower = [name.strip().lower() for name in names]
        found = [next((n for n, name in enumerate(lower) if name in known), None) for known in _COLOURS]
        if None not in found:
            red, green, blue = found
            return red, green, blue  # type: ignore[return-value]
    return None


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
