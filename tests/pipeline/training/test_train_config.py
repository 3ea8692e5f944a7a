"""The training config: TOML and YAML alike, paths from the file's folder, every mistake named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.models.spec import ModelSpec
from pipeline.training.config import read_config

TOML = """
name = "ponds"
out = "bundles/ponds"
channels = ["r", "g", "b"]
classes = ["land", { name = "pond", value = 4 }]
[data]
table = "tables/split.csv"
[optimiser]
steps = 7
"""
YAML = """
name: ponds
out: bundles/ponds
channels: [r, g, b]
classes: [land, {name: pond, value: 4}]
data: {table: tables/split.csv}
optimiser: {steps: 7}
"""


def written(folder: Path, text: str, name: str = "c.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    toml, yaml = (read_config(written(tmp_path, t, n)) for t, n in ((TOML, "c.toml"), (YAML, "c.yaml")))
    assert toml == yaml
    assert toml.optimiser.steps == 7
    assert [(c.value, c.role) for c in toml.classes] == [(0, "background"), (4, "class")]


def test_data_is_relative_to_the_file_and_out_to_where_one_stands(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, TOML), seed=3)
    assert config.data.table == str(tmp_path / "tables" / "split.csv")
    assert (config.out, config.seed) == ("bundles/ponds", 3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 7", "steps = 0", r"optimiser\.steps: .*got 0"),
        ("steps = 7", "epochs = 7", r"optimiser\.epochs: Extra inputs"),
        ("[optimiser]", "crop = 100\n[optimiser]", r"data\.crop: Extra inputs"),
        ('name = "ponds"', 'name = "ponds"\ncrop = 100', "crop must be a multiple of the divisor 32, got 100"),
        (
            'name = "ponds"',
            'name = "ponds"\nvalidation.overlap = 200',
            "overlap must be at most half the window, got 200",
        ),
        ('table = "tables/split.csv"', 'images = "*.png"', r"data: give either table, or both images and masks"),
        ('table = "tables/split.csv"', 'table = "t"\nsplits = [1, 1, 1]', r"splits must add up to 1, got \[1\.0, 1\.0"),
        ("steps = 7", "dice = 0\ncross_entropy = 0", "dice and cross_entropy are both 0"),
        ("steps = 7", "class_weights = [1]", r"class_weights has 1 numbers for 2 classes"),
        ("value = 4", 'value = 4, colour = "red"', r"classes\.1\.colour: Extra inputs"),
        ("name", "name name", "c.toml: "),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_config(written(tmp_path, TOML.replace(old, new, 1)))
    assert str(caught.value).startswith(str(tmp_path / "c.toml"))


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the training config .*none\.toml: No such file"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="must hold a table of settings, got list"):
        read_config(written(tmp_path, "[1, 2]", "c.yaml"))
    with pytest.raises(UsageError, match="not valid YAML"):
        read_config(written(tmp_path, "a: [", "c.yml"))


EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.stem)
def test_the_committed_configs_are_valid(path: Path) -> None:
    assert read_config(path).name == path.stem


@pytest.mark.parametrize("path", [EXAMPLES / "nuclei.toml", EXAMPLES / "landcover.toml"], ids=lambda p: p.stem)
def test_the_committed_configs_describe_the_bundles_that_ship(path: Path) -> None:
    from pipeline.models.bundle import read_spec, resolve_bundle

    config = read_config(path)
    spec: ModelSpec = read_spec(resolve_bundle(config.name))[0]
    assert (spec.classes, spec.channels, spec.divisor) == (config.classes, config.channels, config.divisor)
    assert spec.window == (config.window, config.window)
