"""Answers to exercise 08: right ones, written in another way, and wrong ones that are easy to let through."""

import copy
from itertools import accumulate

import numpy as np
import torch
from torch import nn


# Task 1
def counts_the_runs(layers, memories, x, p, training, coin):
    """Other coins, as often."""
    for layer, memory in zip(layers, memories, strict=True):
        if training and not coin() < 1 - p:
            continue
        x = layer(x, memory)
    return x


def on_a_copy(layers, memories, x, p, training, coin):
    x = x.clone()
    for layer, memory in zip(layers, memories, strict=True):
        if not training or coin() >= p:
            x += layer(x, memory) - x
    return x


def spares_the_last(layers, memories, x, p, training, coin):
    for i, layer in enumerate(layers):
        if not training or i == len(layers) - 1 or coin() >= p:
            x = layer(x, memories[i])
    return x


# Task 2
def one_expression(x, norm, inner, p, training, coin):
    return x + inner(norm(x)) if not training or coin() < 1 - p else x.clone()


def skips_if_either_says_so(x, norm, inner, p, training, coin):
    return x if training and (coin() < p or coin() < p) else x + inner(norm(x))


def drops_numbers(x, norm, inner, p, training, coin):
    return x + nn.functional.dropout(inner(norm(x)), p, training)


# Task 3
def in_arrays(rates, share):
    rates = np.array(rates)
    return np.array([(1 - rates).sum(), rates.prod(), 1 / (1 - share + share * (1 - rates).mean())])


# Task 4
def rounded_points(layers, kept):
    return [round(i * (layers - 1) / (kept - 1)) for i in range(kept)] if kept > 1 else [layers // 2]


def larger_gaps_first(layers, kept):
    if kept == 1:
        return (layers - 1,)
    small, larger = divmod(layers - 1, kept - 1)
    return tuple(accumulate([small + (i < larger) for i in range(kept - 1)], initial=0))


def halves_again_and_again(layers, kept):
    stay = [0, layers - 1][:kept]
    while len(stay) < kept:
        gap, a = max((b - a, a) for a, b in zip(stay, stay[1:], strict=False))
        stay = sorted([*stay, a + gap // 2])
    return stay


# Task 5
def layer_by_layer(state, keep):
    small = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.layers.")}
    for new, old in enumerate(keep):
        start = f"blocks.layers.{old}."
        found = [name for name in state if name.startswith(start)]
        small |= {f"blocks.layers.{new}." + name[len(start) :]: state[name] for name in found}
    return small


# Task 6
def with_a_hook(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i].linear2.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    return encoder


class Plain(nn.Module):
    """A layer's attention and its norms, under the names that nn.TransformerEncoder reads."""

    def __init__(self, layer):
        super().__init__()
        self.self_attn, self.norm1, self.norm2 = layer.self_attn, layer.norm1, layer.norm2
        self.norm_first = layer.norm_first

    def forward(self, x, src_mask=None, src_key_padding_mask=None, is_causal=False):
        h = self.norm1(x) if self.norm_first else x
        heard = self.self_attn(h, h, h, key_padding_mask=src_key_padding_mask, need_weights=False)[0]
        return x + heard if self.norm_first else self.norm2(self.norm1(x + heard))


def own_layer(encoder, i):
    encoder = copy.deepcopy(encoder)
    encoder.layers[i] = Plain(encoder.layers[i])
    return encoder


RIGHT = {
    "skip_some": [counts_the_runs, on_a_copy],
    "sub_layer": [one_expression],
    "what_to_expect": [in_arrays],
    "keep_list": [rounded_points, larger_gaps_first],
    "prune": [layer_by_layer],
    "without_feed_forward": [with_a_hook, own_layer],
}
WRONG = {
    "skip_some": [(spares_the_last, "in two runs you toss 12 coins; 14 are right")],
    "sub_layer": [(skips_if_either_says_so, "you toss 3 coins"), (drops_numbers, "you toss 0 coins")],
    "keep_list": [(halves_again_and_again, "differ by more than one")],
}
