"""smp networks from their ``config.json``: built without weights and without a network connection."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

    State = Mapping[str, torch.Tensor]


def build(config: Mapping[str, Any], where: str) -> nn.Module:
    """The network of a ``config.json`` as smp's ``save_pretrained`` writes it, with random weights, in float32.

    Raises ModelError, naming ``where``, for an architecture or encoder that smp does not have.
    """
    import segmentation_models_pytorch as smp

    known = {cls.__name__: cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    name = config.get("_model_class")
    if name not in known:
        raise ModelError(f"{where}: _model_class {name!r} is not an smp architecture; known are {', '.join(known)}")
    options = {k: v for k, v in config.items() if not k.startswith("_")} | {"encoder_weights": None}
    return _construct(known[name], options, where)


def create(arch: str, encoder: str, in_channels: int, n_scores: int, options: Mapping[str, Any]) -> nn.Module:
    """A new network by smp's short names (``unet``, ``deeplabv3plus``, ...)."""
    import segmentation_models_pytorch as smp

    known = smp.MODEL_ARCHITECTURES_MAPPING
    if arch.lower() not in known:
        raise ModelError(f"arch {arch!r} is not an smp architecture; choose one of {', '.join(sorted(known))}")
    given = {"encoder_name": encoder, "encoder_weights": None, "in_channels": in_channels, "classes": n_scores}
    return _construct(known[arch.lower()], {**options, **given}, f"arch {arch}")


def _construct(cls: Any, options: dict[str, Any], where: str) -> nn.Module:
    encoder = str(options.get("encoder_name", ""))
    if ":" in encoder:
        raise ModelError(
            f"{where}: the encoder {encoder!r} names a place to fetch from; give smp's or timm's own names"
        )
    if "activation" in options:
        options["activation"] = None  # the adapter activates: once is enough
    try:
        with quiet():
            network: nn.Module = cls(**options)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as e:
        reason = str(e).strip("'\"").splitlines()[0] if str(e) else type(e).__name__
        raise ModelError(f"{where}: smp cannot build {cls.__name__} with {options}: {reason}") from e
    return network


@contextmanager
def quiet() -> Iterator[None]:
    """smp and timm warn of their own internals (renamed encoders, deprecated calls); a user can act on none of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(segmentation_models_pytorch|timm|torch|huggingface_hub)\b")
        warnings.filterwarnings("ignore", message=r".*(timm|encoder).*")
        yield


def load_state(network: nn.Module, state: State, where: str) -> None:
    """Strict: every weight of the network is given, none is left over, all shapes fit. Raises ModelError."""
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [f"{k} is {tuple(state[k].shape)}, not {tuple(v.shape)}" for k, v in own.items() if k in state]
    wrong = [s for s, k in zip(shapes, (k for k in own if k in state), strict=True) if state[k].shape != own[k].shape]
    if missing or extra or wrong:
        parts = [_some("missing", missing), _some("unknown", extra), _some("of another shape", wrong)]
        raise ModelError(
            f"{where}: the weights do not fit {type(network).__name__} as configured: "
            f"{'; '.join(p for p in parts if p)}; check arch, encoder and options against how they were trained"
        )
    network.load_state_dict(dict(state), strict=True)


def _some(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{len(keys)} {what} ({', '.join(keys[:3])}{more})"


def io_channels(network: nn.Module) -> tuple[int, int]:
    """``(channels in, channels out)`` it was built with, and which a strict load has held against the weights."""
    config: Mapping[str, Any] = network.config  # type: ignore[assignment]
    return int(config.get("in_channels", 3)), int(config.get("classes", 1))


def n_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
