"""Answers to exercise 01: right ones, written in another way, and wrong ones that are easy to let through."""

from math import isqrt, sqrt
from statistics import median, variance

import numpy as np
import torch

# Task 1


def in_one_pass(models):
    found, best = set(), {}
    for size, loss in models.values():
        best[size] = min(loss, best.get(size, loss))
    lowest = float("inf")
    for size in sorted(best):
        if best[size] < lowest:
            lowest = best[size]
            found |= {name for name, point in models.items() if point == (size, lowest)}
    return found


def with_arrays(models):
    points = np.array(list(models.values()))  # (N, 2)
    less = (points[:, None] <= points).all(-1) & (points[:, None] < points).any(-1)  # (N, N)
    return tuple(name for name, beaten in zip(models, less.any(0), strict=True) if not beaten)


def keeps_whatever_has_an_equal(models):
    return sorted(in_one_pass(models) | {n for n, p in models.items() if list(models.values()).count(p) > 1})


# Task 2


def sorts_and_takes_the_first(models, most_bytes, most_ms):
    for m in sorted(models, key=lambda m: (m["bits_per_byte"], m["bytes"])):
        if m["bytes"] <= (float("inf") if most_bytes is None else most_bytes):
            if most_ms is None or not m["ms"] > most_ms:
                return m["name"]


def with_a_loop(models, most_bytes, most_ms):
    best = None
    for m in models:
        if most_bytes is not None and m["bytes"] > most_bytes or most_ms is not None and m["ms"] > most_ms:
            continue
        better = best is None or m["bits_per_byte"] < best["bits_per_byte"]
        if better or m["bits_per_byte"] == best["bits_per_byte"] and m["bytes"] < best["bytes"]:
            best = m
    return None if best is None else best["name"]


def rounds_times(models, most_bytes, most_ms):
    return with_a_loop([{**m, "ms": int(m["ms"])} for m in models], most_bytes, most_ms)


# Task 3


def rounded_down(base, tokens, other):
    spent = [c.dim * (c.layers * 2 * (2 * c.dim + c.ffn + c.context) + c.vocab) for c in (base, other)]
    return tokens * spent[0] // spent[1]


def flops_of_training_steps(base, tokens, other):
    spent = []
    for c in (base, other):
        linears = [(c.dim, c.dim)] * 4 + [(c.dim, c.ffn), (c.ffn, c.dim)] + [(c.context, c.dim)] * 2
        shapes = linears * c.layers + [(c.dim, c.vocab)]
        spent.append(torch.tensor([3 * 2 * rows * columns for rows, columns in shapes]).sum())
    return spent[0].double() * tokens / spent[1]


# Task 4


def by_pairs(log, macs, budget):
    looks = [row for row in log if "valid" in row]
    at = budget / macs / 3
    for a, b in zip(looks, looks[1:], strict=False):
        if a["tokens"] <= at <= b["tokens"]:
            share = (at - a["tokens"]) / (b["tokens"] - a["tokens"])
            return (1 - share) * a["valid"] + share * b["valid"]


def in_tensors(log, macs, budget):
    looks = [(3 * macs * row["tokens"], row["valid"]) for row in log if "valid" in row]
    spent, losses = torch.tensor(looks, dtype=torch.float64).T.contiguous()
    if budget < spent[0] or budget > spent[-1]:
        return None
    i = int(torch.searchsorted(spent, budget).clamp(1, len(spent) - 1))
    return torch.lerp(losses[i - 1], losses[i], (budget - spent[i - 1]) / (spent[i] - spent[i - 1]))


def nan_outside(log, macs, budget):
    loss = by_pairs(log, macs, budget)
    return np.nan if loss is None else loss


# Task 5


def in_float32(first, second):
    a, b = torch.tensor(first), torch.tensor(second)
    return b.mean() - a.mean(), (a.var() / len(a) + b.var() / len(b)).sqrt()


def with_numpy(first, second):
    errors = [np.std(x, ddof=1) / np.sqrt(len(x)) for x in (first, second)]
    return [np.mean(second) - np.mean(first), np.linalg.norm(errors)]


def medians(first, second):
    error = sqrt(variance(first) / len(first) + variance(second) / len(second))
    return median(second) - median(first), error


# Task 6


def solves_the_equation(config, budget):
    L, C, times = config.layers, config.dim, config.ffn // config.dim
    rest, layer = (config.vocab + config.context + 2) * C, (4 + 2 * times) * C * C + (9 + times) * C
    a, b = L * (4 + 2 * times), config.vocab + config.context + 2 + L * (9 + times)
    width = (isqrt(b * b + 4 * a * budget) - b) // (2 * a)  # the positive root of a C^2 + b C = budget
    return (budget - rest) // layer, width // config.heads * config.heads


def forgets_the_last_norm(config, budget):
    """For the width: a few parameters in millions."""
    return solves_the_equation(config, budget)[0], solves_the_equation(config, budget + 2 * config.dim)[1]


RIGHT = {
    "front": [in_one_pass, with_arrays],
    "pick": [sorts_and_takes_the_first, with_a_loop],
    "tokens_for": [rounded_down, flops_of_training_steps],
    "loss_at": [by_pairs, in_tensors],
    "gap": [in_float32, with_numpy],
    "depth_or_width": [
        solves_the_equation,
        lambda config, budget: np.array(solves_the_equation(config, budget)),
    ],
}
WRONG = {
    "front": [(keeps_whatever_has_an_equal, "and another model dominates it")],
    "pick": [(rounds_times, "you return a str")],
    "loss_at": [(nan_outside, "you return nan")],
    "gap": [(medians, "item 1: you return")],
    "depth_or_width": [(forgets_the_last_norm, "item 2: you return")],
}
