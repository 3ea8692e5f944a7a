"""Stitching one block: its own seams plus the pieces filed for it become labels and confidence."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.blend import Decision, Parts, Sums, settle
from pipeline.manifest import Manifest
from pipeline.pixels import read_valid
from pipeline.receipts import Job, Output
from pipeline.run import Run
from tiling import Box, Index, incoming, pieces, upstream


class MissingPieceError(FileNotFoundError):
    """A piece that a receipt promises is not there: the block that filed it must run again."""

    def __init__(self, writer: Index, message: str) -> None:
        super().__init__(message)
        self.writer = writer

    def __reduce__(self) -> tuple[type[MissingPieceError], tuple[Index, str], dict[str, object]]:
        return type(self), (self.writer, str(self)), self.__dict__  # workers send it: the default drops the writer


@dataclass(frozen=True, slots=True)
class Pieces:
    """What block j is stitched from. ``own`` is None if its own inference failed for good."""

    own: Parts | None
    incoming: dict[Index, Parts]
    valid: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Stitched:
    """Arrays over ``write(j)``: labels, confidence, disagreement uint8, scores (K, ...) uint16 if kept; and tallies."""

    arrays: dict[str, NDArray[Any]]
    pixels: dict[str, int]


def read(run: Run, j: Index, missing: Collection[Index] = ()) -> Pieces:
    """Read block ``j``'s pieces, but for those of the blocks in ``missing``.

    Raises MissingPieceError where a piece is gone or rotten. Where ingest failed, nobody knows what is valid: then
    every pixel counts as valid, so that it is told as failed and not as nodata.
    """
    own = None if j in missing else _read_piece(run, j, j)
    coming = {i: _read_piece(run, j, i) for i in upstream(run.grid, j) if i not in missing}
    return Pieces(own, coming, _read_valid(run, j))


def compute(manifest: Manifest, j: Index, given: Pieces, missing: Collection[Index] = ()) -> Stitched:
    """Add, decide, and mark what has no data or lacks a window. Pure."""
    grid, decision = manifest.grid, Decision.of(manifest.spec)
    box, parts = grid.write(j), pieces(grid, j)
    keep = manifest.question.save_scores
    out = _blank(manifest, box.shape)
    if given.own is not None:
        _place(out, parts.settled, box, given.own)
        for n, low in enumerate(parts.low):
            sums = _sums(given.own, f"low{n}.")
            for i, piece in given.incoming.items():
                _add(sums, low, piece, incoming(grid, j, i))
            _place(out, low, box, settle(sums, decision, keep_scores=keep))
    for i in missing:
        lost = box if i == j else incoming(grid, j, i)
        _erase(out, lost.slices(box.start), manifest.unresolved_code)
    _erase(out, ~given.valid, manifest.nodata_code)
    out["disagreement"] = out.pop("disagree").astype(np.uint8)
    predicted = given.valid & (out["labels"] != manifest.unresolved_code)
    return Stitched(out, tally(manifest, out, overlapped(manifest, box) & predicted))


def write(run: Run, j: Index, result: Stitched) -> dict[str, Output]:
    outputs: dict[str, Output] = {}
    for name, data in result.arrays.items():
        outputs |= run.write(name, j, data)  # type: ignore[arg-type]
    return outputs


def clean(run: Run, j: Index) -> None:
    """Delete the block's pieces; only after its receipt."""
    run.store.delete_all(run.partials_of(j))


def tally(manifest: Manifest, out: Parts, overlap: NDArray[np.bool_]) -> dict[str, int]:
    """Pixels by outcome and class; ``overlap`` and ``disagree`` count predicted pixels that two or more windows saw."""
    # row by row: bincount widens what it is given to 8 bytes a pixel
    n_codes = manifest.unresolved_code + 1
    counts = sum((np.bincount(row.ravel(), minlength=n_codes) for row in out["labels"]), np.zeros(n_codes, np.int64))
    n_classes = len(manifest.spec.classes)
    named = {f"class:{c.name}": int(counts[n]) for n, c in enumerate(manifest.spec.classes)}
    return {
        "predicted": int(counts[:n_classes].sum()),
        "nodata": int(counts[manifest.nodata_code]),
        "failed": int(counts[manifest.unresolved_code]),
        "overlap": int(overlap.sum()),
        "disagree": int(out["disagreement"].sum()),
    } | named


def overlapped(manifest: Manifest, box: Box) -> NDArray[np.bool_]:
    """Which pixels of ``box`` two or more windows of the lattice cover, shape ``box.shape``."""
    alone = np.ones((), bool)
    for axis, start, stop in zip(manifest.grid.axes, box.start, box.stop, strict=True):
        position = np.arange(start, stop)
        k = np.minimum(position // axis.stride, axis.n_windows - 1)
        alone = np.logical_and.outer(alone, (k == 0) | (position - k * axis.stride >= axis.overlap))
    return np.asarray(~alone)


def _read_valid(run: Run, j: Index) -> NDArray[np.bool_]:
    box = run.grid.write(j)
    if run.receipt(Job("ingest", j)) is None:
        return np.ones(box.shape, bool)
    return read_valid(run, box)


def _read_piece(run: Run, reader: Index, writer: Index) -> Parts:
    try:
        return run.read_partial(reader, writer)
    except FileNotFoundError as e:
        raise MissingPieceError(writer, str(e)) from None


def _blank(manifest: Manifest, shape: tuple[int, ...]) -> Parts:
    out: Parts = {
        "labels": np.full(shape, manifest.unresolved_code, manifest.label_dtype),
        "confidence": np.full(shape, 255, np.uint8),
        "disagree": np.zeros(shape, bool),
    }
    if manifest.question.save_scores:
        out["scores"] = np.zeros((manifest.spec.n_scores, *shape), np.uint16)
    return out


def _place(out: Parts, part: Box, box: Box, decided: Parts) -> None:
    there = part.slices(box.start)
    for name, target in out.items():
        target[(slice(None), *there) if name == "scores" else there] = decided[name]


def _erase(out: Parts, where: tuple[slice, ...] | NDArray[np.bool_], code: int) -> None:
    """Give pixels a code in place of a class: they have no confidence, no votes and no scores."""
    out["labels"][where] = code
    out["confidence"][where] = 255
    out["disagree"][where] = False
    for scores in out.get("scores", ()):
        scores[where] = 0


def _sums(parts: Parts, prefix: str = "") -> Sums:
    return Sums.from_numpy({name: parts[prefix + name] for name in ("total", "vote", "disagree")})


def _add(sums: Sums, low: Box, piece: Parts, box: Box) -> None:
    common = low.intersect(box)
    if not common.is_empty:
        sums[common.slices(low.start)].add_(_sums(piece)[common.slices(box.start)])
