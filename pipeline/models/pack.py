"""From somebody's weights to a bundle, and whether a bundle keeps what it says."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelError
from pipeline.models.bundle import bundle_files, read_spec, resolve_bundle
from pipeline.models.folder import bundle_folder, write_bundle
from pipeline.models.loading import load_network
from pipeline.models.network import create, load_state, n_parameters
from pipeline.models.spec import ModelSpec
from pipeline.models.weights import read_weights
from pipeline.settings import unreadable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.models.adapter import NetworkModel

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")  # what wrappers and Lightning put before keys


def pack(
    weights: str | Path,
    *,
    arch: str,
    encoder: str,
    classes: str | Path | Sequence[str | Mapping[str, Any]],
    channels: Sequence[str],
    out: str | Path,
    normalisation: Mapping[str, Any],
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """Make the bundle ``out`` from a state dict or a Lightning checkpoint; returns its folder.

    classes  names or tables, or a csv with the column ``name`` and optionally ``value``, ``color``, ``role``
    options  to smp's constructor (``decoder_channels``, ``encoder_depth``, ...)
    fields   any other field of ModelSpec: activation, decision, domain, divisor, window, resolution, ...
    Raises UsageError for a bucket, ModelError for weights that cannot be read safely or do not fit the architecture.
    """
    folder = bundle_folder(out)
    listed = _read_classes(Path(classes)) if isinstance(classes, str | Path) else list(classes)
    given = {k: v for k, v in fields.items() if v is not None}
    if len(given.get("window", ())) == 1:  # one side stands for all, as on the command line everywhere
        given["window"] = tuple(given["window"]) * given.get("ndim", 2)
    data = {"name": name or folder.name, "classes": listed, "channels": list(channels), **given}
    spec = ModelSpec.of({**data, "normalisation": normalisation}, "models pack")
    network = create(arch, encoder, len(spec.channels), spec.n_scores, options or {})
    file = Path(weights)
    if not file.is_file():
        raise ModelError(f"no weights at {file}")
    load_state(network, own_keys(read_weights(file), set(network.state_dict()), str(file)), str(file))
    return write_bundle(folder, network, spec, _card(spec, arch, encoder, file.name))


def own_keys(held: Mapping[str, Any], wanted: set[str], where: str) -> dict[str, Tensor]:
    """The tensors of a file under the network's own names: the ``state_dict`` within a checkpoint, prefixes cut.

    Where a prefix is cut, what does not carry it (a loss, a metric) is left out.
    """
    import torch

    inner = held.get("state_dict", held)
    state = {k: v for k, v in inner.items() if isinstance(v, torch.Tensor)}
    while not wanted & state.keys():
        prefix = next((p for p in _PREFIXES if any(k.startswith(p) for k in state)), None)
        if prefix is None:
            break
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not state:
        raise ModelError(f"{where} holds no tensors; its keys are {', '.join(map(str, list(held)[:5])) or 'none'}")
    return state


def _read_classes(path: Path) -> list[dict[str, Any]]:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as e:
        raise ModelError(f"cannot read the classes {path}: {unreadable(e)}") from e
    if not rows or "name" not in rows[0]:
        raise ModelError(f"{path} must have a header line with the column name (and value, color, role if wanted)")
    return [{k: v for k, v in row.items() if v} for row in rows]


def _card(spec: ModelSpec, arch: str, encoder: str, source: str) -> str:
    classes = "\n".join(f"- {c.value}: {c.name}" for c in spec.classes)
    return (
        f"# {spec.name}\n\n{arch} with encoder {encoder}, packed from `{source}`.\n"
        f"Reads {', '.join(spec.channels)}. No scores were given.\n\n## Classes\n\n{classes}\n"
    )


@dataclass(frozen=True, slots=True)
class Check:
    """What ``models check`` found. ``problems`` is empty for a bundle that keeps what it says.

    divisor_found  the smallest power of two whose multiples the network takes
    smallest       the smallest window side, a multiple of the declared divisor, that it takes
    """

    name: str
    path: str
    n_parameters: int
    n_bytes: int
    divisor: int
    divisor_found: int | None
    smallest: int | None
    finite: bool
    in_range: bool
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(bundle: str | Path, *, trust: bool = False) -> Check:
    """Load the bundle on the CPU and run random windows through it. Raises ModelError where it cannot be loaded."""
    import torch

    from pipeline.models.adapter import NetworkModel
    from pipeline.models.normalise import Constants

    folder = resolve_bundle(bundle)
    spec, notes = read_spec(folder)
    network = load_network(folder, spec, trust=trust)
    model = NetworkModel(spec, network, Constants((127.5,), (64.0,)), torch.device("cpu"))
    d = spec.divisor
    smallest = next((side for side in (d, 2 * d, 3 * d) if _accepts(model, side)), None)
    found = next((p for p in (1, 2, 4, 8, 16, 32, 64) if p <= d and _accepts(model, _odd_multiple(p))), None)
    finite, in_range = _looks_like_scores(model, (smallest or d) * 2)
    problems = [*notes, *_problems(model, smallest, finite, in_range)]
    size = sum(f.stat().st_size for f in bundle_files(folder))
    n = _count(network)
    return Check(spec.name, str(folder), n, size, d, found, smallest, finite, in_range, tuple(problems))


def _problems(model: NetworkModel, smallest: int | None, finite: bool, in_range: bool) -> list[str]:
    d = model.spec.divisor
    refused = [side for side in (3 * d, 5 * d) if not _accepts(model, side)]
    lines = [f"divisor {d}: a window of {side} is refused; raise divisor" for side in refused]
    if smallest is None:
        lines.append(f"no window of {d}, {2 * d} or {3 * d} is accepted")
    if not finite:
        lines.append("scores of a random window are not finite: the weights are broken")
    elif not in_range:
        lines.append("scores of a random window leave [0, 1]")
    return lines


def _odd_multiple(p: int) -> int:
    """A side that ``p`` divides and ``2 p`` does not, some 128 pixels or more."""
    return (128 // p // 2 * 2 + 1) * p


def _accepts(model: NetworkModel, side: int) -> bool:
    """Whether a square window of this side is taken and gives scores of its own size."""
    try:
        _random_scores(model, side)
    except (RuntimeError, ValueError):  # what smp and torch raise for sides that do not fit; ModelError for the shape
        return False
    return True


def _looks_like_scores(model: NetworkModel, side: int) -> tuple[bool, bool]:
    try:
        scores = _random_scores(model, side)
    except (RuntimeError, ValueError):
        return False, False
    finite = bool(scores.isfinite().all())
    return finite, finite and bool((scores >= 0).all() and (scores <= 1).all())


def _random_scores(model: NetworkModel, side: int) -> Tensor:
    import torch

    spec = model.spec
    window = (side,) * 2 if spec.ndim == 2 else (min(side, spec.divisor * 2), side, side)
    pixels = torch.randint(0, 256, (1, len(spec.channels), *window), generator=torch.Generator().manual_seed(0))
    return model.scores(pixels.float(), torch.ones((1, *window), dtype=torch.bool))


def _count(network: nn.Module) -> int:
    return n_parameters(network) if hasattr(network, "parameters") else 0
