"""Answers to exercise 01: wrong ones, each with a fragment of the message it must get, and right ones."""

from bisect import bisect
from math import hypot, isqrt, sqrt
from statistics import mean, median, pstdev, stdev, variance

import numpy as np
import torch

# Task 1


def unbeaten(models, beats):
    return [
        name
        for name, point in models.items()
        if not any(beats(other, point) for key, other in models.items() if key != name)
    ]


def dominates(a, b):
    return a[0] <= b[0] and a[1] <= b[1] and (a[0] < b[0] or a[1] < b[1])


def strictly_better_in_both(models):
    return unbeaten(models, lambda a, b: a[0] < b[0] and a[1] < b[1])


def keeps_larger_of_equal_loss(models):
    found, best = [], float("inf")
    for name, (_, loss) in sorted(models.items(), key=lambda item: item[1]):
        if loss <= best:
            found.append(name)
            best = loss
    return found


def keeps_worse_of_equal_size(models):
    return unbeaten(models, lambda a, b: a[0] < b[0] and a[1] <= b[1])


def equals_remove_each_other(models):
    return unbeaten(models, lambda a, b: a[0] <= b[0] and a[1] <= b[1])


def first_of_equals(models):
    found, best = [], float("inf")
    for name, (_, loss) in sorted(models.items(), key=lambda item: item[1]):
        if loss < best:
            found.append(name)
            best = loss
    return found


def last_of_equals(models):
    by_point = {point: name for name, point in models.items()}
    return [name for point, name in by_point.items() if not any(dominates(q, point) for q in by_point)]


def sorts_by_bytes_alone(models):
    found, best = [], float("inf")
    for name in sorted(models, key=lambda name: models[name][0]):
        if models[name][1] < best:
            found.append(name)
            best = models[name][1]
    return found


def compares_neighbours(models):
    order = sorted(models, key=models.get)
    return [
        b for a, b in zip([None, *order], order, strict=False) if a is None or models[b][1] < models[a][1]
    ]


def lowest_loss(models):
    return [min(models, key=lambda name: models[name][1])]


def fewest_bytes(models):
    return [min(models, key=lambda name: models[name][0])]


def both_ends(models):
    return lowest_loss(models) + fewest_bytes(models)


def higher_loss_is_better(models):
    return unbeaten(models, lambda a, b: dominates((a[0], -a[1]), (b[0], -b[1])))


def more_bytes_are_better(models):
    return unbeaten(models, lambda a, b: dominates((-a[0], a[1]), (-b[0], b[1])))


def turned_round(models):
    return [name for name in models if not any(dominates(models[name], other) for other in models.values())]


def dominated_ones(models):
    return [name for name in models if any(dominates(other, models[name]) for other in models.values())]


def dominated_by_all(models):
    return [
        name for name in models if not all(dominates(models[o], models[name]) for o in models if o != name)
    ]


def pops_what_is_dominated(models):
    for name in dominated_ones(models):
        models.pop(name)
    return list(models)


def returns_points(models):
    return [models[name] for name in unbeaten(models, dominates)]


def every_second(models):
    return unbeaten(models, dominates)[::2]


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


# Task 2


def fitting(models, most_bytes, most_ms):
    return [
        m
        for m in models
        if (most_bytes is None or m["bytes"] <= most_bytes) and (most_ms is None or m["ms"] <= most_ms)
    ]


def by(key, models, *limits):
    found = fitting(models, *limits)
    return min(found, key=key)["name"] if found else None


def quality(model):
    return model["bits_per_byte"], model["bytes"]


def largest_that_fits(models, most_bytes, most_ms):
    return by(lambda m: -m["bytes"], models, most_bytes, most_ms)


def smallest_that_fits(models, most_bytes, most_ms):
    return by(lambda m: m["bytes"], models, most_bytes, most_ms)


def fastest_that_fits(models, most_bytes, most_ms):
    return by(lambda m: m["ms"], models, most_bytes, most_ms)


def most_bits(models, most_bytes, most_ms):
    return by(lambda m: -m["bits_per_byte"], models, most_bytes, most_ms)


