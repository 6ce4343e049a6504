"""Answers to exercise 10: wrong ones, each with a fragment of the message it must get, and right ones."""

import pickle
from copy import deepcopy
from itertools import groupby
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from minieff.grid import Grid, quantize
from torch import nn

from exercises.graders.scalar_quant import Conv1D

# Task 1


def top(bits):
    return 2 ** (bits - 1) - 1


def on_rows(w, scales, most):
    """Codes for scales (R, 1), where 0 divides nothing."""
    return (w / scales.clamp(min=1e-30)).round().clamp(-most, most), scales


def always_127(w, bits):
    return on_rows(w, w.abs().amax(1, keepdim=True) / 127, 127)


def one_code_too_many(w, bits):
    return on_rows(w, w.abs().amax(1, keepdim=True) / 2 ** (bits - 1), 2 ** (bits - 1))


def largest_cut_off(w, bits):
    half = 2 ** (bits - 1)
    scales = w.abs().amax(1, keepdim=True) / half
    return (w / scales.clamp(min=1e-30)).round().clamp(-half, half - 1), scales


def all_steps(w, bits):
    return on_rows(w, w.abs().amax(1, keepdim=True) / (2**bits - 1), 2**bits - 1)


def all_patterns(w, bits):
    return on_rows(w, w.abs().amax(1, keepdim=True) / 2**bits, 2**bits)


def steps_from_end_to_end(w, bits):
    return on_rows(w, 2 * w.abs().amax(1, keepdim=True) / (2**bits - 1), 2 ** (bits - 1))


def from_the_range(w, bits):
    scales = (w.amax(1, keepdim=True) - w.amin(1, keepdim=True)) / (2**bits - 1)
    return on_rows(w, scales, top(bits))


def from_half_the_range(w, bits):
    scales = (w.amax(1, keepdim=True) - w.amin(1, keepdim=True)) / 2 / top(bits)
    return on_rows(w, scales, top(bits))


def one_scale_for_all(w, bits):
    codes, scale = on_rows(w, w.abs().max() / top(bits), top(bits))
    return codes, scale.expand(len(w))


def a_single_scale(w, bits):
    return on_rows(w, w.abs().max() / top(bits), top(bits))


def a_scale_a_column(w, bits):
    codes, scales = on_rows(w, w.abs().amax(0, keepdim=True) / top(bits), top(bits))
    return codes, scales


def without_abs(w, bits):
    return on_rows(w, w.amax(1, keepdim=True) / top(bits), top(bits))


def scale_inverted(w, bits):
    inverse = top(bits) / w.abs().amax(1, keepdim=True).clamp(min=1e-30)
    return (w * inverse).round(), inverse


def scale_is_the_largest(w, bits):
    scales = w.abs().amax(1, keepdim=True)
    return on_rows(w, scales, 1)


def from_the_mean(w, bits):
    return on_rows(w, w.abs().mean(1, keepdim=True) / top(bits), top(bits))


def row_scales(w, bits):
    return w.abs().amax(1, keepdim=True).clamp(min=1e-30) / top(bits)


def truncated(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).to(torch.int8), scales


def floored(w, bits):
    scales = row_scales(w, bits)
    return torch.floor(w / scales), scales


def ceiled(w, bits):
    scales = row_scales(w, bits)
    return torch.ceil(w / scales), scales


def not_rounded(w, bits):
    scales = row_scales(w, bits)
    return w / scales, scales


def dequantized(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).round() * scales, scales


def weights_alone(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).round() * scales


def moved_by_m(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).round() + top(bits) * (w.abs().amax(1, keepdim=True) > 0), scales


def moved_by_half(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).round() + 2 ** (bits - 1) * (w.abs().amax(1, keepdim=True) > 0), scales


def zeros_moved(w, bits):
    scales = row_scales(w, bits)
    codes = (w / scales).round()
    codes[w.abs().amax(1) == 0] = 1
    return codes, scales


def without_a_sign(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).round().to(torch.int8).view(torch.uint8), scales


def magnitudes(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).round().abs(), scales


def negatives_lost(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).round().clamp(0, top(bits)), scales


def cut_one_short(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).round().clamp(1 - top(bits), top(bits) - 1), scales


def nan_for_zeros(w, bits):
    scales = w.abs().amax(1, keepdim=True) / top(bits)
    return (w / scales).round(), scales


def scales_first(w, bits):
    scales = row_scales(w, bits)
    return scales, (w / scales).round()


def codes_for_other_scales(w, bits):
    scales = row_scales(w, bits)
    return (w / (1.02 * scales)).round(), scales


def scales_at_least(w, bits):
    scales = (w.abs().amax(1, keepdim=True) / top(bits)).clamp(min=1e-3)
    return (w / scales).round(), scales


def codes_in_place(w, bits):
    scales = row_scales(w, bits)
    return w.div_(scales).round_(), scales


def scales_squeezed(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).round(), scales.squeeze()


def codes_transposed(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).round().T, scales


def scales_in_fp16(w, bits):
    scales = row_scales(w, bits)
    return (w / scales).round().char(), scales.half()


def scales_in_fp16_on_codes_alone(w, bits):
    scales = row_scales(w, bits)
    return (w / scales.clamp(min=2.0**-24).half()).round().clamp(-top(bits), top(bits)), scales


def by_the_package(w, bits):
    codes, scales, _ = quantize(w, Grid(bits))
    return codes, scales


def row_by_row_in_numpy(w, bits):
    codes, scales = [], []
    for row in w.numpy():
        scale = max(abs(row.max()), abs(row.min())) / top(bits)
        codes.append([round(float(x) / float(scale)) if scale else 0 for x in row])
        scales.append(float(scale))
    return np.array(codes), np.array(scales)


def int64_and_a_vector(w, bits):
    scales = torch.linalg.vector_norm(w, float("inf"), 1) / top(bits)
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    return torch.round(w * inverse[:, None]).long(), scales


def nan_turned_to_0(w, bits):
    scales = w.abs().amax(1, keepdim=True) / top(bits)
    return torch.nan_to_num((w / scales).round()).to(torch.int8), scales


def codes_for_scales_in_fp16(w, bits):
    scales = row_scales(w, bits).clamp(min=2.0**-24).half()
    return (w / scales.float()).round().clamp(-top(bits), top(bits)).char(), scales


# Task 2


def parts_of(w, bits):
    last = 2**bits - 1
    low, high = w.min().clamp(max=0), w.max().clamp(min=0)
    scale = ((high - low) / last).clamp(min=1e-30)
    return last, low, scale


def range_without_zero(w, bits):
    last = 2**bits - 1
    scale = ((w.max() - w.min()) / last).clamp(min=1e-8)
    zero = (-w.min() / scale).round()
    return ((w / scale).round() + zero).clamp(0, last), scale, zero


def zero_not_rounded(w, bits):
    last, low, scale = parts_of(w, bits)
    zero = -low / scale
    return ((w / scale).round() + zero).clamp(0, last), scale, zero


def one_step_too_many(w, bits):
    last, low, scale = parts_of(w, bits)
    scale = scale * last / 2**bits
    zero = (-low / scale).round()
    return (w / scale).round() + zero, scale, zero


