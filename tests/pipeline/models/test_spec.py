"""The model spec: defaults, and that each mistake is named with its field."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pipeline.errors import ModelError
from pipeline.models.spec import ModelSpec

GOOD: dict[str, Any] = {
    "name": "ponds",
    "classes": ["background", {"name": "pond", "value": 7, "color": "#0000FF"}],
    "channels": ["r", "g", "b"],
    "normalisation": {"kind": "constant", "mean": [1, 2, 3], "std": [1, 1, 1]},
}


def spec(**fields: Any) -> ModelSpec:
    return ModelSpec.of({**GOOD, **fields}, "seamline.json")


def test_defaults() -> None:
    s = spec()
    assert [(c.name, c.value, c.role) for c in s.classes] == [("background", 0, "background"), ("pond", 7, "class")]
    assert s.classes[1].rgb == (0, 0, 255)
    assert (s.activation, s.decision.kind, s.divisor, s.ndim, s.n_scores) == ("softmax", "argmax", 32, 2, 2)
    assert s.background is s.classes[0]


def test_sigmoid_has_one_score_per_channel_and_half_as_threshold() -> None:
    s = spec(activation="sigmoid")
    assert s.n_scores == 1
    assert s.decision.kind == "thresholds"
    assert s.decision.thresholds == (0.5,)
    assert s.paint_order is None


def test_nested_classes_are_painted_in_their_order() -> None:
    classes = ["background", "core", "whole"]
    decision = {"kind": "thresholds", "thresholds": [0.5, 0.4], "order": ["whole", "core"]}
    assert spec(classes=classes, activation="sigmoid", decision=decision).paint_order == (1, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"activation": "sigmoid"},
        {"normalisation": {"kind": "percentile", "low": 2, "high": 98, "within": "nonzero", "clip": [0, 255]}},
        {"normalisation": {"kind": "zscore"}},
        {"normalisation": {"kind": "scale", "factor": 0.1, "offset": -3}},
        {"window": [64, 96], "resolution": {"spacing": [0.3, 0.3], "unit": "m"}, "domain": "geo"},
    ],
)
def test_json_round_trip(fields: dict[str, Any]) -> None:
    s = spec(**fields)
    assert ModelSpec.from_json(s.to_json(), "seamline.json") == s


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ["background"]}, r"classes: .*at least 2"),
        ({"classes": ["background", "background"]}, r"classes: name must differ, \['background'\]"),
        ({"classes": ["a", {"name": "b", "value": 0}]}, r"classes: value must differ, \[0\]"),
        ({"classes": ["a", {"name": "b", "color": "blue"}]}, r"classes\.1\.color: .*got 'blue'"),
        ({"classes": ["a", {"name": "b", "value": 70000}]}, r"classes\.1\.value: .*got 70000"),
        (
            {"classes": ["a", {"name": "b", "role": "background"}]},
            r"only one may have role background, got \['a', 'b'\]",
        ),
        ({"channels": ["r", "r", "b"]}, r"channels must differ, \['r'\]"),
        ({"channels": ["r"]}, "normalisation: mean and std have 3 numbers for 1 channels"),
        ({"normalisation": {"kind": "magic"}}, "normalisation: .*magic"),
        ({"normalisation": {"kind": "constant", "mean": [0, 0, 0], "std": [1, 1, 0]}}, r"normalisation\.constant\.std"),
        ({"normalisation": {"kind": "constant", "mean": [0], "std": [1, 1]}}, "one of each per channel"),
        ({"normalisation": {"kind": "scale"}}, "either factor .* or both lo and hi"),
        ({"normalisation": {"kind": "scale", "lo": 5, "hi": 5}}, "lo must be below hi"),
        ({"normalisation": {"kind": "scale", "factor": 0}}, "factor must not be 0"),
        (
            {"normalisation": {"kind": "zscore", "clip": [3, 3]}},
            r"clip must be \[lo, hi\] with lo < hi, got \[3.0, 3.0\]",
        ),
        ({"normalisation": {"kind": "percentile", "low": 50, "high": 50}}, "low must be below high"),
        ({"decision": {"kind": "thresholds", "thresholds": [0.5]}}, "thresholds does not fit activation softmax"),
        ({"activation": "sigmoid", "decision": {"kind": "argmax"}}, "argmax does not fit activation sigmoid"),
        (
            {"activation": "sigmoid", "decision": {"kind": "thresholds", "thresholds": [0.5, 0.5]}},
            "2 thresholds for 1 channels of the net",
        ),
        (
            {"activation": "sigmoid", "decision": {"kind": "thresholds", "thresholds": [0.5], "order": ["lake"]}},
            r"order must name each of \['pond'\] once, got \['lake'\]",
        ),
        (
            {"activation": "sigmoid", "classes": [{"name": "a", "role": "class"}, "b"]},
            "class 0 must be the background",
        ),
        ({"window": [64]}, r"window: \[64\] must have 2 numbers"),
        ({"window": [64, 65]}, r"window: \[64, 65\] must be multiples of the divisor 32"),
        ({"ndim": 3, "resolution": {"spacing": [1, 1], "unit": "mm"}}, "resolution: 2 spacings for 3 axes"),
        ({"divisor": 0}, "divisor: .*got 0"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_each_mistake_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        spec(**fields)
    assert str(caught.value).startswith("seamline.json: ")


def test_text_that_is_no_json_object() -> None:
    with pytest.raises(ModelError, match=r"x/seamline\.json is not valid JSON"):
        ModelSpec.from_json("{", "x/seamline.json")
    with pytest.raises(ModelError, match="must be a JSON object, got list"):
        ModelSpec.from_json("[]", "x/seamline.json")


def test_finding_and_describing_bundles_does_not_import_torch() -> None:
    code = (
        "import sys, pipeline.models.bundle, pipeline.models.spec, pipeline.histogram; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
