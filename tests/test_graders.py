"""Graders pass what is right and refuse what is wrong, each wrong answer with a message of its own."""

import importlib
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from threading import Thread
from time import perf_counter, sleep

import nbformat
import numpy as np
import pytest
import torch
from grading import Answers, faults, outcome
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from torch import nn

from exercises.graders import Case, NotYet, Verdict, guard, judge, progress, task, tasks
from exercises.graders.guard import call, frozen
from exercises.graders.kinds import number, numbers, strings, whole
from minieff import __main__ as commands
from minieff.core.files import ROOT

sys.path.insert(0, str(ROOT / "notebooks"))
import build  # noqa: E402

SOURCES = sorted(build.EXERCISES.glob("*.py"))
TOPICS = {source.stem[3:]: source for source in SOURCES}


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(progress, "FILE", None)


def grader(topic: str):
    return importlib.import_module(f"exercises.graders.{topic}")


def functions(topic: str, part: str) -> dict:
    """What the cells of an exercise define, with its stubs or with its solutions."""
    cells = [cell.source for cell in build.notebook_of(TOPICS[topic], part).cells if cell.cell_type == "code"]
    namespace: dict = {}
    for text in cells[:1] + [text for text in cells[1:] if "\ncheck." in text]:
        exec(compile(re.sub(r"^check\..*$", "", text, flags=re.MULTILINE), f"<{part}>", "exec"), namespace)
    return namespace


def answers(topic: str) -> dict[str, Answers]:
    known = importlib.import_module(f"wrong_answers.{topic}")
    stubs, solutions = functions(topic, "stub"), functions(topic, "solution")
    return {
        name: Answers(stubs[name], solutions[name], known.RIGHT[name], known.WRONG[name])
        for name in known.WRONG
    }


ANSWERS = {(topic, name): found for topic in TOPICS for name, found in answers(topic).items()}
each_task = pytest.mark.parametrize(("topic", "name"), ANSWERS, ids=lambda value: value)
each_topic = pytest.mark.parametrize("topic", TOPICS)


@each_topic
def test_exercise_grader_and_wrong_answers_have_the_same_tasks(topic):
    text = TOPICS[topic].read_text()
    known = importlib.import_module(f"wrong_answers.{topic}")
    asked = re.findall(r"^check\.(\w+)\(\1\)$", text, re.MULTILINE)
    assert asked == list(tasks(grader(topic))) and 4 <= len(asked) <= 6
    assert set(known.WRONG) == set(known.RIGHT) == set(asked)


@each_topic
def test_each_task_has_a_difficulty_and_three_hints(topic):
    cells = build.notebook_of(TOPICS[topic], "stub").cells
    parts = re.split(
        r"^## Task ", "\n".join(c.source for c in cells if c.cell_type == "markdown"), flags=re.M
    )[1:]
    assert [int(part[0]) for part in parts] == list(range(1, len(tasks(grader(topic))) + 1))
    for part in parts:
        assert re.findall(r"<details><summary>Hint (\d)</summary>", part) == ["1", "2", "3"]
        assert re.search(r"difficulty [1-5]", part)
    kinds = " ".join(part[:200].lower() for part in parts)
    assert all(kind in kinds for kind in ("*retrieval", "*spot the bug", "*predict", "*transfer"))


@each_task
def test_a_grader_has_no_faults(topic, name):
    found = ANSWERS[topic, name]
    assert len(found.wrong) >= 4 and found.right
    assert faults(tasks(grader(topic))[name], found) == []


@each_task
def test_verdicts_do_not_depend_on_the_inputs_that_are_drawn(topic, name):
    check, found = tasks(grader(topic))[name], ANSWERS[topic, name]
    for seed in range(2, 6):
        for mine in (found.reference, *found.right):
            assert outcome(check, mine, seed)[0] == "passed", (mine, seed)
        for mine, fragment in found.wrong:
            verdict, message = outcome(check, mine, seed)
            assert verdict == "refused" and fragment in message, (mine, seed, message)


# What a bad grader does, on a task that is easy to see through: MACs of a linear from C to F over T tokens.


def linear(T, C, F):
    return T * C * F


def stub(T, C, F):
    raise NotImplementedError


def square(T, C, F):
    return T * C * C


def flops(T, C, F):
    return 2 * T * C * F


def a_token(T, C, F):
    return C * F


def doubled_tokens(T, C, F):
    return T * T * F


TOY = Answers(
    stub, linear, [lambda *sizes: int(torch.tensor(sizes).prod())],
    [(square, "wide"), (flops, "two"), (a_token, "token"), (doubled_tokens, "pairs")],
)  # fmt: skip
WHY = {
    square: "How wide is the output?",
    flops: "A MAC is two FLOPs.",
    a_token: "One token?",
    doubled_tokens: "No pairs here.",
}


