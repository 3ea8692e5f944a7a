"""``train``: from one config to one bundle. Deterministic, resumable, validated as inference will run."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import StoreError, UsageError
from pipeline.histogram import Histogram
from pipeline.models.determinism import set_determinism
from pipeline.models.folder import bundle_folder, write_bundle, write_whole
from pipeline.models.network import create, n_parameters
from pipeline.models.normalise import Constants, needs_histogram, resolve
from pipeline.models.spec import Constant, InputStats, ModelSpec, Normalisation, Scores
from pipeline.training.card import model_card
from pipeline.training.config import TrainConfig
from pipeline.training.crops import Crops
from pipeline.training.learner import Learner
from pipeline.training.pictures import Picture, list_pairs, read_pictures
from pipeline.training.validate import score

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The pictures of one split with the constants that normalise each."""

    name: str
    pictures: list[Picture]
    constants: list[Constants]


def train(config: TrainConfig, report: Report | None = None) -> Path:
    """Train, keep the weights of the best validation, score them on the held-out split, write the bundle.

    ``report`` is called with each record of ``training.jsonl`` as it is made. Raises UsageError for data
    without training or validation pictures and for a run that diverges, SourceError for a file that cannot be
    read, StoreError where nothing can be written.
    """
    _prepare(_work(config))
    set_determinism(threads=config.threads)
    torch.manual_seed(config.seed)
    pictures = _read(config)
    histograms = _sum_histograms(pictures["train"])
    rule = config.normalisation or _constant(histograms)
    spec = _spec(config, rule, _input_stats(histograms, pictures["train"][0]))
    splits = {name: _normalised(name, found, rule) for name, found in pictures.items()}
    learner = Learner(_network(config, spec), config.optimiser, _device(config.device))
    records = _learn(config, spec, splits, learner, report or (lambda record: None))
    return _finish(config, spec, splits, learner, records)


def _read(config: TrainConfig) -> dict[str, list[Picture]]:
    pairs = list_pairs(config.data)
    read = {
        split: read_pictures([p for p in pairs if p.split == split], config.data, config.classes, config.channels)
        for split in ("train", "val", "test")
    }
    for split in ("train", "val"):
        if not read[split]:
            found = sorted({p.split for p in pairs})
            raise UsageError(
                f"data: no picture in the split {split!r}; the splits found are {', '.join(found) or 'none'}"
            )
    return _one_dtype(read, config.normalisation)


def _one_dtype(read: dict[str, list[Picture]], rule: Normalisation | None) -> dict[str, list[Picture]]:
    """Pictures of several dtypes have one only where each scene is normalised by its own statistics."""
    dtypes = sorted({str(p.image.dtype) for found in read.values() for p in found})
    if len(dtypes) == 1:
        return read
    if rule is None or not needs_histogram(rule):
        raise UsageError(
            f"data: pictures must share one dtype, found {', '.join(dtypes)}; convert them, or let every scene be "
            "normalised by its own statistics (normalisation percentile or zscore)"
        )
    common = np.result_type(*dtypes)
    return {split: [replace(p, image=p.image.astype(common)) for p in found] for split, found in read.items()}


def _sum_histograms(pictures: Sequence[Picture]) -> list[Histogram]:
    per_picture = [p.histograms() for p in pictures]
    return [reduce(add, channel) for channel in zip(*per_picture, strict=True)]


def _constant(histograms: Sequence[Histogram]) -> Constant:
    pairs = [h.mean_std() for h in histograms]
    return Constant(mean=tuple(round(m, 6) for m, _ in pairs), std=tuple(round(s, 6) or 1.0 for _, s in pairs))


def _input_stats(histograms: Sequence[Histogram], picture: Picture) -> InputStats:
    pairs = [h.mean_std() for h in histograms]
    return InputStats(
        dtype=str(picture.image.dtype),
        mean=tuple(round(m, 6) for m, _ in pairs),
        std=tuple(round(s, 6) for _, s in pairs),
        p01=tuple(h.quantile(0.01) for h in histograms),
        p99=tuple(h.quantile(0.99) for h in histograms),
    )


def _spec(config: TrainConfig, rule: Normalisation, stats: InputStats) -> ModelSpec:
    data = {
        "name": config.name,
        "classes": [c.model_dump() for c in config.classes],
        "channels": config.channels,
        "normalisation": rule,
        "divisor": config.divisor,
        "window": (config.window or config.crop,) * 2,
        "domain": config.domain,
        "resolution": config.resolution,
        "input_stats": stats,
    }
    return ModelSpec.of(data, f"training config {config.name}")


def _normalised(name: str, pictures: list[Picture], rule: Normalisation) -> Split:
    """Each picture with constants of its scene where the rule takes them from there, as a run would."""
    by_scene: dict[str, list[Histogram]] = {}
    for p in pictures if needs_histogram(rule) else ():
        before = by_scene.get(p.scene)
        by_scene[p.scene] = (
            p.histograms() if before is None else [a + b for a, b in zip(before, p.histograms(), strict=True)]
        )
    constants = {p.scene: resolve(rule, by_scene.get(p.scene), p.image.dtype) for p in pictures}
    return Split(name, pictures, [constants[p.scene] for p in pictures])


