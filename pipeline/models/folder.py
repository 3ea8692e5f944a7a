"""Writing a bundle: ``config.json`` and ``model.safetensors`` as smp writes and reads them, and ``seamline.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StoreError, UsageError
from pipeline.store import is_local, local_path

if TYPE_CHECKING:
    from torch import nn

    from pipeline.models.spec import ModelSpec

CONFIG, WEIGHTS, SPEC, CARD = "config.json", "model.safetensors", "seamline.json", "README.md"


def bundle_folder(out: str | Path) -> Path:
    """The folder that ``--out`` names. Raises UsageError for a bucket: ask before the work, not after it."""
    if not is_local(str(out)):
        raise UsageError(f"a bundle is written to a local folder, not to {out}; write it locally and copy it there")
    return local_path(str(out))


def write_bundle(folder: Path, network: nn.Module, spec: ModelSpec, card: str) -> Path:
    """Each file whole, ``seamline.json`` last; over what was there. Raises StoreError where it cannot."""
    from safetensors.torch import save

    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    files = {
        CONFIG: json.dumps(config_of(network), indent=2).encode() + b"\n",
        WEIGHTS: save(state, metadata={"format": "pt"}),
        CARD: card.encode(),
        SPEC: spec.to_json().encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_whole(folder / name, data)
    except OSError as e:
        raise StoreError(f"cannot write the bundle {folder}: {e.strerror or e}") from e
    return folder


def write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)  # noqa: PTH105


def config_of(network: nn.Module) -> dict[str, Any]:
    """What smp's ``from_pretrained`` needs to build the network again; never the name of pretrained weights."""
    config: dict[str, Any] = dict(network.config)  # type: ignore[arg-type]
    return config | {"_model_class": type(network).__name__, "encoder_weights": None}
