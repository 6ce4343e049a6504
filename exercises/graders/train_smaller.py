"""Checks for exercise 01: fronts, limits, equal compute, a log, chance, and the two ways to shrink a model."""

from bisect import bisect_left, bisect_right
from dataclasses import replace
from functools import cache, partial
from itertools import accumulate
from math import hypot, inf, sqrt
from operator import add, le, lt
from random import Random
from statistics import mean, median, pstdev, stdev

import numpy as np
import torch

from exercises.graders import Case, NotYet, Verdict, judge, task
from exercises.graders.kinds import kind_of, number, numbers, strings, whole
from minieff import cost, plot
from minieff.files import load_results
from minieff.transformer import Config, Transformer


def telling(propose, right, mistakes, kind) -> list[Case]:
    """Cases, drawn anew until no two mistakes answer all of them alike, and none answers them right."""

    def apart(cases: list[Case]) -> bool:
        answers = {str([kind(f(*case.arguments)) for case in cases]) for f in (right, *mistakes.values())}
        return len(answers) == 1 + len(mistakes)

    return next(filter(apart, (propose() for _ in range(1000))))


# Task 1
def scattered(draw: Random, stairs: int) -> dict[str, tuple[int, float]]:
    """Models of which `stairs` are on the front, and an equal of one; others are beaten in one respect alone, or in both."""
    sizes = sorted(draw.sample(range(20, 140, 6), 2 * stairs))
    losses = sorted(draw.sample(range(250, 490, 12), 2 * stairs), reverse=True)
    i = draw.randrange(2, 2 * stairs - 2, 2)
    points = [*zip(sizes[::2], losses[::2], strict=True), (sizes[i], losses[i])]
    points += [(sizes[i], losses[i - 1]), (sizes[i + 1], losses[i]), (sizes[i + 1], losses[i - 1])]
    points += [(sizes[-1] + 7, losses[0] + 9), (sizes[-1] + 13, losses[-3])]
    points += [(sizes[i + 1], losses[i - 1]), (sizes[0], losses[0] + 1), (sizes[-2] + 1, losses[-2])]
    draw.shuffle(points)
    return {"ABCDEFGHIJKLMNOP"[n]: (10_000 * size, loss / 100) for n, (size, loss) in enumerate(points)}


def kept(beats):
    """The names of the models that no other one beats."""
    return lambda models: [
        name
        for name, point in models.items()
        if not any(beats(models[other], point) for other in models if other != name)
    ]


def swept(key, running=True):
    """The models in the order of `key`, each kept if its loss is lower than all before, or than the last one."""

    def names(models):
        order = sorted(models, key=lambda name: key(models[name]))
        losses = [models[name][1] for name in order]
        before = [inf, *(accumulate(losses, min) if running else losses)]
        return [name for name, loss, low in zip(order, losses, before, strict=False) if loss < low]

    return names


def doubled(models: dict) -> list[str]:
    """Keeps every model that has an equal."""
    front, points = cost.pareto(models), list(models.values())
    return [name for name, point in models.items() if name in front or points.count(point) > 1]


FRONT_MISTAKES = {
    "You keep models that have an equal. Equal to each other, both may be dominated by a third.": doubled,
    "Of the smallest size you keep all models, also the worse ones.": lambda models: [
        name
        for name in models
        if name in cost.pareto(models) or models[name][0] == min(size for size, _ in models.values())
    ],
    "Of the lowest loss you keep all models, also the larger ones.": lambda models: [
        name
        for name in models
        if name in cost.pareto(models) or models[name][1] == min(loss for _, loss in models.values())
    ],
    "You keep models that another one equals in one respect and beats in the other. To dominate, does it have to be strictly "
    "better in both?": kept(lambda a, b: a[0] < b[0] and a[1] < b[1]),
    "You keep a model that is larger than another one and has the same loss. What would its bytes pay for?": kept(
        lambda a, b: a[0] <= b[0] and a[1] < b[1]
    ),
    "You keep a model that is as large as another one and has a higher loss. At equal size, which would you take?": kept(
        lambda a, b: a[0] < b[0] and a[1] <= b[1]
    ),
    "Two models that are equal in both remove each other in your answer. Neither is better in anything, so does one dominate "
    "the other?": kept(lambda a, b: a[0] <= b[0] and a[1] <= b[1]),
    "Of two models that are equal in both you keep the first one alone. What does the second one lose to?": swept(
        lambda point: point
    ),
    "Of two models that are equal in both you keep the last one alone. Does it overwrite the first in a dictionary that has "
    "(bytes, loss) as its key?": lambda models: list(
        {models[name]: name for name in cost.pareto(models)}.values()
    ),
    "You sort by bytes alone. Of two equally large models the order of the dictionary then decides which comes first: which should?": swept(
        lambda point: point[0]
    ),
    "You compare each model with its neighbour in the order of size. One that beats its neighbour may lose to an earlier one: "
    "what has to be remembered on the way?": swept(lambda point: point, running=False),
    "You look at the loss alone. A model with a higher loss stays where none is as small and as good.": lambda models: [
        min(models, key=lambda name: models[name][1])
    ],
    "You look at the bytes alone. A larger model stays where none is as small and as good.": lambda models: [
        min(models, key=lambda name: models[name][0])
    ],
    "You keep the smallest model and the best one. What lies between them may be beaten by neither.": lambda models: (
        list({min(models, key=lambda name: models[name][place]) for place in (0, 1)})
    ),
    "You treat a higher loss as the better one.": lambda models: cost.pareto(
        {name: (size, -loss) for name, (size, loss) in models.items()}
    ),
    "You treat more bytes as better. The question is how small a model of this loss can be.": lambda models: (
        cost.pareto({name: (-size, loss) for name, (size, loss) in models.items()})
    ),
    "You keep the largest and worst models. Turn the comparison round: fewer is better, in both.": lambda models: (
        cost.pareto({name: (-size, -loss) for name, (size, loss) in models.items()})
    ),
    "You return the models that are dominated, and the task asks for the others.": lambda models: [
        name for name in models if name not in cost.pareto(models)
    ],
    "You keep every model. One goes as soon as a single other one dominates it; it need not lose to all.": list,
}


