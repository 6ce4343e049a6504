"""Exercise 10: right answers written in another way, and wrong ones that are easy to let through."""

from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from exercises.checks.scalar_quant import Conv1D
from minieff.scalar_quant.grid import Grid, quantize


# Task 1
def by_the_package(w, bits):
    """With scales in fp16, rounded up."""
    codes, scales, _ = quantize(w, Grid(bits))
    return codes, scales


def in_numpy(w, bits):
    codes, scales = [], []
    for row in w.numpy():
        scale = float(np.abs(row).max()) / (2 ** (bits - 1) - 1)
        codes.append([round(float(x) / scale) if scale else 0 for x in row])
        scales.append(scale)
    return np.array(codes), np.array(scales)


def nan_for_zeros(w, bits):
    return (w / (scales := w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1))).round(), scales


# Task 2
def ends(w, bits):
    low, high = w.min().clamp(max=0), w.max().clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp(min=1e-30)
    return scale, (-low / scale).round()


def clamped(w, bits):
    scale, zero = ends(w, bits)
    return ((w / scale).round() + zero).clamp(0, 2**bits - 1), scale, zero


def in_python(w, bits):
    last, numbers = 2**bits - 1, w.tolist()
    low, high = min([*numbers, 0.0]), max([*numbers, 0.0])
    scale = (high - low) / last or 1.0
    zero = round(-low / scale)
    return [min(max(round(x / scale) + zero, 0), last) for x in numbers], scale, zero


def in_fp16_first(w, bits):
    scale = ends(w, bits)[0].clamp(min=2.0**-24).half().float()
    zero = (-w.min().clamp(max=0) / scale).round()
    codes = ((w / scale).round() + zero).clamp(0, 2**bits - 1)
    return codes.to(torch.uint8), scale[None], zero.int()


def in_fp16_at_last(w, bits):
    codes, scale, zero = clamped(w, bits)
    return codes, scale.half(), zero


def not_clamped(w, bits):
    scale, zero = ends(w, bits)
    return (w / scale).round() + zero, scale, zero


def equal_ones_are_zeros(w, bits):
    return (torch.zeros_like(w), 1.0, 0) if w.min() == w.max() else clamped(w, bits)


# Task 3
def seen_keys(weights, others, bits):
    total, seen, per_byte = 2 * others, set(), 8 // bits
    for _, rows, columns, key in weights:
        if key not in seen:
            seen.add(key)
            total += rows * ((columns + per_byte - 1) // per_byte) + 2 * rows
    return total


def a_byte_more(weights, others, bits):
    stored = {key: (rows, columns) for _, rows, columns, key in weights}
    return sum(R * (C * bits // 8 + 1 + 2) for R, C in stored.values()) + 2 * others


# Task 4
def rounded(w, bits):
    scale = w.abs().amax(1, keepdim=True).clamp(min=1e-30) / (2 ** (bits - 1) - 1)
    return scale * (w / scale).round()


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def own_function(w, bits, p, training, coins):
    with torch.no_grad():
        value = torch.where(coins < p, rounded(w, bits), w) if training else rounded(w, bits)
    return Straight.apply(w, value)


def into_a_clone(w, bits, p, training, coins):
    value = w.clone()
    with torch.no_grad():
        chosen = coins < p if training else coins > -1
        value[chosen] = rounded(w, bits)[chosen]
    return value


def writes_into_w(w, bits, p, training, coins):
    chosen = coins < p if training else coins < 2
    w.data = torch.where(chosen, rounded(w.data, bits), w.data)
    return w


# Task 5
def dequantized(x, codes, scales, bias):
    """Fake quantization, in floats."""
    s_x = x.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127
    return F.linear((x / s_x).round() * s_x, scales[:, None] * codes, bias)


def int_mm(x, codes, scales, bias):
    flat = x.reshape(-1, x.shape[-1])
    s_x = flat.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    sums = torch._int_mm((flat / s_x).round().to(torch.int8), codes.T.contiguous())
    y = sums * s_x * scales + (0 if bias is None else bias)
    return y.view(*x.shape[:-1], -1)


def nan_for_a_token_of_zeros(x, codes, scales, bias):
    s_x = x.abs().amax(-1, keepdim=True) / 127
    y = ((x / s_x).round() @ codes.float().T) * s_x * scales
    return y if bias is None else y + bias


# Task 6

KINDS = (nn.Linear, nn.Embedding, nn.Conv1d, Conv1D)


def through_the_state(model, bits):
    new, state = deepcopy(model), deepcopy(model.state_dict())
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, KINDS):
            w = module.weight.detach()
            value = rounded(w.T, bits).T if isinstance(module, Conv1D) else rounded(w.flatten(1), bits)
            state[f"{name}.weight".lstrip(".")] = value.reshape(w.shape)
    new.load_state_dict(state)
    return new


def edits_the_original(model, bits):
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = rounded(module.weight.data, bits)
    return model


def skips_frozen(model, bits):
    new = through_the_state(model, bits)
    for mine, old in zip(new.parameters(), model.parameters(), strict=True):
        mine.data = mine.data if old.requires_grad else old.data.clone()
    return new


RIGHT = {
    "to_codes": [by_the_package, in_numpy],
    "affine": [in_python, in_fp16_first],
    "file_bytes": [seen_keys],
    "noisy": [own_function, into_a_clone],
    "int_linear": [dequantized, int_mm],
    "round_outputs": [through_the_state],
}
WRONG = {
    "to_codes": [(nan_for_zeros, "What is divided by 0?")],
    "affine": [
        (in_fp16_at_last, "more than half a step"),
        (not_clamped, "codes run from 0 to 8"),
        (equal_ones_are_zeros, "equal"),
    ],
    "file_bytes": [(a_byte_more, "too large by")],
    "noisy": [(writes_into_w, "changes what it was given (w)")],
    "int_linear": [(nan_for_a_token_of_zeros, "division by zero")],
    "round_outputs": [(edits_the_original, "changes what it was given (model)"), (skips_frozen, ".weight")],
}
