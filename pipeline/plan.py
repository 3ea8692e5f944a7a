"""From settings, a source and a model's spec to a manifest: every choice is made, and every check, here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from math import lcm, prod
from typing import Literal

import numpy as np

from pipeline.arrays import array_names, array_spec, levels_of
from pipeline.errors import UsageError
from pipeline.manifest import ALGORITHM, Layout, Manifest, Numerics, Question, SourceRecord
from pipeline.memory import MemoryPlan, plan_memory, seam_bytes
from pipeline.models.agreement import check_agreement
from pipeline.models.spec import ModelSpec
from pipeline.settings import Precision, Settings
from pipeline.sources import choose_channels
from pipeline.sources.base import SourceInfo
from tiling import Frame, FrameError, Grid

WINDOW_2D, WINDOW_3D = 640, 160
BLOCK_2D, BLOCK_3D, BLOCK_SLICES = 4096, 256, 8
CHUNK_2D, CHUNK_3D = 512, 64
COARSEST = 512
"""A pyramid ends where every axis fits this many pixels."""

_METRES = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9}
_RESOLUTION_TOLERANCE = 1.5
_SPOOLED = ("sequential",)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What ``auto`` is resolved with: of the workers that will run, not of who plans."""

    device: Literal["cpu", "cuda"]
    threads: int
    memory_bytes: int
    bf16: bool = False
    arithmetic: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A manifest and what follows from it. ``notes`` are sentences a person should read before the run."""

    manifest: Manifest
    memory: MemoryPlan
    notes: tuple[str, ...]

    @property
    def windows(self) -> int:
        return self.manifest.grid.n_windows

    @property
    def blocks(self) -> int:
        return prod(self.manifest.grid.n_blocks)

    @property
    def pixels(self) -> int:
        return prod(self.manifest.grid.extent)

    @property
    def planned_per_pixel(self) -> float:
        """Pixels that go through the network per pixel of the scene."""
        return self.windows * prod(self.manifest.grid.window) / self.pixels

    @property
    def output_bytes(self) -> int:
        """Of all arrays, uncompressed."""
        m = self.manifest
        specs = [array_spec(m, name, level) for name in (*array_names(m), "image") for level in levels_of(m, name)]
        return sum(prod(s.shape) * np.dtype(s.dtype).itemsize for s in {s.path: s for s in specs}.values())

    @property
    def partial_bytes(self) -> int:
        """Upper bound of what lies in ``partials/`` at once."""
        return seam_bytes(self.manifest)

    @property
    def spool_bytes(self) -> int:
        """Scratch that a source needs which can only be decoded in order."""
        source = self.manifest.question.source
        each = len(source.channels) * np.dtype(source.dtype).itemsize + 1
        return self.pixels * each if self.manifest.layout.spool else 0


def make_plan(
    settings: Settings,
    info: SourceInfo,
    spec: ModelSpec,
    bundles: Sequence[str],
    hardware: Hardware,
    *,
    scene: str,
    ensemble: Sequence[ModelSpec] = (),
) -> Plan:
    """Resolve every setting for one scene. Pure; raises UsageError, ModelError or GeometryError, each naming its cure.

    ``bundles`` are the digests of the models, in the order of ``settings.model``; ``spec`` is the first one's, and
    ``ensemble`` the others'.
    """
    check_agreement((spec, *ensemble))
    channels = choose_channels(info, spec.channels, settings.bands)
    ndim = len(info.shape)
    if spec.ndim > ndim:
        raise UsageError(f"{spec.name} reads volumes, and {info.uri} is an image of shape {info.shape}")
    window, overlap = choose_window(settings, info.shape, spec, lcm(*(s.divisor for s in (spec, *ensemble))))
    block = choose_block(settings, info.shape, window, overlap, spec.ndim)
    grid = Grid.of(info.shape, window, overlap, block)
    question = Question(
        source=_source_record(info, channels, settings.nodata),
        bundles=tuple(bundles),
        tta=settings.tta,
        scales=settings.scales,
        window=window,
        overlap=overlap,
        blend=settings.blend,
        save_scores=settings.save_scores,
    )
    manifest = Manifest(
        seamline=version("seamline"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        scene=scene,
        question=question,
        numerics=choose_numerics(settings, hardware),
        layout=choose_layout(info, channels, grid),
        spec=spec,
        ensemble=tuple(ensemble),
    )
    plan = Plan(manifest, plan_memory(manifest), (*info.notes, *resolution_notes(info.frame, spec)))
    check_memory(plan, settings, hardware)
    return plan


def resolution_notes(frame: Frame, spec: ModelSpec) -> tuple[str, ...]:
    """A sentence if the scene's pixels are more than 1.5 times larger or smaller than the model was trained on."""
    trained = spec.resolution
    if trained is None or frame.unit not in _METRES or trained.unit not in _METRES:
        return ()
    try:
        here = frame.spacing[-len(trained.spacing) :]
    except FrameError:
        return ()
    ratios = [h * _METRES[frame.unit] / (t * _METRES[trained.unit]) for h, t in zip(here, trained.spacing, strict=True)]
    if all(1 / _RESOLUTION_TOLERANCE <= r <= _RESOLUTION_TOLERANCE for r in ratios):
        return ()
    shown, wanted = (" x ".join(f"{v:g}" for v in values) for values in (here, trained.spacing))
    note = f"pixels are {shown} {frame.unit}, and {spec.name} was trained at {wanted} {trained.unit}"
    return (f"{note}: expect worse masks, or resample the scene first",)