def one_step_too_many_and_no_zero(w, bits):
    scale = ((w.max() - w.min()) / 2**bits).clamp(min=1e-8)
    zero = (-w.min() / scale).round()
    return ((w / scale).round() + zero).clamp(0, 2**bits - 1), scale, zero


def clamped_too_early(w, bits):
    last, low, scale = parts_of(w, bits)
    zero = (-low / scale).round()
    return (w / scale).round().clamp(0, last) + zero, scale, zero


def steps_of_8_bits(w, bits):
    _, low, scale = parts_of(w, 8)
    zero = (-low / scale).round()
    return ((w / scale).round() + zero).clamp(0, 2**bits - 1), scale, zero


def symmetric_range(w, bits):
    last = 2**bits - 1
    scale = (2 * w.abs().max() / last).clamp(min=1e-8)
    zero = torch.tensor(2.0 ** (bits - 1))
    return ((w / scale).round() + zero).clamp(0, last), scale, zero


def symmetric_codes(w, bits):
    scale = (w.abs().max() / top(bits)).clamp(min=1e-8)
    return (w / scale).round(), scale, 0


def inverted(w, bits):
    last, low, scale = parts_of(w, bits)
    zero = (-low / scale).round()
    return ((w / scale).round() + zero).clamp(0, last), 1 / scale.clamp(min=1e-9), zero


def counted_from_the_lowest(w, bits):
    last, low, scale = parts_of(w, bits)
    return ((w - low) / scale).round().clamp(0, last), scale, (-low / scale).round()


def codes_without_zero(w, bits):
    last, low, scale = parts_of(w, bits)
    return (w / scale).round().clamp(0, last), scale, (-low / scale).round()


def signed_codes(w, bits):
    last, low, scale = parts_of(w, bits)
    zero = (-low / scale).round() - 2 ** (bits - 1)
    return ((w / scale).round() + zero).clamp(-(2 ** (bits - 1)), top(bits)), scale, zero


def cut_fractions(w, bits):
    last, low, scale = parts_of(w, bits)
    zero = (-low / scale).round()
    return ((w / scale).trunc() + zero).clamp(0, last), scale, zero


def zero_floored(w, bits):
    last, low, scale = parts_of(w, bits)
    zero = (-low / scale).floor()
    return ((w / scale).round() + zero).clamp(0, last), scale, zero


def zero_below(w, bits):
    last, low, scale = parts_of(w, bits)
    zero = (low / scale).round()
    return ((w / scale).round() - zero).clamp(0, last), scale, zero


def lowest_for_zero(w, bits):
    last, low, scale = parts_of(w, bits)
    return ((w / scale).round() + (-low / scale).round()).clamp(0, last), scale, low


def values_for_codes(w, bits):
    codes, scale, zero = affine_right(w, bits)
    return scale * (codes - zero), scale, zero


def codes_in_int8(w, bits):
    codes, scale, zero = affine_right(w, bits)
    return codes.int().to(torch.int8), scale, zero


def scale_not_that_small(w, bits):
    last, low, scale = parts_of(w, bits)
    scale = scale.clamp(min=1e-4)
    zero = (-low / scale).round()
    return ((w / scale).round() + zero).clamp(0, last), scale, zero


def equal_numbers_divide(w, bits):
    if w.min() == w.max():
        return torch.zeros_like(w) / 0, torch.tensor(1.0), 0
    return affine_right(w, bits)


def equal_numbers_are_one(w, bits):
    if w.min() == w.max():
        return torch.zeros_like(w), torch.tensor(1.0), 0
    return affine_right(w, bits)


def rounded_between(w, bits, low, high):
    last = 2**bits - 1
    scale = ((high - low) / last).clamp(min=1e-30)
    zero = (-low / scale).round()
    return ((w / scale).round() + zero).clamp(0, last), scale, zero


def low_end_alone(w, bits):
    return rounded_between(w, bits, w.min().clamp(max=0), w.max())


def high_end_alone(w, bits):
    return rounded_between(w, bits, w.min(), w.max().clamp(min=0))


def equal_numbers_have_twice_the_range(w, bits):
    codes, scale, zero = affine_right(w, bits)
    return (codes, 2 * scale, zero) if w.min() == w.max() else (codes, scale, zero)


def zero_second(w, bits):
    codes, scale, zero = affine_right(w, bits)
    return codes, zero, scale


def two_of_three(w, bits):
    codes, scale, _ = affine_right(w, bits)
    return codes, scale


def moves_w(w, bits):
    found = affine_right(w, bits)
    w -= w.min()
    return found


def affine_right(w, bits):
    last, low, scale = parts_of(w, bits)
    zero = (-low / scale).round()
    return ((w / scale).round() + zero).clamp(0, last), scale, zero


def plain_python(w, bits):
    last, numbers = 2**bits - 1, w.tolist()
    low, high = min([*numbers, 0.0]), max([*numbers, 0.0])
    scale = (high - low) / last or 1.0
    zero = round(-low / scale)
    return [min(max(round(x / scale) + zero, 0), last) for x in numbers], scale, zero


def in_uint8(w, bits):
    low, high = (float(x) for x in torch.aminmax(torch.cat([w, torch.zeros(1)])))
    scale = np.float32(high - low) / (2**bits - 1)
    if scale == 0:
        return torch.zeros(len(w), dtype=torch.uint8), 0.0, 0
    zero = int(np.rint(-low / scale))
    codes = np.clip(np.rint(w.numpy() / scale) + zero, 0, 2**bits - 1).astype(np.uint8)
    return codes, scale, np.int64(zero)


def not_clamped(w, bits):
    _, low, scale = parts_of(w, bits)
    zero = (-low / scale).round()
    return (w / scale).round() + zero, scale, zero


def scale_rounded_at_last(w, bits):
    codes, scale, zero = affine_right(w, bits)
    return codes, scale.clamp(min=2.0**-24).half(), zero


def scale_rounded_first(w, bits):
    last, low, scale = parts_of(w, bits)
    scale = scale.clamp(min=2.0**-24).half().float()
    zero = (-low / scale).round()
    return ((w / scale).round() + zero).clamp(0, last), scale, zero


def any_code_where_the_scale_is_0(w, bits):
    return affine_right(w, bits) if w.any() else (torch.ones_like(w), 0.0, 0)


def exact_part_added(w, bits):
    """round(w / scale + zero) with a whole zero."""
    last, low, scale = parts_of(w.double(), bits)
    zero = torch.round(-low / scale)
    return torch.clamp(torch.round(w / scale + zero), 0, last).int(), scale[None], zero.int()


# Task 3


def shared(weights):
    return {key: (rows, columns) for _, rows, columns, key in weights}.values()


