"""Checks pass what is right and refuse what is wrong, each mistake with its message and with no other."""

import importlib
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import nan
from random import Random
from threading import Thread

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from torch import nn

from exercises.checks import NotYet, Task, Verdict, guard, progress, tasks
from exercises.checks.compare import difference
from exercises.checks.guard import call, frozen
from minieff.__main__ import main
from minieff.core.files import ROOT

sys.path.insert(0, str(ROOT / "notebooks"))
import build  # noqa: E402

SOURCES = {source.stem[3:]: source for source in sorted(build.EXERCISES.glob("*.py"))}
TOPICS = {
    topic: source for topic, source in SOURCES.items() if (ROOT / "exercises/checks" / f"{topic}.py").exists()
}
SEEDS = (0, 1, 2, 3)


def known(topic: str) -> dict[str, Task]:
    return tasks(importlib.import_module(f"exercises.checks.{topic}"))


each_topic = pytest.mark.parametrize("topic", TOPICS)
each_task = pytest.mark.parametrize(
    ("topic", "name"), [(topic, name) for topic in TOPICS for name in known(topic)]
)


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(progress, "FILE", None)


def functions(topic: str, part: str) -> dict:
    """What the cells of an exercise define, with its stubs or with its solutions."""
    cells = [cell.source for cell in build.notebook_of(TOPICS[topic], part).cells if cell.cell_type == "code"]
    namespace: dict = {}
    for text in cells[:1] + [text for text in cells[1:] if "\ncheck." in text]:
        exec(compile(re.sub(r"^check\..*$", "", text, flags=re.MULTILINE), f"<{part}>", "exec"), namespace)
    return namespace


def said(task: Task, mine, seed: int) -> str:
    """The message of a refusal; empty for a pass."""
    try:
        task(mine, seed=seed)
    except NotYet as refusal:
        return str(refusal)
    return ""


@each_topic
def test_exercise_and_checks_have_the_same_tasks(topic):
    asked = re.findall(r"^check\.(\w+)\(\1\)$", TOPICS[topic].read_text(), re.MULTILINE)
    assert asked == list(known(topic)) and 4 <= len(asked) <= 6


@each_task
def test_the_solution_passes_and_the_stub_does_not(topic, name):
    stub, solution = (functions(topic, part)[name] for part in ("stub", "solution"))
    assert [said(known(topic)[name], solution, seed) for seed in SEEDS] == [""] * len(SEEDS)
    assert said(known(topic)[name], stub, 0)


@each_task
def test_a_mistake_gets_its_message_on_every_input(topic, name):
    task = known(topic)[name]
    assert 4 <= len(task.wrong) <= 10
    for message, ways in task.wrong.items():
        for way in ways if isinstance(ways, tuple) else (ways,):
            assert [said(task, way, seed) for seed in SEEDS] == [message] * len(SEEDS)


@each_task
def test_other_answers_are_judged_rightly(topic, name):
    task, answers = known(topic)[name], importlib.import_module(f"answers.{topic}")
    assert answers.RIGHT[name]
    for seed in SEEDS:
        for mine in answers.RIGHT[name]:
            assert said(task, mine, seed) == "", mine
        for mine, fragment in answers.WRONG.get(name, []):
            message = said(task, mine, seed)
            assert message and fragment in message, mine


# The framework, on a task that is easy to see through: MACs of a linear layer from C to F over T tokens


def linear(T, C, F):
    return T * C * F


MACS = Task(
    inputs=lambda draw: [tuple(draw.sample(range(3, 50), 3)) for _ in range(3)],
    right=linear,
    wrong={
        "How wide is the output?": lambda T, C, F: T * C * C,
        "One is two FLOPs.": lambda T, C, F: 2 * T * C * F,
    },
    passed="Yes.",
    picture=lambda answer, expected, T, C, F: (f"figure of {T}", "described"),
)


def test_a_misconception_counts_only_if_it_explains_all_answers():
    assert said(MACS, linear, 0) == "" and said(MACS, lambda *sizes: float(np.prod(sizes)), 0) == ""
    assert said(MACS, lambda T, C, F: T * C * C, 0) == "How wide is the output?"
    T, C, F = MACS.inputs(Random(0))[1]
    assert said(MACS, lambda *sizes: linear(*sizes) + (sizes == (T, C, F)), 0) == (
        f"Called with T={T}, C={C}, F={F}: you return {T * C * F + 1}, which is too large by 1."
    )


