"""Where bundles are: local folders, the ones that come with the package, prefixes of buckets."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.models.folder import CONFIG, SPEC, WEIGHTS
from pipeline.store import Store, is_local, local_path

PROGRAM = "model.pt2"
WEIGHT_FILES = (WEIGHTS, "pytorch_model.bin", "model.pt", "model.pth", PROGRAM)  # the first that exists is read


def shipped() -> list[Path]:
    """The bundles that come with the package, by name."""
    return sorted(p.parent for p in (Path(__file__).parent / "bundles").glob(f"*/{SPEC}"))


def resolve_bundle(name: str | Path, cache: Path | None = None) -> Path:
    """The folder of a bundle: a local path, the name of a shipped one, or ``s3://...`` copied to a local cache.

    ``cache`` defaults to the user's cache folder.
    Raises ModelError where there is none, or where a weights file is named in place of a bundle.
    """
    text = str(name)
    if not is_local(text):
        return _download(text, cache)
    path, known = local_path(text), {p.name: p for p in shipped()}
    if text in known and not any((path / file).exists() for file in WEIGHT_FILES):
        return known[text]  # also where a folder of pictures has the same name
    if path.is_dir():
        weights_of(path)
        return path
    if path.is_file():
        raise ModelError(f"{path} is a file, not a bundle: make one of it with `seamline models pack {path} ...`")
    names = ", ".join(known) or "none"
    raise ModelError(f"no bundle at {text}, and no shipped model of that name; shipped are: {names}")


def cache_folder() -> Path:
    """Where remote bundles are copied to: ``seamline`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seamline" / "bundles"


def weights_of(path: Path) -> Path:
    """The file of a bundle that is read for its weights. Raises ModelError where the folder is no bundle."""
    found = [path / name for name in WEIGHT_FILES if (path / name).exists()]
    if not found:
        raise ModelError(f"{path} is no bundle: it holds none of {', '.join(WEIGHT_FILES)}")
    if found[0].name != PROGRAM and not (path / CONFIG).exists():
        raise ModelError(f"{path} is no bundle: {found[0].name} needs a {CONFIG} beside it, as save_pretrained writes")
    return found[0]


def read_config(path: Path) -> dict[str, Any]:
    """What ``config.json`` holds."""
    try:
        config = json.loads((path / CONFIG).read_bytes())
    except ValueError as e:
        raise ModelError(f"{path / CONFIG} is not valid JSON: {e}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path / CONFIG} must be a JSON object, got {type(config).__name__}")
    return config


def _download(uri: str, cache: Path | None) -> Path:
    """Copy the bundle's files below ``cache``, in a folder that changes when they do."""
    cache = cache_folder() if cache is None else cache
    store = Store(uri)
    entries = sorted((e.key, e.version) for e in store.list() if e.key in (CONFIG, SPEC, *WEIGHT_FILES))
    if not entries:
        raise ModelError(f"no bundle at {uri}: none of {', '.join((CONFIG, SPEC, *WEIGHT_FILES))} is there")
    folder = cache / hashlib.sha256(repr((uri, entries)).encode()).hexdigest()[:16] / uri.rstrip("/").rpartition("/")[2]
    local = Store(str(folder))
    for key, _ in entries:
        if not (folder / key).exists():
            local.put(key, store.get(key))
    weights_of(folder)
    return folder
