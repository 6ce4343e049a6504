"""What a grader owes, as a list of faults: empty for a good one. `test_graders.py` asks it of every grader,
and of bad ones that it must see through.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from math import nan
from unittest.mock import patch

import torch
from matplotlib.figure import Figure
from torch import nn

from exercises.graders import NotYet, Verdict, guard


@dataclass
class Answers:
    """To one task: stub, reference, others that are right, wrong ones with a part of their message."""

    stub: Callable
    reference: Callable
    right: list[Callable] = field(default_factory=list)
    wrong: list[tuple[Callable, str]] = field(default_factory=list)


def outcome(check: Callable, mine: Callable, seed: int) -> tuple[str, str]:
    """("passed" or "refused" or what else came of it, the message)."""
    try:
        verdict = check(mine, seed=seed)
    except NotYet as refusal:
        return "refused" + undescribed(refusal), str(refusal)
    except BaseException as error:
        return f"raised {type(error).__name__}", str(error)
    return (
        ("passed" + undescribed(verdict), verdict.message)
        if isinstance(verdict, Verdict)
        else (f"returned {verdict!r}", "")
    )


def undescribed(said: Verdict | NotYet) -> str:
    """Empty if what was said comes without a picture, or with a figure and a description of it."""
    if said.picture is None or (isinstance(said.picture, Figure) and len(said.alt) > 40):
        return ""
    return " with a picture that nobody can see"


def faults(check: Callable, answers: Answers, seeds: tuple[int, ...] = (0, 1)) -> list[str]:
    """Everything that is wrong with a grader. Verdicts are taken twice, in two orders."""
    wanted = [("refused", f"stub {answers.stub.__name__}", answers.stub, "")]
    wanted += [("passed", f"right {f.__name__}", f, "") for f in (answers.reference, *answers.right)]
    wanted += [("refused", f"wrong {f.__name__}", f, fragment) for f, fragment in answers.wrong]
    defaults = deepcopy((check.__defaults__, check.__kwdefaults__))
    found, messages = [], {}
    for seed in seeds:
        first = {name: outcome(check, mine, seed) for _, name, mine, _ in wanted}
        again = {name: outcome(check, mine, seed) for _, name, mine, _ in reversed(wanted)}
        for verdict, name, _, fragment in wanted:
            if first[name][0] != verdict:
                found.append(f"{name}: {first[name][0]}, not {verdict}")
            if fragment not in first[name][1]:
                found.append(f"{name}: {fragment!r} is not in {first[name][1]!r}")
            if first[name] != again[name]:
                found.append(f"{name}: the second verdict differs")
        messages[seed] = {name: first[name][1] for name in first}
    found += mixed_up(answers, messages)
    with patch.object(guard, "LIMIT", 0.3):  # for the endless loop
        found += [f"{name}: {said}" for name, said in abused(check, answers.reference)]
    if (check.__defaults__, check.__kwdefaults__) != defaults:
        found.append("the grader changed its defaults")
    return found


def mixed_up(answers: Answers, messages: dict[int, dict[str, str]]) -> list[str]:
    """Wrong answers that do not get a message of their own."""
    found = []
    for mine, fragment in answers.wrong:
        for said in messages.values():
            others = [
                name for name, text in said.items() if name != f"wrong {mine.__name__}" and fragment in text
            ]
            found += [
                f"{name} gets the message of {mine.__name__}" for name in others if name.startswith("wrong")
            ]
    return found


def edits(arguments: tuple) -> bool:
    """Change whatever can be changed in place; whether anything could."""
    done = False
    for value in arguments:
        if isinstance(value, list) and value:
            value.append(value[0])
        elif isinstance(value, dict) and value:
            value.pop(next(iter(value)))
        elif isinstance(value, nn.Module):
            with torch.no_grad():
                next(value.parameters()).add_(1)
        else:
            continue
        done = True
    return done


def abused(check: Callable, reference: Callable) -> list[tuple[str, str]]:
    """Answers that nobody asked for, each with what the grader did other than refuse them with a message."""
    edited = []

    def edits_in_place(*arguments):
        result = reference(*arguments)
        edited.append(edits(arguments))
        return result

    def crashes(*arguments):
        return [][1]

    def yields(*arguments):
        yield reference(*arguments)

    def never_ends(*arguments):
        while True:
            pass

    def takes_nothing():
        return 1

    def leaves(*arguments):
        raise SystemExit

    strange = [None, nan, object(), "seven", torch.zeros(2, 3), reference, {}, [], (None,) * 2, True]
    abuses = [crashes, yields, never_ends, takes_nothing, leaves, *[returning(value) for value in strange]]
    seen = [(mine.__name__, outcome(check, mine, 0)) for mine in abuses]
    seen += [(f"{value!r} in place of a function", outcome(check, value, 0)) for value in (None, 3, int)]
    verdict = outcome(check, edits_in_place, 0)
    if any(edited) and "changes what it was given" not in verdict[1]:
        seen.append(("edits_in_place", (f"not noticed: {verdict[0]}", "")))
    return [(name, said) for name, (said, message) in seen if said != "refused" or not message.strip()]


def returning(value: object) -> Callable:
    """A function that returns `value` whatever it is given."""

    def returns(*arguments):
        return value

    returns.__name__ = f"returns_{type(value).__name__}"
    return returns