def test_the_picture_is_of_the_case_that_the_message_names():
    with pytest.raises(NotYet) as refused:
        MACS(lambda *sizes: 1)
    assert refused.value.picture.removeprefix("figure of ") in str(refused.value)


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        (None, "Give the check the function itself"),
        (linear(1, 2, 3), "Give the check the function itself"),
        (lambda *sizes: None, "None (a function without `return` does; printing is not returning)"),
        (lambda *sizes: (i for i in sizes), "a generator (it has a `yield`"),
        (lambda *sizes: "7", "a str, 7, where numbers are asked for"),
        (lambda *sizes: True, "True, where numbers are asked for"),
        (lambda *sizes: torch.zeros(2, 3), "a Tensor of shape (2, 3)"),
        (lambda *sizes: nan, "NaN or infinity"),
        (lambda *sizes: len, "where numbers are asked for"),
        (lambda T: T, "Compare its arguments with those in the task"),
        (lambda *sizes: 1 / 0, "ZeroDivisionError: division by zero\nIt was called with T="),
        (lambda *sizes: exec("raise SystemExit"), "SystemExit"),
    ],
)
def test_other_answers_are_refused_by_name(mine, message):
    assert message in said(MACS, mine, 0)


@pytest.mark.parametrize(
    ("mine", "wanted", "message"),
    [
        ((3, 4.0), (3, 4), ""),
        (torch.tensor([3, 4]), (3, 4), ""),
        (np.float32(0.1), 0.1, ""),
        ([[1, 2], [3, 4]], torch.tensor([[1, 2], [3, 4]]), ""),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, ""),
        (float("inf"), float("inf"), ""),
        ((3, 5), (3, 4), "item 2: you return 5, which is too large by 1."),
        ((3,), (3, 4), "where 2 items are asked for"),
        ({"a": 2}, {"a": 2, "b": 1}, "with other names than asked for"),
        (1_000_001, 1_000_000, "too large by 1"),  # whole numbers exactly
        (torch.tensor([1.0, 2.1]), torch.tensor([1.0, 2.0]), "50% of the numbers are wrong, by up to 0.05"),
        (torch.ones(2), torch.ones(3), "a Tensor of shape (2,), where a Tensor of shape (3,) is asked for"),
        (None, "no", "you return None"),
    ],
)
def test_answers_are_compared_item_by_item(mine, wanted, message):
    found = difference(mine, wanted, 1e-6)
    assert message in found if message else found == ""


# The guard


def refusal(mine, *arguments) -> str:
    with pytest.raises(NotYet) as refused:
        call(mine, *arguments)
    return str(refused.value)


def test_a_crash_names_the_learners_line():
    def mine(values):
        total = sum(values)
        return total / (len(values) - 3)

    message = refusal(mine, [1, 2, 3])
    assert "ZeroDivisionError: division by zero" in message
    assert "`return total / (len(values) - 3)`" in message and re.search(r"in line \d+:", message)


def test_wrong_arguments_are_told_from_a_crash_inside():
    assert refusal(lambda a: a, 1, 2).startswith("Your function could not be called as the task says")
    assert refusal(lambda a, b: len(a), 1, 2).startswith("Your code stopped with an error in line")


def test_an_endless_loop_is_stopped_even_if_it_catches_exceptions(monkeypatch):
    monkeypatch.setattr(guard, "LIMIT", 0.2)

    def mine(n):
        while True:
            try:
                n = n + 1
            except Exception:
                pass

    assert "Stopped after 0.2 seconds in line" in refusal(mine, 1)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_endless_loop_is_stopped_even_if_it_catches_everything(monkeypatch):
    monkeypatch.setattr(guard, "LIMIT", 0.2)

    def tries(n):
        while True:
            try:
                sleep(0.01)
            except:  # noqa: E722
                pass

    def suppresses(n):
        while True:
            with suppress(BaseException):
                sum(range(1000))

    for mine in (tries, suppresses):
        assert "Stopped after" in refusal(mine, 1)
    assert sys.gettrace() is None or "again" not in sys.gettrace().__qualname__


