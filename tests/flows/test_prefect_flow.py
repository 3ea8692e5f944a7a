"""The Prefect flow on a server of its own: states, artifacts, parameters; and the same bytes as the loop alone."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import numpy as np
import pytest

from flows.batch import SceneResult, hardware_for, run_batch
from flows.server import embedded_server, environment, free_port
from pipeline import infer
from pipeline.errors import BlockError, RunError, StoreError
from pipeline.export import EXPORTS
from pipeline.run import open_run
from pipeline.scenes import plan_batch
from pipeline.settings import Settings
from tests.cli import Cli

CUT: dict[str, Any] = {"window": (32,), "overlap": (8,), "block": (48,), "threads": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url


def labels(run: str) -> Any:
    return np.asarray(open_run(run).array("labels")[...])


def ask_server(question: Callable[[Any], Any]) -> Any:
    from prefect import get_client

    async def ask() -> Any:
        async with get_client() as client:
            return await question(client)

    return asyncio.run(ask())


def artifacts_of(flow_run_id: Any) -> dict[str, Any]:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    return {a.key: a for a in ask_server(lambda client: client.read_artifacts(artifact_filter=wanted))}


def test_a_flow_run_segments_exports_and_leaves_its_traces(
    server: str, bundle: Path, scenes: Path, tmp_path: Path
) -> None:
    from flows.segment import segment

    # as the form of a deployment sends them: plain JSON, which the flow parses as the command line does
    parameters = {"model": str(bundle), "out": str(tmp_path / "runs"), **CUT}
    state = segment([str(scenes)], parameters, ["png"], return_state=True)  # type: ignore[call-overload]
    assert (state.type.value, state.message) == ("COMPLETED", "2 scenes are complete")

    settings = Settings(model=(str(bundle),), out=str(tmp_path / "alone"), **CUT)
    alone = {r.name: r for r in run_batch(plan_batch([str(scenes)], settings, hardware_for(settings)))}
    results = state.result()
    assert {r["scene"]: r["status"] for r in results} == {"east": "complete", "west": "complete"}
    for r in results:
        assert alone[r["scene"]].status is not None
        np.testing.assert_array_equal(labels(r["run"]), labels(alone[r["scene"]].status.run))
        assert Path(r["exports"]["png"]).is_file()

    flow_run_id = state.state_details.flow_run_id
    seen = ask_server(lambda client: client.read_flow_run(flow_run_id))
    assert (seen.state_name, seen.parameters["paths"]) == ("Completed", [str(scenes)])
    artifacts = artifacts_of(flow_run_id)
    assert set(artifacts) == {"segment-blocks", "segment-scenes"}
    assert artifacts["segment-blocks"].data == 100.0
    assert artifacts["segment-blocks"].description.startswith("38 of 38 jobs, 12/12 blocks, ")
    table = artifacts["segment-scenes"].data
    rows = json.loads(table) if isinstance(table, str) else table
    assert [(row["scene"], row["status"]) for row in rows] == [("east", "complete"), ("west", "complete")]
    tasks = ask_server(lambda client: client.read_task_runs())
    assert {t.name.rsplit("-", 1)[0] for t in tasks if t.flow_run_id == flow_run_id} == {"plan", "blocks", "export"}


def test_an_incomplete_run_fails_with_its_blocks_and_the_command_that_goes_on(
    server: str, bundle: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.segment import segment

    compute = infer.compute

    def broken(grid: Any, j: Any, *args: Any, **options: Any) -> Any:
        if j == (1, 1):
            raise BlockError("the model gave nonsense")
        return compute(grid, j, *args, **options)

    settings = Settings(model=(str(bundle),), out=str(tmp_path / "runs"), **CUT)
    with monkeypatch.context() as patch:
        patch.setattr(infer, "compute", broken)
        state = segment([str(scenes / "east.tif")], settings, ["png"], return_state=True)
    assert state.is_failed()
    assert state.message is not None
    assert "1 of 1 scenes; east is incomplete: 1 job failed (infer 1.1)" in state.message
    assert "the model gave nonsense" in state.message
    command = state.message.partition(". Go on with: ")[2]
    assert shlex.split(command)[:5] == ["python", "-m", "pipeline", "segment", str(scenes / "east.tif")]
    row = artifacts_of(state.state_details.flow_run_id)["segment-scenes"].data
    assert "incomplete" in json.dumps(row)

    again = segment([str(scenes / "east.tif")], settings, return_state=True)
    assert again.is_completed()
    assert again.result()[0]["windows_run"] == len(list(open_run(again.result()[0]["run"]).grid.owned((1, 1))))


class Recorder:
    """A watcher, as the command line has one."""

    def __init__(self) -> None:
        self.ledgers: list[Any] = []
        self.events: list[Any] = []

    def start(self, ledgers: Any) -> None:
        self.ledgers = list(ledgers)

    def __call__(self, event: Any) -> None:
        self.events.append(event)


def test_the_command_line_shows_up_as_a_flow_run(server: str, bundle: Path, scenes: Path, tmp_path: Path) -> None:
    """With its own events and results, and a rejected scene beside a good one."""
    from flows.segment import segment_batch

    (scenes / "gray.tif").write_bytes((scenes / "east.tif").read_bytes()[:200])
    settings = Settings(model=(str(bundle),), out=str(tmp_path / "runs"), **CUT)
    watcher = Recorder()
    batch = plan_batch([str(scenes)], settings, hardware_for(settings))
    results = segment_batch(batch, watcher=watcher)
    assert {r.name: r.fate for r in results} == {"east": "complete", "gray": "rejected", "west": "complete"}
    assert len(watcher.ledgers) == 2
    assert {e.ledger.run.manifest.scene for e in watcher.events} == {"east", "west"}
    runs = ask_server(lambda client: client.read_flow_runs())
    (failed,) = [r for r in runs if r.state_name == "Failed" and "gray is rejected" in r.state.message]
    assert "1 of 3 scenes; gray is rejected: " in failed.state.message


def test_parameters_are_checked_as_the_command_line_checks_them(server: str) -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.segment import segment

    with pytest.raises(ParameterTypeError, match="overlapp"):
        segment(["a.tif"], {"model": "m", "overlapp": 3})  # type: ignore[arg-type]


# without a server ---------------------------------------------------------------------------------------------


def test_the_form_of_a_deployment_has_every_setting() -> None:
    from flows.segment import ExportKind, segment

    schema = segment.parameters.model_dump()
    text = json.dumps(schema)
    assert all(f'"{name}"' in text for name in Settings.model_fields)
    assert schema["required"] == ["paths", "settings"]
    assert set(get_args(ExportKind)) == set(EXPORTS)


def test_the_command_that_resumes_asks_the_same_question() -> None:
    from flows.segment import resume_command

    settings = Settings(
        model=("a b", "c"), window=(32, 64), nodata=-9999, save_scores=True, scales=(0.75, 1), workers=2
    )
    assert resume_command(["x y.tif"], settings) == (
        "python -m pipeline segment 'x y.tif' --model 'a b' --model c --window 32,64 --nodata -9999 "
        "--scales 0.75,1 --save-scores --workers 2"
    )


def test_a_failure_names_the_first_scenes_and_counts_the_rest() -> None:
    from flows.segment import conclusion

    bad = [SceneResult(f"s{n}", f"s{n}.tif", "rejected", error="no") for n in range(7)]
    state = conclusion([*bad, SceneResult("ok", "ok.tif", "complete")], "the command")
    assert state.message == (
        "7 of 8 scenes; s0 is rejected: no; s1 is rejected: no; s2 is rejected: no; s3 is rejected: no; "
        "s4 is rejected: no; and 2 more. Go on with: the command"
    )
    unwritten = conclusion([SceneResult("a", "a.tif", "complete", export_error="disk full")], "c")
    assert unwritten.is_failed()
    assert unwritten.message == "1 of 1 scenes; a is not exported: disk full. Go on with: c"


class Forwarder:
    """Passes a port of its own on to a server, until it is closed: to Prefect the server is gone then."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/api"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((self._target.hostname, self._target.port))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for opened in self._open:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()


