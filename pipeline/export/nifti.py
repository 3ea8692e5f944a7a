"""A mask as NIfTI: the source's affine, a dtype that fits the class values, written slab by slab."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.export.codes import codes_of
from pipeline.export.frames import nifti_affine
from pipeline.export.place import Exported, local_target, placed, size_on_disk
from pipeline.export.view import MaskView, pieces
from tiling import Frame

SUFFIXES = (".nii", ".nii.gz")
_UNITS = {"m": "meter", "metre": "meter", "mm": "mm", "um": "micron", "µm": "micron", "micrometer": "micron"}
_INTENT_LABEL = 1002
_COMMENT = 6


def export_nifti(view: MaskView, path: str | Path) -> Exported:
    """Write ``path`` (*.nii, *.nii.gz). NIfTI has no nodata: those pixels get the background's code and are counted.

    The axes are reversed to (x, y, z) and the affine with them, so the mask lies on its source in any viewer.
    The last side longer than 32,767 makes it NIfTI-2. Raises UsageError for a 2-D mask: a map in a NIfTI
    would lose its CRS.
    """
    if view.ndim != 3:
        raise UsageError(f"{view.name} is a picture of {view.shape}; NIfTI is for volumes: use --to cog or --to png")
    target = local_target(path, "NIfTI", SUFFIXES, view.tags.get("source"))
    codes = codes_of(view, with_nodata=False)
    substituted = 0

    def slabs() -> Iterator[NDArray[Any]]:
        nonlocal substituted
        for strip in view.strips():
            slab = np.empty(strip.shape, dtype=codes.dtype)
            for box in pieces(strip, view.block):
                slab[box.slices(strip.start)], n = codes.apply(view.read(box))
                substituted += n
            yield slab

    names = {str(c.value): c.name for c in view.classes}
    tags = {f"seamline:{key}": value for key, value in view.tags.items()}
    write_nifti(target, slabs(), view.shape, codes.dtype, view.frame, labels=names, tags=tags)
    return Exported(str(target), size_on_disk(target), substituted if codes.nodata is None else 0)


def write_nifti(
    path: Path,
    slabs: Iterable[NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    frame: Frame,
    *,
    labels: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Stream ``(z, y, x)`` slabs, which follow one another in C order, to a NIfTI file moved into place whole.

    NIfTI stores x fastest; that is C order of (z, y, x), so nothing is transposed and nothing is kept.
    """
    header = _header(shape, dtype, frame, labels, dict(tags or {}))
    little = dtype.newbyteorder("<")
    with placed(path) as whole, _opened(whole, path.name.lower().endswith(".gz")) as file:
        header.write_to(file)
        file.write(b"\0" * (int(header["vox_offset"]) - file.tell()))
        for slab in slabs:
            file.write(np.ascontiguousarray(slab, dtype=little).data)


def _header(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    frame: Frame,
    labels: Mapping[str, str] | None,
    tags: dict[str, str],
) -> Any:
    import nibabel as nib

    affine = nifti_affine(frame)
    make: Any = nib.Nifti1Header if max(shape) <= np.iinfo(np.int16).max else nib.Nifti2Header
    header = make(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape[::-1])
    header.set_sform(affine, code="scanner")
    if _is_orthogonal(affine):  # a quaternion cannot say shear
        header.set_qform(affine, code="scanner")
    else:
        header["pixdim"][1:4] = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    header.set_xyzt_units(xyz=_UNITS.get(frame.unit, "unknown"))
    header.set_slope_inter(1, 0)
    text = "\n".join([*(f"{k}: {v}" for k, v in tags.items()), *(f"label {v}: {n}" for v, n in (labels or {}).items())])
    if labels is not None:
        header["intent_code"] = _INTENT_LABEL
    if text:
        header.extensions.append(nib.nifti1.Nifti1Extension(_COMMENT, text.encode()))
    header["vox_offset"] = header.single_vox_offset + header.extensions.get_sizeondisk()
    return header


def _is_orthogonal(affine: NDArray[np.float64]) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < 1e-6)


@contextmanager
def _opened(path: Path, gzipped: bool) -> Iterator[IO[bytes]]:
    with path.open("wb") as raw:
        if not gzipped:
            yield raw
            return
        # no time and no name in the gzip header: the same mask gives the same bytes
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=4, mtime=0) as file:
            yield file  # type: ignore[misc]
