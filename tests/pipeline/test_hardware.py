"""What a worker may use: the machine, cut to its container, whose limits are files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.errors import UsageError
from pipeline.hardware import cpu_count, detect, memory_available
from pipeline.settings import Settings

MB = 1_000_000
Groups = Callable[[str, Mapping[str, str]], tuple[Path, Path]]


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    """A tree of control groups from path -> content, and the file that says in which of them this process is."""

    def make(own: str, files: Mapping[str, str]) -> tuple[Path, Path]:
        root, me = tmp_path / "cgroup", tmp_path / "self"
        for name, text in files.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        me.write_text(own)
        return root, me

    return make


def usable() -> int:
    return len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {}, None),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/", {"cpu.max": "50000 100000\n"}, 1),  # half a CPU still runs one thread
        ("0::/a/b", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1),  # the parent's limit holds too
        ("3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "100000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 1),
        ("3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_cpus_are_cut_to_the_quota(groups: Groups, own: str, files: dict[str, str], expected: int | None) -> None:
    assert cpu_count(*groups(own, files)) == (expected or usable())


def test_a_quota_above_the_affinity_gives_no_more(groups: Groups) -> None:
    assert cpu_count(*groups("0::/", {"cpu.max": f"{10**9} 100000"})) == usable()


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {"memory.max": f"{50 * MB}", "memory.current": f"{30 * MB}"}, 20 * MB),
        (
            "0::/",
            {
                "memory.max": f"{50 * MB}",
                "memory.current": f"{30 * MB}",
                "memory.stat": f"anon 5\ninactive_file {9 * MB}\n",
            },
            29 * MB,
        ),
        (
            "0::/a",
            {"memory.max": f"{40 * MB}", "memory.current": "0", "a/memory.max": "max", "a/memory.current": "0"},
            40 * MB,
        ),
        ("0::/", {"memory.max": f"{50 * MB}", "memory.current": f"{60 * MB}"}, 0),
        (
            "5:memory:/a",
            {"memory/a/memory.limit_in_bytes": f"{50 * MB}", "memory/a/memory.usage_in_bytes": f"{10 * MB}"},
            40 * MB,
        ),
    ],
)  # fmt: skip
def test_memory_is_what_is_left_to_the_container(
    groups: Groups, own: str, files: dict[str, str], expected: int
) -> None:
    assert memory_available(*groups(own, files)) == expected


@pytest.mark.parametrize("limit", ["max", str(9223372036854771712)])
def test_memory_without_a_limit_is_the_machines(groups: Groups, limit: str) -> None:
    files = {"memory.max": limit, "memory.current": "5", "memory/memory.limit_in_bytes": limit}
    free = psutil.virtual_memory().available
    assert memory_available(*groups("0::/", files)) == pytest.approx(free, rel=0.2)


def test_a_system_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert cpu_count(tmp_path, tmp_path / "none") == usable()
    assert memory_available(tmp_path, tmp_path / "none") > 0


def test_arithmetic_names_what_decides_the_last_bits() -> None:
    told = detect(Settings(model=("m",), device="cpu")).arithmetic
    assert f"torch {torch.__version__}" in told
    assert torch.backends.cpu.get_cpu_capability() in told


def test_auto_is_what_torch_sees() -> None:
    found = detect(Settings(model=("m",)))
    assert found.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert found.threads == cpu_count()


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"--device cuda: torch sees no CUDA device here; use --device cpu"):
        detect(Settings(model=("m",), device="cuda"))
