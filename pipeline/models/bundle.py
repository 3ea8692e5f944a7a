"""Bundles: folders that hold a model. Found, read, checked and loaded here; nothing in one is ever run unasked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ModelError
from pipeline.models.agreement import check_agreement
from pipeline.models.folder import CONFIG, SPEC
from pipeline.models.loading import load_network
from pipeline.models.locate import PROGRAM, cache_folder, read_config, resolve_bundle, shipped, weights_of
from pipeline.models.spec import ModelSpec

if TYPE_CHECKING:
    from pipeline.models.base import Model
    from pipeline.models.determinism import Precision
    from pipeline.models.normalise import Constants
    from pipeline.models.wrappers import Symmetry

_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}  # torchvision's, times 255


__all__ = [
    "bundle_digest",
    "bundle_files",
    "cache_folder",
    "default_spec",
    "describe",
    "load_model",
    "load_network",
    "read_spec",
    "resolve_bundle",
    "shipped",
]


def bundle_digest(path: Path) -> str:
    """sha256 over the names and bytes of weights, config and spec: what decides the scores."""
    total = hashlib.sha256()
    for file in (path / CONFIG, weights_of(path), path / SPEC):
        if file.exists():
            total.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def bundle_files(path: Path) -> list[Path]:
    """The files that a copy of the bundle needs."""
    return [f for f in (path / CONFIG, weights_of(path), path / SPEC) if f.exists()]


def read_spec(path: Path, dtype: Any = "uint8") -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec, and notes to print: the defaults taken where there is no ``seamline.json``.

    ``dtype`` is that of the scene. Raises ModelError for a missing spec on anything but uint8, and for one
    that does not hold together.
    """
    file = path / SPEC
    if file.exists():
        return ModelSpec.from_json(file.read_bytes(), str(file)), ()
    if weights_of(path).name == PROGRAM:
        raise ModelError(f"{path} has no {SPEC}, and a {PROGRAM} does not say what it reads: write one beside it")
    return default_spec(read_config(path), dtype, path.name)


def default_spec(config: Mapping[str, Any], dtype: Any, name: str = "model") -> tuple[ModelSpec, tuple[str, ...]]:
    """A spec for an smp ``config.json`` alone, on uint8 pixels, and what was assumed."""
    if np.dtype(dtype) != np.uint8:
        raise ModelError(
            f"{name} has no {SPEC}, so its normalisation is unknown, and pixels of {np.dtype(dtype).name} have no "
            f"usual one: write {SPEC} with its normalisation, or make the bundle with `seamline models pack`"
        )
    n, k = int(config.get("in_channels", 3)), int(config.get("classes", 1))
    pretrained = config.get("encoder_weights") is not None and n == 3
    rule = {"kind": "constant", **_IMAGENET} if pretrained else {"kind": "scale", "lo": 0, "hi": 255}
    data = {
        "name": name,
        "classes": ["background", "class_1"] if k == 1 else ["background", *(f"class_{i}" for i in range(1, k))],
        "channels": ["r", "g", "b"] if n == 3 else [f"c{i + 1}" for i in range(n)],
        "activation": "sigmoid" if k == 1 else "softmax",
        "normalisation": rule,
    }
    spec = ModelSpec.of(data, f"defaults for {name}")
    shown = "ImageNet mean and std" if pretrained else "0..255 to 0..1"
    return spec, (
        f"{name} has no {SPEC}; assumed normalisation: {shown}",
        f"assumed channels: {', '.join(spec.channels)}",
        f"assumed classes: {', '.join(c.name for c in spec.classes)} ({spec.activation})",
        f"assumed divisor: {spec.divisor}",
    )


def describe(path: Path) -> dict[str, Any]:
    """What ``models --json`` prints of one bundle."""
    spec, notes = read_spec(path)
    dumped = spec.model_dump(mode="json")
    keys = ("name", "classes", "channels", "domain", "window", "scores")
    return {**{k: dumped[k] for k in keys}, "path": str(path), "sha256": bundle_digest(path), "notes": list(notes)}


def load_model(
    paths: str | Path | Sequence[str | Path],
    *,
    device: str,
    precision: Precision,
    constants: Constants | Sequence[Constants],
    trust: bool = False,
    tta: Symmetry | None = None,
    scales: Sequence[float] = (1.0,),
    ndim: int = 2,
    dtype: Any = "uint8",
    threads: int | None = None,
    cache: Path | None = None,
) -> Model:
    """The model of one bundle, or the ensemble of several, ready to score windows of a scene with ``ndim`` axes.

    constants  the scene's, for all bundles or one each
    trust      allow ``.pt2``, which can run code when it is loaded
    dtype      of the scene, for a bundle without ``seamline.json``;  cache  where remote bundles are copied to
    Sets the determinism switches of this process. Raises ModelError, naming the file and the numbers.
    """
    from pipeline.models.adapter import NetworkModel
    from pipeline.models.determinism import set_determinism
    from pipeline.models.normalise import Constants
    from pipeline.models.wrappers import ensemble, wrap

    set_determinism(precision, threads)
    folders = [resolve_bundle(p, cache) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    own = [constants] * len(folders) if isinstance(constants, Constants) else list(constants)
    if not folders or len(own) != len(folders):
        raise ModelError(f"{len(folders)} bundles and {len(own)} sets of constants: give one set for all, or one each")
    specs = [read_spec(folder, dtype)[0] for folder in folders]
    check_agreement(specs, one_rule=isinstance(constants, Constants))
    where = _device(device)
    members = []
    for folder, spec, c in zip(folders, specs, own, strict=True):
        network = load_network(folder, spec, trust=trust, device=str(where))
        members.append(wrap(NetworkModel(spec, network, c, where, precision), tta=tta, scales=scales, ndim=ndim))
    return ensemble(members)


def _device(name: str) -> Any:
    import torch

    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {name}: torch sees no CUDA device here; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError as e:
        raise ModelError(f"device {name!r}: {str(e).splitlines()[0]}") from e
