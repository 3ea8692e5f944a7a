"""Bytes by key: the one layer through which local disks and buckets are reached.

Keys are relative, with forward slashes. A write is whole or absent, on every backend: local files are
written beside their place and renamed, objects are put in one request. Nothing here ever appends.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, NotFoundError
from obstore.store import LocalStore, from_url

from pipeline.errors import StoreError, UsageError

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "http", "https", "memory", "file")
_CHATTER = re.compile(
    r"^Generic \w+ error: (Error performing )?|, after \d+ retries, max_retries: \d+, retry_timeout: \w+ *|"
    r" \(os error \d+\)|\[Errno \d+\] "
)
AT_ONCE = 16
"""Requests under way when many objects are read: each waits far longer for the network than it works."""
_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+)://")


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored object: key relative to the store, size in bytes, and what tells a changed object apart."""

    key: str
    n_bytes: int
    version: str


def scheme_of(uri: str) -> str | None:
    """``s3`` of ``s3://bucket/key``; None for a local path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else None


def is_local(uri: str) -> bool:
    return scheme_of(uri) in (None, "file")


def local_path(uri: str) -> Path:
    """The path of a local uri (``file://`` or none)."""
    if not is_local(uri):
        raise UsageError(f"{uri} is not a local path")
    return Path(uri.removeprefix("file://")).expanduser()


def absolute(uri: str) -> str:
    """The same place from any working directory: workers on other machines have others."""
    return os.path.abspath(local_path(uri)) if is_local(uri) and not uri.startswith("sample:") else uri  # noqa: PTH100


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *(p.strip("/") for p in parts)])


def split(uri: str) -> tuple[str, str]:
    """``(parent, name)``: ``s3://b/p/x.tif`` -> ``("s3://b/p", "x.tif")``."""
    if is_local(uri):
        path = local_path(uri).absolute()
        return str(path.parent), path.name
    parent, _, name = uri.rstrip("/").rpartition("/")
    return parent, name


@dataclass(frozen=True)
class Store:
    """A directory or a prefix of a bucket, by its uri. Cheap to make, picklable (the client is rebuilt)."""

    uri: str

    @cached_property
    def client(self) -> Any:
        """The obstore client. Raises FileNotFoundError for a local folder that is not there: reading makes none."""
        scheme = scheme_of(self.uri)
        try:
            if is_local(self.uri):
                root = local_path(self.uri).absolute()
                if not root.is_dir():
                    raise FileNotFoundError(f"no folder {root}")
                return LocalStore(root)
            if scheme not in SCHEMES:
                raise UsageError(f"unknown scheme in {self.uri}; known are {', '.join(f'{s}://' for s in SCHEMES)}")
            options: dict[str, Any] = {"client_options": {"allow_http": True}}
            return from_url(self.uri, **options)
        except (UsageError, FileNotFoundError):
            raise
        except Exception as e:
            raise StoreError(f"cannot use {self.uri}: {first_line(e)}") from e

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)

    def get(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError if there is none."""
        try:
            return bytes(obstore.get(self.client, key).bytes())
        except (NotFoundError, FileNotFoundError):
            raise FileNotFoundError(f"no {key} in {self.uri}") from None
        except Exception as e:
            raise StoreError(f"cannot read {join(self.uri, key)}: {first_line(e)}") from e

    def get_or_none(self, key: str) -> bytes | None:
        try:
            return self.get(key)
        except FileNotFoundError:
            return None

    def get_each(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """The objects of ``keys``, in their order, None where there is none. A few are ahead, never all in memory."""
        ahead: deque[Future[bytes | None]] = deque()
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="store") as pool:
            try:
                for key in keys:
                    ahead.append(pool.submit(self.get_or_none, key))
                    if len(ahead) >= 4 * AT_ONCE:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def exists(self, key: str) -> bool:
        return self.size_or_none(key) is not None

    def size(self, key: str) -> int:
        """Bytes of the object as stored. Raises FileNotFoundError if there is none."""
        try:
            return int(obstore.head(self.client, key)["size"])
        except (NotFoundError, FileNotFoundError):
            raise FileNotFoundError(f"no {key} in {self.uri}") from None
        except Exception as e:
            raise StoreError(f"cannot read {join(self.uri, key)}: {first_line(e)}") from e

    def size_or_none(self, key: str) -> int | None:
        try:
            return self.size(key)
        except FileNotFoundError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Write the object whole, over what was there."""
        self.make_root()
        try:
            obstore.put(self.client, key, data)
        except Exception as e:
            raise StoreError(f"cannot write {join(self.uri, key)}: {first_line(e)}") from e

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write the object unless there is one; True if this call wrote it."""
        self.make_root()
        try:
            obstore.put(self.client, key, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, FileExistsError):
            return False
        except Exception as e:
            raise StoreError(f"cannot write {join(self.uri, key)}: {first_line(e)}") from e
        return True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object below ``prefix`` (whole path segments), in no promised order."""
        try:
            for batch in obstore.list(self.client, prefix or None):
                for meta in batch:
                    stamp = meta["e_tag"] or meta["last_modified"].isoformat()
                    yield Entry(str(meta["path"]), int(meta["size"]), str(stamp))
        except (NotFoundError, FileNotFoundError):
            return
        except Exception as e:
            raise StoreError(f"cannot list {join(self.uri, prefix)}: {first_line(e)}") from e

    def delete(self, key: str) -> None:
        """Remove the object; absent is fine."""
        try:
            obstore.delete(self.client, key)
        except (NotFoundError, FileNotFoundError):
            return
        except Exception as e:
            raise StoreError(f"cannot delete {join(self.uri, key)}: {first_line(e)}") from e

    def delete_all(self, prefix: str) -> int:
        """Remove everything below ``prefix``; how many objects that were."""
        keys = [entry.key for entry in self.list(prefix)]
        for key in keys:
            self.delete(key)
        if is_local(self.uri) and prefix:
            _remove_empty(local_path(join(self.uri, prefix)))
        return len(keys)

    def make_root(self) -> None:
        """Make the local folder, if this is one; buckets need none."""
        if is_local(self.uri):
            try:
                local_path(self.uri).absolute().mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise StoreError(f"cannot write to {self.uri}: {e.strerror or e}") from e

    def within(self, prefix: str) -> Store:
        return Store(join(self.uri, prefix))


def _remove_empty(folder: Path) -> None:
    """Folders are an accident of local disks: drop those that hold nothing."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # not empty, or another process was faster
            os.rmdir(path)  # noqa: PTH106


def first_line(error: BaseException) -> str:
    """What an error says, in one line, without what only its library's authors understand."""
    text = str(error).strip()
    if "No space left" in text:
        return "No space left on device; free some and run the same command again, nothing that is finished is lost"
    return _CHATTER.sub("", text.splitlines()[0]) if text else type(error).__name__
