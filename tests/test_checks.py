"""Checks pass what is right and refuse what is wrong, each mistake with its message and with no other."""

import importlib
import re
import sys

import pytest

from exercises.checks import NotYet, Task, progress, tasks
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