@task
def front(run, draw: Random) -> Verdict:
    """`front(models)`: the names of the models that no other dominates; `models` has (bytes, loss) by name."""
    cases = telling(
        lambda: [Case((m,), f"{len(m)} models") for m in (scattered(draw, n) for n in (3, 4, 5, 6))],
        cost.pareto,
        FRONT_MISTAKES,
        strings,
    )
    answers: dict[int, list[str]] = {}

    def kept(models: dict) -> list[str]:  # the learner's function, called once for each case
        answers[len(answers)] = strings(run(models))
        return answers[len(answers) - 1]

    try:
        judge(kept, cases, cost.pareto, FRONT_MISTAKES, kind=strings)
    except NotYet as refusal:
        if len(answers) < len(cases):
            raise
        wrong = next(i for i, case in enumerate(cases) if answers[i] != sorted(cost.pareto(*case.arguments)))
        (models,), mine = cases[wrong].arguments, answers[wrong]
        wanted = cost.pareto(models)
        message = (
            str(refusal) if "not what is expected" not in str(refusal) else one_off(models, mine, wanted)
        )
        fronts = ("bytes: yours", models, mine), ("bytes: expected", models, wanted)
        raise NotYet(message, *sides("loss", *fronts)) from None
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


def one_off(models: dict, mine: list[str], wanted: list[str]) -> str:
    """A name that does not belong on the front, or one that is missing."""
    extra, missing = sorted(set(mine) - set(wanted)), sorted(set(wanted) - set(mine))
    if extra and extra[0] not in models:
        return f"{extra[0]!r} is the name of no model."
    if extra:
        return f"You keep {extra[0]}, and another model dominates it. The picture has your front and the expected one."
    return f"You leave out {missing[0]}, and nothing dominates it. The picture has your front and the expected one."


def sides(quality: str, *panels: tuple[str, dict, list]) -> tuple:
    """Models side by side over what each label names, with a line through the names that were returned."""
    figure, axes = plot.panels(len(panels), width=4.4)
    for ax, (label, models, names) in zip(axes, panels, strict=True):
        best = sorted(models[name] for name in names if name in models)
        ax.plot(*zip(*models.values(), strict=True), "X", color=plot.PALETTE["red"], ms=6)
        ax.step(
            [x for x, _ in best], [y for _, y in best], "o-", where="post", color=plot.PALETTE["blue"], ms=9
        )
        for place, point in enumerate(sorted(set(models.values()), key=lambda point: (point[0], -point[1]))):
            equals = (name for name in models if models[name] == point)
            ax.annotate(
                " = ".join(equals),
                point,
                xytext=(6, (5, -12)[place % 2]),
                textcoords="offset points",
                fontsize=8,
            )
        ax.set(xlabel=label, ylabel=quality)
        ax.margins(x=0.2, y=0.12)
    said = [f"over {label} the line goes through {', '.join(names) or 'none'}" for label, _, names in panels]
    return figure, f"{quality.capitalize()} of {len(panels[0][1])} models: " + "; ".join(said) + "."


