"""From a bundle's files to its network, held against what the bundle says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.models.folder import CONFIG, SPEC
from pipeline.models.locate import PROGRAM, read_config, weights_of
from pipeline.models.spec import ModelSpec


def load_network(folder: Path, spec: ModelSpec, *, trust: bool = False, device: str = "cpu") -> Any:
    """The network of a bundle with its weights, held against the spec, in eval mode on the device."""
    import torch

    from pipeline.models.network import build, io_channels, load_state
    from pipeline.models.weights import read_weights

    file = weights_of(folder)
    if file.name == PROGRAM:
        return _load_program(file, trust, device)
    network = build(read_config(folder), str(folder / CONFIG))
    check_numbers(spec, *io_channels(network), folder)
    load_state(network, read_weights(file), str(file))
    return network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


def check_numbers(spec: ModelSpec, n_in: int, n_out: int, folder: Path) -> None:
    """Raises ModelError where the channels in and out are not those of the spec."""
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


def require_trust(file: Path, trust: bool) -> None:
    """Raises ModelError for an exported program that was not let in."""
    if file.name == PROGRAM and not trust:
        raise ModelError(
            f"{file} is an exported program, and loading one can run code from the file: give --trust-model if you "
            "trust where it comes from, or make a bundle of its weights with `seamline models pack`"
        )


def _load_program(file: Path, trust: bool, device: str) -> Any:
    require_trust(file, trust)
    import torch
    from torch.export.passes import move_to_device_pass

    program = torch.export.load(file)
    return move_to_device_pass(program, device).module()
