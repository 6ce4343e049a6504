"""Whether two answers are equal, and how they differ."""

from collections.abc import Callable
from inspect import iscoroutine, isgenerator, signature
from typing import Any

import numpy as np
import torch
from torch import Tensor


def difference(mine: Any, wanted: Any, rtol: float) -> str:
    """How `mine` differs from `wanted`, in words; empty if it does not. Containers are compared item by item."""
    if isinstance(wanted, tuple | list | range):
        if not isinstance(mine, tuple | list | range | Tensor | np.ndarray) or not sized(mine, len(wanted)):
            return f"you return {named(mine)}, where {len(wanted)} items are asked for."
        pairs = enumerate(zip(mine, wanted, strict=True), start=1)
        return next((f"item {i}: {d}" for i, (a, b) in pairs if (d := difference(a, b, rtol))), "")
    if isinstance(wanted, dict):
        if not isinstance(mine, dict) or mine.keys() != wanted.keys():
            return f"you return {named(mine)}, with other names than asked for."
        return next((f"{k}: {d}" for k in wanted if (d := difference(mine[k], wanted[k], rtol))), "")
    if isinstance(wanted, str | bool) or wanted is None:
        same = type(mine) is type(wanted) and mine == wanted
        return "" if same else f"you return {named(mine)}."
    return number_difference(mine, wanted, rtol)


def sized(value: Any, length: int) -> bool:
    return len(value) == length if not hasattr(value, "shape") else value.shape[:1] == (length,)


def number_difference(mine: Any, wanted: Any, rtol: float) -> str:
    """The same for numbers and tensors."""
    if isinstance(mine, bool | str) or mine is None:
        return f"you return {named(mine)}, where numbers are asked for."
    try:
        a, b = (
            torch.as_tensor(np.asarray(t) if isinstance(t, list | tuple) else t).detach()
            for t in (mine, wanted)
        )
        whole = not b.is_floating_point()
        a, b = a.double(), b.double()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return f"you return {named(mine)}, where numbers are asked for."
    if a.shape != b.shape:
        return f"you return {named(mine)}, where {named(wanted)} is asked for."
    return how_far(a, b, 0 if whole else rtol)


def how_far(a: Tensor, b: Tensor, rtol: float) -> str:
    """How numbers differ from those wanted; empty if by less than `rtol` of the largest of their row."""
    if not torch.equal(a.isfinite(), b.isfinite()):
        return "NaN or infinity in what you return. Is there a division by zero?"
    a, b = a.nan_to_num(), b.nan_to_num()
    off, size = (a - b).abs(), b.abs().amax(-1, keepdim=True) if b.dim() else b.abs()
    wrong = off > (rtol * size + 1e-12 if rtol else 0)
    if not wrong.any():
        return ""
    if not b.dim():
        return f"you return {float(a):.6g}, which is too {'large' if a > b else 'small'} by {float(off):.3g}."
    part, most = wrong.double().mean(), float(off.max() / size.max())
    return f"{part:.0%} of the numbers are wrong, by up to {most:.2g} of the largest."


def named(value: Any) -> str:
    """What a learner would call a value."""
    if value is None:
        return "None (a function without `return` does; printing is not returning)"
    if isgenerator(value):
        return "a generator (it has a `yield`, or round brackets around a `for`), which nothing has run yet"
    if iscoroutine(value):
        value.close()
        return "a coroutine (it has an `async def`; write `def`)"
    if getattr(value, "shape", None) == ():
        value = value.item()
    if getattr(value, "shape", None) is not None:
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, int | float | bool):
        return f"{value!r}"
    if callable(value):
        return f"a {type(value).__name__}"
    return f"a {type(value).__name__}, {str(value)[:60]}"


def described(case: tuple, function: Callable) -> str:
    """The arguments of a call in a line, with the names that `function` has for them."""
    try:
        names = [f"{name}=" for name in signature(function).parameters]
    except (TypeError, ValueError):
        names = []
    names += [""] * (len(case) - len(names))
    shown = [str(v)[:60] if isinstance(v, str | list | tuple | dict | None) else named(v) for v in case]
    return ", ".join(f"{name}{text}" for name, text in zip(names, shown, strict=False))