@contextmanager
def prefect_at(url: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield


def test_without_its_server_the_work_is_done_with_one_line_of_warning(
    bundle: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with prefect_at(url):
        ran = Cli(capsys, monkeypatch).segment(
            scenes, "--model", bundle, "--out", tmp_path / "runs", "--json", "--to", "png"
        )
    assert ran.code == 0
    assert [(o["status"], o["windows_run"] > 0, set(o["exports"])) for o in ran.objects] == [
        ("complete", True, {"png"})
    ] * 2
    assert ran.err.count("warning: ") == 1
    assert f"warning: Prefect at {url} does not answer" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("when", ["infer", "stitch"])
def test_a_server_lost_on_the_way_stops_no_work_and_loses_no_result(
    server: str, bundle: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    from flows.segment import segment_batch

    forwarder = Forwarder(server)

    class Cutter(Recorder):
        def __call__(self, event: Any) -> None:
            super().__call__(event)
            if event.job.stage == when:
                forwarder.close()

    settings = Settings(model=(str(bundle),), out=str(tmp_path / "runs"), **CUT)
    watcher = Cutter()
    with prefect_at(forwarder.url):
        results = segment_batch(plan_batch([str(scenes)], settings, hardware_for(settings)), ["png"], watcher)
    assert [(r.fate, set(r.exports)) for r in results] == [("complete", {"png"})] * 2
    jobs = [(e.ledger.run.uri, e.job) for e in watcher.events]
    assert len(jobs) == len(set(jobs)) == 38, "no job ran twice"
    assert capsys.readouterr().err.count("warning: Prefect at") == 1


def test_what_breaks_the_work_itself_is_not_blamed_on_prefect(
    server: str, bundle: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.segment import segment_batch

    calls = []

    def broken(*_: Any, **__: Any) -> Any:
        calls.append(1)
        raise StoreError("cannot write there")

    monkeypatch.setattr("flows.batch.probe_output", broken)
    settings = Settings(model=(str(bundle),), out=str(tmp_path / "runs"), **CUT)
    with pytest.raises(StoreError, match="cannot write there"):
        segment_batch(plan_batch([str(scenes)], settings, hardware_for(settings)))
    assert calls == [1], "and is not tried again"


def test_a_server_that_does_not_start_says_why_and_is_gone(tmp_path: Path) -> None:
    before = os.environ.get("PREFECT_API_URL")
    with pytest.raises(RunError, match=r"did not answer in 0 s.*set PREFECT_API_URL"):  # noqa: SIM117
        with embedded_server(tmp_path / "home", seconds=0.2):
            pass
    assert os.environ.get("PREFECT_API_URL") == before


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAMLINE_A", "before")
    with environment({"SEAMLINE_A": "within", "SEAMLINE_B": "within"}):
        assert os.environ["SEAMLINE_A"] == os.environ["SEAMLINE_B"] == "within"
    assert os.environ["SEAMLINE_A"] == "before"
    assert "SEAMLINE_B" not in os.environ


def test_a_free_port_is_free() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", free_port()))