# Task 2
def name_or_none(value) -> str | None:
    if value is not None and not isinstance(value, str):
        raise NotYet(f"Your function returns {kind_of(value)}, and the task asks for a name, or None.")
    return value


def by_quality(model: dict) -> tuple:
    return model["bits_per_byte"], model["bytes"]


def choosing(
    key=by_quality,
    test=le,
    absent=lambda limit: limit is None,
    both=all,
    limits=("bytes", "ms"),
    turn=1,
    none=lambda models: None,
):
    """The name of the first with the smallest `key` among the models that fit, with parts that can be wrong."""

    def chosen(models, most_bytes, most_ms):
        most = {"bytes": most_bytes, "ms": most_ms}
        fit = [m for m in models if both(absent(most[x]) or test(m[x], most[x]) for x in limits)]
        return min(fit[::turn], key=key)["name"] if fit else none(models)

    return chosen


def strict_on(x: str):
    """A model has to stay below the limit on `x`."""

    def chosen(models, most_bytes, most_ms):
        most = {"bytes": most_bytes, "ms": most_ms}
        below = [m for m in models if most[x] is None or m[x] < most[x]]
        return choosing()(below, most_bytes, most_ms)

    return chosen


def sifted(beaten):
    """First the models that no other one beats, whatever the limits; then the limits."""
    return lambda models, *most: choosing()(
        [m for m in models if not any(beaten(m, o) for o in models)], *most
    )


def winner_of_all(models, most_bytes, most_ms):
    """The quality of the best that fits, then the smallest of all that have it."""
    name = choosing()(models, most_bytes, most_ms)
    best = next((m["bits_per_byte"] for m in models if m["name"] == name), None)
    return min((m for m in models if m["bits_per_byte"] == best), key=by_quality, default={"name": None})[
        "name"
    ]


def one_by_one(models, most_bytes, most_ms):
    """The best quality that keeps the first limit; then whether it keeps the second."""
    best = choosing(limits=["bytes"])(models, most_bytes, None)
    return choosing(limits=["ms"])([m for m in models if m["name"] == best], None, most_ms)


PICK_MISTAKES = {
    "A model that has exactly `most_bytes` fits.": strict_on("bytes"),
    "A model that takes exactly `most_ms` fits.": strict_on("ms"),
    "You first drop models that lose on bytes and quality, whatever the limits. One of them may be the only one that is fast enough.": (
        sifted(lambda m, o: o["bytes"] <= m["bytes"] and o["bits_per_byte"] < m["bits_per_byte"])
    ),
    "You first drop the larger of two equally good models, whatever the limits. The smaller one may be too slow.": sifted(
        lambda m, o: o["bytes"] < m["bytes"] and o["bits_per_byte"] == m["bits_per_byte"]
    ),
    "You find the best quality among the models that fit, and then take a model of that quality from *all* of them.": winner_of_all,
    "You take the best that keeps `most_bytes`, and only then look at its time. Another one may keep both.": one_by_one,
    "A time of 7.3 ms does not keep a limit of 7 ms: compare the times as they are.": lambda models, *most: (
        choosing()([{**model, "ms": int(model["ms"])} for model in models], *most)
    ),
    "You have exchanged the two limits.": lambda models, most_bytes, most_ms: choosing()(
        models, most_ms, most_bytes
    ),
    "You read `most_bytes` of 0 as no limit. Does `if limit` tell 0 from None?": lambda models, most_bytes, most_ms: (
        choosing()(models, most_bytes or None, most_ms)
    ),
    "You read `most_ms` of 0 as no limit. Does `if limit` tell 0 from None?": lambda models, most_bytes, most_ms: (
        choosing()(models, most_bytes, most_ms or None)
    ),
    "You take the largest model that fits. A larger one need not be the better one: which entry says how good it is?": (
        choosing(lambda model: -model["bytes"])
    ),
    "You take the smallest model that fits. Small enough is what the limit says; among those that fit, quality decides.": (
        choosing(lambda model: model["bytes"])
    ),
    "You take the fastest model that fits. Fast enough is what the limit says; among those that fit, quality decides.": (
        choosing(lambda model: model["ms"])
    ),
    "You take the one with the most bits a byte. Is that the best model, or the worst?": choosing(
        lambda model: -model["bits_per_byte"]
    ),
    "A model that is exactly as large, or exactly as slow, as the limit fits.": choosing(test=lt),
    "Your answer does not depend on `most_bytes`.": choosing(limits=["ms"]),
    "Your answer does not depend on `most_ms`.": choosing(limits=["bytes"]),
    "Where a limit is None you find nothing. None stands for no limit: then every model keeps it.": choosing(
        absent=lambda limit: False, test=lambda value, limit: limit is not None and value <= limit
    ),
    "You read a limit of 0 as no limit. Does `if limit` tell 0 from None?": choosing(
        absent=lambda limit: not limit
    ),
    "For you a model fits that keeps one of the two limits. It has to keep both.": choosing(both=any),
    "You choose the best of all models, and only then see whether it fits. Where it does not, another one may.": (
        lambda models, *most: choosing()([min(models, key=by_quality)], *most)
    ),
    "Of two equally good models you return the one that comes first in the list. Which one takes fewer bytes?": choosing(
        lambda model: model["bits_per_byte"]
    ),
    "Of two equally good models you return the one that comes last in the list. Which one takes fewer bytes?": choosing(
        lambda model: model["bits_per_byte"], turn=-1
    ),
    "Of two equally good models you return the faster one. The task asks for the one with fewer bytes.": choosing(
        lambda model: (model["bits_per_byte"], model["ms"])
    ),
    "Of two equally good models you return the larger one.": choosing(
        lambda model: (model["bits_per_byte"], -model["bytes"])
    ),
    "Where no model fits you return one all the same. Whoever asks has no room for it.": choosing(
        none=lambda models: min(models, key=by_quality)["name"]
    ),
    "You return None in every case. Is there a `return`, and is it reached?": lambda *_: None,
}


