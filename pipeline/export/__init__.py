"""Finished masks in the formats that other programs open. One writer, whole files, codes as the model defines them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

from pipeline.errors import RunError, UsageError
from pipeline.export.place import Exported
from pipeline.export.view import ArrayLike, ClassLike, Counts, MaskView
from pipeline.store import is_local

__all__ = ["EXPORTS", "ArrayLike", "ClassLike", "Counts", "Exported", "MaskView", "export", "out_pattern"]

EXPORTS: dict[str, str] = {"cog": ".tif", "png": ".png", "overlay": ".png", "nifti": ".nii.gz", "zarr": ".zarr"}
"""What a mask can be exported as, and the suffix of each."""


def export(
    kind: str,
    view: MaskView,
    path: str | Path,
    *,
    image: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    channels: tuple[int, ...] | None = None,
    allow_incomplete: bool = False,
) -> Exported:
    """Write ``view`` as ``kind`` (one of ``EXPORTS``) to ``path``.

    image, valid  ``(C, *spatial)`` pixels and ``spatial`` validity; only the overlay needs them
    channels      of the image that the overlay draws, see ``export_overlay``

    Raises UsageError for an unknown kind or a kind that cannot hold this mask, RunError for a mask with
    unresolved pixels unless ``allow_incomplete`` (they are then written like nodata), StoreError for a place
    that cannot be written to.
    """
    if kind not in EXPORTS:
        raise UsageError(f"cannot export to {kind!r}; known are {', '.join(EXPORTS)}")
    counts = view.counts()
    if counts.unresolved and not allow_incomplete:
        raise RunError(
            f"{view.name} is incomplete: {counts.unresolved:,} of {counts.total:,} pixels are unresolved because "
            "blocks failed or are still to run; run `segment` again to finish it, or export what there is "
            "with --allow-incomplete"
        )
    if kind == "overlay":
        from pipeline.export.overlay import export_overlay

        if image is None:
            raise UsageError(f"the overlay of {view.name} needs the image it lies over")
        done: Exported = export_overlay(view, image, valid, path, channels=channels, counts=counts)
    else:
        done = _writer(kind)(view, path)
    return replace(done, unresolved=counts.unresolved)


def out_pattern(pattern: str, scene: str) -> str:
    """The place that ``--out`` names for a scene: ``{scene}`` in the pattern is its name.

    Raises UsageError for other fields and for a scene name that would leave the folder.
    """
    try:
        fields = {
            (name, spec, conversion) for _, name, spec, conversion in Formatter().parse(pattern) if name is not None
        }
    except ValueError as e:
        raise UsageError(f"--out {pattern!r} is not a pattern: {e}; write a brace itself as {{{{ or }}}}") from e
    if fields - {("scene", "", None)}:
        unknown = ", ".join(sorted("{" + name + "}" for name, _, _ in fields - {("scene", "", None)}))
        raise UsageError(f"--out {pattern!r} has {unknown}; the only field is {{scene}}")
    if PurePosixPath(scene).name != scene or scene in ("", ".", "..") or "\\" in scene or "\0" in scene:
        raise UsageError(f"scene name {scene!r} is no file name, so --out {pattern!r} would leave its folder")
    out = pattern.format(scene=scene)
    if not out or out.endswith("/"):
        raise UsageError(f"--out {pattern!r} names a folder; add a file name, as in 'masks/{{scene}}.tif'")
    return out if not is_local(out) else str(Path(out.removeprefix("file://")).expanduser())


def _writer(kind: str) -> Callable[[MaskView, str | Path], Exported]:
    from pipeline.export import cog, nifti, png, zarr

    writers: dict[str, Any] = {
        "cog": cog.export_cog,
        "nifti": nifti.export_nifti,
        "png": png.export_png,
        "zarr": zarr.export_zarr,
    }
    writer: Callable[[MaskView, str | Path], Exported] = writers[kind]
    return writer
