"""Imports run one way, and a file is one idea of a readable size."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from minieff import compose
from minieff.core.files import ROOT

PACKAGE = sorted((ROOT / "minieff").rglob("*.py"))
CHECKS = sorted((ROOT / "exercises" / "checks").glob("*.py"))
TOPICS = {path.stem[3:] for path in (ROOT / "exercises" / "source").glob("*.py")}


def module(path: Path) -> str:
    """minieff/core/cost.py -> minieff.core.cost"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, at_import: bool = False) -> set[str]:
    """The modules of this project that a file imports, or those that it imports at once."""
    tree, found = ast.parse(path.read_text()), set()
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.split(".")[0] in ("minieff", "exercises")} - {"minieff"}


MODULES = {module(path) for path in PACKAGE}
HOMES = [path for path in PACKAGE if module(path).count(".") == 1]
TECHNIQUES = {module(path) for path in HOMES if "\nSTAGE = " in path.read_text()}


def technique_of(name: str) -> str | None:
    return next((t for t in TECHNIQUES if name == t or name.startswith(f"{t}.")), None)


def test_imports_run_in_no_circle():
    graph = {module(path): imported(path, at_import=True) & MODULES for path in PACKAGE}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(PACKAGE)


def test_core_imports_no_technique():
    """All that it imports of the rest is `compose`, which finds techniques by the names in a recipe."""
    for path in PACKAGE:
        if module(path).startswith("minieff.core."):
            assert all(n.startswith("minieff.core") or n == "minieff.compose" for n in imported(path)), path
    assert not any(map(technique_of, imported(ROOT / "minieff" / "compose.py")))


def test_a_technique_imports_core_and_itself():
    assert {"minieff.layerdrop", "minieff.scalar_quant", "minieff.product_quant"} <= TECHNIQUES
    for path in PACKAGE:
        if technique_of(module(path)):
            others = {n for n in imported(path) if not n.startswith("minieff.core.")}
            assert {technique_of(name) for name in others} <= {technique_of(module(path))}, path


def test_the_package_imports_nothing_of_the_exercises():
    assert not any(name.startswith("exercises") for path in PACKAGE for name in imported(path))
    assert all(compose.find(name.removeprefix("minieff.")) for name in TECHNIQUES)


def code_lines(path: Path) -> tuple[set[int], ast.Module]:
    """The lines that are no docstring, no comment and not blank."""
    text = path.read_text()
    tree, docs = ast.parse(text), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, False):
            docs |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return {i for i, line in lines if line.strip() and not line.strip().startswith("#")} - docs, tree


@pytest.mark.parametrize("path", PACKAGE + CHECKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_200_lines_of_code_and_a_function_25(path):
    lines, tree = code_lines(path)
    assert len(lines) <= (300 if path.stem in TOPICS and path in CHECKS else 200)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert len(lines & set(range(node.lineno, node.end_lineno + 1))) <= 25, node.name


def lines_of_tasks(folder: Path) -> dict[str, float]:
    """By topic: lines of code a task, without imports."""
    found = {}
    for topic in TOPICS:
        source = next((ROOT / "exercises" / "source").glob(f"??_{topic}.py")).read_text()
        lines, tree = code_lines(folder / f"{topic}.py")
        imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        lines -= {i for n in imports for i in range(n.lineno, n.end_lineno + 1)}
        found[topic] = len(lines) / source.count("\ncheck.")
    return found


def test_checks_have_40_lines_a_task_on_average_and_answers_at_most_30():
    checks, answers = (lines_of_tasks(ROOT / f) for f in ("exercises/checks", "tests/answers"))
    assert sum(checks.values()) / len(checks) <= 40 and max(checks.values()) <= 60, checks
    assert max(answers.values()) <= 30, answers
