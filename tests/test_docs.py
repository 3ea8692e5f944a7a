"""The documentation cannot rot: its code runs, its commands parse, what it names exists, its tables are the code's."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from flows.serial import SerialEngine
from tests.fakes import IdentityModel, fake_spec
from tests.runs import ArraySource, drive, make_run, make_worker

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "deploy").glob("*.md")])
FOLDERS = ("tiling", "pipeline", "flows", "tests", "docs", "examples", "deploy", ".ci")
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return [body for lang, body in _FENCE.findall(page.read_text()) if lang == language]


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of every command line in ``sh`` blocks, backslashes at line ends joined, comments left out."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def all_command_lines() -> list[Any]:
    return [pytest.param(words, id=" ".join(words)[:80]) for page in PAGES for words in command_lines(page)]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tables", REPOSITORY / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# code ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name_of)
def test_python_of_a_page_runs_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, name_of(page), "exec", dont_inherit=True), names)


def test_example_of_a_spec_is_one() -> None:
    from pipeline.models.spec import ModelSpec

    (example,) = blocks(REPOSITORY / "docs" / "bundles.md", "json")
    assert ModelSpec.from_json(example, "docs").name == json.loads(example)["name"]


def test_what_the_demo_imports_exists() -> None:
    tree = ast.parse((REPOSITORY / "examples" / "demo.py").read_text())
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module != "__future__"]
    assert imports
    for node in imports:
        exec(compile(ast.unparse(node), "demo.py", "exec"), {})


# commands -----------------------------------------------------------------------------------------------------


class ReachedWorkError(Exception):
    """A command was understood whole, and was about to work."""


def _stop(*_: Any, **__: Any) -> Any:
    raise ReachedWorkError


@pytest.fixture
def folder_of_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with every settings file that a page shows, and no command that does anything."""
    for page in PAGES:
        for block in blocks(page, "toml"):
            if found := re.match(r"# ([\w-]+\.toml)\n", block):
                (tmp_path / found.group(1)).write_text(block)
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    monkeypatch.chdir(tmp_path)
    for place in (
        "pipeline.scenes.plan_batch",
        "pipeline.runs.open_runs",
        "pipeline.sample.write_sample",
        "pipeline.training.train.train",
        "pipeline.models.bundle.shipped",
        "pipeline.models.pack.check",
        "pipeline.models.pack.create",  # the network: by then the spec of the bundle is made
    ):
        monkeypatch.setattr(place, _stop)
    return tmp_path


@pytest.mark.usefixtures("folder_of_pages")
@pytest.mark.parametrize("words", all_command_lines())
def test_command_line_is_understood(words: list[str]) -> None:
    if words[0] == "make":
        assert words[1] in _make_targets()
    elif words[:3] == ["python", "-m", "pipeline"] or words[0] == "seamline":
        _parse(words[1:] if words[0] == "seamline" else words[3:])
    elif words[:3] == ["python", "-m", "pytest"]:
        assert [w for w in words[3:] if not w.startswith("-") and "::" not in w and not w.isalpha()] == []
    elif words[0] == "python":
        assert (REPOSITORY / words[1]).is_file()
    else:
        assert words[0] in ("git", "cd", "ls", "rio", "export"), f"no test knows what `{words[0]}` is"


def _parse(arguments: list[str]) -> None:
    from pipeline.__main__ import app

    if "--help" in arguments:
        app(arguments, standalone_mode=False)
        return
    with pytest.raises(ReachedWorkError):
        app(arguments, standalone_mode=False)


def _make_targets() -> set[str]:
    lines = (REPOSITORY / "Makefile").read_text().splitlines()
    return {line.partition(":")[0] for line in lines if re.match(r"^[a-z]+:", line)}


# what is named ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text()
    links = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith(("http", "#"))]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    quoted = re.findall(rf"`((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*)(?:::\w+)*`", text)
    missing += [path for path in quoted if not (REPOSITORY / path).exists()]
    assert not missing, f"{name_of(page)} names what is not there: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text())
    missing = [f"{file}::{test}" for file, test in named if test not in _functions(REPOSITORY / file)]
    assert not missing, f"{name_of(page)} names tests that are not there: {missing}"


def _functions(file: Path) -> set[str]:
    if not file.exists():
        return set()
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_name_no_place_of_one_machine(page: Path) -> None:
    assert not re.findall(r"(?<![\w.])/(?:work|tmp|root|home)/", page.read_text())