def strictly_below(models, most_bytes, most_ms):
    found = [
        m
        for m in models
        if (most_bytes is None or m["bytes"] < most_bytes) and (most_ms is None or m["ms"] < most_ms)
    ]
    return min(found, key=quality)["name"] if found else None


def ignores_bytes(models, most_bytes, most_ms):
    return by(quality, models, None, most_ms)


def ignores_ms(models, most_bytes, most_ms):
    return by(quality, models, most_bytes, None)


def none_is_zero(models, most_bytes, most_ms):
    return by(quality, models, most_bytes or 0, most_ms or 0)


def zero_is_none(models, most_bytes, most_ms):
    return by(quality, models, most_bytes or None, most_ms or None)


def one_limit_is_enough(models, most_bytes, most_ms):
    found = [m for m in models if fitting([m], most_bytes, None) or fitting([m], None, most_ms)]
    return min(found, key=quality)["name"]


def chooses_before_checking(models, most_bytes, most_ms):
    best = min(models, key=quality)
    return best["name"] if fitting([best], most_bytes, most_ms) else None


def first_of_two(models, most_bytes, most_ms):
    return by(lambda m: m["bits_per_byte"], models, most_bytes, most_ms)


def last_of_two(models, most_bytes, most_ms):
    best = None
    for m in fitting(models, most_bytes, most_ms):
        if best is None or m["bits_per_byte"] <= best["bits_per_byte"]:
            best = m
    return best and best["name"]


def faster_of_two(models, most_bytes, most_ms):
    return by(lambda m: (m["bits_per_byte"], m["ms"]), models, most_bytes, most_ms)


def larger_of_two(models, most_bytes, most_ms):
    return by(lambda m: (m["bits_per_byte"], -m["bytes"]), models, most_bytes, most_ms)


def best_of_all_where_none_fits(models, most_bytes, most_ms):
    return min(fitting(models, most_bytes, most_ms) or models, key=quality)["name"]


def nothing_ever(models, most_bytes, most_ms):
    return None


def crashes_where_none_fits(models, most_bytes, most_ms):
    return min(fitting(models, most_bytes, most_ms), key=quality)["name"]


def compares_with_none(models, most_bytes, most_ms):
    found = [m for m in models if m["bytes"] <= most_bytes and m["ms"] <= most_ms]
    return min(found, key=quality)["name"] if found else None


def returns_the_model(models, most_bytes, most_ms):
    return min(fitting(models, most_bytes, most_ms), key=quality, default=None)


def sorts_in_place(models, most_bytes, most_ms):
    models.sort(key=quality)
    return by(quality, models, most_bytes, most_ms)


def says_none(models, most_bytes, most_ms):
    return by(quality, models, most_bytes, most_ms) or "none"


def sorts_and_takes_the_first(models, most_bytes, most_ms):
    for m in sorted(models, key=quality):
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


# Task 3


def macs(c, head=1, products=2, ffn=None, context=None):
    layer = 4 * c.dim**2 + 2 * c.dim * (ffn or c.ffn) + products * (context or c.context) * c.dim
    return c.layers * layer + head * c.vocab * c.dim


def inverted(base, tokens, other):
    return tokens * macs(other) / macs(base)


def equal_tokens(base, tokens, other):
    return tokens


def by_parameters(base, tokens, other):
    sizes = [
        (c.vocab + c.context + 2) * c.dim + c.layers * (4 * c.dim**2 + 2 * c.dim * c.ffn + 9 * c.dim + c.ffn)
        for c in (base, other)
    ]
    return tokens * sizes[0] / sizes[1]


def by_layers(base, tokens, other):
    return tokens * base.layers / other.layers


def by_layers_times_width(base, tokens, other):
    return tokens * base.layers * base.dim / (other.layers * other.dim)


def no_head(base, tokens, other):
    return tokens * macs(base, head=0) / macs(other, head=0)


def no_products(base, tokens, other):
    return tokens * macs(base, products=0) / macs(other, products=0)


def matrices_alone(base, tokens, other):
    return tokens * macs(base, head=0, products=0) / macs(other, head=0, products=0)


def causal_half(base, tokens, other):
    return tokens * macs(base, products=1) / macs(other, products=1)


