"""Bytes by key: the same semantics on a local disk and in a bucket, and clear errors where nothing can be written.

The bucket is moto's, a mock of S3 in this process: what real S3 does under load or contention is not shown here.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.pool import Event
from flows.serial import SerialEngine
from pipeline.errors import StoreError, UsageError
from pipeline.ngff import describe_scene
from pipeline.run import open_run
from pipeline.status import read_status
from pipeline.store import Store, is_local, join, local_path, scheme_of, split
from tests import killed
from tests.fakes import CoordinateModel, fake_spec
from tests.runs import ArraySource, drive, make_run, make_worker, segment


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket of a mock S3 server."""
    import boto3  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "mock",
        "AWS_SECRET_ACCESS_KEY": "mock",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        boto3.client("s3").create_bucket(Bucket="mock-bucket")
        yield "s3://mock-bucket"
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(params=["local", "mock s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    return Store(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def test_a_key_holds_what_was_put_last(store: Store) -> None:
    store.put("a/b.bin", b"first")
    store.put("a/b.bin", b"2nd")
    assert store.get("a/b.bin") == store.get_or_none("a/b.bin") == b"2nd"
    assert store.size("a/b.bin") == store.size_or_none("a/b.bin") == 3
    assert store.exists("a/b.bin")
    assert store.within("a").get("b.bin") == b"2nd"


def test_an_absent_key_is_told_as_such(store: Store) -> None:
    for call in (store.get, store.size):
        with pytest.raises(FileNotFoundError, match=r"no a/none in .*store|no a/none in s3://"):
            call("a/none")
    assert store.get_or_none("a/none") is None
    assert store.size_or_none("a/none") is None
    assert not store.exists("a/none")
    assert list(store.list()) == list(store.list("a")) == []
    store.delete("a/none")


def test_put_if_absent_writes_once(store: Store) -> None:
    assert store.put_if_absent("m.json", b"mine")
    assert not store.put_if_absent("m.json", b"theirs")
    assert store.get("m.json") == b"mine"


def test_listing_and_deleting_go_by_whole_segments(store: Store) -> None:
    for key in ("p/1/own", "p/1/from-0", "p/10/own", "q"):
        store.put(key, key.encode())
    assert {e.key: e.n_bytes for e in store.list()} == {"p/1/own": 7, "p/1/from-0": 10, "p/10/own": 8, "q": 1}
    assert {e.key for e in store.list("p/1")} == {"p/1/own", "p/1/from-0"}
    versions = {e.key: e.version for e in store.list()}
    assert all(versions.values())
    assert store.delete_all("p/1") == 2
    assert {e.key for e in store.list()} == {"p/10/own", "q"}
    store.put("q", b"changed")
    assert next(e for e in store.list() if e.key == "q").version != versions["q"]


def test_a_store_travels_to_workers_without_its_client(store: Store) -> None:
    store.put("k", b"v")
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert "client" not in vars(again)
    assert again.get("k") == b"v"


def test_uris() -> None:
    assert [scheme_of(u) for u in ("s3://b/k", "GS://b", "a/b", "/a", "file:///a", "c:x")] == [
        "s3",
        "gs",
        None,
        None,
        "file",
        None,
    ]
    assert is_local("file:///a")
    assert local_path("file:///a/b") == Path("/a/b")
    assert join("s3://b/p/", "/x/", "y") == "s3://b/p/x/y"
    assert split("s3://b/p/x.tif") == ("s3://b/p", "x.tif")
    assert split("/p/x.tif") == ("/p", "x.tif")
    with pytest.raises(UsageError, match=r"s3://b/k is not a local path"):
        local_path("s3://b/k")


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(StoreError, match=r"unknown scheme in ftp://x; known are s3://, gs://"):
        Store("ftp://x").get("k")


def test_a_folder_that_is_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot write to .*file/out: Not a directory"):
        Store(str(tmp_path / "file" / "out")).put("k", b"v")
    with pytest.raises(StoreError, match=r"cannot write .*/file/k: .*Not a directory"):
        Store(str(tmp_path)).put("file/k", b"v")


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    missing = Store("s3://no-such-bucket/p")
    with pytest.raises(StoreError, match=r"cannot list s3://no-such-bucket/p/.*"):
        list(missing.list())
    with pytest.raises(StoreError, match=r"cannot write s3://no-such-bucket/p/k: "):
        missing.put("k", b"v")


# whole runs -----------------------------------------------------------------------------------------------


def test_a_run_in_a_mock_bucket_has_the_bytes_of_a_local_one(bucket: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    source = ArraySource(rng.integers(0, 256, (1, 60, 50)).astype(np.uint8), rng.random((60, 50)) > 0.1)
    spec = fake_spec(3, normalisation={"kind": "zscore"})
    model, windows = CoordinateModel(spec), {"window": (16,), "overlap": (4,), "block": (24,)}
    local = segment(tmp_path, source, model, **windows)
    describe_scene(local)
    remote = make_run(f"{bucket}/runs", source, spec, **windows)  # type: ignore[arg-type]
    assert remote.uri == f"{bucket}/runs/{local.manifest.run_name}"
    describe_scene(remote)
    drive(remote, SerialEngine(make_worker(source, model)))
    kept = ("scene.zarr", "constants.json", "histograms")
    ours, theirs = (
        {e.key: run.store.get(e.key) for e in run.store.list() if e.key.startswith(kept)} for run in (local, remote)
    )
    assert theirs == ours
    assert {e.key for e in remote.store.list()} == {e.key for e in local.store.list()}
    assert read_status(open_run(remote.uri)).status == "complete"
    remote.store.delete("scene.zarr/labels/mask/0/c/1/1")  # and it heals there
    ledger, _ = drive(open_run(remote.uri), SerialEngine(make_worker(source, model)))
    assert "stitch 1.1" in {str(job) for job in ledger.lost}
    assert remote.store.get("scene.zarr/labels/mask/0/c/1/1") == ours["scene.zarr/labels/mask/0/c/1/1"]


def full_after(room: int) -> Callable[[Store, str, bytes], None]:
    """Stands in for ``Store.put``: after ``room`` bytes there is no space left."""
    put, left = Store.put, [room]

    def put_while_there_is_room(store: Store, key: str, data: bytes) -> None:
        left[0] -= len(data)
        if left[0] < 0:
            raise StoreError(f"cannot write {join(store.uri, key)}: No space left on device (os error 28)")
        put(store, key, data)

    return put_while_there_is_room


def test_a_full_disk_stops_the_run_once_and_it_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole"
    killed.drive_to_end(whole, 0.0)
    run = killed.planned(tmp_path / "full")
    monkeypatch.setattr(Store, "put", full_after(60_000))
    events: list[Event] = []
    engine = SerialEngine(make_worker(killed.scene(), killed.model()))
    ledger, given_up = drive(run, engine, on_event=events.append)
    error = given_up[run.uri]
    assert isinstance(error, StoreError)
    assert "No space left on device" in str(error)
    assert ledger.remaining > 10
    assert {e.kind for e in events} == {"done", "retry"}
    assert run.failures() == []  # it is no block's fault
    assert read_status(run).status == "incomplete"
    monkeypatch.undo()
    drive(run, engine)
    assert read_status(run).status == "complete"
    expected = killed.planned(whole)
    for name in ("labels", "confidence"):
        np.testing.assert_array_equal(np.asarray(run.array(name)[...]), np.asarray(expected.array(name)[...]))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for little more than a run's metadata."""
    folder, mount = tmp_path / "small", shutil.which("mount")
    folder.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    run = killed.planned(small_disk)
    Path(small_disk, "ballast").write_bytes(bytes(40_000))
    engine = SerialEngine(make_worker(killed.scene(), killed.model()))
    _, given_up = drive(run, engine)
    assert "No space left on device" in str(given_up[run.uri])
    Path(small_disk, "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    drive(run, engine)
    assert read_status(run).status == "complete"


def test_arrays_cannot_be_made_where_nothing_can_be_written(tmp_path: Path) -> None:
    source: Any = ArraySource(np.zeros((1, 9, 9), np.uint8))
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot write to .*file/runs/scene-[0-9a-f]{12}: Not a directory"):
        make_run(tmp_path / "file" / "runs", source, fake_spec(2))
    run = make_run(tmp_path / "runs", source, fake_spec(2))
    shutil.rmtree(Path(run.uri, "scene.zarr"))
    Path(run.uri, "scene.zarr").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write to .*scene\.zarr"):
        describe_scene(run)
