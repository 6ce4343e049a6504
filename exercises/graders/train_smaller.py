"""Checks for exercise 01: fronts, limits, equal compute, a log, chance, and the two ways to shrink a model.

Inputs and misconceptions of the tasks stand in `choices.py`, `runs.py` and `shapes.py`.
"""

from functools import partial
from random import Random

import numpy as np
from minieff.files import load_results

from exercises.graders import Case, NotYet, Verdict, judge, task
from exercises.graders.choices import (
    FRONT_MISTAKES,
    PICK_MISTAKES,
    choosing,
    close_call,
    name_or_none,
    offered,
    one_off,
    scattered,
    sides,
)
from exercises.graders.kinds import numbers, strings, whole
from exercises.graders.runs import (
    GAP_MISTAKES,
    LOSS_MISTAKES,
    TOKENS_MISTAKES,
    at_budget,
    built,
    difference,
    logged,
    loss_or_none,
    odd,
    places,
    ratio,
    seeds,
    sizes,
)
from exercises.graders.shapes import BUDGETS, WAYS_MISTAKES, both_ways, counted, elsewhere
from minieff import cost


def telling(propose, right, mistakes, kind) -> list[Case]:
    """Cases, drawn anew until no two mistakes answer all of them alike, and none answers them right."""

    def apart(cases: list[Case]) -> bool:
        answers = {str([kind(f(*case.arguments)) for case in cases]) for f in (right, *mistakes.values())}
        return len(answers) == 1 + len(mistakes)

    return next(filter(apart, (propose() for _ in range(1000))))


def redrawn(refusal: NotYet, cases: list[Case], answers: list[list[str]]) -> NotYet:
    """The refusal of a front, with the first wrong one drawn beside the expected one."""
    wrong = next(i for i, case in enumerate(cases) if answers[i] != sorted(cost.pareto(*case.arguments)))
    (models,), mine = cases[wrong].arguments, answers[wrong]
    wanted = cost.pareto(models)
    generic = "not what is expected" in str(refusal)
    fronts = ("bytes: yours", models, mine), ("bytes: expected", models, wanted)
    return NotYet(one_off(models, mine, wanted) if generic else str(refusal), *sides("loss", *fronts))


@task
def front(run, draw: Random) -> Verdict:
    """`front(models)`: the names of the models that no other dominates; `models` has (bytes, loss) by name."""
    cases = telling(
        lambda: [Case((m,), f"{len(m)} models") for m in (scattered(draw, n) for n in (3, 4, 5, 6))],
        cost.pareto,
        FRONT_MISTAKES,
        strings,
    )
    answers: list[list[str]] = []

    def noted(models: dict) -> list[str]:  # for the picture, without asking the learner's function twice
        answers.append(strings(run(models)))
        return answers[-1]

    try:
        judge(noted, cases, cost.pareto, FRONT_MISTAKES, kind=strings)
    except NotYet as refusal:
        if len(answers) < len(cases):
            raise
        raise redrawn(refusal, cases, answers) from None
    if strings(run({"A": (10_000, 3.0)})) != ["A"]:
        raise NotYet("A single model is on the front: what would dominate it?")
    rows = load_results("00_start_here")["scoreboard"]
    small = {row["name"]: (row["stored_bytes"], row["bits_per_byte"]) for row in rows}
    fast = {row["name"]: (round(1e6 * row["seconds"][1]), row["bits_per_byte"]) for row in rows}
    panels = (
        ("size in bytes, 16 bits a number", small),
        ("microseconds for a pass, as lesson 00 measured it", fast),
    )
    return Verdict(
        "No model that you keep is dominated, and equal ones stay. The lines through the models of lesson 00 are your function's: "
        "what is on the front depends on what you count.",
        *sides("bits a byte", *[(label, models, strings(run(models))) for label, models in panels]),
    )


@task
def pick(run, draw: Random) -> Verdict:
    """`pick(models, most_bytes, most_ms)`: the name of the best model that keeps both limits, if any does."""
    limits = [
        ("some", "some"),
        ("some", None),
        (None, "some"),
        (None, None),
        (0, None),
        (None, 0),
        ("some", "less"),
    ]
    cases = telling(
        lambda: (
            [offered(draw, *pair) for pair in [*limits, *limits[:4], *(4 * limits[:3])]] + [close_call(draw)]
        ),
        choosing(),
        PICK_MISTAKES,
        name_or_none,
    )
    judge(run, cases, choosing(), PICK_MISTAKES, kind=name_or_none)
    return Verdict("First the limits, then quality among what is left, and None where nothing is left.")


@task
def tokens_for(run, draw: Random) -> Verdict:
    """`tokens_for(base, tokens, other)`: the tokens that `other` gets for the compute of `tokens` tokens on `base`."""
    cases = []
    for _ in range(4):
        vocabs, layers = draw.sample(range(50, 400), 2), draw.sample(range(2, 9), 2)
        base, other = (odd(draw, *pair) for pair in zip(vocabs, layers, strict=True))
        label = f"base {sizes(base)} V={base.vocab}, other {sizes(other)} V={other.vocab}"
        cases.append(Case((base, draw.randrange(10**8, 10**9), other), label))
    judge(run, cases, ratio(lambda config: built(config, cost.macs)), TOKENS_MISTAKES)
    return Verdict("Equal to the MACs counted on models that were built, feed-forward and context their own.")


@task
def loss_at(run, draw: Random) -> Verdict:
    """`loss_at(log, macs, budget)`: the held-out loss when a run had spent `budget` MACs; None where nobody looked."""
    runs = [(logged(draw), draw.randrange(500_000, 3_000_000)) for _ in range(2)]
    cases = [
        Case((log, macs, 3 * macs * tokens), f"a budget, {place}, {3 * macs * tokens:.1e} MACs")
        for first, (log, macs) in enumerate(runs)
        for place, tokens in list(places(log, draw).items())[first::2]
    ]
    judge(run, cases, at_budget, LOSS_MISTAKES, kind=loss_or_none)
    return Verdict("Three passes for a token, a straight line between looks, and None where nobody looked.")


@task
def gap(run, draw: Random) -> Verdict:
    """`gap(first, second)`: by how much the mean of the second list is higher, and the standard error of that."""
    cases = [
        Case((seeds(draw, n, 3.3), seeds(draw, m, 3.3 + shift)), f"{n} and {m} runs")
        for n, m, shift in ((2, 5, 0.3), (4, 3, -0.4), (3, 7, -0.5), (6, 2, 0.4), (4, 4, 0.3))
    ]
    right = difference(lambda a, b: np.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)), np.mean)
    judge(run, cases, right, GAP_MISTAKES, kind=numbers("difference", "standard error"), tolerance=1e-3)
    return Verdict("The difference, and how far chance alone moves it: one says little without the other.")


@task
def depth_or_width(run, draw: Random) -> Verdict:
    """`depth_or_width(config, budget)`: the layers that fit at full width, and the width that fits at full depth."""
    kind = numbers("layers", "width", kind=whole)
    cases = telling(lambda: [elsewhere(draw, n) for n in range(BUDGETS)], both_ways, WAYS_MISTAKES, kind)
    judge(run, cases, partial(both_ways, count=counted), WAYS_MISTAKES, kind=kind)
    return Verdict(
        "These fit, and one layer or one step of width more does not: counted on models that were built."
    )
