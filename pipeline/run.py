"""A run: a directory (or a prefix of a bucket) that is the whole state of segmenting one scene.

manifest.json     what decides the bytes, written once before any work
constants.json    normalisation constants of the scene
bundle/<i>/       the models, so that workers anywhere load the same
scene.zarr/       arrays (see pipeline.arrays)
histograms/       per block, when the normalisation needs them
partials/<j>/     block j's own sums, and the pieces that upstream blocks filed for it
receipts/<stage>/ one object per finished job
failures/<stage>/ one object per job that failed for good
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import tee
from typing import Any, TypeVar

from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline import arrays
from pipeline.arrays import ArrayName
from pipeline.errors import RunError
from pipeline.manifest import SCHEMA, Manifest
from pipeline.models.normalise import Constants
from pipeline.partials import pack, unpack
from pipeline.receipts import Failure, Job, Output, Receipt
from pipeline.store import Store, join
from tiling import Grid, Index

T = TypeVar("T", Receipt, Failure)

MANIFEST = "manifest.json"
CONSTANTS = "constants.json"
OWN = "own"


@dataclass(frozen=True)
class Run:
    """One run directory. Holds no state of its own but what it has read of the manifest."""

    store: Store
    manifest: Manifest

    @property
    def uri(self) -> str:
        return self.store.uri

    @cached_property
    def grid(self) -> Grid:
        return self.manifest.grid

    # arrays ---------------------------------------------------------------------------------------------

    def array(self, name: ArrayName, level: int = 0) -> Any:
        """The zarr array ``(*spatial)``, or ``(C, *spatial)`` for image and scores."""
        return arrays.open_array(self.store, self.manifest, name, level)

    def write(self, name: ArrayName, index: Index, data: NDArray[Any], level: int = 0) -> dict[str, Output]:
        return arrays.write_shard(self.store, self.manifest, name, index, data, level)

    def write_bytes(self, key: str, data: bytes) -> dict[str, Output]:
        """Write one object; what a receipt says of it."""
        self.store.put(key, data)
        return {key: Output(n_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())}

    # receipts -------------------------------------------------------------------------------------------

    def receipt(self, job: Job) -> Receipt | None:
        """The job's receipt, or None. A receipt that does not parse was not written by us and does not count."""
        return _parsed(Receipt, self.store.get_or_none(job.key))

    def receipts(self, stage: str | None = None) -> Iterator[Receipt]:
        """Every receipt, one after the other: a large run's do not fit into memory."""
        return (receipt for _, receipt in self.receipts_of(self._jobs_in("receipts", stage)) if receipt is not None)

    def receipts_of(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Receipt | None]]:
        """Each of ``jobs`` with its receipt, several read at a time."""
        asked, named = tee(jobs)
        for job, data in zip(named, self.store.get_each(job.key for job in asked), strict=True):
            yield job, _parsed(Receipt, data)

    def failures(self) -> list[Failure]:
        keys = (job.failure_key for job in self._jobs_in("failures"))
        found = (_parsed(Failure, data) for data in self.store.get_each(keys))
        return sorted((f for f in found if f), key=lambda f: (f.stage, f.index))

    def _jobs_in(self, folder: str, stage: str | None = None) -> Iterator[Job]:
        entries = self.store.list(f"{folder}/{stage}" if stage else folder)
        return (job for entry in entries if (job := Job.of_key(entry.key)) is not None)

    def record(self, receipt: Receipt) -> None:
        """Write a receipt: the last act of a job. An earlier failure of it is forgotten."""
        self.store.put(receipt.job.key, receipt.model_dump_json().encode())
        self.store.delete(receipt.job.failure_key)

    # partials -------------------------------------------------------------------------------------------

    def partial_key(self, reader: Index, writer: Index) -> str:
        """Where block ``writer`` files what block ``reader`` will need of it."""
        name = OWN if reader == writer else "from-" + ".".join(map(str, writer))
        return f"{self.partials_of(reader)}/{name}.seam"

    @staticmethod
    def partials_of(reader: Index) -> str:
        return "partials/" + ".".join(map(str, reader))

    def write_partial(self, reader: Index, writer: Index, parts: Mapping[str, NDArray[Any]]) -> dict[str, Output]:
        return self.write_bytes(self.partial_key(reader, writer), pack(parts))

    def read_partial(self, reader: Index, writer: Index) -> dict[str, NDArray[Any]]:
        """The parts by name. Raises FileNotFoundError where the piece is gone, or is not what was written."""
        key = self.partial_key(reader, writer)
        data = self.store.get(key)
        receipt = self.receipt(Job("infer", writer))
        expected = receipt.outputs.get(key) if receipt else None
        if expected is None or expected.sha256 != hashlib.sha256(data).hexdigest():
            self.store.delete(key)
            raise FileNotFoundError(f"{join(self.uri, key)} is not what its receipt says; it has been removed")
        return unpack(data)

    # constants ------------------------------------------------------------------------------------------

    def constants(self) -> list[Constants]:
        """One set for each bundle."""
        return [Constants.from_json(json.dumps(c)) for c in json.loads(self.store.get(CONSTANTS))]

    def write_constants(self, constants: Sequence[Constants]) -> dict[str, Output]:
        text = "[" + ",\n ".join(c.to_json() for c in constants) + "]\n"
        return self.write_bytes(CONSTANTS, text.encode())

    def bundle(self, n: int) -> Store:
        """Where the copy of the n-th bundle lies."""
        return self.store.within(f"bundle/{n}")


def _parsed(kind: type[T], data: bytes | None) -> T | None:
    """None for what is not there, or was not written by us."""
    try:
        return None if data is None else kind.model_validate_json(data)
    except ValidationError:
        return None


def open_run(uri: str) -> Run:
    """The run at ``uri``. Raises RunError where there is none."""
    store = Store(uri.rstrip("/"))
    data = store.get_or_none(MANIFEST)
    if data is None:
        raise RunError(f"{uri} is not a run directory: it has no {MANIFEST}")
    try:
        version = json.loads(data).get("schema_version")
        if version != SCHEMA:
            raise RunError(f"{uri} was written with schema {version}; this Seamline reads schema {SCHEMA}")
        return Run(store, Manifest.from_bytes(data))
    except (ValueError, AttributeError) as e:
        raise RunError(f"{join(uri, MANIFEST)} cannot be read: {e}") from e


def create_run(out: str, manifest: Manifest) -> Run:
    """Create the run, or adopt the one that is there: the manifest on disk always wins.

    Raises UsageError if what is on disk answers another question (a collision of 12 digits).
    """
    uri = join(out, manifest.run_name)
    store = Store(uri)
    store.put_if_absent(MANIFEST, manifest.to_bytes())
    run = open_run(uri)
    if run.manifest.question != manifest.question:
        raise RunError(f"{uri} holds a run of another question with the same digest; move it away")
    arrays.create_arrays(store, run.manifest)
    return run
