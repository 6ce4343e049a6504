"""Running code that may crash, never end, or edit what it was given."""

import inspect
import linecache
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import is_dataclass
from types import FrameType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exercises.graders.verdict import NotYet

LIMIT = 10.0  # seconds for one call of the learner's function


class OutOfTime(BaseException):
    """Not an Exception, so that `except Exception` in a learner's loop lets it through."""


def call(mine: Callable, *args: Any, **kwargs: Any) -> Any:
    """What `mine` returns for copies of the arguments. NotYet when it crashes, does not end, or edits its arguments.

    Random streams, the number of threads and the gradient mode are given back as they were.
    """
    args, kwargs = deepcopy((args, kwargs))
    before = frozen((args, kwargs))
    try:
        with untouched(), time_limit(LIMIT):
            result = mine(*args, **kwargs)
    except NotYet:
        raise
    except NotImplementedError:
        raise NotYet(
            "Nothing to check: `raise NotImplementedError` is still there. Replace it by your code."
        ) from None
    except OutOfTime as stopped:
        raise NotYet(
            f"Stopped after {LIMIT:g} seconds{where(stopped, mine)}. Does a loop never end, or is this far more work than needed?"
        ) from None
    except (Exception, SystemExit) as error:
        raise NotYet(crash(error, mine)) from error
    if frozen((args, kwargs)) != before:
        raise NotYet(
            f"Your function changes what it was given ({changed(mine, before, (args, kwargs))}). Whoever calls it still needs that: "
            "work on a copy, or build something new."
        )
    return result


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """OutOfTime when what runs inside takes longer. A timer signal also ends loops of plain Python.

    It is repeated, for code that catches everything once. Main thread only, where notebooks run their cells.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


@contextmanager
def untouched() -> Iterator[None]:
    """Random streams, threads and gradient mode as before."""
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_grad_enabled(grad)


def crash(error: BaseException, mine: Callable) -> str:
    """The message for code that raised `error`, with the learner's own line."""
    place = where(error, mine)
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    if not place and isinstance(error, TypeError):
        return f"Your function could not be called as the task says. {what}. Compare its arguments with those in the task."
    return f"Your code stopped with an error{place}.\n  {what}"


def where(error: BaseException, mine: Callable) -> str:
    """ " in line 3: `the line`": the last line of the file that `mine` stands in that was running, if any."""
    file = getattr(getattr(inspect.unwrap(mine), "__code__", None), "co_filename", None)
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    if line is None:
        return ""
    text = linecache.getline(file, line).strip()
    return f" in line {line}" + (f": `{text}`" if text else "")


def frozen(value: Any) -> Any:
    """A value that equals another one only as long as nothing in `value` was edited."""
    match value:
        case Tensor():
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            return tuple(value.shape), str(value.dtype), value.requires_grad, raw
        case np.ndarray():
            return value.shape, str(value.dtype), value.tobytes()
        case nn.Module():
            parts = [(name, type(part), part.training) for name, part in value.named_modules()]
            return parts, frozen(value.state_dict(keep_vars=True))
        case dict():
            return "dict", [(key, frozen(item)) for key, item in value.items()]
        case list() | tuple():
            return type(value).__name__, [frozen(item) for item in value]
        case set():
            return "set", frozenset(value)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return type(value), frozen(vars(value))
    return value


def changed(mine: Callable, before: Any, given: tuple[tuple, dict]) -> str:
    """The names of the arguments that were edited."""
    args, kwargs = given
    names = list(inspect.signature(mine).parameters) if isinstance(mine, FunctionType) else []
    names += [f"argument {i + 1}" for i in range(len(names), len(args))]
    (_, ((_, frozen_args), (_, frozen_kwargs))) = before
    edited = [name for name, old, new in zip(names, frozen_args, args, strict=False) if old != frozen(new)]
    edited += [name for name, old in frozen_kwargs if old != frozen(kwargs.get(name))]
    return ", ".join(edited)
