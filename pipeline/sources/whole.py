"""Whether a file is there to its end: hours of work should not find that out block by block."""

from __future__ import annotations

from pipeline.errors import SourceError
from pipeline.sources.files import head_bytes, open_binary, stat

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_TAIL = 65536  # cameras write a thumbnail or a comment behind the picture


def check_whole(uri: str) -> None:
    """Raise SourceError for a TIFF or JPEG that was cut off, where a look at its tags or its end tells.

    Opening one does not: what is there of it can be read, by whoever asks for just that. Other formats are looked
    at when they are opened, or say it when they are read; folders are not looked at.
    """
    if uri.startswith("sample:") or stat(uri) is None:
        return
    head = head_bytes(uri, 4)
    if head in _TIFF:
        _check_tiff(uri)
    elif head.startswith(_JPEG):
        _check_jpeg(uri)


def _check_tiff(uri: str) -> None:
    """Strips and tiles of the first page must lie within the file."""
    import tifffile

    with open_binary(uri) as file:
        try:
            with tifffile.TiffFile(file) as tiff:
                page, size = tiff.pages.first, tiff.filehandle.size
                end = max((at + n for at, n in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
        except SourceError:
            raise
        except Exception:  # noqa: BLE001  # GDAL opened it, and has the last word on what tifffile cannot follow
            return
    if end > size:
        raise SourceError(
            f"{uri} is truncated: its pixels go on to byte {end:,}, and the file ends at {size:,}; fetch the file again"
        )


def _check_jpeg(uri: str) -> None:
    with open_binary(uri) as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL))
        if _JPEG_END not in file.read(_TAIL):
            raise SourceError(f"{uri} is truncated: a JPEG without its end marker; fetch the file again")