def ffn_of_four(base, tokens, other):
    return tokens * macs(base, ffn=4 * base.dim) / macs(other, ffn=4 * other.dim)


def context_of_the_base(base, tokens, other):
    return tokens * macs(base) / macs(other, context=base.context)


def context_of_the_other(base, tokens, other):
    return tokens * macs(base, context=other.context) / macs(other)


def whole_sequences(base, tokens, other):
    return tokens * base.context * macs(base) / (other.context * macs(other))


def head_in_every_layer(base, tokens, other):
    return tokens * macs(base, head=base.layers) / macs(other, head=other.layers)


def returns_macs(base, tokens, other):
    return 3 * tokens * macs(base)


def rounded_down(base, tokens, other):
    return tokens * macs(base) // macs(other)


def flops_of_training_steps(base, tokens, other):
    spent = []
    for c in (base, other):
        linears = [(c.dim, c.dim)] * 4 + [(c.dim, c.ffn), (c.ffn, c.dim)] + [(c.context, c.dim)] * 2
        shapes = linears * c.layers + [(c.dim, c.vocab)]
        spent.append(torch.tensor([3 * 2 * rows * columns for rows, columns in shapes]).sum())
    return spent[0].double() * tokens / spent[1]


# Task 4


def looks_of(log, macs, passes=3, at="tokens", key="valid"):
    rows = [row for row in log if "valid" in row]
    return [passes * macs * row[at] for row in rows], [row[key] for row in rows]


def line(spent, losses, budget):
    return np.interp(budget, spent, losses) if spent[0] <= budget <= spent[-1] else None


def one_pass_and_clamps(log, macs, budget):
    return np.interp(budget, *looks_of(log, macs, passes=1))


def one_pass(log, macs, budget):
    return line(*looks_of(log, macs, passes=1), budget)


def two_passes(log, macs, budget):
    return line(*looks_of(log, macs, passes=2), budget)


def clamps(log, macs, budget):
    return float(np.interp(budget, *looks_of(log, macs)))


def clamps_before(log, macs, budget):
    spent, losses = looks_of(log, macs)
    return None if budget > spent[-1] else np.interp(budget, spent, losses)


def clamps_after(log, macs, budget):
    spent, losses = looks_of(log, macs)
    return None if budget < spent[0] else np.interp(budget, spent, losses)


def extrapolates(log, macs, budget):
    spent, losses = (np.array(values, dtype=float) for values in looks_of(log, macs))
    i = min(max(bisect(spent, budget), 1), len(spent) - 1)
    slope = (losses[i] - losses[i - 1]) / (spent[i] - spent[i - 1])
    return losses[i] + slope * (budget - spent[i])


def none_at_the_ends(log, macs, budget):
    spent, losses = looks_of(log, macs)
    return np.interp(budget, spent, losses) if spent[0] < budget < spent[-1] else None


def training_loss(log, macs, budget):
    return line(*looks_of(log, macs, key="train"), budget)


def training_loss_of_all_rows(log, macs, budget):
    spent = [3 * macs * row["tokens"] for row in log]
    return line(spent, [row["train"] for row in log], budget)


def steps_for_tokens(log, macs, budget):
    return line(*looks_of(log, macs, at="step"), budget)


def seconds_for_tokens(log, macs, budget):
    return line(*looks_of(log, macs, at="seconds"), budget)


def look_before(log, macs, budget):
    spent, losses = looks_of(log, macs)
    return losses[bisect(spent, budget) - 1] if spent[0] <= budget <= spent[-1] else None


def look_after(log, macs, budget):
    spent, losses = looks_of(log, macs)
    return next(loss for x, loss in zip(spent, losses, strict=True) if x >= budget) if line(
        spent, losses, budget
    ) else None  # fmt: skip


def nearest_look(log, macs, budget):
    spent, losses = looks_of(log, macs)
    near = min(range(len(spent)), key=lambda i: abs(spent[i] - budget))
    return losses[near] if spent[0] <= budget <= spent[-1] else None


def never_a_loss(log, macs, budget):
    loss_at = line(*looks_of(log, macs), budget)  # noqa: F841