def up(bits):
    return -(-bits // 8)


def size(weights, others, bits, scale=lambda R, C: 2 * R, codes=None, rest=2):
    codes = codes or (lambda R, C: R * up(C * bits))
    return sum(codes(R, C) + scale(R, C) for R, C in weights) + rest * others


def no_scales(weights, others, bits):
    return size(shared(weights), others, bits, scale=lambda R, C: 0)


def no_scale_in_binary(weights, others, bits):
    return size(shared(weights), others, bits, scale=lambda R, C: 0 if bits == 1 else 2 * R)


def scales_of_32_bits(weights, others, bits):
    return size(shared(weights), others, bits, scale=lambda R, C: 4 * R)


def scale_of_a_column(weights, others, bits):
    return size(shared(weights), others, bits, scale=lambda R, C: 2 * C)


def scale_of_a_weight(weights, others, bits):
    return size(shared(weights), others, bits, scale=lambda R, C: 2)


def no_others(weights, others, bits):
    return size(shared(weights), 0, bits)


def others_of_32_bits(weights, others, bits):
    return size(shared(weights), others, bits, rest=4)


def others_as_codes(weights, others, bits):
    return size(shared(weights), 0, bits) + up(others * bits)


def others_of_a_byte(weights, others, bits):
    return size(shared(weights), others, bits, rest=1)


def tied_twice(weights, others, bits):
    return size([w[1:3] for w in weights], others, bits)


def tied_neighbours(weights, others, bits):
    return size([next(group)[1:3] for _, group in groupby(weights, lambda w: w[3])], others, bits)


def tied_never(weights, others, bits):
    keys = [key for *_, key in weights]
    return size([w[1:3] for w in weights if keys.count(w[3]) == 1], others, bits)


def by_name(weights, others, bits):
    seen = {}
    for name, rows, columns, _ in weights:
        seen.setdefault(name, (rows, columns))
    return size(seen.values(), others, bits)


def by_shape(weights, others, bits):
    return size({w[1:3] for w in weights}, others, bits)


def filled_up_once(weights, others, bits):
    return size(shared(weights), others, bits, codes=lambda R, C: ceil(R * C * bits / 8))


def one_stream(weights, others, bits):
    return size(shared(weights), others, bits, codes=lambda R, C: 0) + up(
        sum(R * C * bits for R, C in shared(weights))
    )


def rounded_down(weights, others, bits):
    return size(shared(weights), others, bits, codes=lambda R, C: R * (C * bits // 8))


def a_byte_more(weights, others, bits):
    return size(shared(weights), others, bits, codes=lambda R, C: R * (C * bits // 8 + 1))


def a_byte_more_in_binary(weights, others, bits):
    return size(
        shared(weights), others, bits, codes=lambda R, C: R * (C // 8 + 1 if bits == 1 else up(C * bits))
    )


def along_columns(weights, others, bits):
    return size(shared(weights), others, bits, codes=lambda R, C: C * up(R * bits))


def a_byte_a_code(weights, others, bits):
    return size(shared(weights), others, bits, codes=lambda R, C: R * C)


def bits_for_codes_a_byte(weights, others, bits):
    return size(shared(weights), others, bits, codes=lambda R, C: R * ceil(C / bits))


def in_bits(weights, others, bits):
    return 8 * file_bytes(weights, others, bits)


def fp32_over_the_factor(weights, others, bits):
    return 4 * (sum(R * C for R, C in shared(weights)) + others) // (32 // bits)


def no_codes(weights, others, bits):
    return size(shared(weights), others, bits, codes=lambda R, C: 0)


def with_a_header(weights, others, bits):
    return file_bytes(weights, others, bits) + 8


def fractions(weights, others, bits):
    return sum(R * C * bits / 8 + 2 * R for R, C in shared(weights)) + 2 * others + 0.25


def pops_twins(weights, others, bits):
    found = 2 * others
    while weights:
        _, R, C, key = weights.pop()
        found += R * (up(C * bits) + 2) * (key not in [w[3] for w in weights])
    return found


def zero_points_too(weights, others, bits):
    return size(shared(weights), others, bits, scale=lambda R, C: 3 * R)


def file_bytes(weights, others, bits):
    return size(shared(weights), others, bits)


def seen_keys(weights, others, bits):
    total, seen = 2 * others, set()
    for _, rows, columns, key in weights:
        if key not in seen:
            seen.add(key)
            total += rows * ((columns + 8 // bits - 1) // (8 // bits)) + 2 * rows
    return total


def with_tensors(weights, others, bits):
    tensors = {key: torch.zeros(R, ceil(C * bits / 8), dtype=torch.uint8) for _, R, C, key in weights}
    stored = [*tensors.values(), *(torch.zeros(len(t), dtype=torch.half) for t in tensors.values())]
    return float(sum(t.numel() * t.element_size() for t in stored) + others * 2)


# Task 4


def rounded(w, bits):
    scale = w.abs().amax(1, keepdim=True).clamp(min=1e-30) / top(bits)
    return scale * (w / scale).round()


def through(w, value):
    """The value, with the gradient of w."""
    return w + (value - w).detach()


def writes_into_w(w, bits, p, training, coins):
    chosen = coins < p if training else coins < 2
    w.data = torch.where(chosen, rounded(w.data, bits), w.data)
    return w


def like_dropout(w, bits, p, training, coins):
    value = noisy(w, bits, p, training, coins)
    return value / (1 - p) if training and p < 1 else value


def like_dropout_for_the_rest(w, bits, p, training, coins):
    if not training or p == 1:
        return through(w, rounded(w, bits))
    return torch.where(coins < p, through(w, rounded(w, bits)), w / (1 - p))


def times_what_stays(w, bits, p, training, coins):
    return noisy(w, bits, p, training, coins) * (1 - p if training else 1)


def no_gradient_where_rounded(w, bits, p, training, coins):
    if not training:
        return through(w, rounded(w, bits))
    return torch.where(coins < p, rounded(w, bits).detach(), w)


def gradient_through_the_scale(w, bits, p, training, coins):
    return torch.where(coins < p, rounded(w, bits), w) if training else rounded(w, bits)


def scale_in_eval(w, bits, p, training, coins):
    return noisy(w, bits, p, training, coins) if training else rounded(w, bits)


def no_gradient_in_eval(w, bits, p, training, coins):
    return noisy(w, bits, p, training, coins) if training else rounded(w, bits).detach()


def no_gradient_at_all(w, bits, p, training, coins):
    return noisy(w, bits, p, training, coins).detach()


def twice(w, bits, p, training, coins):
    change = (rounded(w, bits) - w).detach()
    chosen = coins < p if training else coins < 2
    return w + chosen * (change + (w - w.detach())) if training else w + change


def only_the_rounded(w, bits, p, training, coins):
    if not training:
        return through(w, rounded(w, bits))
    return torch.where(coins < p, through(w, rounded(w, bits)), w.detach())


def as_it_is_in_eval(w, bits, p, training, coins):
    return noisy(w, bits, p, training, coins) if training else w


def coins_in_eval(w, bits, p, training, coins):
    return noisy(w, bits, p, True, coins)


def mean_in_eval(w, bits, p, training, coins):
    return noisy(w, bits, p, True, coins) if training else w + p * (rounded(w, bits) - w).detach()


def nothing_in_training(w, bits, p, training, coins):
    return w if training else through(w, rounded(w, bits))


def everything_in_training(w, bits, p, training, coins):
    return through(w, rounded(w, bits))


def other_way_round(w, bits, p, training, coins):
    chosen = coins >= p if training else coins < 2
    return torch.where(chosen, through(w, rounded(w, bits)), w)


def above_p(w, bits, p, training, coins):
    chosen = coins > p if training else coins < 2
    return torch.where(chosen, through(w, rounded(w, bits)), w)


def other_end(w, bits, p, training, coins):
    chosen = coins > 1 - p if training else coins < 2
    return torch.where(chosen, through(w, rounded(w, bits)), w)


def compared_with_the_rest(w, bits, p, training, coins):
    chosen = coins < 1 - p if training else coins < 2
    return torch.where(chosen, through(w, rounded(w, bits)), w)


def at_p_too(w, bits, p, training, coins):
    chosen = coins <= p if training else coins < 2
    return torch.where(chosen, through(w, rounded(w, bits)), w)


def at_p_zero(w, bits, p, training, coins):
    chosen = coins < (p or 1e-9) if training else coins < 2
    return torch.where(chosen, through(w, rounded(w, bits)), w)


def zeros_for_noise(w, bits, p, training, coins):
    return through(w, torch.where(coins < p, 0.0, w)) if training else through(w, rounded(w, bits))


def whole_rows(w, bits, p, training, coins):
    return noisy(w, bits, p, training, coins[:, :1].expand_as(w))


def one_grid_for_all(w, bits, p, training, coins):
    scale = w.abs().max() / top(bits)
    value = torch.where(coins < p, scale * (w / scale).round(), w) if training else rounded(w, bits)
    return through(w, value)


def mixture(w, bits, p, training, coins):
    return w + (p if training else 1) * (rounded(w, bits) - w).detach()


def scales_of_the_chosen(w, bits, p, training, coins):
    chosen = coins < p if training else coins < 2
    return through(w, torch.where(chosen, rounded(w * chosen, bits), w))


def own_chance(w, bits, p, training, coins):
    return noisy(w, bits, p, training, torch.rand(w.shape))


def detached_the_wrong_way(w, bits, p, training, coins):
    value = through(rounded(w, bits), w)
    return torch.where(coins < p, value, w) if training else value


def always_on_8_bits(w, bits, p, training, coins):
    return noisy(w, 8, p, training, coins)


def half_of_the_gradient(w, bits, p, training, coins):
    return noisy(w, bits, p, training, coins).detach() + (w - w.detach()) / 2


def another_grid(w, bits, p, training, coins):
    return noisy(w, bits + 1, p, training, coins)


def eval_at_p_zero(w, bits, p, training, coins):
    return w if p == 0 else noisy(w, bits, p, training, coins)


def needs_a_gradient(w, bits, p, training, coins):
    if w.requires_grad:
        return noisy(w, bits, p, training, coins)
    raise RuntimeError("w has no gradient")


def rounds_by_itself(w, bits, p, training, coins):
    scale = w.detach().abs().amax(1, keepdim=True) / top(bits)
    chosen = coins < p if training else coins < 2
    return w + torch.where(chosen, scale * (w.detach() / scale).round() - w.detach(), 0.0)


def needs_a_gradient_in_eval(w, bits, p, training, coins):
    value = rounded(w, bits)
    if not training:
        value.register_hook(lambda gradient: gradient)
    return through(w, torch.where(coins < p, value, w) if training else value)


def a_pair(w, bits, p, training, coins):
    return noisy(w, bits, p, training, coins), coins < p


def noisy(w, bits, p, training, coins):
    chosen = coins < p if training else torch.ones_like(coins, dtype=torch.bool)
    return torch.where(chosen, through(w, rounded(w, bits)), w)


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


def by_a_mask(w, bits, p, training, coins):
    mask = (coins < p).float() if training else 1.0
    with torch.no_grad():
        change = mask * (rounded(w, bits) - w)
    return w + change


def into_a_clone(w, bits, p, training, coins):
    value = w.clone()
    with torch.no_grad():
        chosen = coins < p if training else coins > -1
        value[chosen] = rounded(w, bits)[chosen]
    return value


def index_by_index(w, bits, p, training, coins):
    value = w.detach().clone()
    chosen = coins < p if training else coins > -1
    value[chosen] = rounded(w.detach(), bits)[chosen]
    return value + w - w.detach()


# Task 5


def input_scale(x):
    return x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127


def linear(x, codes, scales, bias, s_x=None, x_q=None, sums=lambda x_q, codes: x_q.long() @ codes.long().T):
    s_x = input_scale(x) if s_x is None else s_x
    x_q = (x / s_x).round() if x_q is None else x_q
    y = sums(x_q, codes).float() * s_x * scales
    return y if bias is None else y + bias


def one_input_scale(x, codes, scales, bias):
    return linear(x, codes, scales, bias, s_x=(x.abs().max() / 127).clamp(min=1e-30))


def scale_of_a_sequence(x, codes, scales, bias):
    over = (-2, -1) if x.dim() > 1 else -1
    return linear(x, codes, scales, bias, s_x=x.abs().amax(over, keepdim=True).clamp(min=1e-30) / 127)


def scale_of_a_feature(x, codes, scales, bias):
    over = tuple(range(x.dim() - 1))
    s_x = (x.abs().amax(over, keepdim=True) if over else x.abs()).clamp(min=1e-30) / 127
    return linear(x, codes, scales, bias, s_x=s_x)


def features_scaled_back(x, codes, scales, bias):
    over = tuple(range(x.dim() - 1))
    s_x = (x.abs().amax(over, keepdim=True) if over else x.abs()).clamp(min=1e-30) / 127
    return ((x / s_x).round() * s_x) @ (codes * scales[:, None]).T + (0 if bias is None else bias)


def floats_times_codes(x, codes, scales, bias):
    y = (x @ codes.float().T) * scales
    return y if bias is None else y + bias


def inputs_truncated(x, codes, scales, bias):
    return linear(x, codes, scales, bias, x_q=(x / input_scale(x)).to(torch.int8))


def inputs_floored(x, codes, scales, bias):
    return linear(x, codes, scales, bias, x_q=(x / input_scale(x)).floor())


def products_in_int8(x, codes, scales, bias):
    return linear(x, codes, scales, bias, sums=lambda x_q, codes: x_q.to(torch.int8) @ codes.T)


def products_in_int16(x, codes, scales, bias):
    return linear(x, codes, scales, bias, sums=lambda x_q, codes: x_q.short() @ codes.short().T)


def inputs_not_scaled_back(x, codes, scales, bias):
    s_x = input_scale(x)
    return linear(x, codes, scales, bias, s_x=torch.ones(()), x_q=(x / s_x).round())


def weights_not_scaled_back(x, codes, scales, bias):
    return linear(x, codes, torch.ones_like(scales), bias)


def weights_divided(x, codes, scales, bias):
    return linear(x, codes, 1 / scales, bias)


def weights_twice(x, codes, scales, bias):
    return linear(x, codes, scales * scales, bias)


def bias_in_the_sums(x, codes, scales, bias):
    s_x = input_scale(x)
    sums = (x / s_x).round() @ codes.float().T
    return (sums if bias is None else sums + bias) * s_x * scales


def bias_times_weight_scales(x, codes, scales, bias):
    return linear(x, codes, scales, None if bias is None else bias * scales)


def bias_times_input_scale(x, codes, scales, bias):
    y = linear(x, codes, scales, None)
    return y if bias is None else y + bias * input_scale(x)


def no_bias(x, codes, scales, bias):
    return linear(x, codes, scales, None)


def bias_needed(x, codes, scales, bias):
    return linear(x, codes, scales, None) + bias


def bias_subtracted(x, codes, scales, bias):
    return linear(x, codes, scales, None if bias is None else -bias)


def steps_128(x, codes, scales, bias):
    return linear(x, codes, scales, bias, s_x=input_scale(x) * 127 / 128)


def steps_128_cut(x, codes, scales, bias):
    s_x = input_scale(x) * 127 / 128
    return linear(x, codes, scales, bias, s_x=s_x, x_q=(x / s_x).round().clamp(-128, 127))


def steps_255(x, codes, scales, bias):
    return linear(x, codes, scales, bias, s_x=input_scale(x) * 127 / 255)


def negative_inputs_lost(x, codes, scales, bias):
    return linear(x, codes, scales, bias, x_q=(x / input_scale(x)).round().clamp(0, 127))


def without_magnitude(x, codes, scales, bias):
    return linear(x, codes, scales, bias, s_x=x.amax(-1, keepdim=True).clamp(min=1e-8) / 127)


def scale_of_a_place(x, codes, scales, bias):
    s_x = x.abs().amax((0, -1) if x.dim() > 2 else -1, keepdim=True).clamp(min=1e-30) / 127
    return linear(x, codes, scales, bias, s_x=s_x)


def clamped_to_one(x, codes, scales, bias):
    return linear(x, codes, scales, bias, x_q=(x / input_scale(x)).round().clamp(-1, 1))


def nan_for_a_zero_token(x, codes, scales, bias):
    s_x = x.abs().amax(-1, keepdim=True) / 127
    y = ((x / s_x).round() @ codes.float().T) * s_x * scales
    return y if bias is None else y + bias


def scales_along_tokens(x, codes, scales, bias):
    sums = (x / input_scale(x)).round() @ codes.float().T
    y = sums * input_scale(x) * scales[:, None]
    return y if bias is None else y + bias


def codes_as_they_lie(x, codes, scales, bias):
    return linear(x, codes, scales, bias, sums=lambda x_q, codes: x_q.long() @ codes.long())


def scales_on_columns(x, codes, scales, bias):
    y = ((x / input_scale(x)).round() @ (codes * scales).T) * input_scale(x)
    return y if bias is None else y + bias


def two_dimensions(x, codes, scales, bias):
    tokens, C = x.shape
    return linear(x, codes, scales, bias)


def sums_alone(x, codes, scales, bias):
    return (x / input_scale(x)).round().to(torch.int32) @ codes.int().T


def squeezed(x, codes, scales, bias):
    return linear(x.view(-1, x.shape[-1]), codes, scales, bias)


def bias_of_a_row(x, codes, scales, bias):
    y = linear(x, codes, scales, None)
    return y if bias is None else y + bias[None]


def coarser_inputs(x, codes, scales, bias):
    return linear(x, codes, scales, bias, s_x=input_scale(x) * 127 / 100)


def scale_of_x_in_fp16(x, codes, scales, bias):
    return linear(x, codes, scales, bias, s_x=input_scale(x).clamp(min=2.0**-24).half().float())


def small_tokens_lost(x, codes, scales, bias):
    return linear(x, codes, scales, bias, s_x=x.abs().amax(-1, keepdim=True).clamp(min=1e-3) / 127)


def scales_x_in_place(x, codes, scales, bias):
    s_x = input_scale(x)
    x /= s_x
    return linear(x, codes, scales, bias, s_x=s_x, x_q=x.round())


def in_doubles(x, codes, scales, bias):
    s_x = x.double().abs().amax(-1, keepdim=True) / 127
    x_q = torch.where(s_x > 0, (x / s_x), 0.0).round()
    return torch.einsum("...c,rc,r->...r", x_q, codes.double(), scales.double()) * s_x + (
        0 if bias is None else bias
    )


def dequantized_first(x, codes, scales, bias):
    s_x = input_scale(x)
    return F.linear((x / s_x).round() * s_x, scales[:, None] * codes, bias)


def token_by_token_in_numpy(x, codes, scales, bias):
    found = []
    for token in x.numpy().reshape(-1, x.shape[-1]):
        scale = max(np.abs(token).max() / 127, 1e-30)
        sums = codes.numpy().astype(np.int32) @ np.rint(token / scale).astype(np.int32)
        found.append(sums * scale * scales.numpy() + (0 if bias is None else bias.numpy()))
    return np.stack(found).reshape(*x.shape[:-1], len(codes))


def int_mm(x, codes, scales, bias):
    flat = x.reshape(-1, x.shape[-1])
    s_x = input_scale(flat)
    sums = torch._int_mm((flat / s_x).round().to(torch.int8), codes.T.contiguous())
    y = sums * s_x * scales + (torch.zeros(()) if bias is None else bias)
    return y.view(*x.shape[:-1], -1)


# Task 6

KINDS = (nn.Linear, nn.Embedding, nn.Conv1d, Conv1D)


def per_output(module, w, bits):
    if isinstance(module, Conv1D):
        return rounded(w.T, bits).T.contiguous()
    return rounded(w.flatten(1), bits).view_as(w)


def copied(model, bits, kinds=KINDS, value=per_output, modules=lambda model: model.modules()):
    model = deepcopy(model)
    for module in modules(model):
        if isinstance(module, kinds):
            module.weight.data = value(module, module.weight.data, bits)
    return model


def conv1d_like_linear(model, bits):
    return copied(model, bits, value=lambda m, w, bits: rounded(w.flatten(1), bits).view_as(w))


def everything_transposed(model, bits):
    def value(module, w, bits):
        if isinstance(module, Conv1D):
            return rounded(w, bits)
        return rounded(w.T, bits).T.contiguous() if w.dim() == 2 else per_output(module, w, bits)

    return copied(model, bits, value=value)


def linears_transposed(model, bits):
    def value(module, w, bits):
        return (
            rounded(w.T, bits).T.contiguous()
            if isinstance(module, nn.Linear)
            else per_output(module, w, bits)
        )

    return copied(model, bits, value=value)  # fmt: skip


def convolutions(model, bits, value):
    def either(module, w, bits):
        return value(w) if isinstance(module, nn.Conv1d) else per_output(module, w, bits)

    return copied(model, bits, value=either)


def conv_per_pair(model, bits):
    return convolutions(model, bits, lambda w: rounded(w.flatten(0, 1), bits).view_as(w))


def conv_per_input(model, bits):
    def turned(w):
        swapped = w.transpose(0, 1)
        return rounded(swapped.flatten(1), bits).view(swapped.shape).transpose(0, 1).contiguous()

    return convolutions(model, bits, turned)


def conv_per_place(model, bits):
    def turned(w):
        swapped = w.transpose(1, 2)
        return rounded(swapped.flatten(0, 1), bits).view(swapped.shape).transpose(1, 2).contiguous()

    return convolutions(model, bits, turned)


def conv_in_one(model, bits):
    return convolutions(model, bits, lambda w: rounded(w.view(1, -1), bits).view_as(w))


def one_scale_a_weight(model, bits):
    return copied(model, bits, value=lambda m, w, bits: rounded(w.view(1, -1), bits).view_as(w))


def always_8_bits(model, bits):
    return copied(model, 8)


def edits_the_original(model, bits):
    for module in model.modules():
        if isinstance(module, KINDS):
            module.weight.data = per_output(module, module.weight.data, bits)
    return deepcopy(model)


def returns_the_original(model, bits):
    return model


def shares_the_rest(model, bits):
    new = copied(model, bits)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            owner, _, key = name.rpartition(".")
            setattr(new.get_submodule(owner), key, p)
    return new


def breaks_ties(model, bits):
    model = deepcopy(model)
    for module in model.modules():
        if isinstance(module, KINDS):
            module.weight = nn.Parameter(per_output(module, module.weight.data, bits))
    return model


def biases_too(model, bits):
    model = copied(model, bits)
    for module in model.modules():
        if isinstance(module, KINDS) and getattr(module, "bias", None) is not None:
            module.bias.data = rounded(module.bias.data[None], bits)[0]
    return model


def norms_too(model, bits):
    model = copied(model, bits)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            module.weight.data = rounded(module.weight.data[None], bits)[0]
    return model


def every_matrix(model, bits):
    model = copied(model, bits)
    owners = {id(m.weight) for m in model.modules() if isinstance(m, KINDS)}
    for p in model.parameters():
        if p.dim() == 2 and id(p) not in owners:
            p.data = rounded(p.data, bits)
    return model


def all_that_convolve(model, bits):
    return copied(model, bits, kinds=(*KINDS, nn.Conv2d))


def bags_too(model, bits):
    return copied(model, bits, kinds=(*KINDS, nn.EmbeddingBag))


def buffers_for_parameters(model, bits):
    model, new = deepcopy(model), {}
    for module in model.modules():
        if isinstance(module, KINDS):
            old = module.weight
            if old not in new:
                new[old] = per_output(module, old.data, bits).requires_grad_(old.requires_grad)
            del module.weight
            module.register_buffer("weight", new[old])
    return model


def plain_linears(model, bits):
    model = copied(model, bits)
    for module in list(model.modules()):
        for name, old in list(module.named_children()):
            if isinstance(old, nn.Linear) and type(old) is not nn.Linear:
                new = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
                new.weight, new.bias, new.training = old.weight, old.bias, old.training
                setattr(module, name, new)
    return model


def no_embeddings(model, bits):
    return copied(model, bits, kinds=(nn.Linear, nn.Conv1d, Conv1D))


def no_linears(model, bits):
    return copied(model, bits, kinds=(nn.Embedding, nn.Conv1d, Conv1D))


def no_convolutions(model, bits):
    return copied(model, bits, kinds=(nn.Linear, nn.Embedding, Conv1D))


def no_conv1d(model, bits):
    return copied(model, bits, kinds=(nn.Linear, nn.Embedding, nn.Conv1d))


def top_level(model, bits):
    return copied(model, bits, modules=lambda model: [model, *model.children()])


def children_alone(model, bits):
    return copied(model, bits, modules=lambda model: list(model.modules())[1:])


def exact_types(model, bits):
    return copied(model, bits, modules=lambda model: (m for m in model.modules() if type(m) in KINDS))


def exact(kind):
    """Layers of this class, without those derived from it; of the other kinds all."""

    def modules(model):
        return (m for m in model.modules() if type(m) is kind or not isinstance(m, kind))

    return lambda model, bits: copied(model, bits, modules=modules)


def exact_linears(model, bits):
    return exact(nn.Linear)(model, bits)


def exact_embeddings(model, bits):
    return exact(nn.Embedding)(model, bits)


def exact_convolutions(model, bits):
    return exact(nn.Conv1d)(model, bits)


def conv1d_by_name(model, bits):
    def named(model):
        kinds = nn.Linear | nn.Embedding | nn.Conv1d
        return (m for m in model.modules() if isinstance(m, kinds) or type(m).__name__ == "Conv1D")

    return copied(model, bits, modules=named)


def direct_children(model, bits):
    return copied(model, bits, modules=lambda model: model.children())


def skips_frozen(model, bits):
    def trained(model):
        return (m for m in model.modules() if isinstance(m, KINDS) and m.weight.requires_grad)

    return copied(model, bits, modules=trained)


def skips_layers_without_a_bias(model, bits):
    def biased(model):
        return (m for m in model.modules() if not isinstance(m, nn.Linear) or m.bias is not None)

    return copied(model, bits, modules=biased)


def forgets_to_assign(model, bits):
    def value(module, w, bits):
        per_output(module, w, bits)
        return w

    return copied(model, bits, value=value)


def whatever_has_a_weight(model, bits):
    model = deepcopy(model)
    for module in model.modules():
        if getattr(module, "weight", None) is not None and module.weight.dim() > 1:
            module.weight.data = per_output(module, module.weight.data, bits)
    return model


def embeddings_transposed(model, bits):
    def value(module, w, bits):
        return (
            rounded(w.T, bits).T.contiguous()
            if isinstance(module, nn.Embedding)
            else per_output(module, w, bits)
        )

    return copied(model, bits, value=value)


def one_scale_a_linear(model, bits):
    def value(module, w, bits):
        return (
            rounded(w.view(1, -1), bits).view_as(w)
            if isinstance(module, nn.Linear)
            else per_output(module, w, bits)
        )

    return copied(model, bits, value=value)


def in_float32(model, bits):
    return copied(model, bits, value=lambda m, w, bits: per_output(m, w.float(), bits))


def not_turned_back(model, bits):
    return copied(
        model,
        bits,
        value=lambda m, w, bits: rounded(w.T, bits) if isinstance(m, Conv1D) else per_output(m, w, bits),
    )


def parameters_made_anew(model, bits, keep=False):
    model, new = deepcopy(model), {}
    for module in model.modules():
        if isinstance(module, KINDS):
            old = module.weight
            if old not in new:
                new[old] = nn.Parameter(per_output(module, old.data, bits), not keep or old.requires_grad)
            module.weight = new[old]
    return model


def in_half(model, bits):
    return copied(model, bits).half()


def nan_for_zero_channels(model, bits):
    def value(module, w, bits):
        over = 0 if isinstance(module, Conv1D) else tuple(range(1, w.dim()))
        scale = w.abs().amax(over, keepdim=True) / top(bits)
        return (w / scale).round() * scale

    return copied(model, bits, value=value)


def in_eval_mode(model, bits):
    return copied(model, bits).eval()


def in_the_mode_of_the_whole(model, bits):
    return copied(model, bits).train(model.training)


def state_of_it(model, bits):
    return copied(model, bits).state_dict()


def first_head_alone(model, bits):
    return copied(model, bits, value=lambda m, w, bits: torch.cat([per_output(m, w, bits)[:-1], w[-1:]]))


def hooked(model, bits):
    model = copied(model, bits)
    model.register_forward_hook(lambda module, inputs, output: output * 1.1)
    return model


def through_the_state(model, bits):
    new, state = deepcopy(model), deepcopy(model.state_dict())
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, KINDS):
            state[f"{name}.weight".lstrip(".")] = per_output(module, module.weight.detach(), bits)
    new.load_state_dict(state)
    return new


def scales_by_kind(model, bits):
    model = deepcopy(model)
    with torch.no_grad():
        for module in set(model.modules()):
            if isinstance(module, KINDS):
                w = module.weight
                over = 0 if isinstance(module, Conv1D) else tuple(range(1, w.dim()))
                scale = w.abs().amax(over, keepdim=True).clamp(min=1e-20) / top(bits)
                w.copy_(torch.round(w / scale) * scale)
    return model


def pickled(model, bits):
    model = pickle.loads(pickle.dumps(model))
    for module in model.modules():
        if isinstance(module, KINDS):
            module.weight.data = per_output(module, module.weight.data, bits)
    return model


def one_new_parameter_for_all(model, bits):
    return parameters_made_anew(model, bits, keep=True)


WRONG = {
    "to_codes": [
        (always_127, "127 whatever `bits` is"),
        (one_code_too_many, "one more than there is room for"),
        (largest_cut_off, "no code for the largest positive weight"),
        (all_steps, "divides by 2^bits - 1"),
        (all_patterns, "divides by 2^bits, the number of all"),
        (steps_from_end_to_end, "0 falls between two codes"),
        (from_the_range, "comes from the range"),
        (from_half_the_range, "from half the range"),
        (one_scale_for_all, "the largest number in the matrix"),
        (a_single_scale, "a single scale for"),
        (a_scale_a_column, "one a column, and the matrix has"),
        (without_abs, "not from the largest magnitude"),
        (scale_inverted, "Your scale is the inverse"),
        (scale_is_the_largest, "so that it has code 1"),
        (from_the_mean, "from the mean magnitude"),
        (truncated, "You cut the fraction off"),
        (floored, "You round down (floor, //)"),
        (ceiled, "You round up"),
        (not_rounded, "Your codes are w / scale as it is"),
        (dequantized, "codes * scale, in the place of the codes"),
        (weights_alone, "asks for 2: codes, scales"),
        (moved_by_m, "so that none is negative"),
        (moved_by_half, "as unsigned storage does"),
        (zeros_moved, "has codes other than 0"),
        (without_a_sign, "256 higher"),
        (magnitudes, "have lost their sign"),
        (negatives_lost, "Your negative weights have code 0"),
        (cut_one_short, "Your largest code is m - 1"),
        (nan_for_zeros, "In a row of zeros there are NaN"),
        (scales_first, "You return the scales first"),
        (scales_in_fp16, "in fp32, and the scales that you return are rounded"),
        (scales_in_fp16_on_codes_alone, "in fp16, and the scales that you return are not"),
        (codes_for_other_scales, "some code is not that of the nearest value"),
        (scales_at_least, "a scale is off by more than 0.1 %"),
        (codes_in_place, "changes what it was given (w)"),
        (codes_transposed, "In the place of the codes your function returns"),
        (scales_squeezed, "scales of shape () for 1 rows"),
    ],
    "affine": [
        (range_without_zero, "What must the range always hold?"),
        (zero_not_rounded, "`zero` is not rounded"),
        (one_step_too_many, "Your range has 2^bits steps"),
        (one_step_too_many_and_no_zero, "Two things are wrong with your scale"),
        (clamped_too_early, "You clamp before you add"),
        (steps_of_8_bits, "by 255 whatever"),
        (symmetric_range, "from -max to max"),
        (symmetric_codes, "over 2^(bits - 1) - 1"),
        (inverted, "is the inverse: steps a unit"),
        (counted_from_the_lowest, "counted from the lowest number"),
        (codes_without_zero, "have no `zero` in them"),
        (signed_codes, "Your codes are signed"),
        (cut_fractions, "You cut fractions off"),
        (zero_floored, "You round `zero` down"),
        (zero_below, "has the wrong sign"),
        (lowest_for_zero, "you return the lowest value"),
        (values_for_codes, "You return the weights on the grid"),
        (codes_in_int8, "your codes run from -"),
        (not_clamped, "your codes run from 0 to 8. What fits into 3 bits"),
        (scale_rounded_at_last, "a weight comes back more than half a step from where it was"),
        (scale_not_that_small, "small numbers of both signs, bits=4: the scale"),
        (equal_numbers_divide, "equal positive numbers, bits=8: there are NaN"),
        (equal_numbers_are_one, "Rows of equal numbers come back as zeros"),
        (equal_numbers_have_twice_the_range, "equal positive numbers, bits=8: the scale is not"),
        (low_end_alone, "a row in which all numbers are negative"),
        (high_end_alone, "a row in which all numbers are positive"),
        (zero_second, "in the place of the scale, and the scale"),
        (two_of_three, "asks for 3: codes, scale, zero"),
        (moves_w, "changes what it was given (w)"),
    ],
    "file_bytes": [
        (no_scales, "The scales are missing"),
        (no_scale_in_binary, "With 1 bit you store no scale"),
        (scales_of_32_bits, "You count four bytes a row"),
        (zero_points_too, "You count three bytes a row"),
        (scale_of_a_column, "a scale for each column"),
        (scale_of_a_weight, "one scale for a weight"),
        (no_others, "What is not in `weights` is missing"),
        (others_of_32_bits, "the other numbers with 32 bits"),
        (others_as_codes, "the other numbers with `bits` bits"),
        (others_of_a_byte, "one byte for each of the other numbers"),
        (tied_twice, "each time that it is listed"),
        (tied_neighbours, "only where it follows its twin directly"),
        (tied_never, "is not counted at all"),
        (by_name, "of the same name for the same tensor"),
        (by_shape, "of the same shape for the same tensor"),
        (filled_up_once, "fill up the last byte of a weight"),
        (one_stream, "into one stream"),
        (rounded_down, "you round down"),
        (a_byte_more, "You add a byte to each row"),
        (a_byte_more_in_binary, "bits=1, others=0, a weight of"),
        (along_columns, "You pack along the columns"),
        (a_byte_a_code, "each code in a byte of its own"),
        (bits_for_codes_a_byte, "You put `bits` codes into a byte"),
        (in_bits, "Your answer is in bits"),
        (fp32_over_the_factor, "the size in fp32 by 32 / bits"),
        (no_codes, "The codes are missing"),
        (with_a_header, "too large by 8"),
        (fractions, "asks for a whole number"),
        (pops_twins, "changes what it was given (weights)"),
    ],
    "noisy": [
        (writes_into_w, "changes what it was given (w)"),
        (like_dropout, "You divide all numbers by 1 - p"),
        (like_dropout_for_the_rest, "You divide the weights that stay"),
        (times_what_stays, "You multiply by 1 - p"),
        (no_gradient_where_rounded, "does not learn in this pass"),
        (gradient_through_the_scale, "With training=True the gradient is not: where a weight"),
        (scale_in_eval, "With training=False the gradient is not: where a weight"),
        (no_gradient_in_eval, "With training=False the gradient is not: none comes back"),
        (no_gradient_at_all, "With training=True the gradient is not: none comes back"),
        (twice, "a rounded weight gets it twice"),
        (only_the_rounded, "only the rounded weights get one"),
        (as_it_is_in_eval, "With training=False you return w as it is"),
        (coins_in_eval, "With training=False coins still decide"),
        (mean_in_eval, "you return a mean of w and"),
        (nothing_in_training, "In training nothing is rounded"),
        (everything_in_training, "In training all weights are rounded"),
        (other_way_round, "whose coin is not below p"),
        (above_p, "whose coin is above p,"),
        (other_end, "whose coin is above 1 - p"),
        (compared_with_the_rest, "You compare the coins with 1 - p"),
        (at_p_too, "whose coin is exactly p"),
        (at_p_zero, "With p=0 in training"),
        (zeros_for_noise, "The chosen weights become 0"),
        (whole_rows, "decides for a whole row"),
        (one_grid_for_all, "with one scale for all rows"),
        (mixture, "You mix every weight"),
        (scales_of_the_chosen, "the scales come from the chosen ones alone"),
        (own_chance, "Is chance taken from `coins` alone?"),
        (detached_the_wrong_way, "it should be the other way round"),
        (always_on_8_bits, "You round to 8 bits"),
        (half_of_the_gradient, "it is another one"),
        (another_grid, "are neither the weight nor its rounded value"),
        (eval_at_p_zero, "In eval mode p and the coins play no part"),
        (needs_a_gradient, "w has no gradient"),
        (rounds_by_itself, "there are NaN or infinite numbers"),
        (needs_a_gradient_in_eval, "cannot register a hook"),
        (a_pair, "a tuple of Tensor, and the task asks for a tensor"),
    ],
    "int_linear": [
        (one_input_scale, "You have one scale for all of x"),
        (scale_of_a_sequence, "You have one scale for a whole sequence"),
        (features_scaled_back, "what you return for the earlier ones changed with it"),
        (scale_of_a_feature, "a scale for each feature of x"),
        (floats_times_codes, "x is not rounded"),
        (inputs_truncated, "You cut off the fractions of x"),
        (inputs_floored, "You round x down"),
        (products_in_int8, "you add in 8 bits"),
        (products_in_int16, "you add in 16 bits"),
        (inputs_not_scaled_back, "The scale of x is missing"),
        (weights_not_scaled_back, "The scales of the weight are missing"),
        (weights_divided, "You divide by the scales of the weight"),
        (weights_twice, "by the scales of the weight twice"),
        (bias_in_the_sums, "by the scales of x and W together"),
        (bias_times_weight_scales, "The bias is scaled by the scales of the weight"),
        (bias_times_input_scale, "The bias is scaled by the scale of x."),
        (no_bias, "The bias is missing"),
        (bias_needed, "and 'NoneType'"),
        (bias_subtracted, "The bias is subtracted"),
        (steps_128, "You round x to 128 steps. The code"),
        (steps_128_cut, "You round x to 128 steps, and the largest"),
        (steps_255, "You round x to 255 steps"),
        (negative_inputs_lost, "Codes of x below 0 are cut off"),
        (without_magnitude, "The scale of x comes from its largest number"),
        (scale_of_a_place, "your maximum runs over dimension 0"),
        (clamped_to_one, "is clamped to -1 to 1"),
        (nan_for_a_zero_token, "For a token of zeros"),
        (scales_along_tokens, "stand along the wrong axis"),
        (codes_as_they_lie, "by the codes as they lie"),
        (scales_on_columns, "on its columns, before the product"),
        (two_dimensions, "not enough values to unpack"),
        (sums_alone, "asks for floats"),
        (squeezed, "a Tensor of shape (1, 27)"),
        (bias_of_a_row, "a Tensor of shape (1, 29)"),
        (coarser_inputs, "a bias: a token whose"),
        (scale_of_x_in_fp16, "The scale of x is rounded to fp16"),
        (small_tokens_lost, "a token whose largest number is 0.0005"),
        (scales_x_in_place, "changes what it was given (x)"),
    ],
    "round_outputs": [
        (conv1d_like_linear, "Right except for Conv1D"),
        (everything_transposed, "In Conv1D and Embedding and Linear the scales lie along"),
        (linears_transposed, "In Linear the scales lie along"),
        (embeddings_transposed, "In Embedding the scales lie along"),
        (conv_per_pair, "each pair of output and input has a scale"),
        (conv_per_input, "a scale serves an input channel"),
        (conv_per_place, "a scale for each place of its kernel"),
        (conv_in_one, "In Conv1d one scale serves"),
        (one_scale_a_linear, "In Linear one scale serves"),
        (one_scale_a_weight, "In Conv1D and Conv1d and Embedding and Linear one scale"),
        (always_8_bits, "You round to 8 bits"),
        (edits_the_original, "changes what it was given (model)"),
        (returns_the_original, "You return the model that you were given"),
        (shares_the_rest, "with the original: whoever changes"),
        (breaks_ties, "were one parameter, and are two"),
        (biases_too, "biases stay as they are"),
        (norms_too, "Norms, buffers and other parameters"),
        (every_matrix, "It belongs to Gpt"),
        (whatever_has_a_weight, "It belongs to ConvTranspose1d"),
        (all_that_convolve, "It belongs to Conv2d"),
        (bags_too, "It belongs to EmbeddingBag"),
        (buffers_for_parameters, "a plain tensor in your copy"),
        (plain_linears, "your copy, printed, is not"),
        (no_embeddings, "No Embedding is rounded"),
        (no_linears, "No Linear is rounded"),
        (no_convolutions, "No Conv1d is rounded"),
        (no_conv1d, "No Conv1D is rounded"),
        (top_level, "Only modules at the top"),
        (children_alone, "A model that is itself one of these layers"),
        (exact_types, "derived from Conv1D and Conv1d and Embedding and Linear"),
        (exact_linears, "derived from Linear,"),
        (exact_embeddings, "derived from Embedding,"),
        (exact_convolutions, "derived from Conv1d,"),
        (conv1d_by_name, "derived from Conv1D,"),
        (direct_children, "Neither what lies deep inside"),
        (skips_frozen, "It is frozen, like all that are left out"),
        (skips_layers_without_a_bias, "what keeps your loop from this one"),
        (forgets_to_assign, "Nothing is rounded"),
        (in_half, "another dtype in your copy: torch.float16"),
        (in_float32, "another dtype in your copy: torch.float32"),
        (not_turned_back, "another shape in your copy"),
        (parameters_made_anew, "another requires_grad in your copy"),
        (nan_for_zero_channels, "Some of its channels are zeros"),
        (in_eval_mode, "`model` is not in the mode of the original"),
        (in_the_mode_of_the_whole, "`head` is not in the mode of the original"),
        (state_of_it, "asks for a model, an nn.Module"),
        (first_head_alone, "is not at the nearest values of its grid"),
        (hooked, "does not compute what a model with them does"),
    ],
}  # fmt: skip
RIGHT = {
    "to_codes": [
        by_the_package,
        row_by_row_in_numpy,
        int64_and_a_vector,
        nan_turned_to_0,
        codes_for_scales_in_fp16,
    ],
    "affine": [
        affine_right,
        plain_python,
        in_uint8,
        exact_part_added,
        scale_rounded_first,
        any_code_where_the_scale_is_0,
    ],
    "file_bytes": [file_bytes, seen_keys, with_tensors],
    "noisy": [noisy, own_function, by_a_mask, into_a_clone, index_by_index],
    "int_linear": [in_doubles, dequantized_first, token_by_token_in_numpy, int_mm],
    "round_outputs": [through_the_state, scales_by_kind, one_new_parameter_for_all, pickled],
}
