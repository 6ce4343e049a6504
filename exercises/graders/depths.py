"""Tasks 3 and 4 of exercise 08: how many layers run, which ones stay, and the misconceptions about both."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import ceil, floor, inf, prod
from random import Random
from statistics import mean, median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from exercises.graders import Case, NotYet
from exercises.graders.judge import answer, judge
from exercises.graders.kinds import kind_of, named, numbers, whole
from minieff import plot
from minieff.layerdrop import keep_evenly

# Task 3
PARTS = ("layers", "none", "faster")


def steps(draw: Random) -> list[Case]:
    """Rates that differ, one of them 0 in one case; one layer, many, and rates close to 1; shares large and small.

    Drawn until no two mistakes about one number look alike.
    """
    while True:
        cases = [step(draw, *how) for how in ((4, 0.62), (5, 0.84), (7, 0.35), (12, 0.5))]
        cases += [step(draw, 1, 0.95, off=0.03), step(draw, 2, 0.08, off=0.02, rates=range(92, 99))]
        answers = [
            {tuple(round(of(*case.arguments), 6) for case in cases) for of in (right, *mistakes.values())}
            for right, mistakes in zip((layers_run, all_skipped, faster), EACH_MISTAKES.values(), strict=True)
        ]
        finite = not any(inf in values for found in answers for values in found)
        if finite and all(len(a) == 1 + len(m) for a, m in zip(answers, EACH_MISTAKES.values(), strict=True)):
            return cases


def step(draw: Random, depth: int, share: float, off: float = 0.06, rates: range = range(8, 92)) -> Case:
    found = [n / 100 for n in draw.sample(rates, depth)]
    if depth == 7:
        found[draw.randrange(1, depth)] = 0.0
    share = round(share + draw.uniform(-off, off), 2)
    words = ["rates", *(f"{p:g}" for p in found)]
    lines = [" ".join(words[i : i + 4]) for i in range(0, len(words), 4)]  # a picture breaks it at its commas
    return Case((found, share), ", ".join([*lines, f"share={share:g}"]))


def layers_run(rates, share) -> float:
    return sum(1 - p for p in rates)


def all_skipped(rates, share) -> float:
    return prod(rates)


def faster(rates, share) -> float:
    return 1 / (1 - share * mean(rates))


def over(part: float) -> float:
    return 1 / part if part else inf


def mean_factor(rates, share) -> float:
    """The mean, over how many layers run, of the old time over that step's."""
    layers = len(rates)
    return sum(chance / (1 - share * (1 - k / layers)) for k, chance in enumerate(spread_of(rates)))


def expected(rates, share) -> tuple[float, float, float]:
    """What is asked for."""
    return layers_run(rates, share), all_skipped(rates, share), faster(rates, share)


def spread_of(rates: Sequence[float]) -> list[float]:
    """The probability that 0, 1, 2 ... layers run, one layer after the other."""
    found = [1.0]
    for p in rates:
        found = [p * a + (1 - p) * b for a, b in zip([*found, 0.0], [0.0, *found], strict=True)]
    return found


