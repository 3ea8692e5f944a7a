"""Sources in a bucket. The server is moto, a MOCK of S3: it accepts any key and proves only our own requests.

Nothing here leaves the machine.
"""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from affine import Affine

from pipeline.errors import SourceChangedError, SourceError
from pipeline.sources import check_unchanged, find_scenes, open_source
from pipeline.sources.files import BLOCK_BYTES, RangeFile
from pipeline.store import Store
from tiling import Box

BUCKET = "s3://pixels"
PIXELS = np.random.default_rng(4).integers(1, 255, (3, 83, 61), dtype=np.uint8)


@pytest.fixture(scope="module")
def mock_s3() -> Iterator[str]:
    """Address of a moto server in a thread of this process."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(mock_s3: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty bucket, reached through the environment alone, as a user's would be."""
    settings = {"ENDPOINT_URL": mock_s3, "ACCESS_KEY_ID": "mock", "SECRET_ACCESS_KEY": "mock", "REGION": "us-east-1"}
    for key, value in settings.items():
        monkeypatch.setenv(f"AWS_{key}", value)
    urllib.request.urlopen(urllib.request.Request(f"{mock_s3}/pixels", method="PUT")).close()
    store = Store(BUCKET)
    store.delete_all("")
    return store


def write_tif(path: Path, **profile: Any) -> Path:
    size = {"height": 83, "width": 61, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", transform=Affine(2, 0, 9, 0, -2, 9), **size, **profile) as data:
        data.write(PIXELS)
    return path


def upload(bucket: Store, key: str, path: Path) -> str:
    bucket.put(key, path.read_bytes())
    return f"{BUCKET}/{key}"


def test_geotiff(bucket: Store, tmp_path: Path, check_boxes: Any) -> None:
    path = write_tif(tmp_path / "a.tif", driver="GTiff", tiled=True, blockxsize=16, blockysize=16, compress="deflate")
    uri = upload(bucket, "deep/a.tif", path)
    source, local = open_source(uri), open_source(str(path))
    assert (source.info.uri, source.info.name, source.info.frame) == (uri, "a", local.info.frame)
    check_boxes(source, PIXELS, np.ones(PIXELS.shape[1:], bool))
    local.close()
    source.close()


def test_side_cars_and_masks_beside_a_remote_raster_are_read(bucket: Store, tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.jpg", driver="JPEG")
    uri = upload(bucket, "a.jpg", path)
    upload(bucket, "a.jpg.aux.xml", Path(f"{path}.aux.xml"))
    mask = np.full((83, 61), 255, np.uint8)
    mask[:9] = 0
    size = {"height": 83, "width": 61, "count": 1, "dtype": "uint8", "transform": Affine(2, 0, 9, 0, -2, 9)}
    with rasterio.open(tmp_path / "m.tif", "w", driver="GTiff", **size) as data:
        data.write(mask, 1)
        data.update_tags(INTERNAL_MASK_FLAGS_1="2", INTERNAL_MASK_FLAGS_2="2", INTERNAL_MASK_FLAGS_3="2")
    upload(bucket, "a.jpg.msk", tmp_path / "m.tif")
    source = open_source(uri)
    assert source.info.frame.unit == "m"
    assert source.info.fingerprint.startswith("2f-")  # the image and its mask; the side-car holds no pixels
    np.testing.assert_array_equal(source.read(Box.of_shape((83, 61)), (0, 1, 2))[1], mask != 0)
    source.close()


def test_a_remote_mosaic_finds_its_members(bucket: Store, tmp_path: Path) -> None:
    upload(bucket, "parts/a.tif", write_tif(tmp_path / "a.tif", driver="GTiff"))
    bucket.put(
        "mosaic/v.vrt",
        b'<VRTDataset rasterXSize="61" rasterYSize="83"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        b'<SourceFilename relativeToVRT="1">../parts/a.tif</SourceFilename><SourceBand>2</SourceBand>'
        b"</SimpleSource></VRTRasterBand></VRTDataset>",
    )
    source = open_source(f"{BUCKET}/mosaic/v.vrt")
    np.testing.assert_array_equal(source.read(Box((5, 7), (40, 30)), (0,))[0], PIXELS[1:2, 5:40, 7:30])
    assert source.info.fingerprint.startswith("2f-")
    source.close()


def test_nifti_stack_and_zarr(bucket: Store, tmp_path: Path, check_boxes: Any) -> None:
    nib.save(nib.Nifti1Image(PIXELS.transpose(2, 1, 0), np.eye(4)), tmp_path / "a.nii.gz")
    tifffile.imwrite(tmp_path / "s.tif", PIXELS, photometric="minisblack", compression="zlib", metadata=None)
    zarr.create_array(str(tmp_path / "z.zarr"), data=PIXELS, chunks=(1, 16, 16), dimension_names=("z", "y", "x"))
    upload(bucket, "a.nii.gz", tmp_path / "a.nii.gz")
    upload(bucket, "s.tif", tmp_path / "s.tif")
    for path in (tmp_path / "z.zarr").rglob("*"):
        if path.is_file():
            upload(bucket, path.relative_to(tmp_path).as_posix(), path)
    for name, kind in (("a.nii.gz", "nifti"), ("s.tif", "tiff-stack"), ("z.zarr", "zarr")):
        source = open_source(f"{BUCKET}/{name}")
        assert source.info.format == kind
        check_boxes(source, PIXELS[None], n=3)
        check_unchanged(source.info.uri, source.info.fingerprint)
        check_unchanged(source.info.uri, source.info.fingerprint, source.info.files)
        source.close()
    assert open_source(f"{BUCKET}/z.zarr").info.array_uri == f"{BUCKET}/z.zarr"
    assert [Path(uri).name for uri in find_scenes([BUCKET]).scenes] == ["a.nii.gz", "s.tif", "z.zarr"]


def test_a_replaced_object_is_noticed(bucket: Store, tmp_path: Path) -> None:
    uri = upload(bucket, "a.tif", write_tif(tmp_path / "a.tif", driver="GTiff"))
    source = open_source(uri)
    upload(bucket, "a.tif", write_tif(tmp_path / "b.tif", driver="GTiff", compress="lzw"))
    with pytest.raises(SourceChangedError, match=r"s3://pixels/a\.tif changed since it was planned"):
        check_unchanged(uri, source.info.fingerprint)
    source.close()


def test_prefixes_and_patterns(bucket: Store) -> None:
    for key in ("in/a.tif", "in/b.tif", "in/b.tif.aux.xml", "other/c.tif", "in/run/manifest.json", "in/run/receipts/x"):
        bucket.put(key, b"II*\0")
    found = find_scenes([f"{BUCKET}/in/"])
    assert found.scenes == (f"{BUCKET}/in/a.tif", f"{BUCKET}/in/b.tif")
    assert (f"{BUCKET}/in/run", "a run directory of Seamline") in found.skipped
    assert find_scenes([f"{BUCKET}/*/[bc].tif"]).scenes == (f"{BUCKET}/in/b.tif", f"{BUCKET}/other/c.tif")
    assert find_scenes([f"{BUCKET}/other/c.tif"]).scenes == (f"{BUCKET}/other/c.tif",)


def test_what_is_not_in_the_bucket(bucket: Store) -> None:
    with pytest.raises(SourceError, match=r"^s3://pixels/none\.tif does not exist$"):
        open_source(f"{BUCKET}/none.tif")
    with pytest.raises(SourceError, match=r"no scenes in s3://pixels/none: nothing is there; check the path"):
        find_scenes([f"{BUCKET}/none"])


def test_a_bucket_that_does_not_exist(bucket: Store) -> None:
    with pytest.raises(SourceError, match=r"cannot list s3://no-such-bucket.*404.*check the name, the credentials"):
        find_scenes(["s3://no-such-bucket/x"])


class _Forbids(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Serves(http.server.SimpleHTTPRequestHandler):
    """Files with HTTP ranges, which Python's own server lacks."""

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", "Sat, 01 Jan 2000 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Any]:
    """Start a local web server with a handler; gives its address."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(handler: Any) -> str:
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_unreadable_bucket(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"ENDPOINT_URL": serve(_Forbids), "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{key}", value)
    with pytest.raises(SourceError, match=r"cannot read s3://locked/a\.tif: .*403.*check the name, the credentials"):
        open_source("s3://locked/a.tif")
    with pytest.raises(SourceError, match=r"cannot (read|list) s3://locked/prefix.*403"):
        find_scenes(["s3://locked/prefix"])


def test_a_raster_on_a_web_server(serve: Any, tmp_path: Path, check_boxes: Any) -> None:
    write_tif(tmp_path / "a.tif", driver="GTiff", tiled=True, blockxsize=16, blockysize=16)
    address = serve(lambda *args: _Serves(*args, directory=str(tmp_path)))
    source = open_source(f"{address}/a.tif")
    check_boxes(source, PIXELS, n=4)
    source.close()
    with pytest.raises(SourceError, match=r"/none does not exist, and a web server's folders cannot be listed"):
        find_scenes([f"{address}/none"])


def test_a_range_file_is_the_file(bucket: Store) -> None:
    data = np.random.default_rng(1).integers(0, 256, 3 * BLOCK_BYTES + 77, dtype=np.uint8).tobytes()
    bucket.put("x.bin", data)
    rng = np.random.default_rng(2)
    with RangeFile(f"{BUCKET}/x.bin") as file:
        for _ in range(40):
            start, n = int(rng.integers(0, len(data) + 50)), int(rng.choice([0, 1, 100, BLOCK_BYTES, 2 * BLOCK_BYTES]))
            file.seek(start)
            assert file.read(n) == data[start : start + n]
            assert file.tell() == max(start, min(start + n, len(data)))
        assert file.seek(-5, 2) == len(data) - 5
        assert file.read() == data[-5:]
