"""Bundles: folders that hold a model. Found, read, checked and loaded here; nothing in one is ever run unasked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ModelError
from pipeline.models.folder import CONFIG, SPEC, WEIGHTS
from pipeline.models.spec import ModelSpec
from pipeline.store import Store, is_local, local_path

if TYPE_CHECKING:
    from pipeline.models.base import Model
    from pipeline.models.determinism import Precision
    from pipeline.models.normalise import Constants
    from pipeline.models.wrappers import Symmetry

PROGRAM = "model.pt2"
_WEIGHTS = (WEIGHTS, "pytorch_model.bin", "model.pt", "model.pth", PROGRAM)  # the first that exists is read
_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}  # torchvision's, times 255


def shipped() -> list[Path]:
    """The bundles that come with the package, by name."""
    return sorted(p.parent for p in (Path(__file__).parent / "bundles").glob(f"*/{SPEC}"))


def resolve_bundle(name: str | Path, cache: Path | None = None) -> Path:
    """The folder of a bundle: a local path, the name of a shipped one, or ``s3://...`` copied below ``cache``.

    Raises ModelError where there is none, or where a weights file is named in place of a bundle.
    """
    text = str(name)
    if not is_local(text):
        return _download(text, cache)
    path = local_path(text)
    if path.is_dir():
        _weights_of(path)
        return path
    if path.is_file():
        raise ModelError(f"{path} is a file, not a bundle: make one of it with `seamline models pack {path} ...`")
    known = {p.name: p for p in shipped()}
    if text not in known:
        names = ", ".join(known) or "none"
        raise ModelError(f"no bundle at {text}, and no shipped model of that name; shipped are: {names}")
    return known[text]


def bundle_digest(path: Path) -> str:
    """sha256 over the names and bytes of weights, config and spec: what decides the scores."""
    total = hashlib.sha256()
    for file in (path / CONFIG, _weights_of(path), path / SPEC):
        if file.exists():
            total.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def bundle_files(path: Path) -> list[Path]:
    """The files that a copy of the bundle needs."""
    return [f for f in (path / CONFIG, _weights_of(path), path / SPEC) if f.exists()]


def read_spec(path: Path, dtype: Any = "uint8") -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec, and notes to print: the defaults taken where there is no ``seamline.json``.

    ``dtype`` is that of the scene. Raises ModelError for a missing spec on anything but uint8, and for one
    that does not hold together.
    """
    file = path / SPEC
    if file.exists():
        return ModelSpec.from_json(file.read_bytes(), str(file)), ()
    if _weights_of(path).name == PROGRAM:
        raise ModelError(f"{path} has no {SPEC}, and a {PROGRAM} does not say what it reads: write one beside it")
    return default_spec(_read_config(path), dtype, path.name)


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

    constants  the scene's, for all bundles or one each;  trust  allow ``.pt2`` (loading one can run code)
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
    where = _device(device)
    members = []
    for folder, c in zip(folders, own, strict=True):
        spec, _ = read_spec(folder, dtype)
        network = load_network(folder, spec, trust=trust, device=str(where))
        members.append(wrap(NetworkModel(spec, network, c, where, precision), tta=tta, scales=scales, ndim=ndim))
    return ensemble(members)


def load_network(folder: Path, spec: ModelSpec, *, trust: bool = False, device: str = "cpu") -> Any:
    """The network of a bundle with its weights, held against the spec, in eval mode on the device."""
    import torch

    from pipeline.models.network import build, io_channels, load_state
    from pipeline.models.weights import read_weights

    file = _weights_of(folder)
    if file.name == PROGRAM:
        return _load_program(file, trust, device)
    network = build(_read_config(folder), str(folder / CONFIG))
    _check_numbers(spec, *io_channels(network), folder)
    load_state(network, read_weights(file), str(file))
    return network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


def _check_numbers(spec: ModelSpec, n_in: int, n_out: int, folder: Path) -> None:
    if n_in != len(spec.channels):
        raise ModelError(
            f"{folder}: the weights read {n_in} channels, {SPEC} lists {len(spec.channels)} "
            f"({', '.join(spec.channels)}); correct channels in {SPEC}"
        )
    if n_out != spec.n_scores:
        names = ", ".join(c.name for c in spec.classes)
        raise ModelError(
            f"{folder}: the weights give {n_out} scores a pixel, {SPEC} with activation {spec.activation} and "
            f"{len(spec.classes)} classes ({names}) means {spec.n_scores}; correct classes or activation in {SPEC}"
        )


def _load_program(file: Path, trust: bool, device: str) -> Any:
    if not trust:
        raise ModelError(
            f"{file} is an exported program, and loading one can run code from the file: give --trust-model if you "
            "trust where it comes from, or make a bundle of its weights with `seamline models pack`"
        )
    import torch
    from torch.export.passes import move_to_device_pass

    program = torch.export.load(file)
    return move_to_device_pass(program, device).module()


def _weights_of(path: Path) -> Path:
    found = [path / name for name in _WEIGHTS if (path / name).exists()]
    if not found:
        raise ModelError(f"{path} is no bundle: it holds none of {', '.join(_WEIGHTS)}")
    if found[0].name != PROGRAM and not (path / CONFIG).exists():
        raise ModelError(f"{path} is no bundle: {found[0].name} needs a {CONFIG} beside it, as save_pretrained writes")
    return found[0]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / CONFIG).read_bytes())
    except ValueError as e:
        raise ModelError(f"{path / CONFIG} is not valid JSON: {e}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path / CONFIG} must be a JSON object, got {type(config).__name__}")
    return config


def _download(uri: str, cache: Path | None) -> Path:
    """Copy the bundle's files below ``cache``, in a folder that changes when they do."""
    if cache is None:
        raise ModelError(f"{uri} is remote: a folder to copy it to must be given")
    store = Store(uri)
    entries = sorted((e.key, e.version) for e in store.list() if e.key in (CONFIG, SPEC, *_WEIGHTS))
    if not entries:
        raise ModelError(f"no bundle at {uri}: none of {', '.join((CONFIG, SPEC, *_WEIGHTS))} is there")
    folder = cache / hashlib.sha256(repr((uri, entries)).encode()).hexdigest()[:16] / uri.rstrip("/").rpartition("/")[2]
    local = Store(str(folder))
    for key, _ in entries:
        if not (folder / key).exists():
            local.put(key, store.get(key))
    _weights_of(folder)
    return folder


def _device(name: str) -> Any:
    import torch

    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {name}: torch sees no CUDA device here; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError as e:
        raise ModelError(f"device {name!r}: {str(e).splitlines()[0]}") from e