def nan_outside(log, macs, budget):
    return np.interp(budget, *looks_of(log, macs), left=np.nan, right=np.nan)


def zero_outside(log, macs, budget):
    return np.interp(budget, *looks_of(log, macs), left=0, right=0)


def every_row_has_a_look(log, macs, budget):
    return line([3 * macs * row["tokens"] for row in log], [row["valid"] for row in log], budget)


def drops_rows_without_look(log, macs, budget):
    log[:] = [row for row in log if "valid" in row]
    return line(*looks_of(log, macs), budget)


def by_pairs(log, macs, budget):
    looks = [row for row in log if "valid" in row]
    at = budget / macs / 3
    for a, b in zip(looks, looks[1:], strict=False):
        if a["tokens"] <= at <= b["tokens"]:
            share = (at - a["tokens"]) / (b["tokens"] - a["tokens"])
            return (1 - share) * a["valid"] + share * b["valid"]


def in_tensors(log, macs, budget):
    spent, losses = (torch.tensor(values, dtype=torch.float64) for values in looks_of(log, macs))
    if budget < spent[0] or budget > spent[-1]:
        return None
    i = int(torch.searchsorted(spent, budget).clamp(1, len(spent) - 1))
    return torch.lerp(losses[i - 1], losses[i], (budget - spent[i - 1]) / (spent[i] - spent[i - 1]))


# Task 5


def without_sign(first, second):
    return abs(mean(second) - mean(first)), sqrt(
        stdev(first) ** 2 / len(first) + stdev(second) ** 2 / len(second)
    )


def population_and_linear(first, second):
    return mean(second) - mean(first), pstdev(first) / sqrt(len(first)) + pstdev(second) / sqrt(len(second))


def linear(first, second):
    return mean(second) - mean(first), stdev(first) / sqrt(len(first)) + stdev(second) / sqrt(len(second))


def population(first, second):
    return np.mean(second) - np.mean(first), sqrt(np.var(first) / len(first) + np.var(second) / len(second))


def single_runs(first, second):
    return mean(second) - mean(first), hypot(stdev(first), stdev(second))


def divides_by_n_outside(first, second):
    return mean(second) - mean(first), hypot(stdev(first) / len(first), stdev(second) / len(second))


def not_rooted(first, second):
    return mean(second) - mean(first), variance(first) / len(first) + variance(second) / len(second)


def first_minus_second(first, second):
    return mean(first) - mean(second), sqrt(not_rooted(first, second)[1])


def best_runs(first, second):
    return min(second) - min(first), sqrt(not_rooted(first, second)[1])


def medians(first, second):
    return median(second) - median(first), sqrt(not_rooted(first, second)[1])


def averages_variances(first, second):
    return mean(second) - mean(first), sqrt((variance(first) + variance(second)) / 2)


def pools_variances(first, second):
    n, m = len(first), len(second)
    pooled = ((n - 1) * variance(first) + (m - 1) * variance(second)) / (n + m - 2)
    return mean(second) - mean(first), sqrt(pooled / n + pooled / m)


def spread_of_all(first, second):
    return mean(second) - mean(first), stdev(first + second) * sqrt(1 / len(first) + 1 / len(second))


def pairs_of_runs(first, second):
    apart = [b - a for a, b in zip(first, second, strict=False)]
    return mean(second) - mean(first), stdev(apart) / sqrt(len(apart))


def error_alone(first, second):
    return sqrt(not_rooted(first, second)[1])


def two_standard_errors(first, second):
    return mean(second) - mean(first), 2 * sqrt(not_rooted(first, second)[1])


def sorts_the_runs(first, second):
    first.sort()
    second.sort()
    return first_minus_second(second, first)


def in_float32(first, second):
    a, b = torch.tensor(first), torch.tensor(second)
    return b.mean() - a.mean(), (a.var() / len(a) + b.var() / len(b)).sqrt()


def with_numpy(first, second):
    errors = [np.std(x, ddof=1) / np.sqrt(len(x)) for x in (first, second)]
    return [np.mean(second) - np.mean(first), np.linalg.norm(errors)]


# Task 6


