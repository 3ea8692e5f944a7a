"""What this machine offers a worker: device, threads, memory. Containers are believed before the machine is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pipeline.errors import UsageError
from pipeline.plan import Hardware
from pipeline.settings import Settings

CGROUP_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60
"""cgroup v1 says "no limit" with a number near 2**63."""


def detect(settings: Settings) -> Hardware:
    """Of this process.

    Raises UsageError for a GPU that is asked for and not there.
    """
    cuda, bf16 = (False, False) if settings.device == "cpu" else _cuda()
    if settings.device == "cuda" and not cuda:
        raise UsageError(
            "--device cuda: torch sees no CUDA device here; use --device cpu, "
            "or run where there is one (check the driver, and that this torch was built for CUDA)"
        )
    device: Literal["cpu", "cuda"] = "cuda" if cuda else "cpu"
    return Hardware(device, cpu_count(), memory_available(), bf16, arithmetic(device))


def arithmetic(device: Literal["cpu", "cuda"]) -> str:
    """What decides the last bits of a forward pass here: torch and its instructions, or its device."""
    import torch

    if device == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name()}"
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def cpu_count(root: Path = CGROUP_ROOT, own: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs that this process may use: its affinity, cut to the quota of its container, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [quota for group in _groups(root, own) if (quota := _quota(group)) is not None]
    return max(1, min([usable, *(int(q) for q in quotas)]))


def memory_available(root: Path = CGROUP_ROOT, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that can be had without swapping, cut to what is left to the container."""
    import psutil

    free = [left for group in _groups(root, own) if (left := _memory_left(group)) is not None]
    return max(0, min([int(psutil.virtual_memory().available), *free]))


def _cuda() -> tuple[bool, bool]:
    """Whether there is a CUDA device, and whether it computes in bfloat16."""
    import torch

    if not torch.cuda.is_available():
        return False, False
    return True, bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """The control groups that hold this process, from its own to the root: each may set a limit.

    Lines of ``/proc/self/cgroup`` are ``0::/path`` (v2) or ``4:memory:/path`` (v1, one hierarchy a controller).
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux: no groups, no limits
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            group = root / controller / path.lstrip("/")
            while group.is_relative_to(root / controller):
                yield group
                group = group.parent


def _quota(group: Path) -> float | None:
    """CPUs' worth of time per period: v2 ``cpu.max`` is ``max 100000`` or ``150000 100000``; v1 has two files."""
    both = _words(group / "cpu.max") or [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
    if len(both) != 2 or not both[0].isdigit():  # "max", and -1 in v1
        return None
    return int(both[0]) / int(both[1])


def _memory_left(group: Path) -> int | None:
    """Limit less use; file cache that is not in use can be dropped and does not count."""
    limit = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
    used = _words(group / "memory.current") or _words(group / "memory.usage_in_bytes")
    if not limit or not used or not limit[0].isdigit() or int(limit[0]) >= _UNLIMITED:
        return None
    stat = _words(group / "memory.stat")
    values = dict(zip(stat[::2], stat[1::2], strict=False))
    cache = int(values.get("total_inactive_file", values.get("inactive_file", 0)))
    return max(0, int(limit[0]) - max(0, int(used[0]) - cache))


def _words(file: Path) -> list[str]:
    """None of them where there is no such file: what is not limited has none."""
    try:
        return file.read_text().split()
    except OSError:
        return []