# tables -------------------------------------------------------------------------------------------------------


def test_settings_page_is_that_of_the_code(tables: ModuleType) -> None:
    text = tables.SETTINGS_PAGE.read_text()
    assert text == tables.page_with(text, tables.sections()), "run `python docs/tables.py` and commit docs/settings.md"


def _section_table(page: Path, heading: str) -> list[list[str]]:
    """The rows below a heading, as cells without their backticks."""
    text = page.read_text().partition(f"### `{heading}`\n")[2].partition("\n#")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip("` |") for cell in row] for row in rows[2:]]


def _fields_of(page: Path, heading: str) -> set[str]:
    return {name.strip(" `") for row in _section_table(page, heading) for name in row[0].split(",")}


def _default_shown(model: type[BaseModel], name: str) -> str | None:
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else None if isinstance(value, BaseModel) else json.dumps(value)


SPEC_TABLES = (
    *("ModelSpec", "ClassSpec", "Constant", "Scale", "Percentile", "ZScore", "Argmax", "Thresholds"),
    *("Resolution", "InputStats", "Scores", "ClassScore"),
)
FILLED = {("ClassSpec", "value"), ("ClassSpec", "color"), ("ClassSpec", "role")}  # from the position in the list


@pytest.mark.parametrize("heading", SPEC_TABLES)
def test_bundle_page_lists_every_field_with_its_default(heading: str) -> None:
    import pipeline.models.spec as module

    model, page = getattr(module, heading), REPOSITORY / "docs" / "bundles.md"
    assert _fields_of(page, heading) == set(model.model_fields)
    told = {row[0]: row[1] for row in _section_table(page, heading)}
    code = {name: _default_shown(model, name) for name in model.model_fields}
    wrong = {n: (told[n], d) for n, d in code.items() if d not in (None, told[n]) and (heading, n) not in FILLED}
    assert not wrong, f"{heading}: field -> (page, code) {wrong}"


RUN_TABLES = ("Manifest", "Question", "SourceRecord", "Numerics", "Layout", "Receipt", "Output", "Failure")


@pytest.mark.parametrize("heading", RUN_TABLES)
def test_run_directory_page_lists_every_field(heading: str) -> None:
    import pipeline.manifest
    import pipeline.receipts

    model = getattr(pipeline.manifest, heading, None) or getattr(pipeline.receipts, heading)
    assert _fields_of(REPOSITORY / "docs" / "run-directory.md", heading) == set(model.model_fields)


# the run directory --------------------------------------------------------------------------------------------


def _documented_keys() -> dict[str, re.Pattern[str]]:
    """The first column of the table of files, as patterns of whole keys."""
    text = (REPOSITORY / "docs" / "run-directory.md").read_text().partition("## Files")[2].partition("\n###")[0]
    shown = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    parts = {
        "<...>": r".+",
        "<block>": r"\d+(\.\d+)*",
        "<job>": r"(all|\d+(\.\d+)*)",
        "<n>": r"\d+",
        "<channel>": r"\d+",
    }
    patterns = {}
    for key in shown:
        pattern = re.escape(key)
        for mark, meaning in parts.items():
            pattern = pattern.replace(re.escape(mark), meaning)
        patterns[key] = re.compile(re.sub(r"<\w+>", r"[^/]+", pattern))
    return patterns


def test_every_file_of_a_run_is_documented(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = ArraySource(rng.integers(0, 3, (1, 40, 60), dtype=np.uint8), access="sequential")
    model = IdentityModel(fake_spec(3, normalisation={"kind": "percentile"}))
    run = make_run(tmp_path, source, model.spec, window=(16,), overlap=(4,), block=(24,))
    keys: set[str] = set()
    drive(
        run,
        SerialEngine(make_worker(source, model)),
        on_event=lambda event: keys.update(entry.key for entry in run.store.list()),
    )
    known = _documented_keys()
    assert {k for k in keys if not any(p.fullmatch(k) for p in known.values())} == set()
    made = {name for name, pattern in known.items() if any(pattern.fullmatch(k) for k in keys)}
    # a fake model has no bundle; nothing fails or is exported here
    assert set(known) - made == {name for name in known if name.startswith(("bundle/", "failures/", "exports/"))}
