"""The import arrows: a file imports from its own folder and from lower floors."""

import ast
import pathlib

import pytest

SRC = pathlib.Path(__file__).parents[1] / "src" / "longrnn"
FLOORS = [
    "_checks _native",
    "ops",
    "nn tasks batching distributed",
    "train",
    "experiments bench",
    "cli",
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names.split()}
FILES = sorted(path for path in SRC.rglob("*.py") if path != SRC / "__init__.py")


def imported_parts(source: str) -> set[str]:
    """First level below `longrnn` that each import reaches, also of imports inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("longrnn.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_down(path):
    own = path.relative_to(SRC).with_suffix("").parts[0]
    for other in imported_parts(path.read_text()) - {own}:
        if other in FLOOR:  # else a name of the package itself, such as __version__
            assert FLOOR[other] < FLOOR[own], f"{own} may not import {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_every_file_has_a_floor(path):
    assert path.relative_to(SRC).with_suffix("").parts[0] in FLOOR


def test_an_import_inside_a_function_counts():
    source = "import torch\ndef f():\n    from longrnn.train import run\n"
    assert imported_parts(source) == {"train"}
    assert imported_parts("from longrnn import _checks, ops") == {"_checks", "ops"}


def test_importing_the_package_loads_nothing_but_torch():
    import subprocess
    import sys

    program = (
        "import sys, torch; before = set(sys.modules); import longrnn\n"
        "print({name.split('.')[0] for name in set(sys.modules) - before})"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    heavy = {"accelerate", "matplotlib", "numpy", "rich", "triton", "typer", "onnx"}
    assert not heavy & set(ast.literal_eval(found.stdout)), found.stdout