def complain(run, *sizes):
    got = number(run(*sizes))
    for mine, why in WHY.items():
        if got == mine(*sizes):
            raise NotYet(why)
    if got != linear(*sizes):
        raise NotYet(f"{got} is not the number of MACs.")


@task
def honest(run, draw):
    complain(run, *draw.sample(range(3, 50), 3))
    return Verdict("Yes.")


def prints(mine, *, seed=0):
    try:
        honest(mine, seed=seed)
    except NotYet as refusal:
        print("failed:", refusal)
    return Verdict("Yes.")


@task
def asks_the_learner(run, draw):
    sizes = draw.sample(range(3, 50), 3)
    wanted = run(*sizes)
    if run(*sizes) != wanted:
        raise NotYet("That is not it.")
    return Verdict("Yes.")


def mutates_a_default(mine, *, seed=0, cases=[(3, 5, 7), (4, 6, 11)]):  # noqa: B006
    if cases:
        complain(lambda *sizes: call(mine, *sizes), *cases.pop())
    return Verdict("Yes.")


@task
def equal_inputs(run, draw):
    complain(run, 1, 6, 6)
    return Verdict("Yes.")


@task
def counts_only(run, draw):
    if not isinstance(run(3, 5, 7), int):
        raise NotYet("A number is asked.")
    return Verdict("Yes.")


def unguarded(mine, *, seed=0):
    complain(mine, *Random(seed).sample(range(3, 50), 3))
    return Verdict("Yes.")


def one_message(mine, *, seed=0):
    try:
        return honest(mine, seed=seed)
    except NotYet:
        raise NotYet("Wrong: wide, two, token, pairs.") from None


def flips(mine, *, seed=0):
    return Verdict("Yes.") if seed else honest(mine, seed=seed)


BAD = {
    prints: "wrong square: passed, not refused",
    asks_the_learner: "wrong square: passed, not refused",
    mutates_a_default: "the grader changed its defaults",
    equal_inputs: "right linear: refused, not passed",
    counts_only: "wrong flops: passed, not refused",
    unguarded: "stub stub: raised NotImplementedError, not refused",
    one_message: "wrong flops gets the message of square",
    flips: "wrong square: passed, not refused",
}


def test_an_honest_grader_is_found_to_be_one():
    assert faults(honest, TOY) == []


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_bad_graders_are_caught(bad, monkeypatch):
    if bad is unguarded:  # it would hang on the endless loop
        monkeypatch.setattr("grading.abused", lambda check, reference: [])
    assert BAD[bad] in faults(bad, TOY)


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

    begun = perf_counter()
    message = refusal(mine, 1)
    assert perf_counter() - begun < 1 and "Stopped after 0.2 seconds in line" in message
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
        begun = perf_counter()
        assert "Stopped after" in refusal(mine, 1) and perf_counter() - begun < 3
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


def test_what_cannot_even_be_read_is_refused():
    class Odd(float):
        def __float__(self):
            raise KeyError("no")

    with pytest.raises(NotYet, match="KeyError"):
        judge(lambda n: Odd(1), [Case((1,), "n=1")], lambda n: n, {})
    with pytest.raises(NotYet, match="It was called with n=1"):
        judge(lambda n: None, [Case((1,), "n=1")], lambda n: n, {})


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


# What comes back


@pytest.mark.parametrize(
    "value", [3, 3.0, np.float32(3), np.int64(3), torch.tensor(3), torch.tensor(3.0), np.array(3)]
)
def test_numbers_of_all_kinds_are_numbers(value):
    assert number(value) == 3 and whole(value) == 3 and type(whole(value)) is int


@pytest.mark.parametrize(
    ("read", "value", "said"),
    [
        (number, None, "returns None (a function without `return` does"),
        (number, (i for i in "a"), "a generator"),
        (number, "7", "a str, '7'"),
        (number, True, "bool"),
        (number, [1], "a list of int"),
        (number, [], "an empty one"),
        (number, torch.zeros(2, 3), "Tensor of shape (2, 3)"),
        (number, np.zeros(2), "ndarray of shape (2,)"),
        (number, float("nan"), "returns nan"),
        (number, torch.tensor(float("inf")), "returns inf"),
        (number, len, "a function"),
        (number, 10**400, "more than 300 digits"),
        (number, np.bool_(True), "bool"),
        (whole, 2.5, "asks for a whole number"),
        (numbers("a", "b"), torch.zeros(2, 2), "Tensor of shape (2, 2)"),
        (numbers("a", "b"), 1, "a tuple of 2 numbers (a, b)"),
        (numbers("a", "b"), (1, 2, 3), "a tuple or list of 3"),
        (numbers("a", "b"), (1, None), "In the place of b: Your function returns None"),
        (strings, "abc", "a str"),
        (strings, ["a", 3], "a list of names"),
        (strings, ["a", "b", "a"], "'a' more than once"),
    ],
)  # fmt: skip
def test_other_kinds_are_refused_by_name(read, value, said):
    with pytest.raises(NotYet) as refused:
        read(value)
    assert said in str(refused.value)


