"""Every committed notebook is what its source says, was executed, and says something that a test compares.

Lessons and solutions are executed notebooks; blank exercises are tested in test_checks.py.
"""

import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import nbformat
import pytest

from minieff.core.files import ROOT, load_results

sys.path.insert(0, str(ROOT / "notebooks"))
import build  # noqa: E402

LESSONS, EXERCISES = (sorted(folder.glob("*.py")) for folder in (build.LESSONS, build.EXERCISES))
SOURCES = LESSONS + EXERCISES
each = pytest.mark.parametrize(
    "source", SOURCES, ids=lambda source: f"{source.parent.parent.name}-{source.stem}"
)


def code_cells(source: Path) -> list:
    notebook = nbformat.read(build.executed_target(source), as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def compared(cell) -> bool:
    """Whether nbval compares something of this cell: text that is not tagged to be ignored."""
    ignored = "nbval-ignore-output" in cell.metadata.get("tags", [])
    said = [output for output in cell.outputs if output.output_type == "stream" or "text/html" in output.data]
    return not ignored and bool(said)


def test_sources_and_notebooks_are_one_to_one():
    assert [source.stem for source in LESSONS] == sorted(
        path.stem for path in (ROOT / "notebooks").glob("*.ipynb")
    )
    for folder in (ROOT / "exercises", ROOT / "exercises" / "solutions"):
        assert [source.stem for source in EXERCISES] == sorted(path.stem for path in folder.glob("*.ipynb"))
    assert [source.stem for source in EXERCISES] == [source.stem for source in LESSONS]


@pytest.mark.parametrize("source", LESSONS, ids=lambda source: source.stem)
def test_a_lesson_names_its_exercise(source):
    assert f"(../exercises/{source.stem}.ipynb)" in source.read_text()


@each
def test_a_notebook_has_the_cells_of_its_source(source):
    assert build.up_to_date(source), (
        f"run `make lessons`: {source.name} was changed after its notebook was built"
    )


@each
def test_every_code_cell_was_executed_in_order(source):
    counts = [cell.execution_count for cell in code_cells(source)]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_a_third_of_the_cells_is_compared(source):
    cells = code_cells(source)
    assert sum(compared(cell) for cell in cells) >= len(cells) / 3


@each
def test_outputs_hold_no_error_no_path_and_no_warning(source):
    for cell in code_cells(source):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"/home/|/tmp/|/Users/|" + re.escape(str(ROOT)), text), text


@each
def test_a_notebook_is_small_and_its_cells_are_short(source):
    assert build.executed_target(source).stat().st_size <= 500_000
    if source in LESSONS:
        assert median(len(cell.source.splitlines()) for cell in code_cells(source)) <= 6


@each
def test_a_notebook_was_built_within_a_minute_on_one_thread(source):
    lessons = load_results("lessons")
    assert lessons["environment"]["threads"] == 1
    assert lessons["seconds"][build.label(source)] <= 60


def test_nbval_collects_every_cell_of_every_notebook():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--collect-only",
        "-qq",
        "notebooks",
        "exercises/solutions",
    ]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split("\n\n")[0]
    wanted = [
        f"{build.executed_target(source).relative_to(ROOT)}: {len(code_cells(source))}" for source in SOURCES
    ]
    assert sorted(listed.splitlines()) == sorted(wanted)


def test_a_changed_source_is_noticed(tmp_path):
    source = tmp_path / "source" / "lesson.py"
    source.parent.mkdir()
    source.write_text("# %%\nprint(1 + 1)\n")
    assert not build.up_to_date(source)
    build.execute(source)
    assert build.up_to_date(source)
    first = build.executed_target(source).read_bytes()
    build.execute(source)
    assert build.executed_target(source).read_bytes() == first
    source.write_text("# %%\nprint(1 + 2)\n")
    assert not build.up_to_date(source)
    source.write_text("# %%\nimport sys\nprint('x', file=sys.stderr)\n")
    with pytest.raises(RuntimeError, match="stderr"):
        build.execute(source)
    assert build.executed_target(source).read_bytes() == first


def test_answers_and_long_drawings_start_collapsed(tmp_path):
    source = tmp_path / "source" / "lesson.py"
    source.parent.mkdir()
    source.write_text('# %% tags=["predict"]\nprint(1)\n\n# %% tags=["figure", "predict"]\n2\n\n# %%\n3\n')
    cells = [cell.metadata for cell in build.notebook_of(source).cells]
    assert cells[0] == {"tags": ["predict"], "jupyter": {"outputs_hidden": True}}
    assert cells[1]["jupyter"] == {"source_hidden": True, "outputs_hidden": True} and not cells[2]
    build.execute(source)
    outputs = [cell.outputs for cell in nbformat.read(build.executed_target(source), as_version=4).cells]
    assert outputs[0][0].text == "Answer:\n1\n" and outputs[1][0].data["text/plain"] == "Answer:\n2"
    assert outputs[2][0].data["text/plain"] == "3"


def test_an_exercise_becomes_a_blank_and_a_solution(tmp_path):
    source = tmp_path / "exercises" / "source" / "task.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "# %%\nx = 2\n\n# %%\ndef f(x):\n    # stub\n    raise NotImplementedError\n    # solution\n"
        '    return x * x\n    # end\n\n# %% tags=["solution"]\nprint(f(x))\n'
    )
    build.execute(source)
    assert build.up_to_date(source)
    paths = [tmp_path / "exercises" / "task.ipynb", tmp_path / "exercises" / "solutions" / "task.ipynb"]
    blank, solved = (nbformat.read(path, as_version=4).cells for path in paths)
    assert [cell.source for cell in blank] == ["x = 2", "def f(x):\n    raise NotImplementedError"]
    assert [cell.source for cell in solved] == ["x = 2", "def f(x):\n    return x * x", "print(f(x))"]
    assert not any(cell.outputs or cell.execution_count for cell in blank)
    assert solved[2].outputs[0].text == "4\n" and solved[1].metadata.jupyter.source_hidden
    first = [path.read_bytes() for path in paths]
    build.execute(source)
    assert [path.read_bytes() for path in paths] == first
    source.write_text(source.read_text().replace("raise NotImplementedError", "pass"))
    assert not build.up_to_date(source)  # the blank alone has changed
