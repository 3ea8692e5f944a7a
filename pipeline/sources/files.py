"""Files as the formats need them: looked at, listed and read in ranges, alike on disks and in buckets.

Everything remote goes through one object-store client (``pipeline.store.Store``), so credentials and
endpoints come from one place whichever library decodes the bytes.
"""

from __future__ import annotations

import io
import posixpath
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, cast

import obstore
from obstore.exceptions import NotFoundError

from pipeline.errors import SourceError, StoreError
from pipeline.store import Entry, Store, first_line, is_local, join, local_path, scheme_of, split

BLOCK_BYTES = 512 * 1024  # one request brings at least this much
KEPT_BLOCKS = 32
ACCESS = "check the name, the credentials and the endpoint"


def reason(error: BaseException) -> str:
    """The innermost cause of an error in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def normal(uri: str) -> str:
    """A local uri as a path without ``file://``; ``..`` and ``//`` resolved in a remote one."""
    if is_local(uri):
        return str(local_path(uri))
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{posixpath.normpath(rest)}"


def stat(uri: str) -> Entry | None:
    """Name, size and version of one file; None if there is none. The version is mtime or etag."""
    if is_local(uri):
        path = local_path(uri)
        try:
            found = path.stat() if path.is_file() else None
        except OSError as e:
            raise SourceError(f"cannot read {uri}: {e.strerror or e}") from e
        if found is None:
            return None
        return Entry(path.name, found.st_size, str(found.st_mtime_ns))
    parent, name = split(uri)
    try:
        meta = obstore.head(Store(parent).client, name)
    except (NotFoundError, FileNotFoundError):
        return None
    except StoreError as e:
        raise SourceError(str(e)) from e
    except Exception as e:
        raise SourceError(f"cannot read {uri}: {reason(e)}; {ACCESS}") from e
    return Entry(name, int(meta["size"]), str(meta["e_tag"] or meta["last_modified"].isoformat()))


def head_bytes(uri: str, n: int = 4096) -> bytes:
    """The first ``n`` bytes of a file that exists (fewer if it is shorter)."""
    with open_binary(uri) as file:
        return file.read(n)


def open_binary(uri: str) -> BinaryIO:
    """A seekable reader. Remote files are read in ranges, with the last few blocks kept."""
    try:
        if is_local(uri):
            return local_path(uri).open("rb")
        return cast(BinaryIO, RangeFile(uri))
    except FileNotFoundError:
        raise SourceError(f"{uri} does not exist") from None
    except OSError as e:
        raise SourceError(f"cannot read {uri}: {e.strerror or reason(e)}") from e


def children(uri: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files directly below ``uri``, each sorted. Raises StoreError."""
    if is_local(uri):
        return _local_children(local_path(uri))
    store = Store(uri)
    try:
        found: Any = obstore.list_with_delimiter(store.client)
    except StoreError:
        raise
    except Exception as e:
        raise StoreError(f"cannot list {uri}: {reason(e)}; {ACCESS}") from e
    folders = sorted(posixpath.basename(str(p).rstrip("/")) for p in found["common_prefixes"])
    return folders, sorted(posixpath.basename(str(m["path"])) for m in found["objects"])


def _local_children(path: Path) -> tuple[list[str], list[str]]:
    try:
        entries = sorted(path.iterdir())
        return [p.name for p in entries if p.is_dir()], [p.name for p in entries if not p.is_dir()]
    except OSError as e:
        raise StoreError(f"cannot list {path}: {e.strerror or e}") from e


def suggestion(uri: str) -> str:
    """`` (did you mean s3://...?)`` for a missing path that could be a bucket and a key, else nothing."""
    first, _, rest = uri.partition("/")
    looks_like_bucket = bool(first) and bool(rest) and first not in (".", "..", "~") and not Path(first).exists()
    return f" (did you mean s3://{uri}?)" if scheme_of(uri) is None and looks_like_bucket else ""


def sibling(uri: str, name: str) -> str:
    """``name`` (which may climb with ``..``) as seen from the folder that holds ``uri``."""
    parent, _ = split(uri)
    return normal(join(parent, name))


class RangeFile(io.RawIOBase):
    """A remote file as a seekable reader: small reads come from kept blocks, large ones are one request.

    Every failed request raises SourceError with the uri; a short read means end of file and nothing else.
    """

    def __init__(self, uri: str) -> None:
        found = stat(uri)
        if found is None:
            raise FileNotFoundError(uri)
        parent, self._key = split(uri)
        self._client = Store(parent).client
        self._uri, self._size, self._at = uri, found.n_bytes, 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        n = max(0, min(len(view), self._size - self._at))
        if n:
            view[:n] = self._bytes(self._at, n)
        self._at += n
        return n

    def get_byte_ranges(self, offsets: list[int], sizes: list[int]) -> list[bytes]:
        """What GDAL asks for when it reads several tiles at once."""
        return [self._bytes(offset, size) for offset, size in zip(offsets, sizes, strict=True)]

    def _bytes(self, start: int, n: int) -> bytes:
        if n >= BLOCK_BYTES:
            return self._request(start, n)
        first, last = start // BLOCK_BYTES, (start + n - 1) // BLOCK_BYTES
        data = b"".join(self._block(i) for i in range(first, last + 1))
        skip = start - first * BLOCK_BYTES
        return data[skip : skip + n]

    def _block(self, i: int) -> bytes:
        if i not in self._blocks:
            start = i * BLOCK_BYTES
            self._blocks[i] = self._request(start, min(BLOCK_BYTES, self._size - start))
            if len(self._blocks) > KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(i)
        return self._blocks[i]

    def _request(self, start: int, n: int) -> bytes:
        try:
            return bytes(obstore.get_range(self._client, self._key, start=start, length=n))
        except Exception as e:
            raise SourceError(f"cannot read bytes {start}..{start + n} of {self._uri}: {reason(e)}") from e