def count(c, layers, dim, ffn=None, positions=1, tokens=1, bias=1, norm=1, last=1):
    ffn = dim * c.ffn // c.dim if ffn is None else ffn
    layer = 4 * dim * dim + 2 * dim * ffn + bias * (5 * dim + ffn) + norm * 4 * dim
    return (tokens * c.vocab + positions * c.context) * dim + layers * layer + last * 2 * dim


def search(c, budget, size=count, step=None, fits=lambda size, budget: size <= budget):
    widths = range(step or c.heads, c.dim + 1, step or c.heads)
    layers = [n for n in range(1, c.layers + 1) if fits(size(c, n, c.dim), budget)]
    return max(layers, default=0), max((d for d in widths if fits(size(c, c.layers, d), budget)), default=0)


def width_first(config, budget):
    return search(config, budget)[::-1]


def no_vectors(config, budget):
    return search(config, budget, lambda *a: count(*a, positions=0, tokens=0))


def no_tokens(config, budget):
    return search(config, budget, lambda *a: count(*a, tokens=0))


def no_positions(config, budget):
    return search(config, budget, lambda *a: count(*a, positions=0))


def head_counted(config, budget):
    return search(config, budget, lambda *a: count(*a, tokens=2))


def no_biases(config, budget):
    return search(config, budget, lambda *a: count(*a, bias=0))


def no_norms_in_layers(config, budget):
    return search(config, budget, lambda *a: count(*a, norm=0))


def no_biases_no_norms(config, budget):
    return search(config, budget, lambda *a: count(*a, bias=0, norm=0, last=0))


def no_last_norm(config, budget):
    return search(config, budget, lambda *a: count(*a, last=0))


def first_that_does_not_fit(config, budget):
    layers, width = 1, config.heads
    while count(config, layers, config.dim) <= budget:
        layers += 1
    while count(config, config.layers, width) <= budget:
        width += config.heads
    return layers, width


def strictly_less(config, budget):
    return search(config, budget, fits=lambda size, budget: size < budget)


def any_width(config, budget):
    return search(config, budget, step=1)


def ffn_kept(config, budget):
    return search(config, budget, lambda c, n, d: count(c, n, d, ffn=c.ffn))


def ffn_four_times(config, budget):
    return search(config, budget, lambda c, n, d: count(c, n, d, ffn=4 * d))


def share(config, budget):
    return budget / count(config, config.layers, config.dim)


def width_in_proportion(config, budget):
    width = int(config.dim * share(config, budget)) // config.heads * config.heads
    return search(config, budget)[0], width


def width_by_the_root(config, budget):
    width = int(config.dim * sqrt(share(config, budget))) // config.heads * config.heads
    return search(config, budget)[0], width


def layers_in_proportion(config, budget):
    return int(config.layers * share(config, budget)), search(config, budget)[1]


def both_in_proportion(config, budget):
    return layers_in_proportion(config, budget)[0], width_in_proportion(config, budget)[1]


def one_after_the_other(config, budget):
    layers, _ = search(config, budget)
    widths = range(config.heads, config.dim + 1, config.heads)
    return layers, max(d for d in widths if count(config, layers, d) <= budget)


def fractions(config, budget):
    rest, layer = count(config, 0, config.dim), count(config, 1, config.dim) - count(config, 0, config.dim)
    return (budget - rest) / layer, search(config, budget)[1]


def one_layer_too_few(config, budget):
    layers, width = search(config, budget)
    return layers - 1, width


def solves_the_equation(config, budget):
    L, C, times = config.layers, config.dim, config.ffn // config.dim
    rest, layer = (config.vocab + config.context + 2) * C, (4 + 2 * times) * C * C + (9 + times) * C
    a, b = L * (4 + 2 * times), config.vocab + config.context + 2 + L * (9 + times)
    width = (isqrt(b * b + 4 * a * budget) - b) // (2 * a)  # the positive root of a C^2 + b C = budget
    return (budget - rest) // layer, width // config.heads * config.heads


def goes_down(config, budget):
    layers, width = torch.tensor(config.layers), np.int64(config.dim)
    while count(config, layers, config.dim) > budget:
        layers = layers - 1
    while count(config, config.layers, int(width)) > budget:
        width -= config.heads
    return [layers, width]


