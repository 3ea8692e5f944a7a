"""The plan: every choice with its reason, every refusal with its cure, and adoption of what a run was made with."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import GeometryError, ModelError, RunError, SourceError, UsageError
from pipeline.manifest import Manifest
from pipeline.models.agreement import check_agreement
from pipeline.models.spec import ModelSpec
from pipeline.plan import Hardware, Plan, adopt, default_overlap, make_plan
from pipeline.run import MANIFEST, create_run, open_run
from pipeline.settings import Settings
from tests.fakes import CoordinateModel, fake_spec
from tests.runs import HARDWARE, ArraySource, make_run, segment
from tiling import Grid


def info(shape: tuple[int, ...], channels: int = 1, dtype: str = "uint8") -> Any:
    """Of a source of any size: nothing is allocated."""
    return ArraySource(np.broadcast_to(np.zeros((), dtype), (channels, *shape))).info


def chosen(**settings: Any) -> Settings:
    return Settings(model=("fake",), **settings)


def plan(shape: tuple[int, ...], spec: ModelSpec, hardware: Hardware = HARDWARE, **settings: Any) -> Plan:
    return make_plan(chosen(**settings), info(shape, len(spec.channels)), spec, ("0" * 64,), hardware, scene="scene")


def grid(shape: tuple[int, ...], spec: ModelSpec, **settings: Any) -> Grid:
    return plan(shape, spec, **settings).manifest.grid


NET = fake_spec(3, divisor=32)
NET_3D = fake_spec(3, ndim=3, divisor=16)

# defaults -------------------------------------------------------------------------------------------------


def test_defaults_of_each_dimension() -> None:
    image = grid((20_000, 30_000), NET)
    assert (image.window, image.overlap, image.block) == ((640, 640), (128, 128), (4096, 4096))
    volume = grid((1000, 1000, 1000), NET_3D)
    assert (volume.window, volume.overlap, volume.block) == ((160,) * 3, (32,) * 3, (256,) * 3)
    slices = grid((200, 5000, 5000), NET)
    assert (slices.window, slices.overlap) == ((1, 640, 640), (0, 128, 128))
    assert slices.block[1] % 512 == slices.block[2] % 512 == 0


def test_the_bundles_window_comes_before_the_default() -> None:
    spec = fake_spec(3, divisor=32, window=(256, 512))
    assert grid((4000, 4000), spec).window == (256, 512)
    assert grid((50, 4000, 4000), spec).window == (1, 256, 512)


@pytest.mark.parametrize(
    ("window", "overlap"), [(640, 128), (512, 128), (256, 64), (160, 32), (32, 16), (1, 0), (3, 1)]
)
def test_the_default_overlap_fits_its_window(window: int, overlap: int) -> None:
    assert default_overlap(window) == overlap


def test_a_scene_shorter_than_the_window_shrinks_it_to_the_divisor() -> None:
    small = plan((50, 35), NET)
    assert (small.manifest.grid.window, small.manifest.grid.overlap) == ((64, 64), (0, 0))
    assert (small.windows, small.blocks) == (1, 1)
    assert small.planned_per_pixel == 64 * 64 / (50 * 35)
    thin = plan((20, 5000), NET)
    assert (thin.manifest.grid.window, thin.manifest.grid.overlap) == ((32, 640), (0, 128))
    flat = plan((7, 35, 50), NET)
    assert (flat.manifest.grid.window, flat.windows) == ((1, 64, 64), 7)
    assert plan((30, 35, 50), NET_3D).manifest.grid.window == (32, 48, 64)
    asked = plan((50, 35), NET, window=(640,))
    assert asked.planned_per_pixel == 640 * 640 / (50 * 35)  # the same scene without it: 234 times its pixels


def test_planned_pixels_are_those_the_network_sees() -> None:
    made = plan((100, 90), fake_spec(2), window=(32,), overlap=(8,), block=(24,))
    assert made.windows == prod(made.manifest.grid.axes[n].n_windows for n in (0, 1)) == 4 * 4
    assert made.planned_per_pixel == 16 * 32 * 32 / (100 * 90)
    assert made.pixels == 9000


def test_more_workers_get_more_blocks_of_the_same_answer() -> None:
    alone, many = plan((4000, 4000), NET), plan((4000, 4000), NET, workers=6)
    assert alone.blocks == 1
    assert many.blocks >= 12
    assert all(b % s == 0 for b, s in zip(many.manifest.grid.block, many.manifest.grid.stride, strict=True))
    assert many.manifest.digest == alone.manifest.digest


def test_one_number_for_the_block_bends_to_axes_that_are_short() -> None:
    assert grid((9, 900, 900), NET, block=(512,)).block == (9, 512, 512)
    assert grid((20, 5000), NET, block=(1024,)).block == (32, 1024)
    assert grid((700, 5000), NET, window=(640,), overlap=(128,), block=(512,)).block == (512, 512)


def test_auto_numerics_come_from_the_hardware_and_flags_win() -> None:
    gpu = Hardware(device="cuda", threads=16, memory_bytes=8 << 30, bf16=True)
    made = plan((700, 700), NET, gpu).manifest.numerics
    assert (made.device, made.precision, made.batch) == ("cuda", "bf16", 8)
    made = plan((700, 700), NET, gpu, device="cpu", batch=3, threads=2, precision="fp32").manifest.numerics
    assert (made.device, made.precision, made.batch, made.threads) == ("cpu", "fp32", 3, 2)
    cpu = replace(HARDWARE, threads=8)
    assert plan((700, 700), NET, cpu, workers=4).manifest.numerics.threads == 2


def test_the_digest_is_the_questions_alone() -> None:
    base = plan((900, 900), NET).manifest
    same_question: list[dict[str, Any]] = [{"batch": 4}, {"block": (512,)}, {"workers": 2}, {"precision": "bf16"}]
    for same in same_question:
        assert plan((900, 900), NET, **same).manifest.digest == base.digest
    others: list[dict[str, Any]] = [
        {"window": (320,)},
        {"overlap": (64,)},
        {"blend": "mean"},
        {"save_scores": True},
        {"nodata": 0.0},
    ]
    for other in others:
        assert plan((900, 900), NET, **other).manifest.digest != base.digest


def test_a_manifest_is_read_back_as_it_was() -> None:
    cases: list[dict[str, Any]] = [{}, {"nodata": -9999.0}, {"scales": (0.5, 1.0), "tta": "d4"}]
    for settings in cases:
        made = plan((900, 900), NET, **settings).manifest
        assert Manifest.from_bytes(made.to_bytes()) == made
        assert Manifest.from_bytes(made.to_bytes()).digest == made.digest


# refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spec", "settings", "message"),
    [
        ((900, 900), NET, {"overlap": (321,)}, r"overlap 321, window 640; use --overlap 320 or less"),
        (
            (9000, 9000),
            NET,
            {"block": (1000,)},
            r"multiple of the stride \(window - overlap = 512\), got 1000; use --block 512 or 1024",
        ),
        ((9000, 9000), NET, {"block": (256,)}, r"got 256; use --block 512 or 1024"),
        ((9000, 9000), NET, {"block": (512, 700)}, r"got 700; use --block 512 or 1024"),
        ((900, 900), NET, {"window": (100,)}, r"sides must be multiples of 32; use --window 96,96$"),
        ((900, 900), NET, {"window": (20,)}, r"multiples of 32; use --window 32,32$"),
        ((9, 900, 900), NET, {"window": (3, 64, 64)}, r"and 1 along z for a 2-D network; use --window 1,64,64$"),
        ((900, 900), NET, {"window": (64, 64, 64)}, r"--window 64,64,64 has 3 numbers for a scene of 2 axes"),
        ((900, 900), NET, {"overlap": (1, 2, 3)}, r"--overlap 1,2,3 has 3 numbers for a scene of 2 axes"),
        ((9, 900, 900), NET, {"block": (512, 512)}, r"--block 512,512 has 2 numbers for a scene of 3 axes"),
        ((900, 900), NET_3D, {}, r"fake reads volumes, and memory:scene is an image of shape \(900, 900\)"),
    ],
)
def test_what_cannot_be_is_refused_with_its_cure(
    shape: tuple[int, ...], spec: ModelSpec, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, GeometryError), match=message) as caught:
        plan(shape, spec, **settings)
    assert isinstance(caught.value, ValueError)


def test_too_many_channels_name_both_lists() -> None:
    with pytest.raises(SourceError, match=r"4 channels \(channel 0, .* model wants 1 channel \(channel 0\).*--bands"):
        make_plan(chosen(), info((90, 90), 4), NET, ("0" * 64,), HARDWARE, scene="scene")


def test_a_plan_that_cannot_fit_is_refused_and_its_cure_fits() -> None:
    shape, spec = (20_000, 20_000), fake_spec(8, 3, divisor=32)
    limit = plan(shape, spec).memory.peak // 3 // 10**6
    block: tuple[int, ...] | None = None
    for _ in range(4):
        try:
            made = plan(shape, spec, block=block, memory_limit_mb=limit)
            break
        except UsageError as e:
            words = rf"would need [\d,]+ MB .*has {limit} MB: use smaller blocks \(--block (\d+),(\d+) in place of"
            advice = re.search(words, str(e))
            if advice is None:
                raise
            block = (int(advice[1]), int(advice[2]))
    assert block is not None
    assert made.manifest.grid.block == block
    assert made.memory.peak <= limit * 10**6


def test_workers_share_the_memory_of_the_machine() -> None:
    machine = replace(HARDWARE, memory_bytes=2 * plan((20_000, 20_000), NET).memory.peak)
    plan((20_000, 20_000), NET, machine, workers=2)
    with pytest.raises(UsageError, match=r"fewer --workers, or raise --memory-limit-mb"):
        plan((20_000, 20_000), NET, machine, workers=4)


def test_an_ensemble_must_agree() -> None:
    with pytest.raises(ModelError, match=r"an ensemble needs equal classes: .* has .*run them one by one"):
        check_agreement((fake_spec(3), fake_spec(4)))
    check_agreement((fake_spec(3), fake_spec(3, divisor=16)))


def test_peak_memory_does_not_grow_with_the_scene() -> None:
    spec = fake_spec(6, 3, divisor=32)
    peaks = {plan((n, n), spec).memory.peak for n in (16_000, 64_000, 200_000)}
    assert len(peaks) == 1
    few, many = plan((64_000, 64_000), fake_spec(2, divisor=32)), plan((64_000, 64_000), fake_spec(40, divisor=32))
    assert many.memory.peak > few.memory.peak
    assert plan((64_000, 64_000), spec, block=(2048,)).memory.peak < next(iter(peaks))


def test_bytes_on_disk_are_counted_over_levels(tmp_path: Path) -> None:
    source = ArraySource(np.zeros((2, 130, 90), np.uint16))
    settings = {"window": (32,), "overlap": (8,), "block": (48,), "save_scores": True}
    made = make_plan(chosen(**settings), source.info, fake_spec(3, 2), ("0" * 64,), HARDWARE, scene="s")
    run = create_run(str(tmp_path), made.manifest)
    names = ("image", "valid", "labels", "confidence", "disagreement", "scores")
    assert made.output_bytes == sum(run.array(name).nbytes for name in names)  # type: ignore[arg-type]
    assert made.spool_bytes == 0
    source.access = "sequential"
    spooled = make_plan(chosen(**settings), source.info, fake_spec(3, 2), ("0" * 64,), HARDWARE, scene="s")
    assert spooled.spool_bytes == 130 * 90 * (2 * 2 + 1)


def test_partials_stay_under_what_was_planned(tmp_path: Path) -> None:
    source = ArraySource(np.random.default_rng(0).integers(0, 9, (1, 70, 80)).astype(np.uint8))
    windows = {"window": (16,), "overlap": (8,), "block": (16,)}
    run = segment(tmp_path, source, CoordinateModel(fake_spec(3)), **windows)
    filed = sum(o.n_bytes for r in run.receipts("infer") for o in r.outputs.values())
    headers = 600 * sum(len(r.outputs) for r in run.receipts("infer"))
    made = make_plan(chosen(**windows), source.info, fake_spec(3), ("0" * 64,), HARDWARE, scene="s")
    assert 0 < filed - headers < made.partial_bytes


# adoption -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "shown"),
    [
        ("batch", 3, ("--batch 3", "made with 1")),
        ("block", (96, 96), ("--block 96,96", "made with 48,48")),
        ("threads", 2, ("--threads 2", "made with 1")),
        ("precision", "bf16", ("--precision bf16", "made with fp32")),
        ("device", "cuda", ("--device cuda", "made with cpu")),
    ],
)
def test_a_flag_that_contradicts_the_run_names_both_values(flag: str, value: Any, shown: tuple[str, str]) -> None:
    base: dict[str, Any] = {"window": (64,), "overlap": (16,)}
    spec = fake_spec(2)
    found = plan((300, 300), spec, block=(48, 48), **base).manifest
    given = {"block": (48, 48), **base} | {flag: value}
    planned = plan((300, 300), spec, **given).manifest
    assert planned.run_name == found.run_name
    with pytest.raises(UsageError) as caught:
        adopt(planned, found, chosen(**given))
    for words in (*shown, f"leave --{flag} out", "--out"):
        assert words in str(caught.value)


def test_what_was_auto_is_adopted() -> None:
    spec, gpu = fake_spec(2), Hardware(device="cuda", threads=9, memory_bytes=8 << 30, bf16=True)
    found = plan((300, 300), spec, window=(64,), block=(96, 96), batch=5).manifest
    planned = plan((300, 300), spec, gpu, window=(64,)).manifest
    assert planned.numerics != found.numerics
    assert planned.layout != found.layout
    adopt(planned, found, chosen(window=(64,)))


def test_a_run_of_another_algorithm_is_not_gone_on_with() -> None:
    planned = plan((300, 300), fake_spec(2)).manifest
    old = planned.model_copy(
        update={"numerics": planned.numerics.model_copy(update={"algorithm": 0}), "seamline": "0.0.9"}
    )
    with pytest.raises(UsageError, match=r"made with algorithm 0.*with algorithm \d+.*finish it with Seamline 0\.0\.9"):
        adopt(planned, old, chosen())


def test_the_manifest_on_disk_wins(tmp_path: Path) -> None:
    source = ArraySource(np.zeros((1, 90, 90), np.uint8))
    first = make_run(tmp_path, source, fake_spec(2), window=(32,), block=(32,), overlap=(0,))
    second = make_run(tmp_path, source, fake_spec(2), window=(32,), block=(96,), overlap=(0,), batch=7)
    assert second.uri == first.uri
    assert second.manifest == first.manifest
    assert open_run(first.uri).manifest.layout.block == (32, 32)


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run directory: it has no manifest\.json"):
        open_run(str(tmp_path))
    (tmp_path / MANIFEST).write_text('{"schema_version": 99}')
    with pytest.raises(RunError, match=r"written with schema 99; this Seamline reads schema 1"):
        open_run(str(tmp_path))
    (tmp_path / MANIFEST).write_text('{"schema_version": 1}')
    with pytest.raises(RunError, match=r"manifest\.json cannot be read: "):
        open_run(str(tmp_path))
    (tmp_path / MANIFEST).write_text("[]")
    with pytest.raises(RunError, match=r"manifest\.json cannot be read: "):
        open_run(str(tmp_path))