ALL_MISTAKES = {
    "You read `rates` as the probabilities of running. They are those of being skipped.": lambda ps, s: (
        expected([1 - p for p in ps], s)
    ),
    "You use the first layer's rate for all of them.": lambda ps, s: expected([ps[0]] * len(ps), s),
    "You use the last layer's rate for all of them.": lambda ps, s: expected([ps[-1]] * len(ps), s),
    "Your numbers are rounded. Return them as they are, and round where you print.": tuple(
        lambda ps, s, digits=digits: tuple(round(value, digits) for value in expected(ps, s))
        for digits in (1, 2, 3, 4)
    ),
    "You use only the first rates of a long list. There is one for each layer, and there may be any number of layers.": tuple(
        lambda ps, s, most=most: expected(ps[:most], s) for most in range(7, 12)
    ),
    "You treat rates close to 1 as if they were smaller. A layer may be skipped nearly always.": tuple(
        lambda ps, s, most=most: expected([min(p, most) for p in ps], s) for most in (0.8, 0.85, 0.9)
    ),
    "You return the three in another order: the number of layers, the probability that none runs, the factor.": (
        lambda ps, s: (expected(ps, s)[1], expected(ps, s)[0], expected(ps, s)[2]),
        lambda ps, s: (expected(ps, s)[0], expected(ps, s)[2], expected(ps, s)[1]),
        lambda ps, s: expected(ps, s)[::-1],
    ),
}
EACH_MISTAKES: dict[str, dict[str, Callable]] = {
    "layers": {
        "The sum of the rates is how many layers are *skipped* in a mean step. How many run?": lambda ps, s: sum(ps),
        "You round the number of layers. A mean of whole numbers need not be whole.": lambda ps, s: round(layers_run(ps, s)),
        "You round the number of layers down. A mean of whole numbers need not be whole.": lambda ps, s: int(layers_run(ps, s)),
        "You round the number of layers up. A mean of whole numbers need not be whole.": lambda ps, s: ceil(layers_run(ps, s)),
        "That is which *part* of the layers runs. The task asks how many run.": lambda ps, s: 1 - mean(ps),
        "You take the number of layers times the median rate. Of unequal rates, what does each layer add to the mean?": (
            lambda ps, s: len(ps) * (1 - median(ps))
        ),
        "For the number of layers you use the first rate alone.": lambda ps, s: len(ps) * (1 - ps[0]),
        "You count all layers, as in eval mode. The question is about a training step.": lambda ps, s: len(ps),
        "You multiply the number of layers by `share`. How long a layer takes does not decide whether it runs.": (
            lambda ps, s: s * layers_run(ps, s)
        ),
        "You count the steps in which at least one layer runs. A step in which none does counts too, with 0.": (
            lambda ps, s: layers_run(ps, s) / (1 - prod(ps))
        ),
        "You return the number of layers that most steps run. The mean weighs each number by its probability.": (
            lambda ps, s: spread_of(ps).index(max(spread_of(ps)))
        ),
    },
    "none": {
        "You take the mean rate to the power of the number of layers. That holds for equal rates; these differ, and it gives too much.": (
            lambda ps, s: mean(ps) ** len(ps)
        ),
        "For the probability that none runs you use the first rate alone.": lambda ps, s: ps[0] ** len(ps),
        "That is the probability that at least one layer runs. How do you get from it to the one that none does?": (
            lambda ps, s: 1 - prod(ps)
        ),
        "That is the probability that *every* layer runs.": lambda ps, s: prod(1 - p for p in ps),
        "That is the probability that at least one layer is skipped.": lambda ps, s: 1 - prod(1 - p for p in ps),
        "You add the rates up, and the sum may exceed 1. *All* of several independent things happen together how often?": (
            lambda ps, s: sum(ps)
        ),
        "That is the mean rate: how often a layer is skipped. The question is how often all of them are, in the same step.": (
            lambda ps, s: mean(ps)
        ),
        "You take the smallest rate. All layers are skipped together less often than any one of them.": lambda ps, s: min(ps),
        "You take the largest rate. All layers are skipped together less often than any one of them.": lambda ps, s: max(ps),
        "You return 0 for the probability that none runs. Nothing forbids all coins to skip.": lambda ps, s: 0.0,
        "You return a probability in percent. It lies from 0 to 1.": lambda ps, s: 100 * prod(ps),
        "That is the probability that exactly one layer runs.": lambda ps, s: spread_of(ps)[1],
    },
    "faster": {
        "You take layers to be the whole step. What takes the rest of the time, `1 - share`, is not skipped.": lambda ps, s: (
            1 / (1 - mean(ps))
        ),
        "You take `share` for the part outside the layers. It is the part within them.": lambda ps, s: 1 / (1 - (1 - s) * mean(ps)),
        "That is the time that a step still takes, as a part of the old one. A step that takes half the time is how many times as fast?": (
            lambda ps, s: 1 - s * mean(ps)
        ),
        "That is the part of the time that is saved. A step that saves half its time is how many times as fast?": lambda ps, s: (
            s * mean(ps)
        ),
        "You add the part that is saved to 1. A step that saves half its time is twice as fast, not 1.5 times.": lambda ps, s: (
            1 + s * mean(ps)
        ),
        "You divide by what the layers still take. The rest of the step takes time as well.": lambda ps, s: (
            1 / (s * (1 - mean(ps)))
        ),
        "You multiply the gain of the layers by `share`. Times add up, and factors do not: what does each part of the step take?": (
            lambda ps, s: s / (1 - mean(ps))
        ),
        "You weigh two factors with `share`. Times add up, and factors do not: what does each part of the step take?": lambda ps, s: (
            s / (1 - mean(ps)) + 1 - s
        ),
        "That is the gain alone. Training that takes half the time is 2 times as fast, not 1 time.": lambda ps, s: faster(ps, s) - 1,
        "You return percent. Training that takes half the time is 2 times as fast.": lambda ps, s: 100 * faster(ps, s),
        "You divide by the part of the time that is saved. By which part should you divide?": lambda ps, s: 1 / (s * mean(ps)),
        "You average a factor for each layer. Times add up, and factors do not.": lambda ps, s: mean(1 / (1 - s * p) for p in ps),
        "You average how many times as fast each step is. The task asks for a time over a mean time: average the times first.": mean_factor,
        "You treat every `share` above 0.9 as 0.9. Layers may take nearly all of the time.": lambda ps, s: faster(ps, min(s, 0.9)),
        "You treat every `share` below 0.3 as 0.3. Layers may take very little of the time.": lambda ps, s: faster(ps, max(s, 0.3)),
        "For the factor you use the first rate alone.": lambda ps, s: 1 / (1 - s * ps[0]),
        "You use the sum of the rates where a part of the layers' time is meant. Can more than all of it be saved?": lambda ps, s: (
            over(1 - s * sum(ps))
        ),
        "You save the time of the layers that run. Which ones take none?": lambda ps, s: 1 / (1 - s * (1 - mean(ps))),
        "You save time only where no layer runs at all.": lambda ps, s: 1 / (1 - s * prod(ps)),
    },
}  # fmt: skip


