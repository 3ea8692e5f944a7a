"""What a person watches: a bar on a terminal, lines elsewhere, each trouble once and by its root."""

from __future__ import annotations

import io
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import progress as shown
from flows.pool import Event, run_jobs
from flows.progress import Lines, Meter, Watcher, clock, progress
from flows.serial import SerialEngine
from pipeline.errors import SourceError
from pipeline.ledger import Ledger
from pipeline.receipts import Job
from pipeline.sources.base import Source
from tests.fakes import IdentityModel, fake_spec
from tests.runs import ArraySource, make_run, make_worker
from tiling import Box


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(ArraySource):
    """Cannot be read at all."""

    def read(self, box: Box, channels: tuple[int, ...]) -> Any:
        raise SourceError(f"cannot read box {box}")


def watch(folder: Path, stream: io.StringIO, source: Source | None = None, *, start: bool = True) -> Watcher:
    """Segment 4 blocks of 8 x 8 and show it on ``stream``."""
    image = source or ArraySource(np.zeros((1, 16, 16), np.uint8))
    model = IdentityModel(fake_spec(2))
    run = make_run(folder, image, model.spec, window=(8,), overlap=(0,), block=(8,))  # type: ignore[arg-type]
    ledger = Ledger(run)
    with progress(stream) as on_event:
        if start:
            on_event.start([ledger])
        run_jobs([ledger], SerialEngine(make_worker(image, model)), on_event=on_event, tick=0.01)  # type: ignore[arg-type]
    return on_event


def test_elsewhere_it_is_plain_lines_and_ends_with_all_blocks(tmp_path: Path) -> None:
    stream = io.StringIO()
    watch(tmp_path, stream)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("4/4 blocks, ")
    assert "Mpx/s" in line


def test_long_work_tells_its_share_its_speed_and_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "EVERY_SECONDS", 0.0)
    stream = io.StringIO()
    watch(tmp_path, stream)
    lines = stream.getvalue().splitlines()
    assert len(lines) > 4
    assert any("%" in line and "blocks" in line and "Mpx/s" in line and " left" in line for line in lines)


def test_a_terminal_gets_one_bar(tmp_path: Path) -> None:
    stream = Terminal()
    watch(tmp_path, stream)
    text = stream.getvalue()
    for word in ("scene", "4/4 blocks", "Mpx/s"):
        assert word in text


def test_a_watcher_that_is_not_started_finds_its_runs_from_what_happens(tmp_path: Path) -> None:
    stream = io.StringIO()
    watch(tmp_path, stream, start=False)
    assert stream.getvalue().startswith("4/4 blocks")


def test_a_failure_is_told_once_and_what_follows_from_it_is_not(tmp_path: Path) -> None:
    stream = io.StringIO()
    watch(tmp_path, stream, Broken(np.zeros((1, 16, 16), np.uint8)))
    lines = stream.getvalue().splitlines()
    assert sum("failed: cannot read box" in line for line in lines) == 4, "one for each block that could not be read"
    assert not any("infer" in line for line in lines), "inference only went without what it needed"
    assert lines[-1].startswith("0/4 blocks"), "a block that failed is not counted as done"


def test_trouble_without_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "MOST_TROUBLES", 2)
    stream = io.StringIO()
    watch(tmp_path, stream, Broken(np.zeros((1, 16, 16), np.uint8)))
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("scene")]
    assert len(lines) == 3
    assert "more went wrong; `seamline status" in lines[-1]


def test_nothing_to_do_is_nothing_to_show() -> None:
    lines = Lines(io.StringIO())
    lines.start([])
    assert lines.stream.getvalue() == ""  # type: ignore[attr-defined]
    assert Meter().seconds_left is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (7.4, "0:00:07"), (93780, "26:03:00")])
def test_time_is_told_in_hours(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_one_event_costs_the_same_whatever_the_number_of_scenes(tmp_path: Path) -> None:
    """Sums are kept: looking at every scene at every event is 10^9 steps for 10,000 small scenes."""
    image, model = ArraySource(np.zeros((1, 16, 16), np.uint8)), IdentityModel(fake_spec(2))
    ledgers = [
        Ledger(make_run(tmp_path / str(n), image, model.spec, window=(8,), overlap=(0,), block=(8,))) for n in range(12)
    ]
    looked: Counter[str] = Counter()

    class Watched(Ledger):
        def __getattribute__(self, name: str) -> Any:
            if name in ("left", "total", "whole", "done", "remaining"):
                looked[object.__getattribute__(self, "run").uri] += 1
            return object.__getattribute__(self, name)

    for ledger in ledgers:
        ledger.__class__ = Watched
    meter = Meter(ledgers)
    looked.clear()
    seen = []

    def add(event: Event) -> None:
        looked.clear()
        meter.add(event)
        seen.append((meter.jobs, meter.blocks_text, meter.seconds_left))
        assert set(looked) <= {event.ledger.run.uri}

    run_jobs(ledgers, SerialEngine(make_worker(image, model)), on_event=add, tick=0.01)
    total = sum(ledger.total for ledger in ledgers)
    assert [done for (done, _), _, _ in seen] == list(range(1, total + 1))
    assert seen[-1][0] == (total, total)
    assert seen[-1][1] == "48/48 blocks"
    assert meter.remaining.total() == 0


def test_scenes_that_have_ended_are_not_looked_at_again(tmp_path: Path) -> None:
    image, model = ArraySource(np.zeros((1, 8, 8), np.uint8)), IdentityModel(fake_spec(2))
    ledgers = [
        Ledger(make_run(tmp_path / str(n), image, model.spec, window=(8,), overlap=(0,), block=(8,))) for n in range(20)
    ]
    asked: Counter[str] = Counter()

    class Watched(Ledger):
        def pop(self) -> Job | None:
            asked[self.run.uri] += 1
            return super().pop()

    for ledger in ledgers:
        ledger.__class__ = Watched
    run_jobs(ledgers, SerialEngine(make_worker(image, model)), tick=0.01)
    assert sum(asked.values()) <= 3 * sum(ledger.total for ledger in ledgers)


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["lines", "terminal"])
def test_a_sample_shows_how_far_it_is(
    stream: io.StringIO, tmp_path: Path, cli_streams: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "EVERY_SECONDS", 0.0)
    cli_streams(stream, "sample", tmp_path / "a.tif", "--size", "600")
    assert "100%" in stream.getvalue()
    assert "a.tif" in stream.getvalue().replace("\n", "")


@pytest.fixture
def cli_streams(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(stderr: io.StringIO, *argv: object) -> None:
        from pipeline.__main__ import main

        monkeypatch.setattr(sys, "argv", ["seamline", *map(str, argv)])
        monkeypatch.setattr(sys, "stderr", stderr)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0

    return run
