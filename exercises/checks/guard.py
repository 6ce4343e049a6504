"""Running code that may crash, never end, or edit what it was given.

What cannot be stopped is a single call into C that never returns, such as sum(itertools.count()): no signal reaches it,
neither ours nor the notebook's interrupt. Restart the kernel.
"""

import inspect
import linecache
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import is_dataclass
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exercises.checks.verdict import NotYet

LIMIT = 10.0  # seconds for one call of the learner's function


class OutOfTime(BaseException):
    """Not an Exception, so that `except Exception` in a learner's loop lets it through."""


def call(mine: Callable, *args: Any, **kwargs: Any) -> Any:
    """What `mine` returns for copies of the arguments. NotYet when it crashes, does not end, or edits its arguments.

    Random streams, threads, defaults of torch and the working folder are given back as they were.
    """
    args, kwargs = deepcopy((args, kwargs))
    before = frozen((args, kwargs))
    result = guarded(mine, lambda: mine(*args, **kwargs), fits(mine, args, kwargs))
    if edited(before, (args, kwargs)):
        raise NotYet(
            f"Your function changes what it was given ({changed(mine, before, (args, kwargs))}). The caller still needs "
            "that: work on a copy, or build something new."
        )
    return result


def guarded(mine: Callable | None, work: Callable[[], Any], fits: bool = True) -> Any:
    """What `work` returns, which runs the code of `mine` if it is given; NotYet for anything else that comes of it."""
    try:
        with untouched(), time_limit(LIMIT):
            return work()
    except (NotYet, KeyboardInterrupt):
        raise
    except OutOfTime as stopped:
        raise NotYet(
            f"Stopped after {LIMIT:g} seconds{where(stopped, mine)}. Does a loop never end, or does it do far more work than needed?"
        ) from None
    except BaseException as error:
        if isinstance(error, NotImplementedError) and not error.args and where(error, mine):
            raise NotYet(
                "Nothing to check: `raise NotImplementedError` is still there. Replace it with your code."
            ) from None
        raise NotYet(crash(error, mine, fits)) from error


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """OutOfTime when what runs inside takes longer. A timer signal also ends loops of plain Python.

    It rings again every second for code that catches everything, and from the second time on traces it: then the
    line after the one that caught it raises. Outside the main thread, where no signal arrives, there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    rings = 0

    def again(frame: FrameType, event: str, argument: Any) -> Callable:
        if event == "line":
            raise OutOfTime
        return again

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal rings
        rings += 1
        if rings > 1:
            sys.settrace(again)
            while frame is not None and frame.f_code is not time_limit.__wrapped__.__code__:
                frame.f_trace, frame = again, frame.f_back
        raise OutOfTime

    trace, earlier = sys.gettrace(), signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, earlier)
        sys.settrace(trace)


@contextmanager
def untouched() -> Iterator[None]:
    """Random streams, threads, gradient mode, torch's defaults, recursion limit and working folder as before."""
    threads, grad, folder = torch.get_num_threads(), torch.is_grad_enabled(), os.getcwd()
    dtype, device, depth = torch.get_default_dtype(), torch.get_default_device(), sys.getrecursionlimit()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_grad_enabled(grad)
            torch.set_default_dtype(dtype)
            if torch.get_default_device() != device:
                torch.set_default_device(device)
            sys.setrecursionlimit(depth)
            os.chdir(folder)


def edited(before: Any, given: tuple[tuple, dict]) -> bool:
    """Whether the arguments are no longer what they were; one that now contains itself is not."""
    try:
        return frozen(given) != before
    except RecursionError:
        return True


def fits(mine: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether the function takes these arguments; True where it does not say."""
    try:
        inspect.signature(mine).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def crash(error: BaseException, mine: Callable | None, fits: bool) -> str:
    """The message for code that raised `error`, with the learner's own line."""
    try:
        what = f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # an exception that cannot say what it is
        what = type(error).__name__
    if not fits:
        return f"Your function could not be called as the task says. {what}. Compare its arguments with those in the task."
    return f"Your code stopped with an error{where(error, mine)}.\n  {what}"


def where(error: BaseException, mine: Callable | None) -> str:
    """As in: in line 3: `the line`. The last line that ran in the file of `mine`; empty if none did."""
    if mine is None:
        return ""
    while isinstance(mine, partial):
        mine = mine.func
    mine = inspect.unwrap(mine)
    code = getattr(mine, "__code__", None) or getattr(type(mine).__call__, "__code__", None)
    file = getattr(code, "co_filename", None)
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
    try:
        names = list(inspect.signature(mine).parameters)
    except ValueError:
        names = []
    names += [f"argument {i + 1}" for i in range(len(names), len(args))]
    (_, ((_, frozen_args), (_, frozen_kwargs))) = before
    pairs = list(zip(names, frozen_args, args, strict=False))
    pairs += [(name, old, kwargs.get(name)) for name, old in frozen_kwargs]
    try:
        return ", ".join(name for name, old, new in pairs if old != frozen(new))
    except RecursionError:
        return "one now contains itself"