def offered(draw: Random, *limits: str | int | None) -> Case:
    """Seven models, the best two equally good, and limits: "some" model's value, "less" than all, 0 or None."""
    bits = sorted(round(draw.uniform(1.2, 1.9), 3) for _ in range(6))
    costs = [
        {"bytes": 1000 * draw.randrange(300, 4000), "ms": round(draw.uniform(3, 60), 1)} for _ in range(7)
    ]
    models = [{**spent, "bits_per_byte": b} for spent, b in zip(costs, [bits[0], *bits], strict=True)]
    draw.shuffle(models)
    models = [{"name": name, **model} for name, model in zip("ABCDEFG", models, strict=True)]
    found = [
        {"some": draw.choice(costs)[x], "less": round(min(c[x] for c in costs) - 1, 1)}.get(limit, limit)
        for x, limit in zip(("bytes", "ms"), limits, strict=True)
    ]
    return Case((models, *found), f"most_bytes={found[0]}, most_ms={found[1]} and these models: {models}")


def close_call(draw: Random) -> Case:
    """One model a little over the limit, and two that differ a little in quality: nothing may be rounded."""
    most, best = draw.randrange(5, 50), round(draw.uniform(1.2, 1.5), 3)
    models = [
        {"name": "A", "bytes": 900_000, "ms": most + 0.3, "bits_per_byte": best - 0.1},
        {"name": "B", "bytes": 800_000, "ms": most - 1.5, "bits_per_byte": best},
        {"name": "C", "bytes": 700_000, "ms": most - 2.5, "bits_per_byte": round(best + 0.001, 3)},
    ]
    return Case((models, None, most), f"most_bytes=None, most_ms={most} and these models: {models}")


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


# Task 3
@cache
def built(config: Config, count=cost.parameters) -> float:
    """What is counted on a real model, on the device `meta`: its tensors have shapes, and hold no numbers."""
    with torch.device("meta"):
        return count(Transformer(config))


def macs_of(config: Config, head=1, products=2, ffn=None, context=None, vocab=None) -> int:
    """MACs a token in closed form, with parts that can be wrong."""
    C, F, S = config.dim, ffn or config.ffn, context or config.context
    return config.layers * (4 * C**2 + 2 * C * F + products * S * C) + head * (vocab or config.vocab) * C


def odd(draw: Random, vocab: int, layers: int) -> Config:
    """A small model, its feed-forward not 4 times its width."""
    heads, context = draw.choice((2, 3, 5)), draw.randrange(11, 90)
    dim = heads * draw.randrange(5, 12)
    return Config(vocab, context, layers, heads, dim, ffn=draw.choice((2, 3)) * dim + draw.randrange(1, 9))


def sizes(config: Config) -> str:
    return f"L={config.layers} C={config.dim}, F={config.ffn} S={config.context}"


def ratio(of):
    """The tokens, if `of` said what a token costs."""
    return lambda base, tokens, other: tokens * of(base) / of(other)


