"""Exercise 01: fronts, limits, equal compute, a log, chance, and the two ways to shrink a model."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from itertools import accumulate
from math import ceil, floor, hypot, inf, sqrt
from operator import add, le, lt
from random import Random
from statistics import mean, pstdev, stdev

from exercises.checks import Task
from exercises.checks.compare import named
from minieff.core import cost
from minieff.core.transformer import Config

# Task 1


def scattered(draw: Random, stairs: int, shuffled: bool = True) -> dict[str, tuple[int, float]]:
    """`stairs` models on the front, and an equal of one; others are beaten in bytes, in loss, or in both."""
    size = sorted(draw.sample(range(20, 140), 2 * stairs + 1))
    loss = sorted(draw.sample(range(250, 490), 2 * stairs + 1), reverse=True)
    i, last = draw.randrange(3, 2 * stairs - 1, 2), 2 * stairs
    places = [(1, 0), (last, last - 1), (i, i), (i, i - 1), (i + 1, i), *2 * [(i + 1, i - 1)]]
    places += [(j, j) for j in range(1, last, 2)]
    places = draw.sample(places, len(places)) if shuffled else sorted(places, key=lambda place: place[1])
    return {"ABCDEFGHIJKLM"[n]: (10_000 * size[x], loss[y] / 100) for n, (x, y) in enumerate(places)}


def misplaced(names, models: dict) -> str:
    front = cost.pareto(models)
    if not isinstance(names, list) or any(name not in list(models) for name in names):
        return f"you return {named(names)}, where a list of names of models is asked for."
    for name in names:
        if name not in front or names.count(name) > 1:
            return f"you keep {name} {'twice' if name in front else 'and another model dominates it'}."
    return next((f"you leave out {n}, and nothing dominates it." for n in front if n not in names), "")


def kept(beats):
    """The models that no other model beats."""
    return lambda ms: [n for n in ms if not any(beats(ms[m], ms[n]) for m in ms if m != n)]


def swept(models, key):
    """In the order of `key`, the models with a lower loss than all before."""
    order = sorted(models, key=lambda name: key(models[name]))
    before = accumulate((models[name][1] for name in order), min, initial=inf)
    return [name for name, low in zip(order, before, strict=False) if models[name][1] < low]


front = Task(
    inputs=lambda draw: [(scattered(draw, stairs, stairs > 3),) for stairs in (3, 4, 5, 6)],
    right=cost.pareto, fault=misplaced, label=str, passed="No model that you keep is dominated, and equal ones stay.",
    play=lambda run, models: sorted(names, key=str) if isinstance(names := run(models), Collection) else names,
    wrong={
        "You keep models that another one equals in one number and beats in the other. Does a model have to be better in both to dominate?":
            kept(lambda a, b: a[0] < b[0] and a[1] < b[1]),
        "One of your two comparisons is strict. Which do you take of (10, 3.1) and (10, 3.2), and which of (10, 3.1) and (12, 3.1)?":
            (kept(lambda a, b: a[0] <= b[0] and a[1] < b[1]), kept(lambda a, b: a[0] < b[0] and a[1] <= b[1])),
        "Two models that are equal in both remove each other in your answer. Neither is better in anything, so does one dominate the other?":
            kept(lambda a, b: a[0] <= b[0] and a[1] <= b[1]),
        "Of two models that are equal in both you keep only one. Which model beats the other?":
            lambda models: list({models[name]: name for name in cost.pareto(models)}.values()),
        "You sort by bytes alone. Of two equally large models the order of the dictionary then decides which comes first: which should?":
            partial(swept, key=lambda point: point[0]),
        "You keep models that lose to others. Less is better, in both numbers, and the task asks for the models that are not dominated.":
            (lambda models: [name for name in models if name not in cost.pareto(models)],
            *(kept(lambda a, b, x=x, y=y: cost.dominates((x * a[0], y * a[1]), (x * b[0], y * b[1]))) for x, y in ((1, -1), (-1, 1), (-1, -1)))),
    },
)  # fmt: skip

# Task 2


def offers(draw: Random) -> list[tuple]:
    """Six models, the best two equally good, under limits that some model reaches exactly, of None, and of 0."""
    cases = []
    for turn in range(10):
        best, *bits = sorted(draw.sample(range(1200, 1900), 5))
        sizes, times = (sorted(draw.sample(range(31, 590), 6)) for _ in range(2))
        rows = [(sizes[0], times[5], best), (sizes[5], times[0], best)][:: (-1) ** turn]
        rows += zip(draw.sample(sizes[1:5], 4), draw.sample(times[1:5], 4), bits, strict=True)
        models = [{"name": n, "bytes": 10_000 * x, "ms": y / 10, "bits_per_byte": b / 1000} for n, (x, y, b) in zip("ABCDEF", rows, strict=True)]  # fmt: skip
        one, two = draw.sample(models, 2)
        most, ms, models = one["bytes"], one["ms"], models if turn < 2 else draw.sample(models, 6)
        some = [(None, None), (most, None), (None, ms), (most, ms), (most, two["ms"])]
        cases += [(models, *limits) for limits in [*some, (0, None), (None, 0), (None, int(ms))]]
    return cases


def quality(model: dict) -> tuple:
    return model["bits_per_byte"], model["bytes"]


def choose(
    models, most_bytes, most_ms, key=quality, test=le, both=all, count=("bytes", "ms"), absent=lambda limit: limit is None,
    none=lambda models: None, sieve=lambda models, most: models,
):  # fmt: skip
    """The name of the best model that fits; each keyword is a part that can be wrong."""
    most = {"bytes": most_bytes, "ms": most_ms}
    fit = [m for m in sieve(models, most) if both(absent(most[x]) or test(m[x], most[x]) for x in count)]
    return min(fit, key=key)["name"] if fit else none(models)


chooses = partial(partial, choose)
pick = Task(
    inputs=offers, right=choose, label="these models, most_bytes and most_ms: {}, {}, {}".format,
    passed="First the limits, then quality among the models that are left, and None if there are none.",
    wrong={
        "A model that reaches a limit exactly is within it.":
            (chooses(test=lt), *(chooses(sieve=lambda models, most, x=x: [m for m in models if m[x] != most[x]]) for x in ("bytes", "ms"))),
        "You read a limit of 0 as no limit. Does `if limit` tell 0 from None?":
            (chooses(absent=lambda limit: not limit), lambda m, size, ms: choose(m, size or None, ms), lambda m, size, ms: choose(m, size, ms or None)),
        "You take the largest, the smallest or the fastest model that fits, or the one with the most bits per byte. Which entry says how good a model is, and is more of it better or worse?":
            tuple(chooses(key=lambda m, x=x, sign=sign: sign * m[x]) for x, sign in (("bytes", -1), ("bytes", 1), ("ms", 1), ("bits_per_byte", -1))),
        "Your model is within one of the two limits. It has to be within both.": (chooses(both=any), chooses(count=["ms"]), chooses(count=["bytes"])),
        "You choose, or rule models out, before you have looked at both limits. The model that is left may not fit, and one that you ruled out may.":
            (chooses(sieve=lambda models, most: [min(models, key=quality)]),
            chooses(sieve=lambda models, most: [m for m in models if not any(cost.dominates(quality(o), quality(m)) for o in models)])),
        "Two models are equally good, and you do not take the one with fewer bytes. What can a `key` return to break a tie?":
            (chooses(key=lambda m: m["bits_per_byte"]), chooses(key=lambda m: m["bits_per_byte"], sieve=lambda models, most: models[::-1]),
            chooses(key=lambda m: (m["bits_per_byte"], m["ms"])), chooses(key=lambda m: (m["bits_per_byte"], -m["bytes"]))),
        "No model fits, and you return one all the same. There is no room for it.": chooses(none=lambda models: min(models, key=quality)["name"]),
    },
)  # fmt: skip

# Task 3


def macs(c: Config, head=1, products=2, ffn=None, context=None, vocab=None) -> int:
    """A forward pass for a token; each keyword is a part that can be wrong."""
    layer = 4 * c.dim**2 + 2 * c.dim * (ffn or c.ffn) + products * (context or c.context) * c.dim
    return c.layers * layer + head * (vocab or c.vocab) * c.dim


def two_models(draw: Random) -> tuple[Config, int, Config]:
    """Small ones, unlike in everything; their feed-forwards are not 4 times as wide as they are."""
    ranges = range(50, 400), range(11, 90), range(2, 9), (2, 3, 5), range(5, 9)
    sizes = zip(*(draw.sample(values, 2) for values in ranges), strict=True)
    base, other = (Config(V, S, L, heads, heads * n, ffn=2 * heads * n + 1) for V, S, L, heads, n in sizes)
    return base, draw.randrange(10**8, 10**9), other


def ratio(of):
    """The tokens, if `of` gives the cost of a token."""
    return lambda base, tokens, other: tokens * of(base) / of(other)


tokens_for = Task(
    inputs=lambda draw: [two_models(draw) for _ in range(4)], right=ratio(macs), label="base={}, tokens={}, other={}".format,
    passed="Equal compute, with the head, attention's products, and each model's own feed-forward and context.",
    wrong={
        "Your ratio is the wrong way round: a model that takes less for each token gets more of them.": ratio(lambda c: 1 / macs(c)),
        "You compare parameters. Looking up a vector multiplies nothing, and attention multiplies without any parameter.":
            ratio(lambda c: size(c, c.layers, c.dim)),
        "You compare layers, or layers times width. How do the matrices of a layer grow with the width? And the head is no layer.":
            (ratio(lambda c: c.layers), ratio(lambda c: c.layers * c.dim)),
        "You leave the head out, or count it in every layer. It compares each token with the whole vocabulary, at the end.":
            (ratio(partial(macs, head=0)), ratio(lambda c: macs(c, head=c.layers))),
        "Attention's two products are not both there. Each token is compared with the whole context, also with what a causal mask hides, and as many values are added up.":
            (ratio(partial(macs, products=0)), ratio(partial(macs, products=1))),
        "You take the feed-forward to be 4 C wide. Each config says how wide it is.": ratio(lambda c: macs(c, ffn=4 * c.dim)),
    },
)  # fmt: skip

# Task 4


def budgets(draw: Random) -> list[tuple[list[dict], int, int]]:
    """A log of 23 rows at irregular steps, with a look in every fifth; budgets at looks, between, and outside."""
    log, step, tokens, macs = [], 0, 0, draw.randrange(500_000, 3_000_000)
    for i in range(23):
        steps, train = draw.randrange(40, 160), round(3 + 3 / (1 + i / 4) + draw.uniform(-0.1, 0.1), 4)
        step, tokens = step + steps, tokens + steps * draw.randrange(600, 1200)
        row = {"step": step, "tokens": tokens, "seconds": round(step / 17, 1), "train": train}
        log.append(row | {"valid": round(train + draw.uniform(0.2, 0.6), 4)} if i % 5 == 4 else row)
    one, two, three, last = (row["tokens"] for row in log if "valid" in row)
    places = [one, two, last, (7 * one + 3 * two) // 10, (two + 2 * three) // 3, one - 2000, last + 2000]
    places += [2 * tokens, log[10]["step"], log[10]["step"] // 17]  # early for tokens alone
    return [(log, macs, 3 * macs * place) for place in places]


def read(
    log, macs, budget, passes=3, key="valid", has="valid", at="tokens", edge=le, share=float, ends=(None, None),
):  # fmt: skip
    """The loss at a budget; each keyword is a part that can be wrong. `ends`, before and after: "clamp" or "extend"."""
    pairs = [(passes * macs * row[at], row[key]) for row in log if has in row]
    spent, losses = zip(*pairs, strict=True)
    late = budget > spent[0]
    if not (edge(spent[0], budget) and edge(budget, spent[-1])) and ends[late] != "extend":
        return losses[-late] if ends[late] else None
    i = min(max(bisect_left(spent, budget), 1), len(spent) - 1)
    part = share((budget - spent[i - 1]) / (spent[i] - spent[i - 1]))
    return losses[i - 1] + part * (losses[i] - losses[i - 1])


def looks(log, macs, budget) -> str:
    rows = ", ".join(f"{row['tokens']:,}" for row in log if "valid" in row)
    return f"a log with tested rows at {rows} tokens, macs={macs:,} and a budget of {budget:,}"


reads, clamp = partial(partial, read), ("clamp", "clamp")
loss_at = Task(
    inputs=budgets, right=read, label=looks, passed="Three passes per token, a straight line between tested rows, and None outside them.",
    wrong={
        "More than one thing is wrong. Begin by hand with one tested row: 100 tokens, 2 MACs per token. What has training spent by then, and what does your code say?":
            reads(passes=1, ends=clamp),
        "You count one pass or two per token. What does a training step compute besides the forward pass? See the task for the sum.":
            (reads(passes=1), reads(passes=2), reads(passes=2, ends=clamp)),
        "Before the first tested row or after the last, you return the loss of the nearest one, though nothing was measured there. What does np.interp return for a value beyond its ends?":
            (reads(ends=clamp), reads(ends=("clamp", None)), reads(ends=(None, "clamp"))),
        "At the first tested row itself, or at the last, you return None. There is a measurement. (If you divide by 1e12 first, rounding can do this: compare in MACs.)":
            reads(edge=lt),
        "You return the training loss. The held-out loss has another key, which some rows lack.": (reads(key="train"), reads(key="train", has="train")),
        "You count steps, or seconds. `macs` is what one token takes: which entry of a row counts tokens?": (reads(at="step"), reads(at="seconds")),
        "Between two tested rows you return the loss of one of them. The task asks for the straight line.":
            (reads(share=floor), reads(share=ceil), reads(share=round)),
    },
)  # fmt: skip

# Task 5


def runs(draw: Random, count: int, middle: float) -> list[float]:
    wide = draw.uniform(0.005, 0.02)
    order = draw.sample(range(count), count)
    return [round(middle + wide * (i**1.5 + draw.uniform(0, 0.3)), 4) for i in order]


def apart(error):
    return lambda first, second: (mean(second) - mean(first), error(first, second))


def joined(spread=stdev, root=sqrt, join=hypot):
    """The error of a difference; each keyword is a part that can be wrong."""
    return apart(lambda a, b: join(spread(a) / root(len(a)), spread(b) / root(len(b))))


gap = Task(
    inputs=lambda draw: [
        (runs(draw, n, 3.3), runs(draw, m, 3.3 + shift)) for n, m, shift in ((2, 5, 0.3), (4, 3, -0.4), (3, 7, -0.5), (6, 2, 0.4), (4, 4, 0.3))
    ],
    right=joined(), rtol=1e-3, label="first={}, second={}".format, passed="The difference, and how far chance alone moves it. You need both.",
    wrong={
        "More than one thing is wrong with the error. Go through the text by hand, with two runs each: the variance, the error of each mean, the error of the difference. Where does the code differ first?":
            joined(pstdev, join=add),
        "You add the two errors as they are. Errors that are independent partly cancel: which power of them adds up?": joined(join=add),
        "You divide the sum of squares by n. The runs lie closer to their own mean than to the true one: what corrects for that? (np.std has an argument for it.)":
            joined(pstdev),
        "Your error is that of single runs, or it shrinks too fast with their number. With four times the runs, the error of a mean halves.":
            (joined(root=lambda n: 1), joined(root=lambda n: n)),
        "This is a variance, in squared nats. What is missing at the end?": joined(join=lambda a, b: a * a + b * b),
    },
)  # fmt: skip

# Task 6


def size(c: Config, layers, dim, *without, heads=0, ffn=lambda c, dim: c.ffn * dim // c.dim) -> int:
    """Parameters; `without` names parts that are left out."""
    F = ffn(c, dim)
    layer = {"matrices": 4 * dim**2 + 2 * dim * F, "biases": 5 * dim + F, "norms": 4 * dim}
    parts = {"tokens": (1 + heads) * c.vocab * dim, "positions": c.context * dim, "last norm": 2 * dim}
    parts |= {name: layers * each for name, each in layer.items()}
    return sum(count for name, count in parts.items() if name not in without)


def both_ways(c: Config, budget: int, count=size, bisect=bisect_right, step=None) -> tuple[int, int]:
    """The largest sizes that fit, each with the other kept: how many of them, in order, are within the budget."""
    widths = range(step or c.heads, c.dim + 1, step or c.heads)
    layers = bisect(range(1, c.layers + 1), budget, key=lambda n: count(c, n, c.dim))
    return layers, widths.step * bisect(widths, budget, key=lambda dim: count(c, c.layers, dim))


def lacking(*parts: str):
    return partial(both_ways, count=lambda c, layers, dim: size(c, layers, dim, *parts))


def elsewhere(draw: Random) -> list[tuple[Config, int]]:
    """Models of GPT-2's kind, and budgets that just let a size fit, or lack one parameter or a few hundred vectors."""
    cases = []
    for heads, times in zip(draw.sample((6, 8, 10, 12), 4), (2, 5, 3, 2), strict=True):
        C, n = heads * draw.choice((48, 64)), draw.randrange(10, 14)
        c = Config(draw.randrange(12_000, 30_000), draw.randrange(500, 1500), n, heads, C, ffn=times * C)
        deep, wide = size(c, draw.randrange(4, 9), C), size(c, n, C - heads * draw.randrange(2, 9))
        cases += [(c, budget) for budget in (deep, deep - 1, deep - 300 * C, wide, wide - 1)]
    return cases


