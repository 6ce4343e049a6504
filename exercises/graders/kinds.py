"""What a task asks for: a number, a whole number, several numbers, names. Anything else is told apart by name.

Each of these takes what a learner's function returned and gives back a plain value. NotYet for a wrong type, a wrong
shape, NaN and infinity.
"""

from collections import Counter
from collections.abc import Callable, KeysView
from inspect import iscoroutine, isgenerator
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from exercises.graders.verdict import NotYet


def number(value: Any, wanted: str = "a number") -> float:
    """A finite number: int, float, or a NumPy or torch scalar."""
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim:
            raise NotYet(f"Your function returns {kind_of(value)}, and the task asks for {wanted}.")
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise NotYet(f"Your function returns {kind_of(value)}, and the task asks for {wanted}.")
    try:
        value = float(value)
    except OverflowError:
        raise NotYet(
            "Your function returns a number of more than 300 digits. Is there a power where a product is meant?"
        ) from None
    if not isfinite(value):
        raise NotYet(f"Your function returns {value}. Is there a division by zero, or the logarithm of zero?")
    return value


def whole(value: Any) -> int:
    """A number without a fraction; 12.0 counts as 12."""
    value = number(value, "a whole number")
    if value != int(value):
        raise NotYet(f"Your function returns {value:g}, and the task asks for a whole number.")
    return int(value)


def numbers(*names: str, kind: Callable[[Any], float] = number) -> Callable[[Any], dict[str, float]]:
    """A tuple, list or one-dimensional array of as many numbers as there are `names`."""
    wanted = f"{len(names)} numbers ({', '.join(names)})"

    def read(value: Any) -> dict[str, float]:
        if isinstance(value, Tensor | np.ndarray) and value.ndim == 1:
            value = value.tolist()
        if not isinstance(value, tuple | list):
            raise NotYet(
                f"Your function returns {kind_of(value)}, and the task asks for a tuple of {wanted}."
            )
        if len(value) != len(names):
            raise NotYet(
                f"Your function returns a tuple or list of {len(value)}, and the task asks for {wanted}."
            )
        return {name: named(name, kind, item) for name, item in zip(names, value, strict=True)}

    return read


def named(name: str, kind: Callable[[Any], float], item: Any) -> float:
    """One of several numbers; a refusal says which."""
    try:
        return kind(item)
    except NotYet as refusal:
        raise NotYet(f"In the place of {name}: {refusal}") from None


def strings(value: Any) -> list[str]:
    """A list, tuple or set of strings, in alphabetical order; a repeated one is refused."""
    value = list(value) if isinstance(value, KeysView) else value
    if not isinstance(value, list | tuple | set | frozenset) or not all(
        isinstance(item, str) for item in value
    ):
        raise NotYet(f"Your function returns {kind_of(value)}, and the task asks for a list of names.")
    twice = sorted(item for item, count in Counter(value).items() if count > 1)
    if twice:
        raise NotYet(f"Your function returns {twice[0]!r} more than once.")
    return sorted(value)


def kind_of(value: Any) -> str:
    """What a learner would call the value."""
    if value is None:
        return "None (a function without `return` does; printing is not returning)"
    if isgenerator(value):
        return "a generator (it has a `yield`, or round brackets around a `for`), which nothing has run yet"
    if iscoroutine(value):
        value.close()
        return "a coroutine (it has an `async def`; write `def`)"
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple | set | dict | str):
        return f"a {type(value).__name__}, {str(value)[:60]!r}" if isinstance(value, str) else inside(value)
    return f"{'a function' if callable(value) else f'a value of type {type(value).__name__}'}"


def inside(value: list | tuple | set | dict) -> str:
    """The container's kind, and what its first item is if there is one."""
    of = f" of {type(next(iter(value))).__name__}" if value else ", an empty one"
    return f"a {type(value).__name__}{of}"