TOKENS_MISTAKES = {
    "Your ratio is the wrong way round: a model that takes less for each token gets more of them.": ratio(
        lambda c: 1 / macs_of(c)
    ),
    "You give both the same number of tokens. That is equal data; the task asks for equal compute.": ratio(
        lambda c: 1
    ),
    "You compare parameters. Looking up a vector multiplies nothing, and attention multiplies without any parameter.": ratio(
        built
    ),
    "You compare the numbers of layers. They are not equally wide, and the head is no layer.": ratio(
        lambda c: c.layers
    ),
    "You compare layers times width. How do the matrices of a layer grow with the width?": ratio(
        lambda c: c.layers * c.dim
    ),
    "The head is missing: it compares each token with the whole vocabulary.": ratio(
        lambda c: macs_of(c, head=0)
    ),
    "You count the head in every layer. It stands at the end, once.": ratio(
        lambda c: macs_of(c, head=c.layers)
    ),
    "Attention's two products are missing: each token is compared with the whole context, and as many values are added up.": (
        ratio(lambda c: macs_of(c, products=0))
    ),
    "You count the matrices of the layers alone. Attention's products and the head are missing.": ratio(
        lambda c: macs_of(c, head=0, products=0)
    ),
    "You count one of attention's two products, or half of both. Here the whole context counts, also what a causal mask hides.": (
        ratio(lambda c: macs_of(c, products=1))
    ),
    "You take the feed-forward to be 4 C wide. Each config says how wide it is.": ratio(
        lambda c: macs_of(c, ffn=4 * c.dim)
    ),
    "You count both models over the base's context. Each has its own.": lambda base, tokens, other: (
        tokens * macs_of(base) / macs_of(other, context=base.context)
    ),
    "You count both models over the other's context. Each has its own.": lambda base, tokens, other: (
        tokens * macs_of(base, context=other.context) / macs_of(other)
    ),
    "You give both models the base's vocabulary. Each has its own.": lambda base, tokens, other: (
        tokens * macs_of(base) / macs_of(other, vocab=base.vocab)
    ),
    "You give both models the other's vocabulary. Each has its own.": lambda base, tokens, other: (
        tokens * macs_of(base, vocab=other.vocab) / macs_of(other)
    ),
    "You compare whole sequences, and the two are not equally long. The question is about tokens.": ratio(
        lambda c: c.context * macs_of(c)
    ),
}


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


# Task 4
def loss_or_none(value) -> dict:
    """A loss or None, in two entries, so that either can be compared."""
    if isinstance(value, float) and value != value:
        raise NotYet("Your function returns nan. Where nobody looked, the task asks for None.")
    return {
        "answer": "None" if value is None else "a number",
        "loss": 0.0 if value is None else number(value, "a number, or None"),
    }


def logged(draw: Random) -> list[dict]:
    """A log of 28 rows at irregular steps; every fifth has a held-out loss, so the last three have none."""
    rows, last = [], {"step": 0, "tokens": 0, "seconds": 0.0}
    for i in range(28):
        steps, train = draw.randrange(40, 160), round(3 + 3 / (1 + i / 4) + draw.uniform(-0.1, 0.1), 4)
        grown = {
            "step": steps,
            "tokens": steps * draw.randrange(600, 1200),
            "seconds": steps * draw.uniform(0.04, 0.09),
        }
        last = {key: round(last[key] + grown[key], 1) for key in grown} | {"train": train}
        rows.append(last | ({"valid": round(train + draw.uniform(0.2, 0.6), 4)} if i % 5 == 4 else {}))
    return rows


def places(log: list[dict], draw: Random) -> dict[str, int]:
    """Numbers of tokens, by where in the log they lie."""
    looks = [row["tokens"] for row in log if "valid" in row]
    i = draw.randrange(1, len(looks))
    return {
        "exactly at the first look": looks[0],
        "exactly at a look": looks[i],
        "between two looks": looks[i] - int(draw.uniform(0.6, 0.8) * (looks[i] - looks[i - 1])),
        "between two other looks": looks[-i] - int(draw.uniform(0.2, 0.4) * (looks[-i] - looks[-i - 1])),
        "exactly at the last look": looks[-1],
        "before the first look": int(0.8 * looks[0]),
        "within the first row": log[10]["step"] + 5,  # between looks for those who count steps
        "at the very beginning": int(log[10]["seconds"]) + 3,  # and for those who count seconds
        "after the last look": (looks[-1] + log[-1]["tokens"]) // 2,
        "after the last row": 2 * log[-1]["tokens"],
    }


def at_budget(log, macs, budget) -> float | None:
    """What is asked for, by NumPy."""
    looks = [(3 * macs * row["tokens"], row["valid"]) for row in log if "valid" in row]
    spent, losses = zip(*looks, strict=True)
    return float(np.interp(budget, spent, losses)) if spent[0] <= budget <= spent[-1] else None


