"""The model card of a trained bundle: what it is, what it was trained on, how good it is where it was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.models.spec import ModelSpec, Scores
from pipeline.training.config import TrainConfig


def model_card(config: TrainConfig, spec: ModelSpec, facts: Mapping[str, object], scores: Sequence[Scores]) -> str:
    """Markdown. ``facts`` are shown as they are; ``scores`` one table each, the held-out split first."""
    parts = [
        f"# {spec.name}",
        config.description.strip(),
        _list({"Domain": spec.domain or "not stated", "Reads": ", ".join(spec.channels), **_shape(config, spec)}),
        "## Classes",
        _table(("value", "name", "role"), [(c.value, c.name, c.role) for c in spec.classes]),
        *(part for s in scores for part in _scores(s)),
        "## Training",
        config.data_source.strip(),
        _list(facts),
        "Trained from random weights by `seamline train`; `training.jsonl` holds the course of the run.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shape(config: TrainConfig, spec: ModelSpec) -> dict[str, object]:
    net = f"{config.network.arch}, encoder {config.network.encoder}"
    side = " x ".join(str(s) for s in spec.window or ())
    return {"Network": net, "Window": side, "Normalisation": spec.normalisation.kind}


def _scores(scores: Scores) -> list[str]:
    rows = [(s.name, _percent(s.iou), _percent(s.dice), s.n_reference) for s in scores.classes]
    whole = f"Mean IoU {_percent(scores.mean_iou)}, pixel accuracy {_percent(scores.accuracy)}, "
    return [
        f"## Scores on the split `{scores.split}`",
        whole + f"over {scores.n_pixels} labelled pixels of {scores.n_images} pictures; one confusion matrix over all.",
        _table(("class", "IoU %", "Dice %", "reference pixels"), rows),
    ]


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f}"


def _list(facts: Mapping[str, object]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
