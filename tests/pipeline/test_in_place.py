"""A zarr store that is read where it lies: every chunk once for all channels, and never two versions of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from flows.pool import Event
from flows.serial import SerialEngine
from pipeline import plan
from pipeline.errors import SourceChangedError
from pipeline.export.of_run import export_run
from pipeline.pixels import read_channels
from pipeline.run import Run
from pipeline.sources import open_source, watch
from pipeline.status import read_status
from pipeline.worker import Worker
from tests.fakes import CoordinateModel, fake_spec
from tests.runs import drive, make_run

PIXELS = np.random.default_rng(3).integers(0, 200, (1, 97, 70)).astype(np.uint8)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of a store, in place, with four levels."""
    monkeypatch.setattr(plan, "COARSEST", 16)
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(97, 70), chunks=(24, 24), dtype="u1")
    array[...] = PIXELS[0]
    source: Any = open_source(str(tmp_path / "a.zarr"))
    made = make_run(tmp_path / "runs", source, fake_spec(3), window=(16,), overlap=(4,), block=(24,))
    assert made.manifest.layout.image == "in-place"
    return made


def worker(run: Run) -> Worker:
    return Worker("test", load=lambda _: CoordinateModel(run.manifest.spec))


def rewrite(run: Run) -> None:
    array: Any = zarr.open_array(str(run.manifest.layout.array_uri), mode="r+")
    array[40:60, 30:50] = 7


@pytest.mark.parametrize("share", [0, 1e9])
@pytest.mark.parametrize("stage", ["ingest", "infer", "pyramid"])
def test_a_store_that_is_rewritten_meanwhile_ends_the_run(
    run: Run, stage: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the latest at its end, however rarely the store is looked at."""
    monkeypatch.setattr(watch, "SHARE", share)
    rewritten = False

    def on_event(event: Event) -> None:
        nonlocal rewritten
        if not rewritten and event.job.stage == stage:
            rewritten = True
            rewrite(run)

    _, given_up = drive(run, SerialEngine(worker(run)), on_event=on_event)
    assert isinstance(given_up.get(run.uri), SourceChangedError)
    assert "run the same command again: it will make a new run" in str(given_up[run.uri])
    assert read_status(run).status == "incomplete"


def test_a_store_that_is_left_alone_is_read_and_drawn(run: Run) -> None:
    _, given_up = drive(run, SerialEngine(worker(run)))
    assert not given_up
    assert read_status(run).status == "complete"
    export_run(run, "overlay")
    rewrite(run)
    with pytest.raises(SourceChangedError, match=r"a\.zarr changed since it was planned"):
        export_run(run, "overlay")


@given(st.lists(st.integers(0, 11), min_size=1, max_size=6), st.sampled_from([1, 3, 4, 12]))
def test_channels_that_share_a_chunk_are_read_at_once(channels: list[int], per_chunk: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 99, (12, 8, 9))
    reads: list[slice] = []

    class Array:
        chunks = (per_chunk, 4, 4)

        def __getitem__(self, key: Any) -> Any:
            reads.append(key[0])
            return pixels[key]

    where = (slice(2, 7), slice(1, 4))
    np.testing.assert_array_equal(read_channels(Array(), tuple(channels), where), pixels[(channels, *where)])
    assert len(reads) == len({c // per_chunk for c in channels})
    assert all(part.start // per_chunk == (part.stop - 1) // per_chunk for part in reads)