def judge_each(run: Callable, cases: list[Case]) -> list:
    """First what explains all three numbers, then each number for itself; the learner's function is asked once a case."""
    read = numbers(*PARTS)
    got = [answer(run, case, read) for case in cases]

    def replayed(name: str | None) -> Callable:
        stored = iter(got)
        return lambda *_: {name: given[name]} if (given := next(stored)) and name else given

    both = {
        f"{message}{' ' * n}": mistake  # a key of its own for each variant; the space is cut off again
        for message, mistakes in ALL_MISTAKES.items()
        for n, mistake in enumerate(mistakes if isinstance(mistakes, tuple) else (mistakes,))
    }
    try:
        return judge(replayed(None), cases, expected, both, kind=as_dict)
    except NotYet as refusal:
        if str(refusal) in both:
            raise NotYet(str(refusal).rstrip(), refusal.picture, refusal.alt) from None
    for place, name in enumerate(PARTS):
        kind = partial(as_dict, only=name)
        judge(replayed(name), cases, lambda *a, i=place: expected(*a)[i], EACH_MISTAKES[name], kind=kind)
    raise AssertionError("one of the numbers is wrong")


def as_dict(value, only: str = "") -> dict[str, float]:
    """Numbers by name; `value` may be one of them, or all."""
    if isinstance(value, dict):
        return value
    return {only: float(value)} if only else dict(zip(PARTS, map(float, value), strict=True))


def depths_figure(rates: list[float]) -> tuple[Figure, str]:
    """How often each number of layers runs, for these rates."""
    found = spread_of(rates)
    figure, (ax,) = plot.panels(1, width=5.5, height=2.8)
    ax.bar(range(len(found)), [100 * p for p in found], color=plot.PALETTE["blue"])
    ax.axvline(layers_run(rates, 0), color=plot.PALETTE["orange"], ls="--", label="mean")
    ax.set(xlabel=f"layers that run, of {len(rates)}", ylabel="% of the steps", xticks=range(len(found)))
    ax.legend(frameon=False)
    alt = ", ".join(f"{n} in {100 * p:.1f} %" for n, p in enumerate(found))
    return figure, f"How many layers run in a training step: {alt}; the mean is {layers_run(rates, 0):.2f}."


# Task 4
MOST = 24


