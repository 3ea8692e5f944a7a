"""Training end to end, on a few squares: it learns, it repeats itself, it resumes, and what it writes is a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import SourceError, StoreError, UsageError
from pipeline.models.bundle import load_model, read_spec
from pipeline.models.normalise import Constants, resolve
from pipeline.models.pack import check
from pipeline.models.spec import ClassSpec
from pipeline.training.config import OptimiserConfig, TrainConfig
from pipeline.training.learner import learning_rate
from pipeline.training.pictures import IGNORE, Picture, list_pairs, read_pictures
from pipeline.training.train import train
from pipeline.training.validate import confusion, predict, summarise

MakeConfig = Callable[..., TrainConfig]


def weights(bundle: Path) -> bytes:
    return (bundle / "model.safetensors").read_bytes()


def test_it_learns_and_writes_a_bundle_with_its_scores(make_config: MakeConfig) -> None:
    config = make_config(optimiser={"steps": 60}, description="Squares.", augment={"scale": 1.2, "contrast": 0.2})
    seen: list[dict[str, Any]] = []
    bundle = train(config, seen.append)
    spec, notes = read_spec(bundle)
    assert notes == ()
    assert spec.scores is not None
    assert (spec.scores.split, spec.scores.n_images, spec.scores.n_pixels) == ("test", 2, 2 * 40 * 52)
    assert spec.scores.mean_iou is not None
    assert spec.scores.mean_iou > 0.8
    assert spec.normalisation.kind == "constant"
    assert spec.input_stats is not None
    assert spec.input_stats.dtype == "uint8"
    assert [json.loads(line) for line in (bundle / "training.jsonl").read_text().splitlines()] == seen
    assert [r["step"] for r in seen] == [10, 20, 30, 40, 50, 60]
    assert seen[-1]["loss"] < seen[0]["loss"]
    card = (bundle / "README.md").read_text()
    assert "Squares." in card
    assert f"Mean IoU {100 * spec.scores.mean_iou:.1f}" in card
    assert "split `test`" in card
    assert check(bundle).problems == ()
    assert not bundle.with_name("bundle.training").exists()


def test_the_scores_in_the_card_are_those_of_the_loaded_model(make_config: MakeConfig) -> None:
    """The model that inference loads gives the labels that training scored: same constants, padding and weights."""
    config = make_config(normalisation={"kind": "percentile"}, optimiser={"steps": 20})
    bundle = train(config)
    spec, _ = read_spec(bundle)
    pairs = [p for p in list_pairs(config.data) if p.split == "test"]
    pictures = read_pictures(pairs, config.data, config.classes, config.channels)
    counts = np.zeros((2, 2), np.int64)
    for picture in pictures:
        constants = resolve(spec.normalisation, picture.histograms(), "uint8")
        model = load_model(str(bundle), device="cpu", precision="fp32", constants=constants, ndim=2)
        plain = Constants((0.0,), (1.0,))  # the model normalises

        def scores(x: torch.Tensor, model: Any = model) -> torch.Tensor:
            return model.scores(x, torch.ones(x.shape[0], *x.shape[2:], dtype=torch.bool))

        counts += confusion(picture.target, predict(scores, picture, plain, window=32, overlap=8, batch=4), 2)
    again = summarise(counts, spec.classes, "test", 2)
    assert spec.scores is not None
    assert again.mean_iou == pytest.approx(spec.scores.mean_iou, abs=1e-3)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(make_config: MakeConfig, data: Path) -> None:
    augment = {"scale": 1.3, "brightness": 0.2, "contrast": 0.2, "colour": 0.2}
    first, second, other = (
        train(make_config(out=str(data / name), seed=seed, augment=augment, optimiser={"steps": 10}))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert weights(first) == weights(second)
    assert (first / "seamline.json").read_bytes() == (second / "seamline.json").read_bytes()
    assert weights(first) != weights(other)


class KilledError(Exception):
    pass


def test_a_killed_run_resumes_to_the_same_bytes(make_config: MakeConfig, data: Path) -> None:
    def die(record: dict[str, Any]) -> None:
        if record["step"] == 20:
            raise KilledError

    undisturbed = train(make_config(out=str(data / "whole")))
    with pytest.raises(KilledError):
        train(make_config(out=str(data / "cut")), die)
    assert not (data / "cut").exists()
    steps: list[int] = []
    resumed = train(make_config(out=str(data / "cut")), lambda r: steps.append(r["step"]))
    assert steps == [30]
    assert weights(resumed) == weights(undisturbed)
    logs = [[json.loads(x) for x in (b / "training.jsonl").read_text().splitlines()] for b in (resumed, undisturbed)]
    assert [{**r, "seconds": 0} for r in logs[0]] == [{**r, "seconds": 0} for r in logs[1]]


def test_a_run_stopped_early_is_the_start_of_the_whole_one(make_config: MakeConfig, data: Path) -> None:
    records: dict[str, list[dict[str, Any]]] = {"short": [], "whole": []}
    for name, options in (("short", {"stop": 20}), ("whole", {})):
        train(make_config(out=str(data / name), optimiser=options), records[name].append)
    assert [r["step"] for r in records["short"]] == [10, 20]
    assert [r["loss"] for r in records["short"]] == [r["loss"] for r in records["whole"][:2]]
    assert "Steps: 20 of 4 crops" in (data / "short" / "README.md").read_text()


def test_a_checkpoint_of_other_settings_is_not_continued(make_config: MakeConfig) -> None:
    def die(record: dict[str, Any]) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(make_config(), die)
    with pytest.raises(
        UsageError, match=r"last\.pt is the checkpoint of a run with other settings; set resume = false"
    ):
        train(make_config(seed=9))
    assert train(make_config(seed=9, resume=False, optimiser={"steps": 10})).exists()


def test_other_architectures_and_codes(make_config: MakeConfig) -> None:
    net = {"arch": "deeplabv3plus", "encoder": "mobilenet_v2", "options": {"decoder_channels": 8}}
    bundle = train(make_config(network=net, divisor=16, optimiser={"steps": 2, "precision": "bf16"}))
    spec, _ = read_spec(bundle)
    assert [c.value for c in spec.classes] == [0, 9]
    assert json.loads((bundle / "config.json").read_text())["_model_class"] == "DeepLabV3Plus"


def test_data_without_a_split_or_with_a_broken_file_is_named(make_config: MakeConfig, data: Path) -> None:
    table = data / "split.csv"
    table.write_text(table.read_text().replace("val", "validation"))
    with pytest.raises(UsageError, match="no picture in the split 'val'; the splits found are test, train, validation"):
        train(make_config())
    table.write_text(table.read_text().replace("validation", "val"))
    (data / "i1.png").write_bytes((data / "i1.png").read_bytes()[:200])
    with pytest.raises(SourceError, match=r"i1\.png"):
        train(make_config())


def test_a_run_that_diverges_says_so(make_config: MakeConfig) -> None:
    with pytest.raises(UsageError, match=r"training diverged: the loss is (nan|inf) at step \d+; lower optimiser\.lr"):
        train(make_config(optimiser={"lr": 1e30, "warmup": 0}))


def test_a_place_that_cannot_be_written_is_found_before_the_work(make_config: MakeConfig, data: Path) -> None:
    (data / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"out: cannot write beside .*file/bundle: .*; choose another out"):
        train(make_config(out=str(data / "file" / "bundle")))


# pieces ---------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    options = OptimiserConfig(steps=100, warmup=10, lr=1.0)
    rates = [learning_rate(options, s) for s in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5, abs=0.02)
    assert rates[-1] < 1e-3


CLASSES = [ClassSpec(name=n, value=i, color="#000000") for i, n in enumerate("abc")]


def test_scores_are_sklearn_free_arithmetic_and_a_missed_class_counts_0() -> None:
    truth = np.array([[0, 0, 0, 1, 1, IGNORE]], np.uint8)
    predicted = np.array([[0, 0, 2, 0, 0, 1]], np.uint8)
    scores = summarise(confusion(truth, predicted, 3), CLASSES, "test", 1)
    assert [c.iou for c in scores.classes] == [pytest.approx(2 / 5), 0.0, 0.0]
    assert [c.dice for c in scores.classes] == [pytest.approx(4 / 7), 0.0, 0.0]
    assert scores.mean_iou == pytest.approx((2 / 5 + 0) / 2)  # c is not in the reference, b was missed
    assert (scores.accuracy, scores.n_pixels) == (pytest.approx(2 / 5), 5)


def test_predictions_cover_every_pixel_of_odd_shapes() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, (37, 53)).astype(np.uint8)
    picture = Picture("p", "p", target[None], np.ones(target.shape, bool), target)

    def one_hot(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(x[:, 0].round().long(), 3).movedim(-1, 1).float()

    for window, overlap in ((16, 4), (16, 8), (64, 0)):
        labels = predict(one_hot, picture, Constants((0.0,), (1.0,)), window=window, overlap=overlap, batch=3)
        np.testing.assert_array_equal(labels, target)
