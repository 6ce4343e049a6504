"""What every grader is made of.

    from exercises.graders import start_here as check
    check.bits_per_byte(my_function)

A right answer returns a `Verdict`; any other raises `NotYet`, which a notebook shows as a message, where it helps with
a picture, and without a stack trace. A grader is a function `grade(run, draw)` under the decorator `task`: it calls the
learner's function through `run`, which guards it (see `guard.py`), on inputs that it draws from `draw`, which starts
anew from `seed` in every call. Graders keep no state.
"""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from random import Random

from exercises.graders.guard import call
from exercises.graders.judge import Case, judge
from exercises.graders.progress import remember
from exercises.graders.verdict import NotYet, Verdict

__all__ = ["Case", "NotYet", "Verdict", "judge", "task", "tasks"]


def task(grade: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """`grade(run, draw)` as `check(mine, *, seed=0)`: what a learner calls with the function they wrote.

    A pass is remembered under the grader's module and name. NotYet when `mine` is no function.
    """

    @wraps(grade)
    def check(mine: Callable, *, seed: int = 0) -> Verdict:
        if not callable(mine) or inspect.isclass(mine):
            raise NotYet(
                f"check.{grade.__name__} takes the function itself, without calling it, and got "
                f"{type(mine).__name__} instead: write check.{grade.__name__}({grade.__name__})."
            )
        verdict = grade(partial(call, mine), Random(seed))
        remember(grade.__module__.rpartition(".")[2], grade.__name__)
        return verdict

    check.is_task = True
    return check


def tasks(module: object) -> dict[str, Callable]:
    """The graders in a module, by name, in the order of the exercise."""
    return {name: check for name, check in vars(module).items() if getattr(check, "is_task", False)}
