"""Comparing answers with what is expected, and finding the misconception behind a wrong one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exercises.graders.guard import guarded
from exercises.graders.kinds import number
from exercises.graders.verdict import NotYet
from minieff import plot


@dataclass(frozen=True)
class Case:
    """One call of the learner's function: its arguments, and how a message names them."""

    arguments: tuple
    label: str


def judge(
    run: Callable,
    cases: Sequence[Case],
    right: Callable,
    mistakes: dict[str, Callable],
    *,
    kind: Callable[[Any], Any] = number,
    tolerance: float = 1e-6,
) -> list:
    """The answers to all cases, if each is what `right` returns; else NotYet.

    `mistakes` maps a message to a function that makes the mistake. Where one of them gives the learner's answers to *all*
    cases, its message is shown; where none does, the first wrong case is.
    """
    got = [answer(run, case, kind) for case in cases]
    expected = [kind(right(*case.arguments)) for case in cases]

    def agrees(answers: Sequence) -> bool:
        return all(same(a, b, tolerance) for a, b in zip(got, answers, strict=True))

    if agrees(expected):
        return got
    picture, alt = beside(cases, got, expected, tolerance)
    for message, mistake in mistakes.items():
        if agrees([kind(mistake(*case.arguments)) for case in cases]):
            raise NotYet(message, picture, alt)
    trios = zip(cases, got, expected, strict=True)
    case, mine, wanted = next(trio for trio in trios if not same(*trio[1:], tolerance))
    raise NotYet(f"For {case.label}: {difference(mine, wanted, tolerance)}", picture, alt)


def answer(run: Callable, case: Case, kind: Callable[[Any], Any]) -> Any:
    """What the learner's function returns for a case, read as `kind`; a refusal says which case it was."""
    try:
        returned = run(*case.arguments)
        return guarded(None, lambda: kind(returned))
    except NotYet as refusal:
        if "is still there" in str(refusal) or "It was called with" in str(refusal):
            raise
        raise NotYet(f"{refusal}\nIt was called with {case.label}.") from refusal.__cause__


def same(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two answers of one kind are equal, numbers up to a relative tolerance."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], tolerance) for key in a)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return isclose(a, b, rel_tol=tolerance, abs_tol=1e-12)
    return a == b


def difference(mine: Any, wanted: Any, tolerance: float) -> str:
    """How an answer differs, without the right one: by a factor if that is telling, else by how much."""
    if isinstance(mine, dict):
        name = next(name for name in mine if not same(mine[name], wanted[name], tolerance))
        return f"{name}: " + difference(mine[name], wanted[name], tolerance)
    if not isinstance(mine, int | float) or not isinstance(wanted, int | float):
        return f"you returned {str(mine)[:80] or 'an empty text'}, which is not what is expected."
    found, off = f"you returned {mine:,.6g}", mine - wanted
    size = "large" if off > 0 else "small"
    if abs(off) <= 0.005 * abs(wanted) and not (mine == int(mine) and wanted == int(wanted)):
        return f"{found}, which is too {size} by {abs(off / wanted):.2g} of what is expected. Is something rounded, or a small term too many?"
    if mine * wanted > 0:
        factor = max(mine / wanted, wanted / mine)
        if factor > 2 or abs(factor - round(factor)) < 1e-6 * factor:
            return f"{found}, which is too {size} by a factor of {factor:,.4g}."
    if mine == int(mine) and wanted == int(wanted):
        return f"you returned {mine:,.0f}, which is too {size} by {abs(off):,.0f}. Take this case and compute each term by hand."
    return f"{found}, which is too {size} by {abs(off):.4g}."


def beside(
    cases: Sequence[Case], got: Sequence, expected: Sequence, tolerance: float
) -> tuple[Figure | None, str]:
    """Yours beside the expected, bars for each case, and a description; None where answers are not numbers.

    Of several numbers, the first that is wrong. Where bars would look alike, the difference.
    """
    name = ""
    if isinstance(got[0], dict):
        wrong = [
            n for n in got[0] for g, e in zip(got, expected, strict=True) if not same(g[n], e[n], tolerance)
        ]
        name = wrong[0]
        got, expected = ([answers[name] for answers in side] for side in (got, expected))
    if not all(isinstance(value, int | float) and abs(value) < 1e100 for value in [*got, *expected]):
        return None, ""
    got, expected = ([float(value) for value in side] for side in (got, expected))
    figure, (ax,) = plot.panels(1, width=1.2 + 1.3 * len(cases), height=2.6)
    if all(abs(g - e) <= 0.1 * abs(e) for g, e in zip(got, expected, strict=True)):
        off = [g - e for g, e in zip(got, expected, strict=True)]
        bars(ax, off, 0, "red", "")
        ax.axhline(0, color=plot.PALETTE["grey"])
        ax.set_ylabel(f"{name} yours minus expected".strip())
    else:
        bars(ax, expected, -0.2, "grey", "expected")
        bars(ax, got, 0.2, "red", "yours")
        if min(*got, *expected) > 0 and max(*got, *expected) > 20 * min(*got, *expected):
            ax.set_yscale("log")
        ax.set_ylabel(name)
        ax.legend(frameon=False)
    ax.set_xticks(range(len(cases)), [case.label.replace(", ", "\n") for case in cases], fontsize=7.5)
    return figure, "What your function returned beside what was expected, as bars for each of the cases."


def bars(ax: Axes, values: Sequence[float], shift: float, colour: str, label: str) -> None:
    ax.bar([i + shift for i in range(len(values))], values, 0.4, color=plot.PALETTE[colour], label=label)