def test_a_misconception_counts_only_if_it_explains_all_answers():
    cases = [Case((n,), f"n={n}") for n in (2, 3, 5)]
    mistakes = {"You add.": lambda n: n + n}
    assert judge(lambda n: n**2, cases, lambda n: n * n, mistakes) == [4.0, 9.0, 25.0]
    with pytest.raises(NotYet, match="You add") as refused:
        judge(lambda n: 2 * n, cases, lambda n: n * n, mistakes)
    assert refused.value.picture and len(refused.value.alt) > 40
    with pytest.raises(NotYet, match=r"For n=3: you returned 6, which is too small by 3. Take this"):
        judge(lambda n: 2 * n if n < 5 else 25, cases, lambda n: n * n, mistakes)
    with pytest.raises(NotYet, match="For n=2: b: you returned 0, which is too small by 2"):
        judge(lambda n: (n, 0), cases, lambda n: (n, n), {}, kind=numbers("a", "b"))


# What the learner sees


def test_a_refusal_is_shown_without_a_stack_trace(monkeypatch):
    shown = []
    monkeypatch.setattr("minieff.core.plot.show", lambda figure, alt: shown.append(alt))
    lines = NotYet(
        "First.\n  indented " + "word " * 40, picture="figure", alt="described"
    )._render_traceback_()
    assert lines[0] == "Not yet. First." and shown == ["described"]
    assert all(len(line) <= 100 for text in lines for line in text.split("\n"))


def test_a_pass_escapes_what_html_would_swallow(capsys):
    assert repr(Verdict("a < b")) == "Passed. a < b"
    Verdict("a < b")._ipython_display_()
    assert "a < b" in capsys.readouterr().out


def test_a_task_takes_a_function():
    for value, name in ((None, "NoneType"), (3, "int"), (int, "type")):
        with pytest.raises(NotYet, match=f"got {name} instead: write check.honest"):
            honest(value)


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
    errors = {
        cell.source: output for cell in code for output in cell.outputs if output.output_type == "error"
    }
    assert {error.ename for error in errors.values()} <= {"NotYet", "NotImplementedError"}
    assert list(errors) == [cell.source for cell in code if "\ncheck." in cell.source]
    for error in errors.values():
        text = "\n".join(error.traceback)
        assert text.startswith("Not yet. ") and "Traceback" not in text and "File" not in text


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


@pytest.mark.parametrize("folder", [".", "notebooks", "exercises", "exercises/solutions", "tests"])
def test_checks_are_imported_from_any_folder_of_a_checkout(folder):
    code = "from exercises.graders import start_here as check; print(check.macs.__name__)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT / folder, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("macs\n", "")


# Progress


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "FILE", tmp_path / ".progress.json")
    return tmp_path / ".progress.json"


def test_a_pass_is_remembered_and_a_refusal_is_not(file):
    check = tasks(grader("start_here"))["bits_per_byte"]
    solution = functions("start_here", "solution")["bits_per_byte"]
    with pytest.raises(NotYet):
        check(lambda losses, tokens, text: 1.0)
    assert not file.exists()
    check(solution)
    assert list(progress.passed()["start_here"]) == ["bits_per_byte"]
    text = file.read_text()
    check(solution)
    assert file.read_text() == text


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"start_here": 3}', "\x00"])
def test_a_damaged_or_missing_progress_file_costs_nothing(file, text):
    file.write_text(text)
    assert progress.passed() == {}
    progress.remember("start_here", "macs")
    assert list(progress.passed()) == ["start_here"]


def test_a_progress_file_that_cannot_be_written_does_not_cost_the_verdict(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(progress, "FILE", tmp_path / "file" / "progress.json")
    assert isinstance(honest(linear), Verdict)


def test_the_command_lists_every_task(file, capsys):
    progress.remember("start_here", "macs")
    assert commands.main(["progress"]) == 0
    lines = capsys.readouterr().out.splitlines()
    total = sum(len(tasks(grader(topic))) for topic in TOPICS)
    assert lines[-1] == f"1 of {total} passed"
    assert len(lines) == total + 1
    assert any(re.fullmatch(r"start_here +macs +\d{4}-\d\d-\d\d", line) for line in lines)
    assert any(re.fullmatch(r"start_here +speedup +-", line) for line in lines)
