"""Tasks 1 and 2 of exercise 01: the inputs, and the misconceptions about fronts and limits."""

from itertools import accumulate
from math import inf
from operator import le, lt
from random import Random

from exercises.graders import Case, NotYet
from exercises.graders.kinds import kind_of
from minieff import cost, plot


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