def reading(
    passes=3, key="valid", all_rows=False, at="tokens", share=lambda s: s, ends=(None, None), edge=le
):
    """The same written out, with parts that can be wrong; `ends` before and after: None, "clamp" or "extend"."""

    def read(log, macs, budget):
        rows = [row for row in log if all_rows or "valid" in row]
        spent, losses = [passes * macs * row[at] for row in rows], [row[key] for row in rows]
        late = budget > spent[0]
        if not (edge(spent[0], budget) and edge(budget, spent[-1])) and ends[late] != "extend":
            return losses[-late] if ends[late] else None
        i = min(max(bisect_right(spent, budget), 1), len(spent) - 1)
        part = share((budget - spent[i - 1]) / (spent[i] - spent[i - 1]))
        return losses[i - 1] + part * (losses[i] - losses[i - 1])

    return read


LOSS_MISTAKES = {
    "More than one thing is wrong. Begin with one look by hand: 100 tokens, 2 MACs a token. What has training spent by then, "
    "and what does your code say?": reading(passes=1, ends=("clamp", "clamp")),
    "You charge one forward pass for a token. What does a training step compute besides?": reading(passes=1),
    "You charge two passes for a token. Backward takes two products for each one of forward: see the task for the sum.": (
        reading(passes=2)
    ),
    "Outside the looks you return the loss of the nearest one, though nobody looked there. What does np.interp return for a "
    "value beyond its ends?": reading(ends=("clamp", "clamp")),
    "Before the first look you return the loss of the first one. Nobody had looked yet.": reading(
        ends=("clamp", None)
    ),
    "After the last look you return the loss of the last one. Nobody looked any more.": reading(
        ends=(None, "clamp")
    ),
    "You draw the line on beyond the looks. A log does not say what nobody looked at.": reading(
        ends=("extend", "extend")
    ),
    "At the first look itself, or at the last, you return None. Somebody looked there. (If you divide by 1e12 first, rounding can do this: compare in MACs.)": reading(
        edge=lt
    ),
    "At a look between the first and the last you return None. At a look itself, the answer is its loss.": lambda log, macs, budget: (
        None
        if budget in [3 * macs * row["tokens"] for row in log if "valid" in row][1:-1]
        else at_budget(log, macs, budget)
    ),
    "You return the training loss at the looks. On which text is that one measured?": reading(key="train"),
    "You return the training loss, of all rows. The held-out loss has another key, which some rows lack.": reading(
        key="train", all_rows=True
    ),
    "You count steps. `macs` is what one token takes: which entry of a row counts tokens?": reading(
        at="step"
    ),
    "You count seconds. `macs` is what one token takes: a slower machine would change your answer.": reading(
        at="seconds"
    ),
    "Between two looks you return the earlier one. The task asks for the straight line.": reading(
        share=lambda s: s >= 1
    ),
    "Between two looks you return the later one. The task asks for the straight line.": reading(
        share=lambda s: s > 0
    ),
    "Between two looks you return the nearer one. The task asks for the straight line.": reading(
        share=lambda s: s > 0.5
    ),
    "You return None in every case. Is there a `return`, is it reached, and are the budget and what was spent in the same unit?": (
        lambda *_: None
    ),
}


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


# Task 5
def difference(error, mid=mean, sign=1):
    """The difference and its error."""
    return lambda first, second: (sign * (mid(second) - mid(first)), error(first, second))


def joined(spread=stdev, root=sqrt, join=hypot):
    """The error of a difference, with parts that can be wrong."""
    return lambda a, b: join(spread(a) / root(len(a)), spread(b) / root(len(b)))


