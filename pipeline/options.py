"""From the text of flags to values. Every error names the flag and what it takes; nothing heavy is imported here."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from pipeline.errors import UsageError

T = TypeVar("T", int, float)

Blend = Literal["hann", "mean", "crop", "linear", "gaussian"]
Device = Literal["auto", "cpu", "cuda"]
Engine = Literal["auto", "serial", "ray"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Symmetry = Literal["flips", "d4"]
Activation = Literal["softmax", "sigmoid"]


def integers(text: str | None, flag: str) -> tuple[int, ...] | None:
    """``640``, ``32,256,256`` or ``32x256x256``."""
    return None if text is None else _numbers(int, text.replace("x", ","), flag, "whole numbers")


def floats(text: str | None, flag: str) -> tuple[float, ...] | None:
    """``0.75,1,1.25``."""
    return None if text is None else _numbers(float, text, flag, "numbers")


def words(text: str) -> list[str]:
    """``r,g,b``, blanks around a word dropped."""
    return [word.strip() for word in text.split(",") if word.strip()]


def number_or_word(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def from_json(text: str | None, flag: str) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as e:
        raise UsageError(f"{flag} takes JSON, and {text!r} is none: {e}") from None


def normalisation(mean: str | None, std: str | None, text: str | None) -> Any:
    """What ``models pack`` is told of how pixels were normalised."""
    if text is not None:
        return from_json(text, "--normalisation")
    if mean is None or std is None:
        raise UsageError("say how the network's pixels were normalised: --mean and --std, or --normalisation as JSON")
    return {"kind": "constant", "mean": floats(mean, "--mean"), "std": floats(std, "--std")}


def export_kinds(text: str | None) -> list[str]:
    """The kinds of ``--to``, each once."""
    from pipeline.export import EXPORTS

    kinds = list(dict.fromkeys(words(text or "")))
    unknown = [kind for kind in kinds if kind not in EXPORTS]
    if unknown or (text is not None and not kinds):
        raise UsageError(f"cannot export to {', '.join(unknown) or 'nothing'}; known are {', '.join(EXPORTS)}")
    return kinds


def _numbers(kind: Callable[[str], T], text: str, flag: str, what: str) -> tuple[T, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} takes {what} separated by commas, got {text!r}") from None
