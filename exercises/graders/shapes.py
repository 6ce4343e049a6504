"""Task 6 of exercise 01: the inputs, and the misconceptions about what depth and width cost."""

from bisect import bisect_left, bisect_right
from dataclasses import replace
from functools import partial
from random import Random

from minieff.transformer import Config

from exercises.graders import Case
from exercises.graders.runs import built, sizes


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