GAP_MISTAKES = {
    "More than one thing is wrong with the error. Go through the last three sentences of the text by hand, with two runs each: the "
    "variance, the error of each mean, the error of the difference. Where does the code differ first?": difference(
        joined(pstdev, join=add)
    ),
    "You add the two errors as they are. Errors that are independent partly cancel: which power of them adds up?": difference(
        joined(join=add)
    ),
    "You divide the sum of squares by n. The runs lie closer to their own mean than to the true one: what corrects for that? "
    "(np.std has an argument for it.)": difference(joined(pstdev)),
    "This is the error of two single runs. The mean of n runs varies less than one of them: by which factor?": difference(
        joined(root=lambda n: 1)
    ),
    "With four times the runs your error shrinks to a quarter. The error of a mean halves.": difference(
        joined(root=lambda n: n)
    ),
    "This is twice the standard error, as in an interval of 95 %. The task asks for the error itself.": difference(
        joined(join=lambda a, b: 2 * hypot(a, b))
    ),
    "This is a variance, in squared nats. What is missing at the end?": difference(
        joined(join=lambda a, b: a * a + b * b)
    ),
    "The sign of the difference is turned: it is positive where the second recipe has the higher loss.": difference(
        joined(), sign=-1
    ),
    "The sign of the difference is lost: it is negative where the second recipe has the lower loss.": lambda first, second: (
        abs(mean(second) - mean(first)),
        joined()(first, second),
    ),
    "You compare the best run of each. The best of many is lower than the best of few by chance alone.": difference(
        joined(), mid=min
    ),
    "You compare medians, and the error is that of a mean.": difference(joined(), mid=median),
    "You average the two variances, however many runs stand behind each.": difference(
        lambda a, b: sqrt((stdev(a) ** 2 + stdev(b) ** 2) / 2)
    ),
    "You pool the variances, as if both recipes varied equally. Here each has its own.": difference(
        lambda a, b: (
            sqrt(((len(a) - 1) * stdev(a) ** 2 + (len(b) - 1) * stdev(b) ** 2) / (len(a) + len(b) - 2))
            * sqrt(1 / len(a) + 1 / len(b))
        )
    ),
    "You take the spread of all runs together. That contains the very difference that you ask about.": difference(
        lambda a, b: stdev([*a, *b]) * sqrt(1 / len(a) + 1 / len(b))
    ),
    "You return the error first. The task asks for the difference, then its error.": lambda first, second: (
        joined()(first, second),
        mean(second) - mean(first),
    ),
    "Where the lists are equally long you take differences run by run. Runs with the same place in the list have nothing in common.": (
        difference(
            lambda a, b: (
                stdev([y - x for x, y in zip(a, b, strict=True)]) / sqrt(len(a))
                if len(a) == len(b)
                else joined()(a, b)
            )
        )
    ),
    "You pair the runs. Nothing connects the first run of one recipe with the first of the other, and some have no partner.": (
        difference(
            lambda a, b: stdev([y - x for x, y in zip(a, b, strict=False)]) / sqrt(min(len(a), len(b)))
        )
    ),
}


def seeds(draw: Random, runs: int, middle: float) -> list[float]:
    """Losses around `middle`, no two of them equal."""
    wide = draw.uniform(0.005, 0.02)
    return draw.sample([round(middle + wide * (i**1.5 + draw.uniform(0, 0.3)), 4) for i in range(runs)], runs)


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


