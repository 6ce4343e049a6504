"""What a check is made of: a task as data, one comparator, one runner.

    from exercises.checks import layerdrop as check
    check.keep_list(mine)

A right answer returns a `Verdict`; any other raises `NotYet`, which a notebook shows as a message and without a stack
trace. A topic's file holds its tasks: inputs, the right way, and the ways in which people go wrong, each under the
message that it gets. The message is shown if that way gives the learner's answers to *all* inputs.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from matplotlib.figure import Figure

from exercises.checks.compare import described, difference, named
from exercises.checks.guard import call, guarded
from exercises.checks.progress import remember
from exercises.checks.verdict import NotYet, Verdict

__all__ = ["NotYet", "Task", "Verdict", "seeded", "tasks"]


def plainly(run: Callable, *case: Any) -> Any:
    return run(*case)


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked for, and how people get it wrong."""

    inputs: Callable[[Random], list[tuple]]  # the arguments of several calls, fresh from a seed
    right: Callable
    wrong: dict[
        str, Callable | tuple[Callable, ...]
    ]  # message: the ways of getting it wrong that it explains
    passed: str
    play: Callable = (
        plainly  # (function, *case) -> what is compared, where that is not what the function returns
    )
    fault: Callable | None = None  # (answer, *case) -> what is wrong with it, where many answers are right
    rtol: float = 1e-6  # of the largest number in a row; whole numbers are compared exactly
    picture: Callable | None = None  # (answer, expected, *case) -> figure and description
    label: Callable[..., str] | None = None  # (*case) -> how a message names the case

    def __call__(self, mine: Callable, *, seed: int = 0) -> Verdict:
        if not callable(mine) or isinstance(mine, type):
            raise NotYet(f"Give the check the function itself, without calling it; you gave {named(mine)}.")
        cases = self.inputs(Random(seed))
        got = [self.answer(mine, case) for case in cases]
        faults = [self.complaint(answer, case) for answer, case in zip(got, cases, strict=True)]
        if not any(faults):
            remember(self)
            return Verdict(self.passed, *self.drawn(got[0], cases[0])).shown()
        case, answer, fault = next(three for three in zip(cases, got, faults, strict=True) if three[2])
        message = self.misconception(cases, got) or f"Called with {self.naming(case)}: {fault}"
        raise NotYet(message, *self.drawn(answer, case))

    def answer(self, mine: Callable, case: tuple) -> Any:
        """What comes of the learner's function on one case. NotYet for whatever stops it, with the case."""
        returned: list[Any] = []

        def run(*arguments: Any) -> Any:
            returned.append(call(mine, *arguments))
            return returned[-1]

        try:
            return guarded(None, lambda: self.play(run, *deepcopy(case)))
        except NotYet as refusal:
            if "is still there" in str(refusal):
                raise
            used = f"You return {named(returned[-1])}, and using it fails. " if returned else ""
            raise NotYet(f"{used}{refusal}\nIt was called with {self.naming(case)}.") from refusal.__cause__

    def expected(self, way: Callable, case: tuple) -> Any:
        return self.play(way, *deepcopy(case))

    def complaint(self, answer: Any, case: tuple) -> str:
        """What is wrong with an answer; empty if nothing is."""
        if self.fault:
            return guarded(None, lambda: self.fault(answer, *deepcopy(case)))
        return difference(answer, self.expected(self.right, case), self.rtol)

    def misconception(self, cases: list[tuple], got: list) -> str:
        """The first message that explains all answers; empty if none does."""
        for message, ways in self.wrong.items():
            if any(self.explains(way, cases, got) for way in (ways if isinstance(ways, tuple) else (ways,))):
                return message
        return ""

    def explains(self, way: Callable, cases: list[tuple], got: list) -> bool:
        try:
            return all(
                not difference(answer, self.expected(way, case), self.rtol)
                for answer, case in zip(got, cases, strict=True)
            )
        except Exception:  # a mistake that stops on some inputs has stopped there for the learner, too
            return False

    def drawn(self, answer: Any, case: tuple) -> tuple[Figure | None, str]:
        if self.picture is None:
            return None, ""
        try:
            return self.picture(answer, self.expected(self.right, case), *deepcopy(case))
        except Exception:  # an answer that cannot be drawn still gets its message
            return None, ""

    def naming(self, case: tuple) -> str:
        return self.label(*case) if self.label else described(case, self.right)


def seeded(draw: Random) -> torch.Generator:
    """A generator for tensors that follows from `draw`."""
    return torch.Generator().manual_seed(draw.randrange(2**31))


def tasks(module: object) -> dict[str, Task]:
    """The tasks of a topic by name, in the order of the exercise."""
    return {name: value for name, value in vars(module).items() if isinstance(value, Task)}
