"""Nothing lost: whatever is killed, cut, or removed, the same command ends with the same bytes, and repeats no more."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from flows.pool import Event
from flows.serial import SerialEngine
from pipeline import spool
from pipeline.errors import SourceError
from pipeline.ledger import Ledger, all_jobs
from pipeline.models.spec import ModelSpec
from pipeline.receipts import Job
from pipeline.run import CONSTANTS, Run, open_run
from pipeline.status import read_status
from tests import killed
from tests.fakes import CoordinateModel, coordinate_image, fake_spec
from tests.runs import ArraySource, drive, make_run, make_worker, segment
from tiling import Box, Index, upstream

ARRAYS = ("labels", "confidence", "disagreement", "valid", "image")


def arrays_of(run: Run) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(run.array(name)[...]) for name in ARRAYS}  # type: ignore[arg-type]


def shards_of(run: Run) -> dict[str, bytes]:
    """Every stored object of the scene: shards, and the metadata of arrays and groups."""
    return {e.key: run.store.get(e.key) for e in run.store.list("scene.zarr")}


def receipts_of(run: Run) -> dict[str, int]:
    folder = Path(run.uri)
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob("receipts/*/*.json")}


def changed(run: Run, before: dict[str, int]) -> set[str]:
    after = receipts_of(run)
    return {key.removeprefix("receipts/").removesuffix(".json") for key in after if after[key] != before.get(key)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("undisturbed")
    killed.drive_to_end(folder, 0.0)
    run = killed.planned(folder)
    assert read_status(run).status == "complete"
    return run


@pytest.fixture
def finished(undisturbed: Run, tmp_path: Path) -> Run:
    """A finished run to break: mtimes and all."""
    import shutil

    target = tmp_path / Path(undisturbed.uri).name
    shutil.copytree(undisturbed.uri, target)
    return open_run(str(target))


def again(run: Run, access: str = "random") -> tuple[Ledger, list[Event]]:
    """The same command once more."""
    events: list[Event] = []
    worker = make_worker(killed.scene(access), killed.model())
    ledger, given_up = drive(open_run(run.uri), SerialEngine(worker), on_event=events.append)
    assert not given_up
    assert read_status(run).status == "complete"
    return ledger, events


def test_a_finished_run_does_nothing_more(finished: Run) -> None:
    before = receipts_of(finished)
    ledger, events = again(finished)
    assert (events, ledger.remaining, ledger.lost) == ([], 0, set())
    assert ledger.finished_before == ledger.total == len(before)
    assert changed(finished, before) == set()


def upstream_of(run: Run, j: Index) -> set[str]:
    """Inference that has to run again for a block's pieces: they are gone once it is stitched."""
    return {f"infer/{'.'.join(map(str, i))}" for i in (j, *upstream(run.grid, j))}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def rot(path: Path) -> None:
    """Other bytes of the same length."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("break_it", [truncate, Path.unlink], ids=["truncated", "deleted"])
@pytest.mark.parametrize(
    ("broken", "repeated"),
    [
        ("scene.zarr/labels/mask/0/c/2/1", {"stitch/2.1"}),
        ("scene.zarr/confidence/0/c/6/4", {"stitch/6.4"}),
        ("scene.zarr/valid/0/c/2/1", {"ingest/2.1"}),
        ("scene.zarr/0/c/0/2/1", {"ingest/2.1"}),
        ("histograms/2.1/0.bin", {"ingest/2.1"}),
        (CONSTANTS, {"constants/all"}),
    ],
)
def test_a_lost_output_heals(
    finished: Run, undisturbed: Run, broken: str, repeated: set[str], break_it: Callable[[Path], None]
) -> None:
    before, path = receipts_of(finished), Path(finished.uri, broken)
    break_it(path)
    ledger, _ = again(finished)
    for job in list(repeated):
        if job.startswith("stitch"):
            repeated = repeated | upstream_of(finished, tuple(map(int, job.partition("/")[2].split("."))))
    assert changed(finished, before) == repeated
    assert {f"{job.stage}/{job.name}" for job in ledger.lost} == repeated
    assert shards_of(finished) == shards_of(undisturbed)


@pytest.mark.parametrize("stage", ["ingest", "constants", "infer", "stitch"])
@pytest.mark.parametrize("break_it", [truncate, Path.unlink], ids=["truncated", "deleted"])
def test_a_lost_receipt_heals(finished: Run, undisturbed: Run, stage: str, break_it: Callable[[Path], None]) -> None:
    name = "all" if stage == "constants" else "1.2"
    path = Path(finished.uri, "receipts", stage, f"{name}.json")
    break_it(path)
    before = receipts_of(finished)
    ledger, _ = again(finished)
    again_expected = {f"{stage}/{name}"} | (upstream_of(finished, (1, 2)) if stage == "stitch" else set())
    assert changed(finished, before) == again_expected
    if break_it is truncate:
        assert f"{stage}/{name}" in {f"{job.stage}/{job.name}" for job in ledger.lost}
    assert shards_of(finished) == shards_of(undisturbed)


def test_the_status_of_a_run_with_a_cut_receipt_can_be_read(finished: Run) -> None:
    truncate(Path(finished.uri, "receipts/stitch/1.2.json"))
    status = read_status(finished)
    assert status.status == "incomplete"
    assert status.stages["stitch"].done == status.stages["stitch"].total - 1


def stop_after(run: Run, n: int, stage: str) -> None:
    """Drive until ``n`` jobs of a stage are done, and no further."""

    class EnoughError(Exception):
        pass

    left = [n]

    def count(event: Event) -> None:
        if event.kind == "done" and event.job.stage == stage:
            left[0] -= 1
            if not left[0]:
                raise EnoughError

    with pytest.raises(EnoughError):
        drive(run, SerialEngine(make_worker(killed.scene(), killed.model())), on_event=count)


def pieces_on_disk(run: Run) -> Iterator[tuple[Path, Index]]:
    """Pieces that were filed for a neighbour, and who wrote them."""
    for path in sorted(Path(run.uri).glob("partials/*/from-*")):
        yield path, tuple(map(int, path.stem.removeprefix("from-").split(".")))


@pytest.mark.parametrize("break_it", [truncate, Path.unlink, rot], ids=["truncated", "deleted", "rotten"])
def test_a_lost_partial_heals(tmp_path: Path, undisturbed: Run, break_it: Callable[[Path], None]) -> None:
    run = killed.planned(tmp_path)
    stop_after(run, 6, "infer")
    path, writer = next(pieces_on_disk(run))
    break_it(path)
    before = receipts_of(run)
    ledger, events = again(run)
    assert ledger.lost == {Job("infer", writer)}
    name = ".".join(map(str, writer))
    assert {c for c in changed(run, before) if f"receipts/{c}.json" in before} == {f"infer/{name}"}
    if break_it is rot:  # of the right size: only whoever reads it can tell
        assert next(e.message for e in events if e.kind == "healed").startswith(f"runs infer {writer} again")
    assert shards_of(run) == shards_of(undisturbed)


def test_a_piece_that_goes_missing_for_two_readers_is_written_once(tmp_path: Path, undisturbed: Run) -> None:
    run = killed.planned(tmp_path)
    stop_after(run, 12, "infer")
    by_writer: dict[Index, list[Path]] = {}
    for path, writer in pieces_on_disk(run):
        by_writer.setdefault(writer, []).append(path)
    writer = next(w for w, paths in by_writer.items() if len(paths) > 1)
    for path in by_writer[writer]:
        rot(path)
    ledger, events = again(run)
    assert ledger.lost == {Job("infer", writer)}
    assert [e.job for e in events if e.kind == "done"].count(Job("infer", writer)) == 1
    assert shards_of(run) == shards_of(undisturbed)


def test_pieces_are_removed_once_they_are_read(undisturbed: Run) -> None:
    assert list(undisturbed.store.list("partials")) == []


# failed blocks --------------------------------------------------------------------------------------------


@dataclass
class FailingModel:
    """Fails for windows that start in ``box``, as long as it is told to. Pixels say where they are."""

    inner: CoordinateModel
    box: Box
    broken: bool = True

    @property
    def spec(self) -> ModelSpec:
        return self.inner.spec

    def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
        for window, seen in zip(pixels, valid, strict=True):
            start = tuple(int(v) for v in window.flatten(1)[:, 0])
            if self.broken and seen.any() and self.box.contains(Box(start, tuple(v + 1 for v in start))):
                raise RuntimeError(f"cannot look at {start}")
        return self.inner.scores(pixels, valid)


FAILS: dict[str, tuple[tuple[int, ...], dict[str, Any], Index]] = {
    "2-D": ((50, 61), {"window": (12, 12), "overlap": (4, 4), "block": (16, 16)}, (1, 2)),
    "2-D first": ((50, 61), {"window": (12, 12), "overlap": (4, 4), "block": (16, 16)}, (0, 0)),
    "3-D": ((11, 14, 17), {"window": (4, 6, 6), "overlap": (2, 2, 2), "block": (4, 8, 8)}, (1, 0, 1)),
}


@pytest.mark.parametrize("case", FAILS)
def test_a_failed_block_leaves_exactly_the_pixels_that_lack_a_window(case: str, tmp_path: Path) -> None:
    extent, windows, bad = FAILS[case]
    source = ArraySource(coordinate_image(extent, "uint8"), np.ones(extent, bool))
    assert source.valid is not None
    source.valid[tuple(slice(n // 2, n // 2 + 3) for n in extent)] = False
    spec = fake_spec(3, len(extent), ndim=len(extent))
    whole = segment(tmp_path / "whole", source, CoordinateModel(spec), **windows)
    run = make_run(tmp_path / "broken", source, spec, **windows)
    model = FailingModel(CoordinateModel(spec), run.grid.write(bad))
    ledger, given_up = drive(run, SerialEngine(make_worker(source, model)), attempts=1)
    assert ledger.failed == {Job("infer", bad)}
    assert not given_up

    lacking = np.zeros(extent, bool)
    for k in run.grid.owned(bad):
        lacking[run.grid.window_box(k).slices()] = True
    expected = np.where(lacking & source.valid, 255, np.asarray(whole.array("labels")[...]))
    np.testing.assert_array_equal(np.asarray(run.array("labels")[...]), expected)
    sure = np.where(lacking & source.valid, 255, np.asarray(whole.array("confidence")[...]))
    np.testing.assert_array_equal(np.asarray(run.array("confidence")[...]), sure)

    status = read_status(run)
    assert status.status == "incomplete"
    assert status.pixels["failed"] == (lacking & source.valid).sum()
    assert status.pixels["nodata"] == (~source.valid).sum()
    assert sum(status.pixels[n] for n in ("predicted", "nodata", "failed")) == status.extent_pixels
    (failure,) = status.failures
    assert (failure.stage, failure.index) == ("infer", bad)
    assert "cannot look at" in failure.error
    assert "scores" in failure.detail  # the traceback

    before = receipts_of(run)
    missed = {j for j in run.grid.blocks() if bad in (j, *upstream(run.grid, j))}
    assert {r.index: r.missing for r in run.receipts("stitch") if r.missing} == dict.fromkeys(missed, (bad,))
    assert set(status.missing_blocks) == {".".join(map(str, j)) for j in missed}
    model.broken = False
    drive(run, SerialEngine(make_worker(source, model)))
    names = {f"stitch/{'.'.join(map(str, j))}" for j in missed} | {f"infer/{'.'.join(map(str, bad))}"}
    assert changed(run, before) == names
    assert read_status(run).status == "complete"
    assert read_status(run).failures == ()
    assert shards_of(run) == shards_of(whole)
    assert list(run.store.list("partials")) == []


@dataclass
class FailingSource(ArraySource):
    """Cannot be read where ``bad`` is touched."""

    bad: Box | None = None

    def read(self, box: Box, channels: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if self.bad is not None and not box.intersect(self.bad).is_empty:
            raise SourceError(f"cannot read {box}")
        return super().read(box, channels)


def test_pixels_that_cannot_be_read_are_failed_and_not_nodata(tmp_path: Path) -> None:
    spec = fake_spec(3)
    source = FailingSource(np.arange(50 * 40, dtype=np.uint16).reshape(1, 50, 40))
    windows = {"window": (12, 12), "overlap": (4, 4), "block": (16, 16)}
    whole = segment(tmp_path / "whole", source, CoordinateModel(spec), **windows)
    run = make_run(tmp_path / "broken", source, spec, **windows)
    source.bad = run.grid.write((1, 1))
    ledger, _ = drive(run, SerialEngine(make_worker(source, CoordinateModel(spec))), attempts=1)
    assert Job("ingest", (1, 1)) in ledger.failed
    lacking = np.zeros((50, 40), bool)
    for j in run.grid.blocks():
        if not run.grid.read(j).intersect(source.bad).is_empty:
            lacking[run.grid.reach(j).slices()] = True
    labels = np.asarray(run.array("labels")[...])
    np.testing.assert_array_equal(labels, np.where(lacking, 255, np.asarray(whole.array("labels")[...])))
    status = read_status(run)
    assert status.pixels["nodata"] == 0
    assert status.pixels["predicted"] + status.pixels["failed"] == status.extent_pixels
    source.bad = None
    drive(run, SerialEngine(make_worker(source, CoordinateModel(spec))))
    assert shards_of(run) == shards_of(whole)


def test_scores_that_are_not_finite_fail_their_block_by_name(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Poisoned:
        spec: ModelSpec

        def scores(self, pixels: Tensor, valid: Tensor) -> Tensor:
            out = CoordinateModel(self.spec).scores(pixels, valid)
            out[pixels[:, :1].expand_as(out) == 77] = float("nan")
            return out

    source = ArraySource(np.zeros((1, 24, 24), np.uint8))
    source.pixels[0, 20, 5] = 77
    run = make_run(tmp_path, source, fake_spec(2), window=(8,), overlap=(0,), block=(8,))
    ledger, _ = drive(run, SerialEngine(make_worker(source, Poisoned(fake_spec(2)))), attempts=1)
    assert ledger.failed == {Job("infer", (2, 0))}
    (failure,) = run.failures()
    assert "not finite in the window at [16:24, 0:8]" in failure.error
    assert "--precision fp32" in failure.error
    assert (np.asarray(run.array("labels")[...]) == 255).sum() == 64


# spooled sources ------------------------------------------------------------------------------------------


def test_a_sequential_source_is_decoded_once_and_in_order(tmp_path: Path, undisturbed: Run) -> None:
    source = killed.scene("sequential")
    run = killed.planned(tmp_path, "sequential")
    assert run.manifest.layout.spool
    drive(run, SerialEngine(make_worker(source, killed.model())))
    seen = np.zeros(source.pixels.shape[1:], int)
    for box in source.reads:
        seen[box.slices()] += 1
    assert (seen == 1).all()
    assert source.reads == sorted(source.reads, key=lambda b: b.start)
    for name, data in arrays_of(run).items():
        np.testing.assert_array_equal(data, arrays_of(undisturbed)[name], err_msg=name)
    spool.forget(run)
    assert list(run.store.list("scratch")) == []


@pytest.mark.parametrize("forgotten", [True, False])
def test_an_ingest_lost_after_the_spool_is_gone_spools_again(tmp_path: Path, forgotten: bool) -> None:
    killed.drive_to_end(tmp_path, 0.0, "sequential")
    run = killed.planned(tmp_path, "sequential")
    whole = shards_of(run)
    if forgotten:
        spool.forget(run)
    else:
        truncate(next(iter(sorted(Path(run.uri, spool.SCRATCH).glob("pixels/c/*/*/*")))))
    Path(run.uri, "scene.zarr/valid/0/c/1/1").unlink()
    ledger, _ = again(run, "sequential")
    assert ledger.lost == {Job("spool", ()), Job("ingest", (1, 1))}
    assert shards_of(run) == whole


def test_a_reader_notices_that_the_scratch_was_removed_meanwhile(tmp_path: Path) -> None:
    source = killed.scene("sequential")
    run = killed.planned(tmp_path, "sequential")
    spool.spool(run, source)
    reader = spool.spooled(run, source.info)
    box = Box((3, 5), (40, 60))
    pixels, valid = reader.read(box, (0,))
    np.testing.assert_array_equal(pixels, source.pixels[(slice(None), *box.slices())])
    assert source.valid is not None
    np.testing.assert_array_equal(valid, source.valid[box.slices()])
    run.store.delete(spool.MARKER)
    with pytest.raises(SourceError, match="was removed while it was read"):
        reader.read(box, (0,))
    with pytest.raises(SourceError, match=r"holds channels \(0,\), not \(1,\)"):
        reader.read(box, (1,))


# killed drivers -------------------------------------------------------------------------------------------


def infer_receipts(folder: Path) -> int:
    return len(list(folder.glob("*/receipts/infer/*.json")))


def kill_at_random(folder: Path, random: random.Random, lowest: int) -> int:
    """Start a driver, kill it somewhere past ``lowest`` infer receipts; how many there were when it died."""
    process = killed.start_driver(folder, 0.004)
    until = time.monotonic() + 60
    while infer_receipts(folder) < lowest and process.is_alive() and time.monotonic() < until:
        time.sleep(0.002)
    process.join(random.uniform(0, 0.08))
    process.kill()
    process.join()
    return infer_receipts(folder)


def kill_and_resume(tmp_path: Path, undisturbed: Run, kills: int, between: int, seed: int) -> None:
    rng, at, counted = random.Random(seed), [], 0
    n_infer = int(np.prod(undisturbed.grid.n_blocks))
    run_folder = tmp_path / Path(undisturbed.uri).name
    before: dict[str, int] = {}
    for kill in range(kills):
        lowest = 0 if kill == 0 else int(n_infer * kill / (kills + 1))
        at.append(kill_at_random(tmp_path, rng, lowest))
        counted += 0 < at[-1] < n_infer
        if run_folder.exists() and (run_folder / "manifest.json").exists():
            after = receipts_of(open_run(str(run_folder)))
            assert {k: t for k, t in after.items() if k in before} == before
            before = after
    assert counted >= between, at
    run = killed.planned(tmp_path)
    ledger, _ = again(run)
    assert ledger.lost == set()
    after = receipts_of(run)
    assert {k: after[k] for k in before} == before
    assert shards_of(run) == shards_of(undisturbed)


def test_killed_five_times_gives_the_same_bytes(tmp_path: Path, undisturbed: Run) -> None:
    kill_and_resume(tmp_path, undisturbed, kills=5, between=3, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_twenty_times_gives_the_same_bytes(tmp_path: Path, undisturbed: Run, seed: int) -> None:
    kill_and_resume(tmp_path, undisturbed, kills=20, between=15, seed=seed)


@pytest.mark.parametrize("access", ["random", "sequential"])
def test_two_drivers_at_once_give_the_same_bytes(tmp_path: Path, undisturbed: Run, access: str) -> None:
    drivers = [killed.start_driver(tmp_path, 0.001 * n, access) for n in range(2)]
    for driver in drivers:
        driver.join(60)
    assert [driver.exitcode for driver in drivers] == [0, 0]
    run = killed.planned(tmp_path, access)
    status = read_status(run)
    assert (status.status, status.failures) == ("complete", ())
    for name, data in arrays_of(run).items():
        np.testing.assert_array_equal(data, arrays_of(undisturbed)[name], err_msg=name)


def test_a_run_has_a_receipt_for_every_job(undisturbed: Run) -> None:
    assert {r.job for r in undisturbed.receipts()} == set(all_jobs(undisturbed))