narrows = partial(partial, both_ways)
depth_or_width = Task(
    inputs=elsewhere, right=both_ways, label="{}, budget={}".format, passed="These fit, and one layer or one step of width more does not.",
    wrong={
        "Token or position vectors are missing. They stay whatever you do to the layers.": (lacking("tokens", "positions"), lacking("tokens"), lacking("positions")),
        "The head is counted beside the token vectors. It is tied: both are the same numbers.": narrows(count=partial(size, heads=1)),
        "Biases or norms are missing. They are parameters, too: go through the formula letter by letter.":
            (lacking("biases"), lacking("norms"), lacking("last norm"), lacking("biases", "norms", "last norm")),
        "A model with exactly `budget` parameters fits.": narrows(bisect=bisect_left),
        "A part of a layer cannot be built, nor a width that is no multiple of `heads`. Which whole numbers still fit?":
            (narrows(step=1), lambda c, b: ((b - size(c, 0, c.dim)) / (size(c, 1, c.dim) - size(c, 0, c.dim)), both_ways(c, b)[1])),
        "You keep the feed-forward as it was while the rest gets narrower, or take it to be 4 times the width. What does the task say about its ratio?":
            (narrows(count=partial(size, ffn=lambda c, dim: c.ffn)), narrows(count=partial(size, ffn=lambda c, dim: 4 * dim))),
        "You narrow the model that you already made shallower. These are two ways: the width is asked for at full depth.":
            lambda c, b: (both_ways(c, b)[0], both_ways(replace(c, layers=both_ways(c, b)[0]), b)[1]),
    },
)  # fmt: skip
