"""Tasks 3 to 5 of exercise 01: the inputs, and the misconceptions about equal compute, logs and seeds."""

from bisect import bisect_right
from functools import cache
from math import hypot, sqrt
from operator import add, le, lt
from random import Random
from statistics import mean, median, pstdev, stdev

import numpy as np
import torch
from minieff.transformer import Config, Transformer

from exercises.graders import NotYet
from exercises.graders.kinds import number
from minieff import cost


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
