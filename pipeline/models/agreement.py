"""Whether several models can be averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.errors import ModelError
from pipeline.models.spec import ModelSpec


def check_agreement(specs: Sequence[ModelSpec], *, one_rule: bool = False) -> None:
    """Raises ModelError, naming the first pair that differs and in what, unless all can be one ensemble.

    ``one_rule``: they will share one set of constants, so the normalisation must be the same too.
    """
    for other in specs[1:]:
        for what, a, b in _compared(specs[0], other, one_rule):
            if a != b:
                raise ModelError(
                    f"an ensemble needs equal {what}: {specs[0].name} has {a}, {other.name} has {b}; "
                    "run them one by one, or leave one out"
                )


def _compared(first: ModelSpec, other: ModelSpec, one_rule: bool) -> Iterator[tuple[str, object, object]]:
    yield "classes", [(c.name, c.value) for c in first.classes], [(c.name, c.value) for c in other.classes]
    yield "roles of classes", [c.role for c in first.classes], [c.role for c in other.classes]
    yield "channels", list(first.channels), list(other.channels)
    yield "activation", first.activation, other.activation
    yield "decision", first.decision, other.decision
    yield "ndim", first.ndim, other.ndim
    if one_rule:
        yield "normalisation", first.normalisation, other.normalisation
