"""Reading weights without ever running what is in the file."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = (".pt", ".pth", ".bin", ".ckpt")


def read_weights(path: Path) -> dict[str, Any]:
    """What a ``.safetensors`` or torch file holds, on the CPU: a state dict, or a Lightning checkpoint around one.

    Torch files are read with ``weights_only``: tensors and plain containers, no code. A file with anything
    else in it, or that cannot be read, is a ModelError.
    """
    if path.suffix == ".safetensors":
        return dict(_read_safetensors(path))
    if path.suffix in PICKLED:
        return _read_torch(path)
    raise ModelError(f"{path} is no weights file: known are .safetensors, {', '.join(PICKLED)}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise ModelError(f"{path} cannot be read as safetensors, it may be truncated: {e}") from e


def _read_torch(path: Path) -> dict[str, Any]:
    import torch

    try:
        with warnings.catch_warnings():
            # it goes on to refuse what it cannot read, and that is what is told
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise ModelError(
            f"{path} holds more than tensors, and reading that could run code from the file "
            f"({_refused(e)}); where you trust it, convert it once: "
            "torch.save(torch.load(file, weights_only=False)['state_dict'], 'weights.pt') for a Lightning checkpoint, "
            "torch.save(model.state_dict(), 'weights.pt') for a whole model"
        ) from e
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as e:
        raise ModelError(f"{path} cannot be read as torch weights, it may be truncated: {_line(e)}") from e
    if not isinstance(held, dict):
        raise ModelError(f"{path} holds a {type(held).__name__}, not a state dict; save model.state_dict()")
    return held


def _refused(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0] if lines else "pickle")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