def keeps_whatever_has_an_equal(models):
    points = list(models.values())
    return [n for n, p in models.items() if points.count(p) > 1 or not any(dominates(q, p) for q in points)]


def keeps_all_of_the_smallest(models):
    smallest = min(size for size, _ in models.values())
    return [
        n for n, p in models.items() if p[0] == smallest or not any(dominates(q, p) for q in models.values())
    ]


def keeps_all_of_the_lowest(models):
    lowest = min(loss for _, loss in models.values())
    return [
        n for n, p in models.items() if p[1] == lowest or not any(dominates(q, p) for q in models.values())
    ]


def lower_names(models):
    return [n.lower() for n, p in models.items() if not any(dominates(q, p) for q in models.values())]


def keeps(models, most_bytes, most_ms):
    small = [m for m in models if most_bytes is None or m["bytes"] <= most_bytes]
    return [m for m in small if most_ms is None or m["ms"] <= most_ms]


def best_of(models):
    return min(models, key=lambda m: (m["bits_per_byte"], m["bytes"]))["name"] if models else None


def front_first(models, most_bytes, most_ms):
    def beaten(m):
        return any(o["bytes"] <= m["bytes"] and o["bits_per_byte"] < m["bits_per_byte"] for o in models)

    return best_of(keeps([m for m in models if not beaten(m)], most_bytes, most_ms))


def twins_first(models, most_bytes, most_ms):
    smallest = {}
    for m in sorted(models, key=lambda m: -m["bytes"]):
        smallest[m["bits_per_byte"]] = m
    return best_of(keeps(list(smallest.values()), most_bytes, most_ms))


def quality_from_those_that_fit(models, most_bytes, most_ms):
    fit = keeps(models, most_bytes, most_ms)
    bits = min((m["bits_per_byte"] for m in fit), default=None)
    return best_of([m for m in models if m["bits_per_byte"] == bits])


def time_last(models, most_bytes, most_ms):
    best = best_of(keeps(models, most_bytes, None))
    return best_of(keeps([m for m in models if m["name"] == best], None, most_ms))


def below_the_bytes(models, most_bytes, most_ms):
    return best_of([m for m in keeps(models, most_bytes, most_ms) if m["bytes"] != most_bytes])


def below_the_time(models, most_bytes, most_ms):
    return best_of([m for m in keeps(models, most_bytes, most_ms) if m["ms"] != most_ms])


def limits_exchanged(models, most_bytes, most_ms):
    return best_of(keeps(models, most_ms, most_bytes))


def no_bytes_is_no_limit(models, most_bytes, most_ms):
    return best_of(keeps(models, most_bytes or None, most_ms))


def no_time_is_no_limit(models, most_bytes, most_ms):
    return best_of(keeps(models, most_bytes, most_ms or None))


def rounds_times(models, most_bytes, most_ms):
    return best_of(keeps([{**m, "ms": int(m["ms"])} for m in models], most_bytes, most_ms))


def one_vocabulary(base, tokens, other):
    def macs(c):
        return c.layers * (4 * c.dim**2 + 2 * c.dim * c.ffn + 2 * c.context * c.dim) + base.vocab * c.dim

    return tokens * macs(base) / macs(other)


def looked(log, macs):
    rows = [row for row in log if "valid" in row]
    return [3 * macs * row["tokens"] for row in rows], [row["valid"] for row in rows]


def none_at_inner_looks(log, macs, budget):
    spent, losses = looked(log, macs)
    if budget in (spent[0], spent[-1]):
        return losses[0] if budget == spent[0] else losses[-1]
    for i in range(1, len(spent)):
        if spent[i - 1] < budget < spent[i]:
            return float(np.interp(budget, spent, losses))
    return None


def error_first(first, second):
    return sqrt(variance(first) / len(first) + variance(second) / len(second)), mean(second) - mean(first)


def pairs_if_equally_long(first, second):
    error = sqrt(variance(first) / len(first) + variance(second) / len(second))
    if len(first) == len(second):
        error = stdev([b - a for a, b in zip(first, second, strict=True)]) / sqrt(len(first))
    return mean(second) - mean(first), error