def _network(config: TrainConfig, spec: ModelSpec) -> torch.nn.Module:
    net = config.network
    return create(net.arch, net.encoder, len(spec.channels), spec.n_scores, net.options)


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _learn(
    config: TrainConfig, spec: ModelSpec, splits: dict[str, Split], learner: Learner, report: Report
) -> list[dict[str, Any]]:
    """All steps, from the checkpoint on if there is one. Returns the records of the whole run."""
    work, question = _work(config), question_of(config)
    checkpoint, log = work / "last.pt", work / "training.jsonl"
    records: list[dict[str, Any]] = []
    if config.resume and checkpoint.exists():
        learner.restore(checkpoint, question)
        records = [r for r in map(json.loads, log.read_text().splitlines()) if r["step"] <= learner.step]
    crops = _crops(config, splits["train"])
    losses: list[float] = []
    started = time.monotonic()
    while learner.step < config.optimiser.last_step:
        x, target = crops.batch(learner.step, config.optimiser.batch)
        losses.append(_finite(learner.learn(x, target), learner.step))
        if learner.step % config.validation.every and learner.step != config.optimiser.last_step:
            continue
        record = _validate(config, spec, splits["val"], learner, float(np.mean(losses)))
        records.append({**record, "seconds": round(time.monotonic() - started, 1)})
        losses, started = [], time.monotonic()
        write_whole(log, _lines(records))
        learner.save(checkpoint, question)
        report(records[-1])
    return records


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise UsageError(
            f"training diverged: the loss is {loss} at step {step}; lower optimiser.lr or raise its warmup"
        )
    return loss


def _crops(config: TrainConfig, split: Split) -> Crops:
    areas = np.array([p.target.size if config.sampling == "area" else 1 for p in split.pictures], np.float64)
    odds = (areas / areas.sum()).tolist()
    return Crops(split.pictures, split.constants, odds, config.crop, config.augment, config.seed)


def _validate(config: TrainConfig, spec: ModelSpec, val: Split, learner: Learner, loss: float) -> dict[str, Any]:
    n = config.validation.pictures
    scores = _score(config, spec, Split(val.name, val.pictures[:n], val.constants[:n]), learner)
    mean_iou = scores.mean_iou or 0.0
    is_best = learner.keep_if_best(mean_iou)
    iou = {c.name: None if c.iou is None else round(c.iou, 5) for c in scores.classes}
    return {
        "step": learner.step,
        "loss": round(loss, 5),
        "val_mean_iou": round(mean_iou, 5),
        "iou": iou,
        "best": is_best,
    }


def _score(config: TrainConfig, spec: ModelSpec, split: Split, learner: Learner) -> Scores:
    return score(
        learner.forward,
        split.pictures,
        split.constants,
        spec.classes,
        split=split.name,
        window=config.window or config.crop,
        overlap=config.validation.overlap,
        batch=config.optimiser.batch,
    )


def _finish(
    config: TrainConfig, spec: ModelSpec, splits: dict[str, Split], learner: Learner, records: list[dict[str, Any]]
) -> Path:
    """Score the best weights on whole pictures of the held-out split, write the bundle, drop the checkpoint."""
    learner.averaged.load_state_dict(learner.best)
    held_out = [splits[name] for name in ("test", "val") if splits[name].pictures]
    scores = [_score(config, spec, split, learner) for split in held_out]
    spec = spec.model_copy(update={"scores": scores[0]})
    card = model_card(config, spec, _facts(config, splits, learner), scores)
    folder = write_bundle(bundle_folder(config.out), learner.averaged, spec, card)
    write_whole(folder / "training.jsonl", _lines(records))
    shutil.rmtree(_work(config), ignore_errors=True)
    return folder


def _facts(config: TrainConfig, splits: dict[str, Split], learner: Learner) -> dict[str, object]:
    return {
        "Pictures": ", ".join(f"{len(s.pictures)} {name}" for name, s in splits.items()),
        "Parameters": f"{n_parameters(learner.averaged):,}",
        "Steps": f"{config.optimiser.last_step} of {config.optimiser.batch} crops of {config.crop} pixels",
        "Kept": f"the weights after step {learner.best_step} (validation mean IoU {100 * learner.best_score:.1f} %)",
    }


def question_of(config: TrainConfig) -> str:
    """A digest of everything in the config that decides the weights."""
    beside: dict[str, Any] = {"out": True, "resume": True, "description": True, "data_source": True, "device": True}
    beside["optimiser"] = {"stop"}
    return hashlib.sha256(config.model_dump_json(exclude=beside).encode()).hexdigest()


def _work(config: TrainConfig) -> Path:
    out = bundle_folder(config.out)
    return out.with_name(out.name + ".training")


def _prepare(work: Path) -> None:
    """Make the folder of the checkpoint now: better to find no room for the result before the work than after."""
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StoreError(f"out: cannot write beside {work.with_suffix('')}: {e.strerror}; choose another out") from e


def _lines(records: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in records).encode()