# Task 6
def counted(config: Config, layers: int, dim: int) -> int:
    """Parameters of the real model; its layers are alike, so two of them tell what each one has."""
    shape = partial(replace, config, dim=dim, ffn=config.ffn * dim // config.dim)
    one, two = (built(shape(layers=n)) for n in (1, 2))
    return one + (layers - 1) * (two - one)


def size_of(*without: str, heads=0, ffn=lambda config, dim: config.ffn * dim // config.dim):
    """The same on paper, with parts that can be wrong or left out."""

    def count(config: Config, layers: int, dim: int) -> int:
        parts = {
            "tokens": (1 + heads) * config.vocab * dim,
            "positions": config.context * dim,
            "matrices": layers * (4 * dim**2 + 2 * dim * ffn(config, dim)),
            "attention biases": layers * 4 * dim,
            "up bias": layers * ffn(config, dim),
            "down bias": layers * dim,
            "norms": layers * 4 * dim,
            "last norm": 2 * dim,
        }
        return sum(size for name, size in parts.items() if name not in without)

    return count


SIZE = size_of()
BIASES = ("attention biases", "up bias", "down bias")


def both_ways(config: Config, budget: int, count=SIZE, bisect=bisect_right, step=None) -> tuple[int, int]:
    """The largest sizes that `count` lets fit, each with the other kept: how many of them, in order, are within the budget."""
    widths = range(step or config.heads, config.dim + 1, step or config.heads)
    layers = bisect(range(1, config.layers + 1), budget, key=lambda n: count(config, n, config.dim))
    return layers, widths.step * bisect(widths, budget, key=lambda dim: count(config, config.layers, dim))


def share(config: Config, budget: int) -> float:
    return budget / SIZE(config, config.layers, config.dim)


def wrong(*without: str, **change):
    return partial(both_ways, count=size_of(*without, **change))


def width_without(*parts: str):
    """The layers right, and the width as if the model lacked some parts."""
    return lambda config, budget: (both_ways(config, budget)[0], wrong(*parts)(config, budget)[1])


WAYS_MISTAKES = {
    "Your layers are right. For the width you forget the last norm.": width_without("last norm"),
    "Your layers are right. For the width you forget the biases.": width_without(*BIASES),
    "Your layers are right. For the width you forget the norms in the layers.": width_without("norms"),
    "Your layers are right. For the width you forget biases and norms.": width_without(
        *BIASES, "norms", "last norm"
    ),
    "You return the width first. The task asks for the layers, then the width.": lambda c, b: both_ways(c, b)[
        ::-1
    ],
    "Token and position vectors are missing. They stay whatever you do to the layers.": wrong(
        "tokens", "positions"
    ),
    "The token vectors are missing, and here they are a large part of the model.": wrong("tokens"),
    "The position vectors are missing: one for each place of the context.": wrong("positions"),
    "The head is counted beside the token vectors. It is tied: both are the same numbers.": wrong(heads=1),
    "The biases are missing: each linear in a layer has one.": wrong(*BIASES),
    "The biases of the feed-forward are missing: one of width F, one of width C.": wrong(
        "up bias", "down bias"
    ),
    "The bias that leads back from the feed-forward is missing: it is C wide.": wrong("down bias"),
    "In each layer 4 C parameters are missing: its two norms, or the four biases of attention.": wrong(
        "norms"
    ),
    "You count matrices and vectors of tokens and positions. Biases and norms are parameters too.": wrong(
        *BIASES, "norms", "last norm"
    ),
    "The last norm is missing, after all layers.": wrong("last norm"),
    "You return the first sizes that do not fit.": lambda c, b: (
        both_ways(c, b)[0] + 1,
        both_ways(c, b)[1] + c.heads,
    ),
    "A model with exactly `budget` parameters fits.": partial(both_ways, bisect=bisect_left),
    "Your width is not always a multiple of the number of heads, and such a model cannot be built.": partial(
        both_ways, step=1
    ),
    "You keep the feed-forward as wide as it was while the rest gets narrower. In this task it keeps its ratio to the width.": (
        wrong(ffn=lambda config, dim: config.ffn)
    ),
    "You take the feed-forward to be 4 times the width. The config says how wide it is.": wrong(
        ffn=lambda config, dim: 4 * dim
    ),
    "You shrink the width in proportion to the parameters. Which of them grow with its square?": lambda c, b: (
        both_ways(c, b)[0],
        int(c.dim * share(c, b) / c.heads) * c.heads,
    ),
    "You shrink the width as if all parameters grew with its square. Which of them do not?": lambda c, b: (
        both_ways(c, b)[0],
        int(c.dim * share(c, b) ** 0.5 / c.heads) * c.heads,
    ),
    "You take the layers to be all parameters. What lies outside the layers does not get smaller with them.": lambda c, b: (
        int(c.layers * share(c, b)),
        both_ways(c, b)[1],
    ),
    "You shrink both, layers and width, in proportion to the parameters. Neither is: count what each of them changes.": (
        lambda c, b: (int(c.layers * share(c, b)), int(c.dim * share(c, b) / c.heads) * c.heads)
    ),
    "You narrow the model that you already made shallower. These are two ways: the width is asked for at full depth.": (
        lambda c, b: (both_ways(c, b)[0], both_ways(replace(c, layers=both_ways(c, b)[0]), b)[1])
    ),
}


def elsewhere(draw: Random, short: int) -> Case:
    """A model of GPT-2's kind, and a budget that just lets a size fit, or lacks for it this or that part."""
    heads, width, times = draw.choice((6, 8, 10, 12)), draw.choice((48, 64)), draw.choice((2, 5))
    C, n, fit = heads * width, draw.randrange(10, 14), draw.randrange(3, 9)
    config = Config(draw.randrange(12_000, 30_000), draw.randrange(500, 1500), n, heads, C, ffn=times * C)
    w = C - heads * draw.randrange(2, 9)
    lacking = [0, -1, 1, C, 2 * C, fit * C, 2 * fit * C, 4 * fit * C, (1 + times) * fit * C]
    lacking += [
        k * fit * C // d for k, d in ((9 + times, 2), (7 + times, 1), (9 + times, 1), (12 + times, 1))
    ]
    budgets = [SIZE(config, fit, C) - lack for lack in lacking]
    budgets += [
        SIZE(config, n, w) - lack
        for lack in (0, 1, w, 4 * n * w, (9 + times) * n * w // 2, (7 + times) * n * w)
    ]
    return Case(
        (config, budgets[short]), f"{sizes(config)}, V={config.vocab}, heads={heads}, budget={budgets[short]}"
    )


BUDGETS = 19


@task
def depth_or_width(run, draw: Random) -> Verdict:
    """`depth_or_width(config, budget)`: the layers that fit at full width, and the width that fits at full depth."""
    kind = numbers("layers", "width", kind=whole)
    cases = telling(lambda: [elsewhere(draw, n) for n in range(BUDGETS)], both_ways, WAYS_MISTAKES, kind)
    judge(run, cases, partial(both_ways, count=counted), WAYS_MISTAKES, kind=kind)
    return Verdict(
        "These fit, and one layer or one step of width more does not: counted on models that were built."
    )