def test_the_stub_is_told_from_torchs_own_not_implemented():
    def mine(module):
        return nn.Module()(module)

    assert "Missing" in refusal(mine, 1) or "missing" in refusal(mine, 1)

    def untouched_stub(n):
        raise NotImplementedError

    assert "is still there" in refusal(untouched_stub, 1)


def test_a_crash_inside_callable_objects_and_partials_is_one():
    class Adder:
        def __call__(self, n):
            return n + "1"

    for mine in (Adder(), partial(lambda a, n: n + a, "1")):
        assert re.match(r"Your code stopped with an error in line \d+", refusal(mine, 1))


def test_outside_the_main_thread_there_is_no_limit_and_no_blame():
    found = []
    thread = Thread(target=lambda: found.append(call(lambda n: n + 1, 1)))
    thread.start()
    thread.join()
    assert found == [2]


@dataclass
class Holder:
    values: list


@pytest.mark.parametrize(
    ("given", "edit"),
    [
        ([3, 1, 2], lambda x: x.sort()),
        ({"a": 1, "b": 2}, lambda x: x.pop("a")),
        ({"a": [1]}, lambda x: x["a"].append(2)),
        ({1, 2}, lambda x: x.add(3)),
        (torch.ones(2, 3), lambda x: x.mul_(2)),
        (torch.ones(2, 3), lambda x: x.requires_grad_(True)),
        (torch.ones(3, dtype=torch.bfloat16), lambda x: x.neg_()),
        (np.ones(3), lambda x: x.fill(2)),
        (nn.Linear(2, 3), lambda x: x.half()),
        (nn.Linear(2, 3), lambda x: x.eval()),
        (nn.Linear(2, 3), lambda x: x.bias.data.add_(1)),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), lambda x: x.append(nn.ReLU())),
        (Holder([1]), lambda x: x.values.append(2)),
    ],
)
def test_edits_in_place_are_noticed_and_harm_nobody(given, edit):
    def mine(first, second):
        edit(second)

    before = frozen(given)
    assert "changes what it was given (second)" in refusal(mine, 1, given)
    assert frozen(given) == before
    assert call(lambda first, second: first, 1, given) == 1


def test_what_a_learner_switches_is_switched_back():
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()

    def mine():
        torch.set_num_threads(1 if threads > 1 else 2)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        os.chdir("/")
        torch.rand(3)
        torch.set_default_device("meta")

    folder = os.getcwd()
    call(mine)
    assert torch.get_num_threads() == threads and torch.is_grad_enabled() and os.getcwd() == folder
    assert torch.zeros(1).dtype == torch.float32 and torch.zeros(1).device.type == "cpu"
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_refusal_from_inside_the_task_goes_through():
    def mine(inner):
        try:
            inner()
        except ValueError:
            return 1

    def inner():
        raise NotYet("not this way")

    assert refusal(mine, inner) == "not this way"


# What the learner sees


@pytest.fixture
def shown(monkeypatch) -> list:
    """What a check displays, in order; a picture as its description."""
    shown: list = []
    monkeypatch.setattr("exercises.checks.verdict.display", shown.append)
    monkeypatch.setattr("minieff.core.plot.show", lambda figure, alt: shown.append(alt))
    return shown


def test_a_refusal_is_a_box_above_its_picture_and_no_stack_trace(shown):
    refusal = NotYet("First `a < b`.\n  indented", picture="figure", alt="described")
    for _ in range(2):  # IPython asks twice
        assert refusal._render_traceback_() == ["Change your answer and run this cell again."]
    assert len(shown) == 2 and shown[1] == "described"
    assert "<b>Not yet.</b> First <code>a &lt; b</code>.\n  indented</div>" in shown[0].html
    assert repr(shown[0]) == "Not yet. First `a < b`.\n  indented"


def test_a_pass_escapes_what_html_would_swallow(shown):
    assert repr(Verdict("a < b")) == "Passed. a < b"
    Verdict("a < b", picture="figure", alt="described")._ipython_display_()
    assert "<b>Passed.</b> a &lt; b</div>" in shown[0].html and shown[1] == "described"


