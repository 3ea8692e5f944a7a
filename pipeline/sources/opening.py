"""From a uri to an open source: by what the file holds, not by what it is called."""

from __future__ import annotations

from typing import Literal

from pipeline.errors import SeamlineError, SourceError, StoreError
from pipeline.sources.base import NodataRule, Source
from pipeline.sources.files import children, head_bytes, reason, stat, suggestion
from pipeline.store import is_local, local_path, scheme_of

Kind = Literal["raster", "tiff", "nifti", "zarr", "sample"]
ZARR_MARKERS = frozenset({"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"})
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NIFTI_SIZES = (348, 540)  # the first number of a header tells version and byte order


def open_source(uri: str, *, nodata: NodataRule = "source") -> Source:
    """Open a file, zarr store or ``sample:`` scene. Raises SourceError if there is none or it cannot be read."""
    try:
        return _opened(uri, nodata)
    except SeamlineError:
        raise
    except Exception as e:  # a library that stumbled over a file: one scene of a batch, and not the program's end
        raise SourceError(f"cannot open {uri}: {type(e).__name__}: {reason(e)}; is the file damaged?") from e


def _opened(uri: str, nodata: NodataRule) -> Source:
    kind = kind_of(uri)
    if kind == "sample":
        from pipeline.sample import SampleSource

        return SampleSource(uri)
    if kind == "zarr":
        from pipeline.sources.zarr_source import ZarrSource

        return ZarrSource(uri, nodata)
    if kind == "nifti":
        from pipeline.sources.nifti import NiftiSource

        return NiftiSource(uri, nodata)
    return _open_image(uri, kind, nodata)


def _open_image(uri: str, kind: Kind, nodata: NodataRule) -> Source:
    from pipeline.sources.raster import RasterSource
    from pipeline.sources.stack import open_if_stack

    stack = open_if_stack(uri, nodata) if kind == "tiff" else None
    return stack if stack is not None else RasterSource(uri, nodata)


def fingerprint_of(uri: str) -> str:
    """The fingerprint the source would have if it were opened now."""
    source = open_source(uri)
    try:
        return source.info.fingerprint
    finally:
        source.close()


def kind_of(uri: str) -> Kind:
    """Which module reads this uri. Raises SourceError if nothing is there, or nothing that can be read."""
    if uri.startswith("sample:"):
        return "sample"
    found = stat(uri)
    if found is None:
        return _kind_of_folder(uri)
    if found.n_bytes == 0:
        raise SourceError(f"{uri} is empty (0 bytes); fetch the file again")
    return kind_of_bytes(head_bytes(uri), uri)


def kind_of_bytes(head: bytes, uri: str) -> Kind:
    if head[:4] in _TIFF:
        return "tiff"
    name = uri.lower().partition("?")[0]
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    if name.endswith((".nii.gz", ".nii")) or sizes & set(_NIFTI_SIZES):
        return "nifti"
    if name.endswith((".dcm", ".dicom")) or head[128:132] == b"DICM":
        raise SourceError(f"{uri} is DICOM, which is not read; convert the series to NIfTI first (e.g. dcm2niix)")
    return "raster"


def _kind_of_folder(uri: str) -> Kind:
    if is_zarr(uri):
        return "zarr"
    if is_local(uri) and local_path(uri).is_dir():
        raise SourceError(f"{uri} is a folder and no zarr store; name a file in it, or segment it as a prefix")
    raise SourceError(f"{uri} does not exist{suggestion(uri)}")


def is_zarr(uri: str) -> bool:
    """Whether a folder or prefix is a zarr store (group or array, v2 or v3)."""
    if is_local(uri):
        return any((local_path(uri) / marker).is_file() for marker in ZARR_MARKERS)
    if scheme_of(uri) in ("http", "https"):  # cannot be listed
        return any(stat(f"{uri.rstrip('/')}/{marker}") for marker in sorted(ZARR_MARKERS))
    try:
        return bool(ZARR_MARKERS & set(children(uri)[1]))
    except StoreError as e:
        raise SourceError(str(e)) from e
