"""What readers meet on their screen: pictures with words, lines that fit, answers that wait, live controls.

A narrow column (`plot.COLUMN`) holds 58 characters of output; code is scrolled, and has at most 88.
"""

import ast
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from test_notebooks import EXERCISES, LESSONS, build, each

SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
LOOPS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
each_lesson = pytest.mark.parametrize("source", LESSONS, ids=lambda source: source.stem)
each_exercise = pytest.mark.parametrize("source", EXERCISES, ids=lambda source: source.stem)


def cells(source: Path) -> list:
    return nbformat.read(build.executed_target(source), as_version=4).cells


def printed(source: Path) -> Iterator[str]:
    """The lines that the cells of a notebook print."""
    for cell in cells(source):
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                yield from output.text.splitlines()


class Images(HTMLParser):
    """The attributes of the images on a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[dict] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


@each
def test_every_picture_reaches_the_page_with_its_description(source):
    notebook = nbformat.read(build.executed_target(source), as_version=4)
    data = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert not any({"image/png", "image/svg+xml"} & found.keys() for found in data)
    stored = "".join(found.get("text/html", "") for found in data)
    assert "<svg" not in stored
    images = Images(HTMLExporter().from_notebook_node(notebook)[0]).found
    assert len(images) == stored.count("<img ")
    for image in images:
        assert len(image["alt"]) > 40 and image["src"].startswith("data:image/png;base64,")


@each_lesson
def test_answers_to_predictions_start_collapsed(source):
    asked, shown, hidden = False, [], 0
    for cell in cells(source)[1:]:  # the first one says what **Predict** means
        if cell.cell_type == "markdown":
            asked = bool(re.search(r"\*\*(Predict|Guess)", cell.source))
            continue
        covered = "predict" in cell.metadata.get("tags", [])
        hidden += covered
        shown += [cell.source] if asked and cell.outputs and not covered else []
        if covered and cell.outputs:  # JupyterLab shows the first line of a collapsed output
            first = cell.outputs[0].get("text") or cell.outputs[0].data["text/html"]
            assert first.startswith(build.ANSWER)
    assert hidden and not shown


@each_lesson
def test_the_code_of_a_long_drawing_is_collapsed(source):
    for cell in cells(source):
        if cell.cell_type == "code" and "plot.panels" in cell.source and len(cell.source.splitlines()) > 12:
            assert "figure" in cell.metadata.get("tags", []), cell.source


@each_lesson
def test_printed_lines_fit_and_are_no_dicts(source):
    assert [line for line in printed(source) if len(line) > 58 or re.search(r"\{['\"\w.]+: ", line)] == []


@each_lesson
def test_code_fits(source):
    code = [cell.source for cell in cells(source) if cell.cell_type == "code"]
    assert [line for text in code for line in text.splitlines() if len(line) > 88] == []


def bound(tree: ast.AST) -> set[str]:
    """The names that a cell binds for all others."""
    names = {alias.asname or alias.name.split(".")[0] for alias in getattr(tree, "names", []) if tree.names}
    names |= {tree.name} if isinstance(tree, SCOPES[:3]) else set()
    names |= {tree.id} if isinstance(tree, ast.Name) and isinstance(tree.ctx, ast.Store) else set()
    inside = [] if isinstance(tree, SCOPES + LOOPS) else ast.iter_child_nodes(tree)
    return names.union(*map(bound, inside))


def used(name: str, functions: dict[str, ast.FunctionDef], known: set[str]) -> set[str]:
    """The names of a notebook that one of its functions uses, also through other functions of it."""
    if name not in functions or name in known:
        return set()
    nodes = list(ast.walk(functions[name]))
    own = {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names = {node.id for node in nodes if isinstance(node, ast.Name)} - own
    return names.union(*(used(other, functions, known | {name}) for other in names))


def dead(code: list[str]) -> set[str]:
    """Names that the callback of a control uses, and that a cell below the control binds again."""
    trees = [ast.parse(text) for text in code]
    functions = {f.name: f for tree in trees for f in tree.body if isinstance(f, ast.FunctionDef)}
    found = set()
    for place, tree in enumerate(trees):
        for call in ast.walk(tree):
            method = getattr(call, "func", None)
            if getattr(method, "attr", getattr(method, "id", "")) not in ("observe", "on_click", "interact"):
                continue
            names = used(call.args[0].id, functions, set())
            found |= names.intersection(*[set().union(*map(bound, trees[place + 1 :]))])
    return found


@each_lesson
def test_no_cell_rebinds_what_a_control_uses(source):
    assert dead([cell.source for cell in cells(source) if cell.cell_type == "code"]) == set()


def test_rebinding_is_found_through_other_functions_and_not_in_their_own_names():
    draw = "def draw():\n    return bits.value\n"
    control = draw + "def update(_):\n    k = draw()\nslider.observe(update, 'value')"
    for later in ("for bits in x: 1", "import x as bits", "bits += 1", "def draw(): 1", "(bits := 3)"):
        assert dead(["bits = slider", control, later]), later
    for later in ("k = 3", "[bits for bits in x]", "def f(bits):\n    bits = 2", "print(bits)"):
        assert not dead(["bits = slider", control, later]), later


@each_lesson
def test_lists_are_chosen_from_by_buttons(source):
    assert not re.search(r"widgets\.(SelectMultiple|Select|Dropdown)\(", source.read_text())


@each_exercise
def test_an_exercise_says_that_its_cells_are_run_one_by_one(source):
    assert "one by one" in cells(source)[0].source


@each
def test_what_comes_next_exists(source):
    for cell in cells(source):
        if cell.cell_type == "markdown" and re.search(r"Next(\*\*| in the course|\.\*\*)", cell.source):
            links = re.findall(r"\]\(([^)]+\.ipynb)\)", cell.source)
            folder = (build.blank_target(source) or build.executed_target(source)).parent
            assert links and all((folder / link).exists() for link in links)


@each_exercise
def test_hints_are_cells_of_their_own(source):
    for cell in cells(source):
        if "<summary>Hint" in cell.source:
            assert cell.source.startswith("<details>") and cell.source.endswith("</details>")
            rest = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.DOTALL)
            assert not rest.strip()