def test_a_verdict_is_shown_wherever_the_check_stands_and_once(monkeypatch, shown):
    monkeypatch.setattr("exercises.checks.verdict.get_ipython", lambda: "a notebook")
    verdict = Verdict("Yes.").shown()
    verdict._ipython_display_()  # as the last line of its cell
    assert list(map(repr, shown)) == ["Passed. Yes."]


# Blank exercises and solutions


@each_topic
def test_a_blank_exercise_fails_only_as_it_should(topic, tmp_path):
    path = build.blank_target(TOPICS[topic])
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    client = NotebookClient(
        notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": path.parent}}
    )
    try:
        client.execute()
    except CellExecutionError as dead:  # a kernel that dies
        pytest.fail(str(dead))
    refused = [cell for cell in code if any(output.output_type == "error" for output in cell.outputs)]
    assert refused == [cell for cell in code if "\ncheck." in cell.source]
    for cell in refused:
        box, *_, error = cell.outputs
        assert "<b>Not yet.</b>" in box.data["text/html"] and error.ename == "NotYet"
        assert error.traceback == ["Change your answer and run this cell again."]


@each_topic
def test_solutions_are_folded_and_blanks_have_none(topic):
    blank = nbformat.read(build.blank_target(TOPICS[topic]), as_version=4)
    solved = nbformat.read(build.executed_target(TOPICS[topic]), as_version=4)
    answers = [cell for cell in solved.cells if "\ncheck." in cell.source]
    assert all(cell.metadata.jupyter.source_hidden for cell in answers)
    assert not any("source_hidden" in str(cell.metadata) for cell in blank.cells)
    text = "\n".join(cell.source for cell in blank.cells)
    assert not re.search(r"^ *# (stub|solution|end)$", text, re.MULTILINE)
    for cell in answers:
        assert cell.source not in text
    assert "progress.FILE = None" in solved.cells[3].source and "progress.FILE" not in text


def test_markers_without_partner_are_refused(tmp_path):
    for number_, text in enumerate(("# stub\n1\n# end", "# solution\n1", "# stub\n1\n# solution\n2")):
        source = tmp_path / f"{number_}.py"
        source.write_text(f"# %%\n{text}\n")
        with pytest.raises(ValueError, match=f"{number_}.py: `# .*has no partner"):
            build.notebook_of(source)


@pytest.mark.parametrize("folder", [".", "notebooks", "exercises/solutions"])
def test_checks_are_imported_from_any_folder_of_a_checkout(folder):
    code = "from exercises.checks import start_here as check; print(type(check.macs).__name__)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT / folder, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("Task\n", "")


# Progress


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "FILE", tmp_path / ".progress.json")
    return tmp_path / ".progress.json"


def test_a_pass_is_remembered_and_a_refusal_is_not(file):
    check, solution = known("start_here")["macs"], functions("start_here", "solution")["macs"]
    said(check, lambda *sizes: 1.0, 0)
    MACS(linear)  # a task of no topic
    assert not file.exists()
    check(solution)
    assert list(progress.passed()["start_here"]) == ["macs"]
    text = file.read_text()
    check(solution)
    assert file.read_text() == text


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"start_here": 3}', "\x00"])
def test_a_damaged_progress_file_costs_nothing(file, text):
    file.write_text(text)
    assert progress.passed() == {}
    progress.remember(known("start_here")["macs"])
    assert list(progress.passed()) == ["start_here"]


def test_a_progress_file_that_cannot_be_written_does_not_cost_the_verdict(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(progress, "FILE", tmp_path / "file" / "progress.json")
    assert isinstance(known("start_here")["macs"](functions("start_here", "solution")["macs"]), Verdict)


def test_progress_reads_as_lessons_and_says_what_is_next(file):
    first = list(known("start_here"))
    progress.remember(known("start_here")[first[0]])
    lines = progress.table().splitlines()
    assert lines[0] == f"00 Start here: 1 of {len(first)}" and "08 LayerDrop: 0 of 6" in lines
    assert lines[-1] == f"Next: task 2 ({first[1]}) in exercises/00_start_here.ipynb"
    for topic in TOPICS:
        for task in known(topic).values():
            progress.remember(task)
    assert progress.table().splitlines()[-1] == "All tasks are passed."


def test_the_command_prints_it(capfd):
    assert main(["progress"]) == 0 and "08 LayerDrop: " in capfd.readouterr().out