def width_without_norms(config, budget):
    return search(config, budget)[0], search(config, budget, lambda *a: count(*a, norm=0))[1]


def width_without_last_norm(config, budget):
    return search(config, budget)[0], search(config, budget, lambda *a: count(*a, last=0))[1]


def width_without_biases(config, budget):
    return search(config, budget)[0], search(config, budget, lambda *a: count(*a, bias=0))[1]


WRONG = {
    "front": [
        (keeps_whatever_has_an_equal, "both may be dominated by a third"),
        (keeps_all_of_the_smallest, "Of the smallest size you keep all"),
        (keeps_all_of_the_lowest, "Of the lowest loss you keep all"),
        (lower_names, "is the name of no model"),
        (strictly_better_in_both, "does it have to be strictly better in both"),
        (keeps_larger_of_equal_loss, "larger than another one and has the same loss"),
        (keeps_worse_of_equal_size, "as large as another one and has a higher loss"),
        (equals_remove_each_other, "remove each other"),
        (first_of_equals, "keep the first one alone"),
        (last_of_equals, "keep the last one alone"),
        (sorts_by_bytes_alone, "sort by bytes alone"),
        (compares_neighbours, "with its neighbour"),
        (lowest_loss, "look at the loss alone"),
        (fewest_bytes, "look at the bytes alone"),
        (both_ends, "the smallest model and the best one"),
        (higher_loss_is_better, "treat a higher loss as the better one"),
        (more_bytes_are_better, "treat more bytes as better"),
        (turned_round, "keep the largest and worst"),
        (dominated_ones, "return the models that are dominated"),
        (dominated_by_all, "keep every model"),
        (pops_what_is_dominated, "changes what it was given (models)"),
        (returns_points, "asks for a list of names"),
        (every_second, "You leave out"),
    ],
    "pick": [
        (front_first, "drop models that lose on bytes and quality"),
        (twins_first, "drop the larger of two equally good"),
        (quality_from_those_that_fit, "from *all* of them"),
        (time_last, "only then look at its time"),
        (below_the_bytes, "exactly `most_bytes` fits"),
        (below_the_time, "exactly `most_ms` fits"),
        (limits_exchanged, "exchanged the two limits"),
        (no_bytes_is_no_limit, "You read `most_bytes` of 0"),
        (no_time_is_no_limit, "You read `most_ms` of 0"),
        (rounds_times, "A time of 7.3 ms"),
        (largest_that_fits, "the largest model that fits"),
        (smallest_that_fits, "the smallest model that fits"),
        (fastest_that_fits, "the fastest model that fits"),
        (most_bits, "the most bits a byte"),
        (strictly_below, "exactly as large, or exactly as slow"),
        (ignores_bytes, "does not depend on `most_bytes`"),
        (ignores_ms, "does not depend on `most_ms`"),
        (none_is_zero, "Where a limit is None you find nothing"),
        (zero_is_none, "a limit of 0 as no limit"),
        (one_limit_is_enough, "keeps one of the two limits"),
        (chooses_before_checking, "only then see whether it fits"),
        (first_of_two, "comes first in the list"),
        (last_of_two, "comes last in the list"),
        (faster_of_two, "you return the faster one"),
        (larger_of_two, "you return the larger one"),
        (best_of_all_where_none_fits, "you return one all the same"),
        (nothing_ever, "You return None in every case"),
        (crashes_where_none_fits, "`return min(fitting(models, most_bytes, most_ms), key=quality)"),
        (compares_with_none, "and 'NoneType'"),
        (returns_the_model, "a dict of str"),
        (sorts_in_place, "changes what it was given (models)"),
        (says_none, "you returned none, which is not"),
    ],
    "tokens_for": [
        (one_vocabulary, "the base's vocabulary"),
        (inverted, "wrong way round"),
        (equal_tokens, "the same number of tokens"),
        (by_parameters, "compare parameters"),
        (by_layers, "compare the numbers of layers"),
        (by_layers_times_width, "compare layers times width"),
        (no_head, "The head is missing"),
        (no_products, "Attention's two products are missing"),
        (matrices_alone, "matrices of the layers alone"),
        (causal_half, "one of attention's two products"),
        (ffn_of_four, "to be 4 C wide"),
        (context_of_the_base, "over the base's context"),
        (context_of_the_other, "over the other's context"),
        (whole_sequences, "compare whole sequences"),
        (head_in_every_layer, "count the head in every layer"),
        (returns_macs, "which is too large"),
    ],
    "loss_at": [
        (none_at_inner_looks, "between the first and the last"),
        (one_pass_and_clamps, "Begin with one look by hand"),
        (one_pass, "You charge one forward pass"),
        (two_passes, "You charge two passes"),
        (clamps, "the loss of the nearest one, though nobody looked there"),
        (clamps_before, "Before the first look you return"),
        (clamps_after, "After the last look you return"),
        (extrapolates, "draw the line on"),
        (none_at_the_ends, "At the first look itself"),
        (training_loss, "the training loss at the looks"),
        (training_loss_of_all_rows, "the training loss, of all rows"),
        (steps_for_tokens, "You count steps"),
        (seconds_for_tokens, "You count seconds"),
        (look_before, "you return the earlier one"),
        (look_after, "you return the later one"),
        (nearest_look, "you return the nearer one"),
        (never_a_loss, "You return None in every case"),
        (nan_outside, "returns nan"),
        (zero_outside, "you returned a number, which is not"),
        (every_row_has_a_look, "KeyError: 'valid'"),
        (drops_rows_without_look, "changes what it was given (log)"),
    ],
    "gap": [
        (error_first, "You return the error first"),
        (pairs_if_equally_long, "take differences run by run"),
        (without_sign, "sign of the difference is lost"),
        (population_and_linear, "last three sentences of the text"),
        (linear, "add the two errors as they are"),
        (population, "divide the sum of squares by n."),
        (single_runs, "the error of two single runs"),
        (divides_by_n_outside, "shrinks to a quarter"),
        (not_rooted, "in squared nats"),
        (first_minus_second, "The sign of the difference is turned"),
        (best_runs, "compare the best run of each"),
        (medians, "compare medians"),
        (averages_variances, "average the two variances"),
        (pools_variances, "pool the variances"),
        (spread_of_all, "the spread of all runs together"),
        (pairs_of_runs, "pair the runs"),
        (error_alone, "a tuple of 2 numbers (difference, standard error)"),
        (two_standard_errors, "twice the standard error"),
        (sorts_the_runs, "changes what it was given"),
    ],
    "depth_or_width": [
        (width_without_norms, "For the width you forget the norms in the layers"),
        (width_without_last_norm, "For the width you forget the last norm"),
        (width_without_biases, "For the width you forget the biases."),
        (width_first, "return the width first"),
        (no_vectors, "Token and position vectors are missing"),
        (no_tokens, "The token vectors are missing"),
        (no_positions, "The position vectors are missing"),
        (head_counted, "The head is counted beside"),
        (no_biases, "The biases are missing"),
        (no_norms_in_layers, "In each layer 4 C parameters are missing"),
        (no_biases_no_norms, "Biases and norms are parameters too"),
        (no_last_norm, "The last norm is missing"),
        (first_that_does_not_fit, "the first sizes that do not fit"),
        (strictly_less, "exactly `budget` parameters fits"),
        (any_width, "not always a multiple of the number of heads"),
        (ffn_kept, "keep the feed-forward as wide as it was"),
        (ffn_four_times, "to be 4 times the width"),
        (width_in_proportion, "shrink the width in proportion"),
        (width_by_the_root, "as if all parameters grew with its square"),
        (layers_in_proportion, "take the layers to be all parameters"),
        (both_in_proportion, "shrink both, layers and width"),
        (one_after_the_other, "already made shallower"),
        (fractions, "asks for a whole number"),
        (one_layer_too_few, "which is too small"),
    ],
}
RIGHT = {
    "front": [in_one_pass, with_arrays],
    "pick": [sorts_and_takes_the_first, with_a_loop],
    "tokens_for": [rounded_down, flops_of_training_steps],
    "loss_at": [by_pairs, in_tensors],
    "gap": [in_float32, with_numpy],
    "depth_or_width": [solves_the_equation, goes_down],
}
