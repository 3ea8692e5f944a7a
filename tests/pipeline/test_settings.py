"""Settings: from flags or a file, validated once, each error by the name of its field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.settings import make_settings, read_config


def test_numbers_per_axis_come_in_any_spelling() -> None:
    for given, expected in [
        (640, (640,)),
        ("640", (640,)),
        ("32,256,256", (32, 256, 256)),
        ("1x640x640", (1, 640, 640)),
        ([64, 96], (64, 96)),
    ]:
        assert make_settings({"model": "m", "window": given}).window == expected


@pytest.mark.parametrize("suffix", ["toml", "yaml", "yml"])
def test_a_file_gives_settings_and_flags_win_over_it(tmp_path: Path, suffix: str) -> None:
    equals, true = ("=", "true") if suffix == "toml" else (":", "true")
    config = tmp_path / f"c.{suffix}"
    config.write_text(
        f'model {equals} "shipped"\nwindow {equals} [64, 96]\nsave-scores {equals} {true}\nbatch {equals} 4\n'
    )
    settings = make_settings({"batch": 2, "blend": None}, str(config))
    assert settings.model == ("shipped",)
    assert settings.window == (64, 96)
    assert settings.save_scores
    assert (settings.batch, settings.blend) == (2, "hann")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch": 0}, ["batch", "greater than or equal to 1", "0"]),
        ({"blend": "cosine"}, ["blend", "'hann'", "cosine"]),
        ({"window": "12,a"}, ["window", "whole numbers of pixels"]),
        ({"window": 0}, ["window", "1 or more", "0"]),
        ({"overlap": -1}, ["overlap", "0 or more", "-1"]),
        ({"windw": 640}, ["windw", "window"]),
        ({"workers": "many"}, ["workers", "integer", "many"]),
        ({"memory_limit_mb": 1}, ["memory", "limit", "64"]),
        ({"device": "tpu"}, ["device", "'cuda'", "tpu"]),
        ({"model": ()}, ["model"]),
    ],
)
def test_an_error_names_the_field_and_the_value(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        make_settings({"model": "m"} | given)
    for word in words:
        assert word in str(caught.value)


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(UsageError, match=r"batch.*; .*workers"):
        make_settings({"model": "m", "batch": 0, "workers": 0})


def test_a_missing_model_is_named() -> None:
    with pytest.raises(UsageError, match="model"):
        make_settings({})


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('model = "m"\nbatch = 0\n')
    with pytest.raises(UsageError, match=r"batch.*c\.toml"):
        make_settings({}, str(config))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", "model = ", r"c\.toml is not valid toml: "),
        ("c.yaml", "a: [1", r"c\.yaml is not valid yaml: "),
        ("c.yaml", "- 1\n- 2\n", r"c\.yaml must hold names and values, not a list"),
        ("c.json", "{}", r"must end in \.toml, \.yaml or \.yml: .*c\.json"),
    ],
)
def test_a_file_that_is_no_settings_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config(str(tmp_path / name))


def test_a_settings_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"cannot read the settings file nowhere\.toml: No such file"):
        read_config("nowhere.toml")


@pytest.mark.parametrize(("given", "expected"), [("nan", "none"), ("-9999", -9999.0), ("none", "none"), (0, 0.0)])
def test_nodata_takes_numbers_and_rules(given: Any, expected: Any) -> None:
    """NaN is never valid in any scene; as a rule it adds nothing, and in a manifest it could not be read back."""
    assert make_settings({"model": "m", "nodata": given}).nodata == expected
