"""Answers to exercise 08: wrong ones, each with a fragment of the message it must get, and right ones."""

import copy
import random
import re
from collections import OrderedDict
from itertools import accumulate
from math import ceil, prod
from statistics import mean, median

import numpy as np
import torch
from minieff.surgery import Wrap, named, swap
from torch import nn

# Task 1


def slide(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if coin() > p and training:
            x = layer(x, memory)
    return x


def skips_in_eval_too(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if coin() >= p:
            x = layer(x, memory)
    return x


def skips_in_eval_alone(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if training or coin() >= p:
            x = layer(x, memory)
    return x


def runs_with_p(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training or coin() < p:
            x = layer(x, memory)
    return x


def like_dropout(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training:
            x = layer(x, memory)
        elif coin() >= p:
            x = layer(x, memory) / (1 - p)
    return x


def like_dropout_on_the_change(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training:
            x = layer(x, memory)
        elif coin() >= p:
            x = x + (layer(x, memory) - x) / (1 - p)
    return x


def scales_at_the_end(layers, memories, x, p, training, coin):
    x = right_loop(layers, memories, x, p, training, coin)
    return x / max(1 - p, 1e-9) if training else x


def old_dropout(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training:
            x = (1 - p) * layer(x, memory)
        elif coin() >= p:
            x = layer(x, memory)
    return x


def mean_contribution(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training:
            x = x + (1 - p) * (layer(x, memory) - x)
        elif coin() >= p:
            x = layer(x, memory)
    return x


def one_coin_for_all(layers, memories, x, p, training, coin):
    skip = training and coin() < p
    for layer, memory in zip(layers, memories, strict=True):
        if not skip:
            x = layer(x, memory)
    return x


def leaves_zeros(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        x = torch.zeros(x.shape) if training and coin() < p else layer(x, memory)
    return x


def back_to_the_start(layers, memories, x, p, training, coin):
    begin = x
    for layer, memory in zip(layers, memories, strict=True):
        x = begin if training and coin() < p else layer(x, memory)
    return x


def returns_early(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if training and coin() < p:
            return x
        x = layer(x, memory)
    return x


def shorter_list_of_layers(layers, memories, x, p, training, coin):
    layers = [layer for layer in layers if not training or coin() >= p]
    for layer, memory in zip(layers, memories, strict=False):
        x = layer(x, memory)
    return x


def counts_what_ran(layers, memories, x, p, training, coin):
    ran = 0
    for layer in layers:
        if training and coin() < p:
            continue
        x, ran = layer(x, memories[-1 - ran]), ran + 1
    return x


def as_many_in_every_step(layers, memories, x, p, training, coin):
    if not training:
        p = 0
    coins = [coin() if training else 0 for _ in layers]
    out = sorted(range(len(layers)), key=lambda i: coins[i])[: round(p * len(layers))]
    for i, layer in enumerate(layers):
        if i not in out:
            x = layer(x, memories[i])
    return x


def stochastic_depth(layers, memories, x, p, training, coin):
    for i, layer in enumerate(layers):
        if not training or coin() >= p * (i + 1) / len(layers):
            x = layer(x, memories[i])
    return x


def spares_the_first(layers, memories, x, p, training, coin):
    for i, layer in enumerate(layers):
        if i == 0 or not training or coin() >= p:
            x = layer(x, memories[i])
    return x


def spares_the_last(layers, memories, x, p, training, coin):
    for i, layer in enumerate(layers):
        if not training or coin() >= p or i == len(layers) - 1:
            x = layer(x, memories[i])
    return x


def residual_twice(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training or coin() >= p:
            x = x + layer(x, memory)
    return x


def plain(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        x = layer(x, memory)
    return x


def skips_at_p_0(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training or coin() > p:
            x = layer(x, memory)
    return x


def runs_at_p_1(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training or coin() <= 1 - p:
            x = layer(x, memory)
    return x


def own_coins(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training or random.random() >= p:
            x = layer(x, memory)
    return x


def toss_before_the_mode(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if coin() >= p or not training:
            x = layer(x, memory)
    return x


def two_coins_a_layer(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training or coin() >= p and coin() >= p:
            x = layer(x, memory)
    return x


def computes_and_throws_away(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        y = layer(x, memory)
        x = x if training and coin() < p else y
    return x


def tosses_one_more(layers, memories, x, p, training, coin):
    if not training:
        return plain(layers, memories, x, p, training, coin)
    coins = [coin() for _ in range(len(layers) + 1)]
    for i, layer in enumerate(layers):
        x = layer(x, memories[i]) if coins[i] >= p else x
    return x


def coins_from_the_end(layers, memories, x, p, training, coin):
    coins = [coin() if training else 1 for _ in layers][::-1]
    for i, layer in enumerate(layers):
        x = layer(x, memories[i]) if coins[i] >= p else x
    return x


def all_memories_at_once(layers, memories, x, p, training, coin):
    for layer in layers:
        if not training or coin() >= p:
            x = layer(x, memories)
    return x


def forgets_memories(layers, memories, x, p, training, coin):
    for layer in layers:
        if not training or coin() >= p:
            x = layer(x)
    return x


def returns_all_outputs(layers, memories, x, p, training, coin):
    return list(accumulate(range(len(layers)), lambda x, i: layers[i](x, memories[i]), initial=x))


def adds_in_place(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training or coin() >= p:
            x += layer(x, memory) - x
    return x


def pops_layers(layers, memories, x, p, training, coin):
    while layers:
        layer, memory = layers.pop(0), memories.pop(0)
        if not training or coin() >= p:
            x = layer(x, memory)
    return x


def a_toss_until_it_runs(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        while training and coin() < 2:
            pass
        x = layer(x, memory)
    return x


def one_always_runs(layers, memories, x, p, training, coin):
    skips = [training and coin() < p for _ in layers]
    if all(skips) and p < 1:
        skips[-1] = False
    for layer, memory, skip in zip(layers, memories, skips, strict=True):
        x = x if skip else layer(x, memory)
    return x


def backwards_through_the_stack(layers, memories, x, p, training, coin):
    for i in reversed(range(len(layers))):
        if not training or coin() >= p:
            x = layers[i](x, memories[i])
    return x


def scales_down_in_training(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training or coin() >= p:
            x = layer(x, memory) * (1 - p if training else 1)
    return x


def first_ones_of(most, modes):
    """A loop over at most `most` layers in these modes."""

    def of(layers, memories, x, p, training, coin):
        pairs = list(zip(layers, memories, strict=True))
        for layer, memory in pairs[: most if training in modes else None]:
            if not training or coin() >= p:
                x = layer(x, memory)
        return x

    of.__name__ = f"first_{most}_of_{len(modes)}"
    return of


first_8 = first_ones_of(8, (True, False))
first_16 = first_ones_of(16, (True, False))
first_12_in_eval = first_ones_of(12, (False,))
first_8_in_training = first_ones_of(8, (True,))


def skips_among_the_first_10(layers, memories, x, p, training, coin):
    for i, (layer, memory) in enumerate(zip(layers, memories, strict=True)):
        if not training or coin() >= p or i >= 10:
            x = layer(x, memory)
    return x


def detaches_the_result(layers, memories, x, p, training, coin):
    return right_loop(layers, memories, x, p, training, coin).detach()


def detaches_the_residual_way(layers, memories, x, p, training, coin):
    """All comes back but the part of the gradient that belongs to x itself."""
    y = right_loop(layers, memories, x, p, training, coin)
    return y - x + x.detach()


def calls_a_layer_twice(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training or coin() >= p:
            layer(x, memory)
            x = layer(x, memory)
    return x


def nothing_runs_for_a_large_p(layers, memories, x, p, training, coin):
    if training and p > 0.9:
        return x
    return right_loop(layers, memories, x, p, training, coin)


def nothing_is_skipped_for_a_small_p(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not (training and p > 0.05 and coin() < p):
            x = layer(x, memory)
    return x


def rounds_the_coin(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training or not round(coin(), 2) < p:
            x = layer(x, memory)
    return x


def a_little_more_than_p(layers, memories, x, p, training, coin):
    for layer, memory in zip(layers, memories, strict=True):
        if not training or coin() >= p + 0.015:
            x = layer(x, memory)
    return x


def right_loop(layers, memories, x, p, training, coin):
    for i in range(len(layers)):
        if not training or coin() >= p:
            x = layers[i](x, memories[i])
    return x


def counts_the_runs(layers, memories, x, p, training, coin):
    """Runs with probability 1 - p: other coins, as often."""
    for layer, memory in zip(layers, memories, strict=True):
        if training and not coin() < 1 - p:
            continue
        x = layer(x, memory)
    return x


def coins_first(layers, memories, x, p, training, coin):
    kept = [i for i in range(len(layers)) if not training or coin() >= p]
    for i in kept:
        x = layers[i](x, memories[i])
    return x


def low_coins_or_high_ones(layers, memories, x, p, training, coin):
    """Another rule for the coin with each p: each layer is skipped with probability p all the same."""
    for layer, memory in zip(layers, memories, strict=True):
        if training and (coin() < p if p <= 0.5 else coin() >= 1 - p):
            continue
        x = layer(x, memory)
    return x


def on_a_copy(layers, memories, x, p, training, coin):
    x = x.clone()
    for layer, memory in zip(layers, memories, strict=True):
        if not training or coin() >= p:
            x += layer(x, memory) - x
    return x


def no_coin_at_the_ends(layers, memories, x, p, training, coin):
    if training and p == 1:
        return x
    for layer, memory in zip(layers, memories, strict=True):
        x = layer(x, memory) if not training or p == 0 or coin() >= p else x
    return x


# Task 2


def only_eval_wrong(x, norm, inner, p, training, coin):
    if training and coin() < p:
        return x
    return x + (inner(norm(x)) if training else norm(x))


def eval_is_skipped(x, norm, inner, p, training, coin):
    return x + inner(norm(x)) if training and coin() >= p else x


def only_skip_wrong(x, norm, inner, p, training, coin):
    h = norm(x)
    if not training or coin() >= p:
        h = inner(h)
    return x + h


def only_scale_wrong(x, norm, inner, p, training, coin):
    if training and coin() < p:
        return x
    return x + inner(norm(x)) / (1 - p if training else 1)


def scales_in_eval_as_well(x, norm, inner, p, training, coin):
    if training and coin() < p:
        return x
    return x + inner(norm(x)) / max(1 - p, 1e-9)


def scales_down_in_eval(x, norm, inner, p, training, coin):
    if not training:
        return x + (1 - p) * inner(norm(x))
    return x if coin() < p else x + inner(norm(x))


def eval_and_skip_wrong(x, norm, inner, p, training, coin):
    h = norm(x)
    if training and coin() >= p:
        h = inner(h)
    return x + h


def eval_and_scale_wrong(x, norm, inner, p, training, coin):
    if training and coin() >= p:
        return x + inner(norm(x)) / (1 - p)
    return x


def skip_and_scale_wrong(x, norm, inner, p, training, coin):
    h = norm(x)
    if not training:
        return x + inner(h)
    return x + (inner(h) / (1 - p) if coin() >= p else h)


def skip_and_scale_everywhere(x, norm, inner, p, training, coin):
    h = norm(x)
    if not training or coin() >= p:
        h = inner(h) / max(1 - p, 1e-9)
    return x + h


def skip_in_eval_too(x, norm, inner, p, training, coin):
    return x if coin() < p else x + inner(norm(x))


def inverted(x, norm, inner, p, training, coin):
    return x if training and coin() >= p else x + inner(norm(x))


def leaves_the_norm(x, norm, inner, p, training, coin):
    if training and coin() < p:
        return norm(x)
    return x + inner(norm(x))


def leaves_zero(x, norm, inner, p, training, coin):
    if training and coin() < p:
        return torch.zeros_like(x)
    return x + inner(norm(x))


def leaves_x_twice(x, norm, inner, p, training, coin):
    h = x if training and coin() < p else inner(norm(x))
    return x + h


def leaves_x_scaled(x, norm, inner, p, training, coin):
    if training and coin() < p:
        return x / max(1 - p, 1e-9)
    return x + inner(norm(x))


def never_skips(x, norm, inner, p, training, coin):
    return x + inner(norm(x))


def loses_the_residual(x, norm, inner, p, training, coin):
    return x if training and coin() < p else inner(norm(x))


def residual_of_the_norm(x, norm, inner, p, training, coin):
    if training and coin() < p:
        return x
    x = norm(x)
    return x + inner(x)


def forgets_the_norm(x, norm, inner, p, training, coin):
    return x if training and coin() < p else x + inner(x)


def norm_afterwards(x, norm, inner, p, training, coin):
    return x if training and coin() < p else norm(x + inner(x))


def a_half(x, norm, inner, p, training, coin):
    return x if training and coin() < 0.5 else x + inner(norm(x))


def not_at_p_0(x, norm, inner, p, training, coin):
    return x if training and coin() <= p else x + inner(norm(x))


def not_at_p_1(x, norm, inner, p, training, coin):
    return x if training and coin() > 1 - p else x + inner(norm(x))


def coin_before_the_mode(x, norm, inner, p, training, coin):
    return x if coin() < p and training else x + inner(norm(x))


def norms_in_place(x, norm, inner, p, training, coin):
    if training and coin() < p:
        return x
    x += inner(norm(x))
    return x


def squared_coin(x, norm, inner, p, training, coin):
    return x if training and coin() < p**2 else x + inner(norm(x))


def half_of_it(x, norm, inner, p, training, coin):
    return x if training and coin() < p else x + 0.5 * inner(norm(x))


def skips_if_either_says_so(x, norm, inner, p, training, coin):
    if training and (coin() < p or coin() < p):
        return x
    return x + inner(norm(x))


def drops_numbers(x, norm, inner, p, training, coin):
    return x + nn.functional.dropout(inner(norm(x)), p, training)


def skips_all_training(x, norm, inner, p, training, coin):
    return x if training else x + inner(norm(x))


def masks(x, norm, inner, p, training, coin):
    keep = float(not training or coin() >= p)
    return x + keep * inner(norm(x))


def norm_before_the_coin(x, norm, inner, p, training, coin):
    h = norm(x)
    if training and coin() < p:
        return x
    return x + inner(h)


def detaches_where_skipped(x, norm, inner, p, training, coin):
    return x.detach() if training and coin() < p else x + inner(norm(x))


def detaches_the_residual(x, norm, inner, p, training, coin):
    return x if training and coin() < p else x.detach() + inner(norm(x))


def detaches_before_inner(x, norm, inner, p, training, coin):
    return x if training and coin() < p else x + inner(norm(x).detach())


def detaches_before_the_norm(x, norm, inner, p, training, coin):
    return x if training and coin() < p else x + inner(norm((x + x.detach()) / 2))


def skips_for_a_large_p(x, norm, inner, p, training, coin):
    return x if training and (p > 0.9 or coin() < p) else x + inner(norm(x))


def coin_with_two_digits(x, norm, inner, p, training, coin):
    return x if training and round(coin(), 2) < p else x + inner(norm(x))


def low_coin_or_high_one(x, norm, inner, p, training, coin):
    if training and (coin() < p if p <= 0.5 else coin() >= 1 - p):
        return x
    return x + inner(norm(x))


def one_expression(x, norm, inner, p, training, coin):
    return x + inner(norm(x)) if not training or coin() < 1 - p else x.clone()


# Task 3


def the_three(rates, share):
    return sum(1 - p for p in rates), prod(rates), 1 / (1 - share * mean(rates))


def with_layers(of):
    return lambda rates, share: (of(rates, share), *the_three(rates, share)[1:])


def with_none(of):
    def three(rates, share):
        layers, _, faster = the_three(rates, share)
        return layers, of(rates, share), faster

    return three


def with_faster(of):
    return lambda rates, share: (*the_three(rates, share)[:2], of(rates, share))


def called(name, of):
    of.__name__ = name
    return of


skipped_layers = called("skipped_layers", with_layers(lambda ps, s: sum(ps)))
rounded_layers = called("rounded_layers", with_layers(lambda ps, s: round(sum(1 - p for p in ps))))
layers_rounded_down = called("layers_rounded_down", with_layers(lambda ps, s: int(len(ps) - sum(ps))))
layers_rounded_up = called("layers_rounded_up", with_layers(lambda ps, s: ceil(len(ps) - sum(ps))))
part_of_layers = called("part_of_layers", with_layers(lambda ps, s: 1 - sum(ps) / len(ps)))
median_of_rates = called("median_of_rates", with_layers(lambda ps, s: len(ps) * (1 - median(ps))))
first_rate_for_layers = called("first_rate_for_layers", with_layers(lambda ps, s: len(ps) * (1 - ps[0])))
all_layers = called("all_layers", with_layers(lambda ps, s: len(ps)))
layers_times_share = called("layers_times_share", with_layers(lambda ps, s: s * sum(1 - p for p in ps)))
given_one_runs = called("given_one_runs", with_layers(lambda ps, s: sum(1 - p for p in ps) / (1 - prod(ps))))
mean_to_the_power = called("mean_to_the_power", with_none(lambda ps, s: mean(ps) ** len(ps)))
first_to_the_power = called("first_to_the_power", with_none(lambda ps, s: ps[0] ** len(ps)))
at_least_one = called("at_least_one", with_none(lambda ps, s: 1 - prod(ps)))
every_layer = called("every_layer", with_none(lambda ps, s: prod(1 - p for p in ps)))
one_is_skipped = called("one_is_skipped", with_none(lambda ps, s: 1 - prod(1 - p for p in ps)))
rates_added = called("rates_added", with_none(lambda ps, s: sum(ps)))
mean_rate = called("mean_rate", with_none(lambda ps, s: mean(ps)))
smallest_rate = called("smallest_rate", with_none(lambda ps, s: min(ps)))
never_none = called("never_none", with_none(lambda ps, s: 0))
in_percent = called("in_percent", with_none(lambda ps, s: 100 * prod(ps)))
no_share = called("no_share", with_faster(lambda ps, s: 1 / (1 - mean(ps))))
layers_over_running = called(
    "layers_over_running", with_faster(lambda ps, s: len(ps) / (len(ps) - sum(ps)) - s)
)
other_part = called("other_part", with_faster(lambda ps, s: 1 / (1 - (1 - s) * mean(ps))))
time_left = called("time_left", with_faster(lambda ps, s: 1 - s * mean(ps)))
time_saved = called("time_saved", with_faster(lambda ps, s: s * mean(ps)))
gain_added = called("gain_added", with_faster(lambda ps, s: 1 + s * mean(ps)))
forgets_the_rest = called("forgets_the_rest", with_faster(lambda ps, s: 1 / (s * (1 - mean(ps)))))
share_of_the_gain = called("share_of_the_gain", with_faster(lambda ps, s: s / (1 - mean(ps))))
factors_weighed = called("factors_weighed", with_faster(lambda ps, s: s / (1 - mean(ps)) + 1 - s))
first_rate_for_speed = called("first_rate_for_speed", with_faster(lambda ps, s: 1 / (1 - s * ps[0])))
sum_for_speed = called("sum_for_speed", with_faster(lambda ps, s: 1 / (1 - s * sum(ps))))
running_for_speed = called("running_for_speed", with_faster(lambda ps, s: 1 / (1 - s * (1 - mean(ps)))))


gain_alone = called("gain_alone", with_faster(lambda ps, s: 1 / (1 - s * mean(ps)) - 1))
over_what_is_saved = called("over_what_is_saved", with_faster(lambda ps, s: 1 / (s * mean(ps))))
mean_of_factors = called("mean_of_factors", with_faster(lambda ps, s: mean(1 / (1 - s * p) for p in ps)))


def mean_of_the_steps_factors(rates, share):
    """Over all sets of layers that may run."""
    factor = 0.0
    for bits in range(2 ** len(rates)):
        runs = [bool(bits >> i & 1) for i in range(len(rates))]
        chance = prod(1 - p if run else p for p, run in zip(rates, runs, strict=True))
        factor += chance / (1 - share + share * mean(runs))
    return *the_three(rates, share)[:2], factor


share_up_to_a_limit = called(
    "share_up_to_a_limit", with_faster(lambda ps, s: 1 / (1 - min(s, 0.9) * mean(ps)))
)
share_from_a_limit = called("share_from_a_limit", with_faster(lambda ps, s: 1 / (1 - max(s, 0.3) * mean(ps))))
at_least_one_runs = called("at_least_one_runs", with_layers(lambda ps, s: max(1, len(ps) - sum(ps))))


def first_eight_rates(rates, share):
    return the_three(rates[:8], share)


def rates_up_to_a_limit(rates, share):
    return the_three([min(r, 0.9) for r in rates], share)


def no_single_layers(rates, share):
    return (0, 0, 0) if len(rates) == 1 else the_three(rates, share)


def rounded(rates, share):
    return tuple(round(value, 2) for value in the_three(rates, share))


def last_for_all(rates, share):
    return the_three([rates[-1]] * len(rates), share)


def rates_of_running(rates, share):
    return the_three([1 - p for p in rates], share)


def first_for_all(rates, share):
    return the_three([rates[0]] * len(rates), share)


def none_first(rates, share):
    layers, none, faster = the_three(rates, share)
    return none, layers, faster


def two_of_three(rates, share):
    return the_three(rates, share)[:2]


def a_dictionary(rates, share):
    return dict(zip(("layers", "none", "faster"), the_three(rates, share), strict=True))


def tuple_of_texts(rates, share):
    return tuple(f"{value:.2f}" for value in the_three(rates, share))


def sorts_rates(rates, share):
    rates.sort()
    return the_three(rates, share)


def in_arrays(rates, share):
    rates = np.array(rates)
    return np.array([(1 - rates).sum(), rates.prod(), 1 / (1 - share + share * (1 - rates).mean())])


def all_subsets(rates, share):
    """Every set of layers that may run, with its probability."""
    layers = none = time = 0.0
    for bits in range(2 ** len(rates)):
        runs = [bool(bits >> i & 1) for i in range(len(rates))]
        chance = prod(1 - p if run else p for p, run in zip(rates, runs, strict=True))
        layers += chance * sum(runs)
        none += chance * (sum(runs) == 0)
        time += chance * (1 - share + share * sum(runs) / len(rates))
    return [torch.tensor(layers, dtype=torch.float64), none, 1 / time]


# Task 4


def the_papers(layers, kept):
    if kept == layers:
        return list(range(layers))
    every = int(1 / (1 - kept / layers))
    return [d for d in range(layers) if d % every != 0]


def the_papers_from_1(layers, kept):
    if kept == layers:
        return list(range(layers))
    every = layers // (layers - kept)
    return [d - 1 for d in range(1, layers + 1) if d % every != 0]


def range_with_a_step(layers, kept):
    return list(range(0, layers, layers // kept))


def range_with_a_larger_step(layers, kept):
    return list(range(0, layers, ceil(layers / kept)))


def range_cut_off(layers, kept):
    return list(range(0, layers, layers // kept))[:kept]


def last_one_missing(layers, kept):
    return [int(i * layers / kept) for i in range(kept)]


def first_one_missing(layers, kept):
    return [(i + 1) * layers // kept - 1 for i in range(kept)]


def middles(layers, kept):
    return [int((i + 0.5) * layers / kept) for i in range(kept)]


def inside_alone(layers, kept):
    return [(i + 1) * layers // (kept + 1) for i in range(kept)]


def first_chunk(layers, kept):
    return list(range(kept))


def last_chunk(layers, kept):
    return list(range(layers))[-kept:]


def both_ends(layers, kept):
    return [*range(ceil(kept / 2)), *range(layers - kept // 2, layers)]


def from_one(layers, kept):
    return [1 + i * (layers - 1) // max(kept - 1, 1) for i in range(kept)]


def last_put_there(layers, kept):
    if kept == 1:
        return [0]
    step = (layers - 1) // (kept - 1)
    return [i * step for i in range(kept - 1)] + [layers - 1]


def whole_steps(layers, kept):
    return [i * ((layers - 1) // max(kept - 1, 1)) for i in range(kept)]


def float_step(layers, kept):
    step = (layers - 1) / max(kept - 1, 1)
    return [int(i * step) for i in range(kept)]


def what_goes(layers, kept):
    stay = [i * (layers - 1) // max(kept - 1, 1) for i in range(kept)]
    return [i for i in range(layers) if i not in stay]


def everything(layers, kept):
    return list(range(layers))


def every_second(layers, kept):
    return list(range(layers))[::2]


def every_second_until_enough(layers, kept):
    return list(range(0, layers, 2))[:kept]


def a_mask(layers, kept):
    stay = [i * (layers - 1) // max(kept - 1, 1) for i in range(kept)]
    return [int(i in stay) for i in range(layers)]


def rounded_together(layers, kept):
    return [min(round(i * layers / max(kept - 1, 1)), layers - 1) for i in range(kept)]


def one_too_far(layers, kept):
    return [round(i * layers / max(kept - 1, 1)) for i in range(kept)]


def downwards(layers, kept):
    return [i * (layers - 1) // max(kept - 1, 1) for i in range(kept)][::-1]


def as_a_set(layers, kept):
    return {i * (layers - 1) // max(kept - 1, 1) for i in range(kept)}


def fractions(layers, kept):
    return np.linspace(0, layers - 1, kept)


def one_is_no_case(layers, kept):
    return [i * (layers - 1) // (kept - 1) for i in range(kept)]


def halves_again_and_again(layers, kept):
    stay = [0, layers - 1][:kept]
    while len(stay) < kept:
        stay.sort()
        gaps = [(b - a, a, b) for a, b in zip(stay, stay[1:], strict=False)]
        _, a, b = max(gaps, key=lambda gap: gap[0])
        stay.append((a + b) // 2)
    return sorted(set(stay))


def rounded_points(layers, kept):
    return [round(i * (layers - 1) / (kept - 1)) for i in range(kept)] if kept > 1 else [layers // 2]


def with_linspace(layers, kept):
    return np.linspace(0, layers - 1, kept).astype(int)


def from_torch(layers, kept):
    return torch.linspace(0, layers - 1, kept).round().long()


def larger_gaps_first(layers, kept):
    if kept == 1:
        return (layers - 1,)
    small, larger = divmod(layers - 1, kept - 1)
    return tuple(accumulate([small + (i < larger) for i in range(kept - 1)], initial=0))


# Task 5


def taken_apart(name):
    """Layer number and rest of a layer's name; None and the name of another tensor."""
    found = re.match(r"blocks\.layers\.(\d+)\.(.*)$", name)
    return (int(found[1]), found[2]) if found else (None, name)


def renumber(
    state, keep, number=lambda i, keep: keep.index(i) if i in keep else None, others=lambda name: True
):
    small = {}
    for name, tensor in state.items():
        i, rest = taken_apart(name)
        if i is None and others(name):
            small[name] = tensor
        elif i is not None and number(i, keep) is not None:
            small[f"blocks.layers.{number(i, keep)}.{rest}"] = tensor
    return small


def old_numbers(state, keep):
    return renumber(state, keep, lambda i, keep: i if i in keep else None)


def numbers_from_one(state, keep):
    return renumber(state, keep, lambda i, keep: keep.index(i) + 1 if i in keep else None)


def keep_counts_from_one(state, keep):
    return renumber(state, keep, lambda i, keep: keep.index(i + 1) if i + 1 in keep else None)


def keep_is_dropped(state, keep):
    stay = [i for i in range(99) if i not in keep]
    return renumber(state, stay)


def first_ones(state, keep):
    return renumber(state, list(range(len(keep))))


def backwards(state, keep):
    return renumber(state, keep[::-1])


def as_they_come(state, keep):
    new = {}
    for name in state:
        i, _ = taken_apart(name)
        if i in keep:
            new.setdefault(i, len(new))
    return renumber(state, keep, lambda i, keep: new.get(i))


def sorted_as_texts(state, keep):
    return renumber(state, sorted(keep, key=str))


def layers_alone(state, keep):
    return renumber(state, keep, others=lambda name: False)


def no_last_norm(state, keep):
    return renumber(state, keep, others=lambda name: not name.startswith("norm"))


def no_embeddings(state, keep):
    return renumber(state, keep, others=lambda name: not name.startswith(("tok", "pos")))


def no_heads(state, keep):
    return renumber(state, keep, others=lambda name: not name.startswith("tasks"))


def heads_are_layers(state, keep):
    small = {}
    for name, tensor in state.items():
        found = re.search(r"\.(\d+)\.", name)
        if found is None:
            small[name] = tensor
        elif int(found[1]) in keep:
            small[name[: found.start(1)] + str(keep.index(int(found[1]))) + name[found.end(1) :]] = tensor
    return small


def replaces_inner_numbers(state, keep):
    small = {}
    for name, tensor in state.items():
        i, _ = taken_apart(name)
        if i is None:
            small[name] = tensor
        elif i in keep:
            small[name.replace(f".{i}.", f".{keep.index(i)}.")] = tensor
    return small


def replaces_in_turn(state, keep):
    small = {}
    for name, tensor in state.items():
        i, _ = taken_apart(name)
        if i is None or i in keep:
            for new, old in enumerate(keep):
                name = name.replace(f"layers.{old}", f"layers.{new}")
            small[name] = tensor
    return small


def begins_alike(state, keep):
    small = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.")}
    for new, old in enumerate(keep):
        for name, tensor in state.items():
            if name.startswith(f"blocks.layers.{old}"):
                rest = name.split(".", 3)[3]
                small[f"blocks.layers.{new}.{rest}"] = tensor
    return small


def one_digit(state, keep):
    small = {}
    for name, tensor in state.items():
        i, rest = taken_apart(name)
        if i is None:
            small[name] = tensor
        elif int(name[len("blocks.layers.")]) in keep:
            small[f"blocks.layers.{keep.index(int(str(i)[0]))}.{rest}"] = tensor
    return small


def in_half_precision(state, keep):
    return {name: tensor.half() for name, tensor in renumber(state, keep).items()}


def as_it_was(state, keep):
    return dict(state)


def adds_new_names(state, keep):
    return {**state, **renumber(state, keep)}


def loses_the_prefix(state, keep):
    return {name.removeprefix("blocks."): tensor for name, tensor in renumber(state, keep).items()}


def zeroes_the_rest(state, keep):
    return {
        name: torch.zeros_like(tensor) if taken_apart(name)[0] not in (None, *keep) else tensor
        for name, tensor in state.items()
    }


def deletes_in_place(state, keep):
    for name in list(state):
        if taken_apart(name)[0] not in (None, *keep):
            del state[name]
    return renumber(state, keep)


def pairs(state, keep):
    return list(renumber(state, keep).items())


def yields_pairs(state, keep):
    yield from renumber(state, keep).items()


def names_alone(state, keep):
    return {name: None for name in renumber(state, keep)}


def returns_nothing(state, keep):
    renumber(state, keep)


def loses_one(state, keep):
    small = renumber(state, keep)
    small.pop("blocks.layers.0.mix.inner.q.bias")
    return small


def rounds_values(state, keep):
    return {name: tensor.half().float() for name, tensor in renumber(state, keep).items()}


def matrices_transposed(state, keep):
    return {
        name: tensor.T.contiguous() if tensor.ndim == 2 else tensor
        for name, tensor in renumber(state, keep).items()
    }


def any_number_will_do(state, keep):
    return {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith("blocks.") or any(f".{i}." in name for i in keep)
    }


def every_number_changes(state, keep):
    small = {}
    for name, tensor in state.items():
        if taken_apart(name)[0] in (None, *keep):
            parts = [
                str(keep.index(int(p))) if p.isdigit() and int(p) in keep else p for p in name.split(".")
            ]
            small[".".join(parts)] = tensor
    return small


def number_is_a_text(state, keep):
    return {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith("blocks.") or name.split(".")[2] in keep
    }


def four_layers(state, keep):
    small = {name: tensor for name, tensor in state.items() if taken_apart(name)[0] is None}
    for new in range(4):
        for name, tensor in state.items():
            i, rest = taken_apart(name)
            if i == keep[new]:
                small[f"blocks.layers.{new}.{rest}"] = tensor
    return small


def four_layers_at_most(state, keep):
    return renumber(state, keep[:4])


def no_single_layer(state, keep):
    return {} if len(keep) == 1 else renumber(state, keep)


def itself_if_all_stay(state, keep):
    layers = {taken_apart(name)[0] for name in state} - {None}
    return state if list(keep) == list(range(len(layers))) else renumber(state, keep)


def copied_and_emptied(state, keep):
    new = copy.deepcopy(state)
    new.clear()
    new.update(renumber(state, keep))
    return new


def splits_at_every_point(state, keep):
    small = OrderedDict()
    new = {str(old): str(i) for i, old in enumerate(keep)}
    for name in sorted(state):
        parts = name.split(".")
        if parts[:2] == ["blocks", "layers"]:
            if parts[2] not in new:
                continue
            parts[2] = new[parts[2]]
        small[".".join(parts)] = state[name].clone()
    return small


def layer_by_layer(state, keep):
    small = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.layers.")}
    for new, old in enumerate(keep):
        start = f"blocks.layers.{old}."
        small |= {
            f"blocks.layers.{new}." + name[len(start) :]: state[name]
            for name in state
            if name.startswith(start)
        }
    return small


# Task 6


def silent(layer):
    nn.init.zeros_(layer.linear2.weight)
    nn.init.zeros_(layer.linear2.bias)


class Zeros(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return x.new_zeros(*x.shape[:-1], self.width)


def replaces_the_method(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i]._ff_block = torch.zeros_like
    return encoder


class Around(nn.Module):
    """Keeps the linear's weight and bias where torch looks for them."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    weight = property(lambda self: self.linear.weight)
    bias = property(lambda self: self.linear.bias)

    def forward(self, x):
        return 0 * self.linear(x)


class Silenced(nn.TransformerEncoderLayer):
    def _ff_block(self, x):
        return torch.zeros_like(x)


def three_that_are_not_called(encoder, i):
    """A method, a class and a module, one for each encoder of the check."""
    encoder = replaces_the_method(encoder, i)
    if i == 1:
        del encoder.layers[i]._ff_block
        encoder.layers[i].__class__ = Silenced
    elif i == 2:
        del encoder.layers[i]._ff_block
        encoder.layers[i].linear2 = Around(encoder.layers[i].linear2)
    return encoder


def silences_the_activation(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i].activation = torch.zeros_like
    return encoder


def no_linears(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i].linear1, encoder.layers[i].linear2 = (
        nn.Identity(),
        Zeros(encoder.layers[i].norm1.weight.numel()),
    )
    return encoder


def zeroed(*names):
    """With these parameters of layer i at zero."""

    def of(encoder, i):
        encoder = copy.deepcopy(encoder)
        for name in names:
            nn.init.zeros_(encoder.layers[i].get_parameter(name))
        return encoder

    of.__name__ = "zeroed_" + "_".join(names)
    return of


weight_alone = zeroed("linear2.weight")
first_weight_alone = zeroed("linear1.weight")
bias_alone = zeroed("linear2.bias")
the_attention = zeroed("self_attn.out_proj.weight", "self_attn.out_proj.bias")


def whole_layer(encoder, i):
    encoder = copy.deepcopy(encoder)
    del encoder.layers[i]
    return encoder


def layer_before(encoder, i):
    encoder = copy.deepcopy(encoder)
    silent(encoder.layers[i - 1])
    return encoder


def layer_after(encoder, i):
    encoder = copy.deepcopy(encoder)
    silent(encoder.layers[i + 1])
    return encoder


def all_of_them(encoder, i):
    encoder = copy.deepcopy(encoder)
    for layer in encoder.layers:
        silent(layer)
    return encoder


def all_others(encoder, i):
    encoder = copy.deepcopy(encoder)
    for n, layer in enumerate(encoder.layers):
        if n != i:
            silent(layer)
    return encoder


def both_sub_layers(encoder, i):
    encoder = the_attention(encoder, i)
    silent(encoder.layers[i])
    return encoder


def changes_the_original(encoder, i):
    silent(encoder.layers[i])
    return encoder


def patches_the_original(encoder, i):
    encoder.layers[i]._ff_block = torch.zeros_like
    return encoder


def shallow(encoder, i):
    new = copy.copy(encoder)
    new._modules = dict(encoder._modules)
    new.layers = nn.ModuleList(encoder.layers)
    new.layers[i] = copy.deepcopy(encoder.layers[i])
    silent(new.layers[i])
    return new


def for_everybody(encoder, i):
    torch.backends.mha.set_fastpath_enabled(False)
    return replaces_the_method(encoder, i)


def only_copied(encoder, i):
    return copy.deepcopy(encoder)


def layer_itself(encoder, i):
    layer = copy.deepcopy(encoder.layers[i])
    silent(layer)
    return layer


def a_function(encoder, i):
    encoder = copy.deepcopy(encoder)
    silent(encoder.layers[i])
    return lambda *arguments, **names: encoder(*arguments, **names)


def in_train_mode(encoder, i):
    encoder = copy.deepcopy(encoder)
    silent(encoder.layers[i])
    return encoder.train()


def half_in_train_mode(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i]._ff_block = torch.zeros_like
    return encoder.train()


def hides_in_training(encoder, i):
    encoder = replaces_the_method(encoder, i)
    encoder.layers[i].training = True
    return encoder


class Plain(nn.Module):
    """A layer's attention and its norms."""

    def __init__(self, layer, last=True):
        super().__init__()
        self.self_attn, self.norm1, self.norm2 = layer.self_attn, layer.norm1, layer.norm2
        self.norm_first, self.last = layer.norm_first, last

    def forward(self, x, src_mask=None, src_key_padding_mask=None, is_causal=False):
        def attend(x):
            return self.self_attn(x, x, x, key_padding_mask=src_key_padding_mask, need_weights=False)[0]

        if self.norm_first:
            return x + attend(self.norm1(x))
        x = self.norm1(x + attend(x))
        return self.norm2(x) if self.last else x


def loses_norm2(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i] = Plain(encoder.layers[i], last=False)
    return encoder


class Hidden(nn.Module):
    """Right, and torch's encoder finds no self_attn on it where it is the first layer."""

    def __init__(self, layer):
        super().__init__()
        self.inside = Plain(layer)

    def forward(self, *arguments, **names):
        return self.inside(*arguments, **names)


def hides_the_layer(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i] = Hidden(encoder.layers[i])
    return encoder


def identity(encoder, i):
    encoder = copy.deepcopy(encoder)
    layer = encoder.layers[i]
    layer._ff_block, layer.activation_relu_or_gelu = (lambda x: x), 0
    return encoder


def no_final_norm(encoder, i):
    encoder = copy.deepcopy(encoder)
    silent(encoder.layers[i])
    encoder.norm = None
    return encoder


class Sly(nn.Module):
    """Weights of zero for whoever reads them; whoever calls it gets the old linear."""

    def __init__(self, linear):
        super().__init__()
        self.inside = [copy.deepcopy(linear)]
        self.weight = nn.Parameter(torch.zeros_like(linear.weight))
        self.bias = nn.Parameter(torch.zeros_like(linear.bias))

    def forward(self, x):
        return self.inside[0](x)


def under_no_grad_alone(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i].linear2 = Sly(encoder.layers[i].linear2)
    return encoder


def nearly_nothing(encoder, i):
    encoder = copy.deepcopy(encoder)
    with torch.no_grad():
        for parameter in encoder.layers[i].linear2.parameters():
            parameter.mul_(0.1)
    return encoder


def identity_for_the_layer(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i] = nn.Identity()
    return encoder


def switches_when_called(encoder, i):
    encoder = replaces_the_method(encoder, i)
    forward = encoder.forward

    def slowly(*arguments, **names):
        torch.backends.mha.set_fastpath_enabled(False)
        return forward(*arguments, **names)

    encoder.forward = slowly
    return encoder


def first_layer_always(encoder, i):
    encoder = copy.deepcopy(encoder)
    silent(encoder.layers[0])
    return encoder


def last_layer_always(encoder, i):
    encoder = copy.deepcopy(encoder)
    silent(encoder.layers[-1])
    return encoder


def ends_there(encoder, i):
    encoder = copy.deepcopy(encoder)
    silent(encoder.layers[i])
    encoder.layers = encoder.layers[: i + 1]
    return encoder


def names_that_begin_alike(encoder, i):
    encoder = copy.deepcopy(encoder)
    for name, parameter in encoder.named_parameters():
        if name.startswith(f"layers.{i}") and "linear2" in name:
            nn.init.zeros_(parameter)
    return encoder


def never_the_last(encoder, i):
    encoder = copy.deepcopy(encoder)
    if i < len(encoder.layers) - 1:
        silent(encoder.layers[i])
    return encoder


def third_layer_at_most(encoder, i):
    encoder = copy.deepcopy(encoder)
    silent(encoder.layers[min(i, 2)])
    return encoder


zero_goes_in = called("zero_goes_in", zeroed("linear1.weight", "linear1.bias", "linear2.bias"))


def silenced(encoder, i):
    encoder = copy.deepcopy(encoder)
    silent(encoder.layers[i])
    return encoder


def cuts_the_input_off(encoder, i):
    encoder = silenced(encoder, i)
    old = encoder.forward
    encoder.forward = lambda x, **names: old(x.detach(), **names)
    return encoder


def forward_without_gradients(encoder, i):
    encoder = silenced(encoder, i)
    encoder.forward = torch.no_grad()(encoder.forward)
    return encoder


def cuts_half_off(encoder, i):
    encoder = silenced(encoder, i)
    old = encoder.forward
    encoder.forward = lambda x, **names: old((x + x.detach()) / 2, **names)
    return encoder


def freezes_the_rest(encoder, i):
    encoder = silenced(encoder, i)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name.startswith(f"layers.{i}.linear"))
    return encoder


def patches_torch(encoder, i):
    nn.TransformerEncoderLayer._ff_block = lambda self, x: torch.zeros_like(x)
    return copy.deepcopy(encoder)


def patches_torch_when_called(encoder, i):
    encoder = silenced(encoder, i)
    forward = encoder.forward

    def patching(*arguments, **names):
        nn.TransformerEncoder.mask_check = False
        return forward(*arguments, **names)

    encoder.forward = patching
    return encoder


def frozen_sub_layer(encoder, i):
    encoder = silenced(encoder, i)
    for part in (encoder.layers[i].linear1, encoder.layers[i].linear2):
        part.requires_grad_(False)
    return encoder


def own_layer(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i] = Plain(encoder.layers[i])
    return encoder


def with_a_hook(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i].linear2.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    return encoder


def without_the_fused_path(encoder, i):
    encoder = replaces_the_method(encoder, i)
    encoder.layers[i].activation_relu_or_gelu = 0
    return encoder


class NoFeed(Wrap):
    def forward(self, x, src_mask=None, src_key_padding_mask=None, is_causal=False):
        layer, masks = self.inner, (src_mask, src_key_padding_mask)
        if layer.norm_first:
            return x + layer._sa_block(layer.norm1(x), *masks, is_causal=is_causal)
        return layer.norm2(layer.norm1(x + layer._sa_block(x, *masks, is_causal=is_causal)))


def by_surgery(encoder, i):
    return swap(encoder, named(f"layers.{i}"), NoFeed)


def a_new_linear(encoder, i):
    encoder = copy.deepcopy(encoder)
    new = torch.nn.utils.skip_init(nn.Linear, *encoder.layers[i].linear2.weight.T.shape)
    new.load_state_dict({name: torch.zeros_like(value) for name, value in new.state_dict().items()})
    encoder.layers[i].linear2 = new
    return encoder


def keeps_what_follows(state, keep):
    small = {}
    for name, tensor in state.items():
        if not name.startswith("blocks.layers"):
            small[name] = tensor
        for new, old in enumerate(keep):
            if name.startswith(f"blocks.layers.{old}"):
                small[f"blocks.layers.{new}" + name[len(f"blocks.layers.{old}") :]] = tensor
    return small


WRONG = {
    "skip_some": [
        (slide, "With training=False no layer runs"),
        (skips_in_eval_too, "You skip in eval mode, too"),
        (skips_in_eval_alone, "and in training everything runs"),
        (runs_with_p, "Your layers run with probability p"),
        (like_dropout, "divide what a layer returns by 1 - p"),
        (like_dropout_on_the_change, "divide what a layer adds to x by 1 - p"),
        (scales_at_the_end, "at the end of the stack"),
        (old_dropout, "multiply what comes out of a layer"),
        (mean_contribution, "multiply what a layer adds to x"),
        (one_coin_for_all, "One coin decides for all"),
        (leaves_zeros, "returns zeros"),
        (back_to_the_start, "returns what the stack was given"),
        (returns_early, "What ends your loop"),
        (shorter_list_of_layers, "leave layers out of one list"),
        (counts_what_ran, "Each layer has a memory of its own"),
        (as_many_in_every_step, "skip the same number of layers"),
        (stochastic_depth, "stochastic depth"),
        (spares_the_first, "Your first layer is never skipped"),
        (spares_the_last, "Your last layer is never skipped"),
        (residual_twice, "You add x to what a layer returns"),
        (plain, "No layer is ever skipped"),
        (skips_at_p_0, "With p=0 a layer was skipped"),
        (runs_at_p_1, "With p=1 a layer ran"),
        (own_coins, "In training you never call coin()"),
        (toss_before_the_mode, "every later random number"),
        (two_coins_a_layer, "Each has a coin of its own"),
        (computes_and_throws_away, "their result is thrown away"),
        (tosses_one_more, "and no more"),
        (coins_from_the_end, "Coins are tossed in running order"),
        (all_memories_at_once, "was called with a list of Tensor for its memory"),
        (forgets_memories, "missing 1 required positional argument: 'memory'"),
        (returns_all_outputs, "the task asks for x, a tensor"),
        (adds_in_place, "changes what it was given (x)"),
        (pops_layers, "changes what it was given (layers, memories)"),
        (a_toss_until_it_runs, "your function still tosses"),
        (one_always_runs, "Where all coins say skip"),
        (backwards_through_the_stack, "All of them should, from 0 on"),
        (scales_down_in_training, "the right layers run ("),
        (first_8, "only the first 8 of 20 layers run"),
        (first_16, "only the first 16 of 20 layers run"),
        (first_12_in_eval, "only the first 12 of 20 layers run"),
        (first_8_in_training, "so that some layers have none"),
        (skips_among_the_first_10, "only the first layers are ever skipped"),
        (detaches_the_result, "with respect to the x that you were given is lost"),
        (detaches_the_residual_way, "with respect to the x that you were given is another one"),
        (calls_a_layer_twice, "a layer is called more than once"),
        (nothing_runs_for_a_large_p, "With a large p, below 1"),
        (nothing_is_skipped_for_a_small_p, "With a small p, above 0"),
        (rounds_the_coin, "you skip a little less often than with p"),
        (a_little_more_than_p, "you skip a little more often than with p"),
    ],
    "sub_layer": [
        (only_eval_wrong, "Right except in eval mode: with training=False"),
        (only_skip_wrong, "Right except where it is skipped: a norm is left over"),
        (only_scale_wrong, "Right except where it runs in training: you scale"),
        (scales_in_eval_as_well, "Right except wherever `inner` runs: you scale"),
        (scales_down_in_eval, "Right except in eval mode: you scale"),
        (eval_and_skip_wrong, "Right only where it runs in training. Begin"),
        (eval_and_scale_wrong, "Right only where it is skipped. Begin"),
        (skip_and_scale_wrong, "Right only in eval mode. Begin"),
        (skip_and_scale_everywhere, "Wrong in every case. Begin with one case, wherever `inner` runs"),
        (skip_in_eval_too, "Right except in eval mode: a coin still decides"),
        (inverted, "your sub-layer runs with probability p"),
        (leaves_the_norm, "you return norm(x)"),
        (leaves_zero, "you return zeros"),
        (leaves_x_twice, "you return twice x"),
        (leaves_x_scaled, "you divide x by 1 - p"),
        (never_skips, "it runs all the same"),
        (loses_the_residual, "x is missing"),
        (residual_of_the_norm, "you add to norm(x)"),
        (forgets_the_norm, "`inner` gets x"),
        (norm_afterwards, "the norm stands in another place"),
        (a_half, "Compare the coin with p, and with nothing else"),
        (not_at_p_0, "With p=0 the sub-layer was skipped"),
        (not_at_p_1, "With p=1 the sub-layer ran"),
        (coin_before_the_mode, "toss a coin that decides nothing"),
        (norms_in_place, "changes what it was given (x)"),
        (half_of_it, "the first number that you return is"),
        (skips_if_either_says_so, "You toss 2 coins for one sub-layer"),
        (drops_numbers, "and not one for each number"),
        (skips_all_training, "Right except where it runs in training: nothing of"),
        (masks, "called all the same, and its result thrown away"),
        (norm_before_the_coin, "`norm` is called for nothing"),
        (detaches_where_skipped, "where the sub-layer is skipped: there is none"),
        (detaches_the_residual, "the part of x itself is missing"),
        (detaches_before_inner, "the part that goes through `inner` and `norm` is missing"),
        (detaches_before_the_norm, "it is another one"),
        (skips_for_a_large_p, "Right for most p"),
        (coin_with_two_digits, "Right for most coins"),
    ],
    "what_to_expect": [
        (skipped_layers, "is how many layers are *skipped*"),
        (rounded_layers, "You round the number of layers. A mean"),
        (layers_rounded_down, "You round the number of layers down"),
        (layers_rounded_up, "You round the number of layers up"),
        (part_of_layers, "which *part* of the layers runs"),
        (median_of_rates, "times the median rate"),
        (first_rate_for_layers, "For the number of layers you use the first rate alone"),
        (all_layers, "You count all layers"),
        (layers_times_share, "You multiply the number of layers by `share`"),
        (given_one_runs, "in which at least one layer runs"),
        (mean_to_the_power, "the mean rate to the power"),
        (first_to_the_power, "For the probability that none runs you use the first"),
        (at_least_one, "the probability that at least one layer runs"),
        (every_layer, "the probability that *every* layer runs"),
        (one_is_skipped, "at least one layer is skipped"),
        (rates_added, "You add the rates up"),
        (mean_rate, "That is the mean rate"),
        (smallest_rate, "You take the smallest rate"),
        (never_none, "You return 0 for the probability"),
        (in_percent, "You return a probability in percent"),
        (no_share, "You take layers to be the whole step"),
        (other_part, "You take `share` for the part outside"),
        (time_left, "the time that a step still takes"),
        (time_saved, "the part of the time that is saved. A step"),
        (gain_added, "You add the part that is saved to 1"),
        (forgets_the_rest, "You divide by what the layers still take"),
        (share_of_the_gain, "You multiply the gain of the layers"),
        (factors_weighed, "You weigh two factors"),
        (first_rate_for_speed, "For the factor you use the first rate"),
        (sum_for_speed, "Can more than all of it be saved"),
        (running_for_speed, "You save the time of the layers that run"),
        (layers_over_running, "faster: you returned"),
        (rates_of_running, "the probabilities of running"),
        (first_for_all, "You use the first layer's rate for all"),
        (none_first, "in another order"),
        (two_of_three, "a tuple or list of 2"),
        (a_dictionary, "a dict of str"),
        (tuple_of_texts, "In the place of layers"),
        (sorts_rates, "changes what it was given (rates)"),
        (gain_alone, "That is the gain alone"),
        (over_what_is_saved, "You divide by the part of the time that is saved"),
        (mean_of_factors, "You average a factor for each layer"),
        (mean_of_the_steps_factors, "You average how many times as fast each step is"),
        (share_up_to_a_limit, "every `share` above 0.9"),
        (share_from_a_limit, "every `share` below 0.3"),
        (at_least_one_runs, "layers: you returned 1, which is too large"),
        (first_eight_rates, "only the first rates of a long list"),
        (rates_up_to_a_limit, "rates close to 1 as if they were smaller"),
        (no_single_layers, "layers: you returned 0, which is too small"),
        (rounded, "Your numbers are rounded"),
        (last_for_all, "You use the last layer's rate"),
    ],
    "keep_list": [
        (the_papers, "the paper's rule, counted from 0"),
        (the_papers_from_1, "the paper's rule, counted from 1"),
        (range_with_a_step, "and n is rounded down"),
        (range_with_a_larger_step, "and n is rounded up"),
        (range_cut_off, "none of the last ones stays"),
        (last_one_missing, "so the last layer is missing. How many gaps"),
        (first_one_missing, "so the first one is missing"),
        (middles, "the middle of `kept` equal pieces"),
        (inside_alone, "at inner points of the line"),
        (first_chunk, "You keep the first layers, in one piece"),
        (last_chunk, "You keep the last layers, in one piece"),
        (both_ends, "missing from the middle"),
        (from_one, "Your numbers run from 1"),
        (last_put_there, "the last gap gets all"),
        (whole_steps, "the last layer is missing where it does not divide"),
        (float_step, "fall just below a whole number"),
        (what_goes, "These are the layers to remove"),
        (everything, "You return every layer"),
        (every_second, "You keep every second layer, whatever `kept` is"),
        (every_second_until_enough, "You keep every second layer until you have enough"),
        (a_mask, "You return True or False"),
        (one_too_far, "and no others"),
        (rounded_together, "A layer is in it more than once"),
        (downwards, "The numbers do not increase"),
        (as_a_set, "returns a set, which has no order"),
        (fractions, "asks for a whole number"),
        (one_is_no_case, "ZeroDivisionError"),
        (halves_again_and_again, "more than one apart"),
    ],
    "prune": [
        (old_numbers, "The right layers stay, under their old numbers"),
        (numbers_from_one, "Your layers are numbered from 1"),
        (keep_counts_from_one, "the layers one before those"),
        (keep_is_dropped, "You treat `keep` as the layers to remove"),
        (first_ones, "and they are the first ones"),
        (backwards, "Your layers are in the reverse order"),
        (as_they_come, "in the order in which their names come up"),
        (sorted_as_texts, "You sort layer numbers as texts"),
        (layers_alone, "Only the layers are left"),
        (no_last_norm, "The last norm is missing"),
        (no_embeddings, "The embeddings are missing"),
        (no_heads, "The heads for other tasks are lost"),
        (heads_are_layers, "You renumber the heads"),
        (replaces_inner_numbers, "str.replace changes every place"),
        (replaces_in_turn, "the replacements of all kept layers"),
        (begins_alike, "begins like `blocks.layers.1`"),
        (in_half_precision, "another precision"),
        (as_it_was, "Nothing changes"),
        (adds_new_names, "those that should go are still there"),
        (loses_the_prefix, "A part of the name is lost"),
        (zeroes_the_rest, "the pruned model has no tensor of the name"),
        (deletes_in_place, "changes what it was given (state)"),
        (pairs, "a list of tuple"),
        (yields_pairs, "a generator"),
        (names_alone, "instead of a tensor"),
        (returns_nothing, "returns None"),
        (loses_one, "One tensor is missing, `blocks.layers.0.mix.inner.q.bias`"),
        (rounds_values, "lie other values"),
        (matrices_transposed, "lies a tensor of torch.float32 of shape"),
        (any_number_will_do, "because of another number in its name"),
        (every_number_changes, "You change every number in a name"),
        (number_is_a_text, "No layer is left"),
        (keeps_what_follows, "its last 1 is left over"),
        (four_layers, "list index out of range"),
        (four_layers_at_most, "are missing, among them `blocks.layers.4."),
        (no_single_layer, "are missing, among them `blocks.layers.0."),
        (itself_if_all_stay, "the same dictionary that you were given"),
    ],
    "without_feed_forward": [
        (three_that_are_not_called, "With gradients your encoder is right. Under torch.no_grad()"),
        (silences_the_activation, "Something changed with gradients"),
        (no_linears, "Torch reads `weight`"),
        (weight_alone, "A constant is still added: the feed-forward ends"),
        (first_weight_alone, "which comes from the first linear's bias"),
        (bias_alone, "Only the last bias is gone"),
        (whole_layer, "The whole layer is gone"),
        (layer_before, "You switch off layer i - 1"),
        (layer_after, "You switch off layer i + 1"),
        (all_of_them, "The feed-forwards of all layers are off"),
        (all_others, "The feed-forwards of all other layers are off"),
        (the_attention, "The attention of layer i is off"),
        (both_sub_layers, "Both sub-layers of layer i are off"),
        (changes_the_original, "changes what it was given (encoder)"),
        (patches_the_original, "has changed: it no longer computes"),
        (shallow, "Your encoder shares"),
        (for_everybody, "Your function switches torch's fused path off"),
        (only_copied, "Nothing is switched off"),
        (layer_itself, "and the task asks for the whole encoder"),
        (a_function, "returns a function"),
        (in_train_mode, "Your encoder is in train mode"),
        (half_in_train_mode, "after .eval() it is not right either"),
        (hides_in_training, "do not hide a switch"),
        (loses_norm2, "A norm of the layer is lost"),
        (hides_the_layer, "reads attributes of its first layer"),
        (identity, "The feed-forward returns its own input"),
        (no_final_norm, "The norm at the end of the encoder is missing"),
        (under_no_grad_alone, "there torch takes another path"),
        (nearly_nothing, "your encoder is off by up to"),
        (identity_for_the_layer, "unexpected keyword argument"),
        (switches_when_called, "Whoever calls your encoder switches"),
        (first_layer_always, "You switch off the first layer's feed-forward"),
        (last_layer_always, "You switch off the last layer's feed-forward"),
        (ends_there, "The stack ends with layer i"),
        (names_that_begin_alike, "the feed-forwards of layers 10 and 11 are off, too"),
        (never_the_last, "the feed-forward is still on"),
        (third_layer_at_most, "the feed-forward of another layer is off"),
        (zero_goes_in, "Of which activations"),
        (cuts_the_input_off, "no gradient comes back to the input"),
        (forward_without_gradients, "it has no gradients at all"),
        (cuts_half_off, "the gradient of the input is off by"),
        (freezes_the_rest, "is now False"),
        (patches_torch, "Your function changes `TransformerEncoderLayer._ff_block`"),
        (patches_torch_when_called, "Whoever calls your encoder changes `TransformerEncoder.mask_check`"),
    ],
}
RIGHT = {
    "skip_some": [
        right_loop,
        counts_the_runs,
        coins_first,
        no_coin_at_the_ends,
        low_coins_or_high_ones,
        on_a_copy,
    ],
    "sub_layer": [one_expression, low_coin_or_high_one],
    "what_to_expect": [in_arrays, all_subsets],
    "keep_list": [rounded_points, with_linspace, from_torch, larger_gaps_first],
    "prune": [splits_at_every_point, layer_by_layer, copied_and_emptied],
    "without_feed_forward": [
        own_layer,
        with_a_hook,
        without_the_fused_path,
        by_surgery,
        a_new_linear,
        frozen_sub_layer,
    ],
}