def choose_window(
    settings: Settings, shape: tuple[int, ...], spec: ModelSpec, divisor: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Window and overlap per axis. Unless ``--window`` says otherwise, no axis gets more than the scene needs."""
    slices = len(shape) - spec.ndim
    given = _per_axis(settings.window, len(shape), "window", slices)
    default = spec.window or (WINDOW_2D if spec.ndim == 2 else WINDOW_3D,) * spec.ndim
    wanted = (1,) * slices + tuple(default)
    if given:
        bad = [w for w in given[slices:] if w % divisor]
        if bad or any(w != 1 for w in given[:slices]):
            raise UsageError(
                f"window {given} does not fit {spec.name}: sides must be multiples of {divisor}"
                + (", and 1 along z for a 2-D network" if slices else "")
                + f"; use --window {','.join(map(str, _rounded(given, divisor, slices)))}"
            )
        window = given
    else:
        window = tuple(
            min(_up(w, divisor), _up(e, divisor)) if n >= slices else w
            for n, (w, e) in enumerate(zip(wanted, shape, strict=True))
        )
    overlap = _per_axis(settings.overlap, len(shape), "overlap", slices, sliced=0)
    if overlap is None:
        overlap = tuple(default_overlap(w) if e > w else 0 for w, e in zip(window, shape, strict=True))
    elif settings.overlap is not None and len(settings.overlap) == 1 and not given:
        overlap = tuple(o if e > w else 0 for o, w, e in zip(overlap, window, shape, strict=True))
    return window, overlap


def default_overlap(window: int) -> int:
    """A fifth of the window, rounded up to a multiple of 32: 640 -> 128, 512 -> 128, 256 -> 64, 160 -> 32."""
    return min(_up(-(-window // 5), 32), window // 2) if window > 1 else 0


def choose_block(
    settings: Settings, shape: tuple[int, ...], window: tuple[int, ...], overlap: tuple[int, ...], net_ndim: int
) -> tuple[int, ...]:
    """Block per axis: a multiple of the stride near the default, no larger than the scene needs.

    Halved along its longest axis until every worker has two blocks, where nothing was asked for.
    """
    stride = tuple(w - o for w, o in zip(window, overlap, strict=True))
    needed = tuple(_up(e, s) for e, s in zip(shape, stride, strict=True))
    given = _per_axis(settings.block, len(shape), "block", 0)
    if given:
        if len(settings.block or ()) > 1:
            return given
        # one number for all axes: an axis that is shorter, or of one window, takes what it needs
        return tuple(n if b >= n or e <= w else b for b, n, e, w in zip(given, needed, shape, window, strict=True))
    target = {2: (BLOCK_2D,) * 2, 3: (BLOCK_3D,) * 3}[len(shape)]
    if net_ndim < len(shape):
        target = (BLOCK_SLICES, BLOCK_2D // 2, BLOCK_2D // 2)
    block = [min(max(t // s, 1) * s, n) for t, s, n in zip(target, stride, needed, strict=True)]
    while settings.workers > 1 and _n_blocks(shape, block) < 2 * settings.workers:
        axis = max(range(len(block)), key=lambda a: block[a] // stride[a])
        if block[axis] <= stride[axis]:
            break
        block[axis] = _up(block[axis] // 2, stride[axis])
    return tuple(block)


def choose_numerics(settings: Settings, hardware: Hardware) -> Numerics:
    device = hardware.device if settings.device == "auto" else settings.device
    default: Precision = "bf16" if device == "cuda" and hardware.bf16 else "fp32"
    return Numerics(
        backend="eager",
        precision=settings.precision or default,
        device=device,
        batch=settings.batch or (8 if device == "cuda" else 1),
        threads=settings.threads or max(1, hardware.threads // (settings.workers if device == "cpu" else 1)),
        algorithm=ALGORITHM,
        arithmetic=hardware.arithmetic,
    )


def choose_layout(info: SourceInfo, channels: tuple[int, ...], grid: Grid) -> Layout:
    chunk = tuple(
        _chunk(b, CHUNK_2D if n >= grid.ndim - 2 and grid.ndim == 2 else CHUNK_3D) for n, b in enumerate(grid.block)
    )
    levels = 1
    while max(-(-e // 2 ** (levels - 1)) for e in grid.extent) > COARSEST:
        levels += 1
    # a small scene is copied all the same: without a level of its own there would be no image for viewers
    in_place = info.array_uri is not None and levels > 1
    return Layout(
        block=grid.block,
        chunk=chunk,
        levels=levels,
        image="in-place" if in_place else "copy",
        array_uri=info.array_uri,
        spool=info.access in _SPOOLED and prod(grid.n_blocks) > 1,
    )


def check_memory(plan: Plan, settings: Settings, hardware: Hardware) -> None:
    """Refuse a plan whose worker cannot fit, before anything is spent."""
    limit = settings.memory_limit_mb * 10**6 if settings.memory_limit_mb else hardware.memory_bytes // settings.workers
    if plan.memory.peak > limit:
        grid = plan.manifest.grid
        smaller = tuple(max(s, _up(b // 2, s)) for b, s in zip(grid.block, grid.stride, strict=True))
        raise UsageError(
            f"a worker would need {plan.memory.peak / 1e6:,.0f} MB above its model, and has {limit / 1e6:,.0f} MB: "
            f"use smaller blocks (--block {','.join(map(str, smaller))} in place of "
            f"{','.join(map(str, grid.block))}), fewer --workers, or raise --memory-limit-mb"
        )


def adopt(planned: Manifest, found: Manifest, settings: Settings) -> None:
    """Refuse flags that contradict the manifest of the run that is resumed. Raises UsageError naming both values."""
    if planned.numerics.algorithm != found.numerics.algorithm:
        raise UsageError(
            f"the run that is there was made with algorithm {found.numerics.algorithm}, and this Seamline computes "
            f"labels with algorithm {planned.numerics.algorithm}: blocks of both must not mix; "
            f"finish it with Seamline {found.seamline}, or choose another --out for a new run"
        )
    explicit = {
        "block": (settings.block, planned.layout.block, found.layout.block),
        "batch": (settings.batch, planned.numerics.batch, found.numerics.batch),
        "precision": (settings.precision, planned.numerics.precision, found.numerics.precision),
        "threads": (settings.threads, planned.numerics.threads, found.numerics.threads),
        "device": (
            None if settings.device == "auto" else settings.device,
            planned.numerics.device,
            found.numerics.device,
        ),
    }
    for name, (given, mine, theirs) in explicit.items():
        if given is not None and mine != theirs:
            raise UsageError(
                f"--{name} {_shown(mine)} contradicts the run that is there, which was made with {_shown(theirs)}; "
                f"leave --{name} out to go on with it, or choose another --out for a new run"
            )


def _source_record(info: SourceInfo, channels: tuple[int, ...], nodata: float | str) -> SourceRecord:
    return SourceRecord(
        uri=info.uri,
        fingerprint=info.fingerprint,
        format=info.format,
        shape=info.shape,
        dtype=str(info.dtype),
        channels=channels,
        channel_names=tuple(info.channels[c] for c in channels),
        nodata=nodata,
        nodata_values=tuple(None if (value := info.nodata[c]) is None else repr(float(value)) for c in channels),
        frame=info.frame.to_json(),
    )


def _per_axis(
    given: tuple[int, ...] | None, ndim: int, name: str, slices: int, *, sliced: int = 1
) -> tuple[int, ...] | None:
    """One number per axis; a single one stands for all, but for the sliced axes of a 2-D network over a volume."""
    if given is None:
        return None
    if len(given) == 1:
        return (sliced,) * slices + given * (ndim - slices)
    if len(given) == ndim - slices:
        return (sliced,) * slices + given
    if len(given) != ndim:
        raise UsageError(f"--{name} {_shown(given)} has {len(given)} numbers for a scene of {ndim} axes")
    return given


def _rounded(window: tuple[int, ...], divisor: int, slices: int) -> tuple[int, ...]:
    return (1,) * slices + tuple(max(divisor, w // divisor * divisor) for w in window[slices:])


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _n_blocks(shape: Sequence[int], block: Sequence[int]) -> int:
    return prod(-(-e // b) for e, b in zip(shape, block, strict=True))


def _chunk(block: int, target: int) -> int:
    """The largest divisor of ``block`` up to ``target``; the whole block where that would be a sliver."""
    best = max(d for d in range(1, min(block, target) + 1) if block % d == 0)
    return best if best * 8 >= min(block, target) else block


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
