"""Floors: tiling below pipeline below flows, and ``pipeline/__main__.py`` the roof. Imports go down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOF = "pipeline.__main__"
UPWARD = {
    "tiling": {"pipeline", "flows", "tests"},
    "pipeline": {"flows", "ray", "prefect", "tests"},
    "flows": {"tests"},
}
DYNAMIC = {"import_module", "__import__"}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> list[tuple[str, Path]]:
    return [(module_name(p), p) for floor in UPWARD for p in sorted((REPOSITORY / floor).rglob("*.py"))]


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def imported(source: str) -> Iterator[str]:
    """Every module a file names in an import, wherever it stands; ``from a import b`` gives both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module)
        elif isinstance(node, ast.Call) and called(node) in DYNAMIC and node.args:
            name = node.args[0]
            yield str(name.value) if isinstance(name, ast.Constant) else "<computed>"


def offences(module: str, source: str) -> set[str]:
    """The imports of a module that go up, sideways by dots, or out of its floor."""
    floor = module.partition(".")[0]
    bad = set()
    for name in imported(source):
        top = name.partition(".")[0]
        upward = top in UPWARD[floor] and module != ROOF
        roof = name == ROOF or name.startswith(f"{ROOF}.")
        foreign = floor == "tiling" and top not in {*sys.stdlib_module_names, "numpy", "tiling"}
        if upward or roof or foreign or top in {"", "<computed>"}:
            bad.add(name)
    return bad


def test_imports_go_down_only() -> None:
    found = modules()
    assert {"tiling.grid", "pipeline.store", "flows"} <= {name for name, _ in found}
    assert {name: bad for name, path in found if (bad := offences(name, path.read_text()))} == {}


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("tiling.grid", "import math, numpy as np\nfrom tiling.box import Box", set()),
        ("tiling.grid", "import torch", {"torch"}),
        ("tiling.grid", "def f():\n    from pipeline import store", {"pipeline", "pipeline.store"}),
        ("tiling.grid", "from . import box", {"."}),
        ("pipeline.run", "import zarr, torch\nfrom tiling import Grid", set()),
        ("pipeline.run", "if True:\n    import ray.actor", {"ray.actor"}),
        ("pipeline.run", "from prefect import flow", {"prefect", "prefect.flow"}),
        ("pipeline.run", "import importlib\nimportlib.import_module('flows.pool')", {"flows.pool"}),
        ("pipeline.run", "x = 'ray'\n__import__(x)", {"<computed>"}),
        ("pipeline.run", "from pipeline import __main__", {"pipeline.__main__"}),
        ("pipeline.rayleigh", "import raylib", set()),
        ("pipeline.__main__", "from flows import segment\nimport ray", set()),
        ("flows.workers", "import ray, prefect, torch\nfrom pipeline import run\nfrom tiling import Box", set()),
        ("flows.workers", "from pipeline.__main__ import main", {"pipeline.__main__", "pipeline.__main__.main"}),
    ],
)
def test_the_walker_sees_what_it_should(module: str, source: str, bad: set[str]) -> None:
    assert offences(module, source) == bad


def test_tiling_loads_no_heavy_library() -> None:
    code = "import sys, tiling; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "tiling" in loaded.stdout.split()
    assert not {"torch", "zarr", "rasterio", "ray", "prefect", "scipy", "pipeline"} & set(loaded.stdout.split())