def indices(value) -> list[int]:
    """A list, tuple, range or one-dimensional array of whole numbers, in the order in which they came."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, set | frozenset):
        raise NotYet("Your function returns a set, which has no order. The task asks for an increasing list.")
    if not isinstance(value, list | tuple | range):
        raise NotYet(
            f"Your function returns {kind_of(value)}, and the task asks for a list of layer numbers."
        )
    if len(value) > 10 * MOST:
        raise NotYet(f"Your function returns {len(value)} numbers, many more than there are layers.")
    return [named(f"item {i}", whole, item) for i, item in enumerate(value)]


PAPERS = (
    lambda layers, kept: layers // (layers - kept),
    lambda layers, kept: floor(1 / (1 - kept / layers)),  # 1 / (1 - 8 / 12) comes out below 3
    lambda layers, kept: floor(1 / ((layers - kept) / layers)),
)  # floor(1 / p)


def paper(layers: int, kept: int, every=PAPERS[0], first: int = 1) -> list[int]:
    """Fan et al. 2019: with p = 1 - kept / layers, drop layer d = `first`, ... where d = 0 modulo floor(1 / p)."""
    if kept == layers:
        return list(range(layers))
    return [i for i in range(layers) if (i + first) % every(layers, kept)]


def step_of(layers: int, kept: int) -> int:
    return (layers - 1) // max(1, kept - 1)


def last_forced(layers: int, kept: int) -> list[int]:
    return [i * step_of(layers, kept) for i in range(kept - 1)] + [layers - 1] if kept > 1 else [0]


def complement(layers: int, kept: int) -> list[int]:
    return [i for i in range(layers) if i not in keep_evenly(layers, kept)]


KEEP_MISTAKES: dict[str, tuple[Callable, ...]] = {
    **{
        f"That is the paper's rule, counted from {first}. Where more than half of the layers should go, it leaves none; see the text of the "
        "task for why.": tuple(partial(paper, every=every, first=first) for every in PAPERS)
        for first in (0, 1)
    },
    "You take every n-th layer, and n is rounded down: where `kept` does not divide `layers`, you get too many.": (
        lambda layers, kept: range(0, layers, layers // kept),
    ),
    "You take every n-th layer, and n is rounded up: where `kept` does not divide `layers`, you get too few.": (
        lambda layers, kept: range(0, layers, ceil(layers / kept)),
        lambda layers, kept: range(0, layers, -(-layers // kept)),
    ),
    "You take every n-th layer until you have enough. Where `kept` does not divide `layers`, none of the last ones stays.": (
        lambda layers, kept: list(range(0, layers, layers // kept))[:kept],
        lambda layers, kept: [i * (layers // kept) for i in range(kept)],
    ),
    "Your distance is `layers / kept`, counted from layer 0, and so the last layer is missing. How many gaps are there between `kept` layers?": (
        lambda layers, kept: [i * layers // kept for i in range(kept)],
        lambda layers, kept: [int(i * (layers / kept)) for i in range(kept)],
        lambda layers, kept: [round(i * layers / kept) for i in range(kept)],
        lambda layers, kept: [round(i * (layers / kept)) for i in range(kept)],
    ),
    "Your distance is `layers / kept`, counted back from the last layer, and so the first one is missing.": (
        lambda layers, kept: [(i + 1) * layers // kept - 1 for i in range(kept)],
        lambda layers, kept: [layers - 1 - i * layers // kept for i in range(kept)][::-1],
    ),
    "You take the middle of `kept` equal pieces. First and last layer have to stay, for they matter most.": (
        lambda layers, kept: [int((i + 0.5) * layers / kept) for i in range(kept)],
        lambda layers, kept: [(2 * i + 1) * layers // (2 * kept) for i in range(kept)],
    ),
    "You put the layers at inner points of the line, so that neither end is among them. First and last layer have to stay.": (
        lambda layers, kept: [(i + 1) * layers // (kept + 1) for i in range(kept)],
        lambda layers, kept: [round((i + 1) * (layers - 1) / (kept + 1)) for i in range(kept)],
    ),
    "You keep the first layers, in one piece. Removing a piece from the stack does more harm than removing layers here and there.": (
        lambda layers, kept: range(kept),
    ),
    "You keep the last layers, in one piece. Removing a piece from the stack does more harm than removing layers here and there.": (
        lambda layers, kept: range(layers - kept, layers),
    ),
    "You keep both ends, and all that is missing is missing from the middle.": (
        lambda layers, kept: [*range(ceil(kept / 2)), *range(layers - kept // 2, layers)],
        lambda layers, kept: [*range(kept // 2), *range(layers - ceil(kept / 2), layers)],
        lambda layers, kept: [*range(kept - 1), layers - 1],
        lambda layers, kept: [0, *range(layers - kept + 1, layers)],
    ),
    "Your numbers run from 1 to `layers`. Layers are counted from 0.": (
        lambda layers, kept: [i + 1 for i in keep_evenly(layers, kept)],
        lambda layers, kept: [i * (layers - 1) // max(1, kept - 1) + 1 for i in range(kept)],
        lambda layers, kept: [round(1 + i * (layers - 1) / max(1, kept - 1)) for i in range(kept)],
    ),
    "Your distance is a whole number everywhere, and only the last layer is put at the end: the last gap gets all that is left over.": (
        last_forced,
    ),
    "Your distance is a whole number, (layers - 1) // (kept - 1), and the last layer is missing where it does not divide.": (
        lambda layers, kept: [i * step_of(layers, kept) for i in range(kept)],
        lambda layers, kept: [i * (step_of(layers, kept) if kept > 1 else 1) for i in range(kept)],
    ),
    "You multiply with a distance that is a float. Some products fall just below a whole number, and int() cuts them off: print "
    "11 * (15 / 11). Multiply first, then divide.": (
        lambda layers, kept: [int(i * ((layers - 1) / max(1, kept - 1))) for i in range(kept)],
    ),
    "These are the layers to remove. The task asks for those that stay.": (
        complement,
        lambda layers, kept: keep_evenly(layers, layers - kept) if kept < layers else [],
        lambda layers, kept: [i for i in range(layers) if i not in [n * (layers - 1) // max(1, kept - 1) for n in range(kept)]],
    ),
    "You return every layer, whatever `kept` is.": (lambda layers, kept: range(layers),),
    "You keep every second layer, whatever `kept` is.": (lambda layers, kept: range(0, layers, 2),),
    "You keep every second layer until you have enough, whatever `layers` is.": (
        lambda layers, kept: list(range(0, layers, 2))[:kept],
    ),
    "You return True or False, 1 or 0, for each layer. The task asks for the numbers of those that stay.": (
        lambda layers, kept: [int(i in keep_evenly(layers, kept)) for i in range(layers)],
        lambda layers, kept: [int(i in [n * (layers - 1) // max(1, kept - 1) for n in range(kept)]) for i in range(layers)],
    ),
}  # fmt: skip


def violated(layers: int, kept: int, found: list[int]) -> tuple[int, str]:
    """The rank and the text of the first property that a list lacks; rank 9 if it has all."""
    gaps = [b - a for a, b in pairwise(found)]
    checks = [
        (not found, "The list is empty, and at least one layer has to stay."),
        (len(found) != kept, f"Numbers in it: {len(found)}. Layers that should stay: {kept}."),
        (any(not 0 <= i < layers for i in found), f"There are layers 0 to {layers - 1}, and no others."),
        (len(set(found)) < len(found), "A layer is in it more than once. Does rounding bring two numbers together?"),
        (any(gap < 0 for gap in gaps), "The numbers do not increase: the kept layers run in their old order."),
        (kept > 1 and found[:1] != [0], "The first layer, 0, is missing."),
        (kept > 1 and found[-1:] != [layers - 1], f"The last layer, {layers - 1}, is missing."),
        (
            bool(gaps) and max(gaps) > min(gaps) + 1,
            f"The smallest gap is {min(gaps, default=0)} and the largest {max(gaps, default=0)}: more than one apart.",
        ),
    ]  # fmt: skip
    return next(((rank, text) for rank, (wrong, text) in enumerate(checks) if wrong), (9, ""))


def keep_complaint(pairs: list[tuple[int, int]], got: list[list[int]]) -> tuple[str, tuple[int, int] | None]:
    """What is wrong with the lists, and for which pair; empty if nothing is."""
    ranks = [violated(*pair, found) for pair, found in zip(pairs, got, strict=True)]
    rank, place = min((rank, place) for place, (rank, _) in enumerate(ranks))
    if rank == 9:
        return "", None
    for message, mistakes in KEEP_MISTAKES.items():
        for mistake in mistakes:
            if all(list(mistake(*pair)) == found for pair, found in zip(pairs, got, strict=True)):
                return message, pairs[place]
    (layers, kept), found = pairs[place], got[place]
    return f"For layers={layers}, kept={kept} you return {found}. {ranks[place][1]}", pairs[place]


def kept_figure(layers: int, panels: dict[str, dict[int, list[int]]], said: str) -> tuple[Figure, str]:
    """The layers that stay, for each number of them; a panel for each way to choose."""
    figure, axes = plot.panels(len(panels), width=4.2, height=3.4)
    for ax, (name, rows) in zip(axes, panels.items(), strict=True):
        drawn(ax, layers, rows)
        ax.set_title(name, fontsize=10)
    return figure, f"Of {layers} layers, those that stay for each number that should: {said}"


def drawn(ax: Axes, layers: int, rows: dict[int, list[int]]) -> None:
    for kept, found in rows.items():
        inside = [i for i in found if 0 <= i < layers]
        ax.plot(range(layers), [kept] * layers, "o", ms=3, color="#D0D0D0")
        ax.plot(inside, [kept] * len(inside), "s", ms=7, color=plot.PALETTE["blue"])
    ax.set(xlabel="layer", ylabel="layers that should stay", xticks=range(0, layers, 2), yticks=list(rows))
