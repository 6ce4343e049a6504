"""Answers to exercise 00: wrong ones, each with a fragment of the message it must get, and right ones."""

import unicodedata
from io import BytesIO
from math import ceil, log, log2
from random import Random
from statistics import mean, median
from time import perf_counter

import numpy as np
import torch
from minieff.checkpoint import pack
from minieff.transformer import Config, Transformer
from torch import nn

# Task 1


def leaves_nats(losses, tokens, text):
    return sum(a * b for a, b in zip(losses, tokens, strict=True)) / len(text.encode())


def multiplies_by_ln2(losses, tokens, text):
    return leaves_nats(losses, tokens, text) * log(2)


def counts_characters(losses, tokens, text):
    return sum(a * b for a, b in zip(losses, tokens, strict=True)) / log(2) / len(text)


def bits_a_token(losses, tokens, text):
    return sum(a * b for a, b in zip(losses, tokens, strict=True)) / log(2) / sum(tokens)


def weighs_windows_equally(losses, tokens, text):
    return np.mean(losses) * sum(tokens) / log(2) / len(text.encode())


def adds_up_means(losses, tokens, text):
    return sum(losses) / log(2) / len(text.encode())


def takes_log2_of_the_loss(losses, tokens, text):
    return sum(log2(a) * b for a, b in zip(losses, tokens, strict=True)) / len(text.encode())


def strips_the_text(losses, tokens, text):
    return sum(a * b for a, b in zip(losses, tokens, strict=True)) / log(2) / len(text.strip().encode())


def composes_the_text(losses, tokens, text):
    size = len(unicodedata.normalize("NFC", text).encode())
    return sum(a * b for a, b in zip(losses, tokens, strict=True)) / log(2) / size


def rounds_ln2(losses, tokens, text):
    return sum(a * b for a, b in zip(losses, tokens, strict=True)) / 0.693 / len(text.encode())


def in_numpy(losses, tokens, text):
    return np.dot(losses, tokens) / np.log(2) / len(bytes(text, "utf-8"))


def by_perplexity(losses, tokens, text):
    mean_loss = (torch.tensor(losses).double() * torch.tensor(tokens)).sum() / sum(tokens)
    return log2(mean_loss.exp()) * sum(tokens) / len(text.encode())


# Task 2


def parameters_alone(model):
    return sum(p.numel() * p.element_size() for p in model.parameters())


def trained_alone(model):
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def four_bytes_each(model):
    return sum(4 * t.numel() for t in {t.data_ptr(): t for t in model.state_dict().values()}.values())


def numbers_not_bytes(model):
    return sum(t.numel() for t in {t.data_ptr(): t for t in model.state_dict().values()}.values())


def by_name(model):
    return sum(t.nbytes for t in {name: t for name, t in model.state_dict().items()}.values())


def merges_equal_values(model):
    kept = []
    for t in model.state_dict().values():
        if not any(t.shape == k.shape and t.dtype == k.dtype and torch.equal(t, k) for k in kept):
            kept.append(t)
    return sum(t.nbytes for t in kept)


def merges_equal_shapes(model):
    return sum({(t.shape, t.dtype): t.nbytes for t in model.state_dict().values()}.values())


def all_buffers(model):
    return parameters_alone(model) + sum(b.nbytes for b in model.buffers())


def half_for_all(model):
    return sum(t.nbytes for t in {t.data_ptr(): t for t in model.half().state_dict().values()}.values())


def file_on_disk(model):
    file = BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue())


def by_identity(model):
    kept = {id(t): t for t in model.state_dict(keep_vars=True).values()}
    return sum(t.nbytes for t in kept.values())


def table_of_types(model):
    size = {torch.float32: 4, torch.float16: 2}
    return sum(
        t.numel() * size[t.dtype] for t in {t.data_ptr(): t for t in model.state_dict().values()}.values()
    )


def halves_what_has_two_names(model):
    total, seen = 0, []
    for t in model.state_dict().values():
        seen.append(t.data_ptr())
        total += t.nbytes if seen.count(t.data_ptr()) != 2 else 0
    return total


def by_safetensors(model):
    return sum(t.nbytes for t in pack(model).values())


def by_storage(model):
    seen, total = set(), 0
    for tensor in model.state_dict().values():
        place = tensor.untyped_storage().data_ptr()
        total += 0 if place in seen else tensor.untyped_storage().nbytes()
        seen.add(place)
    return torch.tensor(total)


# Task 3


def count(
    vocab, context, layers, dim, ffn, tied, every, head=None, blocks=ceil, bias=1, norm=1, last=1, positions=1
):
    block = 4 * dim * dim + 2 * dim * ffn + bias * (5 * dim + ffn) + norm * 4 * dim
    heads = (0 if tied else 1) if head is None else head
    return (
        (1 + heads) * vocab * dim
        + positions * context * dim
        + blocks(layers / every) * block
        + last * norm * 2 * dim
    )


def every_use(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, tied, 1)


def rounds_down(*sizes):
    return count(*sizes, blocks=int)


def fractions_of_blocks(*sizes):
    return count(*sizes, blocks=float)


def head_twice(*sizes):
    return count(*sizes, head=1)


def head_never(*sizes):
    return count(*sizes, head=0)


def tied_reversed(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, not tied, every)


def no_biases(*sizes):
    return count(*sizes, bias=0)


def no_norms(*sizes):
    return count(*sizes, norm=0)


def no_last_norm(*sizes):
    return count(*sizes, last=0)


def no_positions(*sizes):
    return count(*sizes, positions=0)


def four_times_wide(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, 4 * dim, tied, every)


def rounds_up_too_far(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, tied, every, blocks=lambda share: int(share) + 1)


def leftovers_own_blocks(vocab, context, layers, dim, ffn, tied, every):
    blocks = layers // every + layers % every
    return count(vocab, context, layers, dim, ffn, tied, every, blocks=lambda share: blocks)


def every_is_a_number_of_blocks(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, tied, every, blocks=lambda share: every)


def biased_head(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, tied, every) + (0 if tied else vocab)


def biased_head_always(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, tied, every) + vocab


def wide_biases(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, tied, every) + (ffn - dim) * ceil(layers / every)


def no_biases_in_the_feed_forward(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, tied, every) - (ffn + dim) * ceil(layers / every)


def no_biases_in_attention(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, tied, every) - 4 * dim * ceil(layers / every)


def weights_of_norms_alone(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, tied, every) - 2 * dim * ceil(layers / every) - dim


def one_norm_a_block(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, tied, every) - 2 * dim * ceil(layers / every)


def three_norms_a_block(vocab, context, layers, dim, ffn, tied, every):
    return count(vocab, context, layers, dim, ffn, tied, every) + 2 * dim * ceil(layers / every)


def builds_it(vocab, context, layers, dim, ffn, tied, every):
    blocks = len(range(0, layers, every))
    model = Transformer(Config(vocab=vocab, context=context, layers=blocks, heads=1, dim=dim, ffn=ffn))
    return sum(p.numel() for p in model.parameters()) + (0 if tied else vocab * dim)


def in_floats(vocab, context, layers, dim, ffn, tied, every):
    linears = [nn.Linear(dim, dim, device="meta")] * 4
    linears += [nn.Linear(dim, ffn, device="meta"), nn.Linear(ffn, dim, device="meta")]
    block = sum(p.numel() for linear in linears for p in linear.parameters()) + 4 * dim
    return np.float64(
        block * len({i // every for i in range(layers)}) + dim * (vocab * (2 - tied) + context + 2)
    )


# Task 4


def in_flops(T, C, F, H):
    return 8 * T * C**2 + 4 * T**2 * C, 4 * T * C * F


def one_token(T, C, F, H):
    return 4 * C**2 + 2 * T * C, 2 * C * F


def products_alone(T, C, F, H):
    return 2 * T**2 * C, 2 * T * C * F


def three_projections(T, C, F, H):
    return 3 * T * C**2 + 2 * T**2 * C, 2 * T * C * F


def one_product(T, C, F, H):
    return 4 * T * C**2 + T**2 * C, 2 * T * C * F


def linear_in_T(T, C, F, H):
    return 4 * T * C**2 + 2 * T * C, 2 * T * C * F


def heads_multiply(T, C, F, H):
    return 4 * T * C**2 + 2 * H * T**2 * C, 2 * T * C * F


def one_matrix(T, C, F, H):
    return 4 * T * C**2 + 2 * T**2 * C, T * C * F


def pairs_of_one_head(T, C, F, H):
    return 4 * T * C**2 + 2 * T**2 * (C // H), 2 * T * C * F


def causal_pairs(T, C, F, H):
    return 4 * T * C**2 + T * (T + 1) * C, 2 * T * C * F


def projections_of_each_head(T, C, F, H):
    return 4 * H * T * C**2 + 2 * T**2 * C, 2 * T * C * F


def swapped(T, C, F, H):
    return 2 * T * C * F, 4 * T * C**2 + 2 * T**2 * C


def counts_biases(T, C, F, H):
    return 4 * T * (C**2 + C) + 2 * T**2 * C, T * (2 * C * F + F + C)


def adds_them_up(T, C, F, H):
    return 4 * T * C**2 + 2 * T**2 * C + 2 * T * C * F


def capped_pairs(T, C, F, H):
    return 4 * T * C**2 + 2 * T * min(T, 128) * C, 2 * T * C * F


def an_array(T, C, F, H):
    return np.array([4 * T * C**2 + 2 * T**2 * C, 2 * T * C * F])


def head_by_head(T, C, F, H):
    D = C // H
    products = sum(T * T * D + T * T * D for _ in range(H))
    return [np.int64(4 * T * C * C + products), torch.tensor(T * C * F + T * F * C)]


# Task 5


def timed_runs(machine, turns, threads=1, pattern="turns"):
    machine.threads(threads)
    times = {"old": [], "new": []}

    def one(name):
        begun = machine.clock()
        getattr(machine, name)()
        times[name].append(machine.clock() - begun)

    names = ["old", "new"] * turns if pattern == "turns" else ["old"] * turns + ["new"] * turns
    for name in names:
        one(name)
    return times


def one_run_each(machine):
    times = timed_runs(machine, 1)
    return times["old"][0] / times["new"][0]


def one_after_the_other(machine):
    times = timed_runs(machine, 40, pattern="blocks")
    return median(times["old"][10:]) / median(times["new"][10:])


def two_threads(machine):
    times = timed_runs(machine, 40, threads=2)
    return median(times["old"][10:]) / median(times["new"][10:])


def threads_differ(machine):
    times = {"old": [], "new": []}
    for _ in range(40):
        for name, count_of_threads in (("old", 1), ("new", 2)):
            machine.threads(count_of_threads)
            begun = machine.clock()
            getattr(machine, name)()
            times[name].append(machine.clock() - begun)
    return median(times["old"][10:]) / median(times["new"][10:])


def of_means(machine):
    times = timed_runs(machine, 40)
    return mean(times["old"][10:]) / mean(times["new"][10:])


def of_the_fastest(machine):
    times = timed_runs(machine, 40)
    return min(times["old"][10:]) / min(times["new"][10:])


def warm_up_counts(machine):
    times = timed_runs(machine, 40)
    return median(times["old"]) / median(times["new"])


def threads_set_late(machine):
    for _ in range(10):
        machine.old()
        machine.new()
    times = timed_runs(machine, 30)
    return median(times["old"]) / median(times["new"])


def one_span_for_both(machine):
    machine.threads(1)
    spans = []
    for _ in range(40):
        begun = machine.clock()
        machine.old()
        machine.new()
        spans.append(machine.clock() - begun)
    return median(spans[10:])


def new_over_old(machine):
    times = timed_runs(machine, 40)
    return median(times["new"][10:]) / median(times["old"][10:])


def new_alone(machine):
    machine.threads(1)
    for _ in range(40):
        machine.new()
    return 1.5


def runs_for_a_second(machine):
    begun = machine.clock()
    while machine.clock() - begun < 1e6:
        machine.new()
    return 1.5


def unequal_numbers(machine):
    machine.threads(1)
    times = {"old": [], "new": []}
    for _ in range(40):
        for name in ("old", "new", "new"):
            begun = machine.clock()
            getattr(machine, name)()
            times[name].append(machine.clock() - begun)
    return median(times["old"][10:]) / median(times["new"][10:])


def median_of_ratios(machine):
    times = timed_runs(machine, 40)
    return median(a / b for a, b in zip(times["old"][10:], times["new"][10:], strict=True))


def other_clock(machine):
    machine.threads(1)
    times = {"old": [], "new": []}
    for _ in range(40):
        for name in ("old", "new"):
            begun = perf_counter()
            getattr(machine, name)()
            times[name].append(perf_counter() - begun)
    return median(times["old"][10:]) / median(times["new"][10:])


def shadows_a_method(machine):
    machine.threads = 1
    return 1.5


def saves_nothing(machine):
    timed_runs(machine, 40)
    return 0.0


def guesses(machine):
    timed_runs(machine, 40)
    return 40.0


def warm_up_first(machine):
    machine.threads(1)
    for _ in range(10):
        machine.new()
    for _ in range(10):
        machine.old()
    times = timed_runs(machine, 30)
    return np.median(times["old"]) / np.median(times["new"])


def pairs_there_and_back(machine):
    machine.threads(1)
    times = {"old": [], "new": []}
    for turn in range(45):
        for name in ("old", "new") if turn % 2 else ("new", "old"):
            begun = machine.clock()
            getattr(machine, name)()
            times[name].append(machine.clock() - begun)
    return torch.tensor(times["old"][12:]).median() / torch.tensor(times["new"][12:]).median()


def shuffled(machine):
    machine.threads(1)
    names = ["old"] * 30 + ["new"] * 30
    Random(0).shuffle(names)
    times = {"old": [], "new": []}
    for name in ["old", "new"] * 10 + names:
        begun = machine.clock()
        getattr(machine, name)()
        times[name].append(machine.clock() - begun)
    return median(times["old"][10:]) / median(times["new"][10:])


# Task 6


def modelled_joules(tokens, macs, stored):
    return (tokens * macs * 4.6e-12 + stored * 160e-12) / tokens


def rapl(readings):
    return 1e-6 * sum((after - before) % (largest + 1) for before, after, largest in readings)


def always_rapl(tokens, macs, stored, readings):
    return (rapl(readings) / tokens if readings else modelled_joules(tokens, macs, stored)), "rapl"


def nothing_is_zero(tokens, macs, stored, readings):
    if readings is None:
        return modelled_joules(tokens, macs, stored), "modelled"
    return rapl(readings) / tokens, "rapl"


def with_readings(read):
    def joules(tokens, macs, stored, readings):
        return (
            (read(readings) / tokens, "rapl")
            if readings
            else (modelled_joules(tokens, macs, stored), "modelled")
        )

    return joules


def with_model(model):
    def joules(tokens, macs, stored, readings):
        return (rapl(readings) / tokens, "rapl") if readings else (model(tokens, macs, stored), "modelled")

    return joules


def negative(tokens, macs, stored, readings):
    return with_readings(lambda rs: 1e-6 * sum(b - a for a, b, _ in rs))(tokens, macs, stored, readings)


def absolute(tokens, macs, stored, readings):
    return with_readings(lambda rs: 1e-6 * sum(abs(b - a) for a, b, _ in rs))(tokens, macs, stored, readings)


def microjoules(tokens, macs, stored, readings):
    return with_readings(lambda rs: 1e6 * rapl(rs))(tokens, macs, stored, readings)


def first_package(tokens, macs, stored, readings):
    return with_readings(lambda rs: rapl(rs[:1]))(tokens, macs, stored, readings)


def whole_pass_measured(tokens, macs, stored, readings):
    return with_readings(lambda rs: tokens * rapl(rs))(tokens, macs, stored, readings)


def whole_pass_modelled(tokens, macs, stored, readings):
    return with_model(lambda t, m, s: t * modelled_joules(t, m, s))(tokens, macs, stored, readings)


def weights_for_each_token(tokens, macs, stored, readings):
    return with_model(lambda t, m, s: m * 4.6e-12 + s * 160e-12)(tokens, macs, stored, readings)


def no_reading(tokens, macs, stored, readings):
    return with_model(lambda t, m, s: m * 4.6e-12)(tokens, macs, stored, readings)


def no_arithmetic(tokens, macs, stored, readings):
    return with_model(lambda t, m, s: s * 160e-12 / t)(tokens, macs, stored, readings)


def macs_of_one_token(tokens, macs, stored, readings):
    return with_model(lambda t, m, s: (m * 4.6e-12 + s * 160e-12) / t)(tokens, macs, stored, readings)


def loses_a_microjoule(tokens, macs, stored, readings):
    return with_readings(lambda rs: 1e-6 * sum((b - a) % c for a, b, c in rs))(tokens, macs, stored, readings)


def adds_up_first(tokens, macs, stored, readings):
    read = with_readings(lambda rs: 1e-6 * (sum(b - a for a, b, _ in rs) % (rs[0][2] + 1)))
    return read(tokens, macs, stored, readings)


def mean_of_packages(tokens, macs, stored, readings):
    return with_readings(lambda rs: rapl(rs) / len(rs))(tokens, macs, stored, readings)


def ignores_readings(tokens, macs, stored, readings):
    return modelled_joules(tokens, macs, stored), "modelled"


def measured_is_the_word(tokens, macs, stored, readings):
    return modelled_joules(tokens, macs, stored), "measured"


def joules_alone(tokens, macs, stored, readings):
    return modelled_joules(tokens, macs, stored)


def zero_is_no_reading(tokens, macs, stored, readings):
    total = sum((after - before) % (largest + 1) for before, after, largest in readings or ())
    return (total * 1e-6 / tokens, "rapl") if total else (modelled_joules(tokens, macs, stored), "modelled")


def still_counter_turns(tokens, macs, stored, readings):
    read = with_readings(lambda rs: 1e-6 * sum(b - a if b > a else b - a + c + 1 for a, b, c in rs))
    return read(tokens, macs, stored, readings)


def negative_is_zero(tokens, macs, stored, readings):
    return with_readings(lambda rs: 1e-6 * sum(max(0, b - a) for a, b, _ in rs))(
        tokens, macs, stored, readings
    )


def never_divides(tokens, macs, stored, readings):
    if readings:
        return rapl(readings), "rapl"
    return tokens * modelled_joules(tokens, macs, stored), "modelled"


def largest_package(tokens, macs, stored, readings):
    return with_readings(lambda rs: max(rapl([r]) for r in rs))(tokens, macs, stored, readings)


def other_order(tokens, macs, stored, readings):
    return "modelled", modelled_joules(tokens, macs, stored)


def step_by_step(tokens, macs, stored, readings):
    if readings is None or len(readings) == 0:
        return [torch.tensor(macs * 4.6e-12 + stored * 1.6e-10 / tokens, dtype=torch.float64), "modelled"]
    total = 0.0
    for before, after, largest in readings:
        total += after - before if after >= before else largest - before + 1 + after
    return [np.float64(total) / 1e6 / tokens, "rapl"]


WRONG = {
    "bits_per_byte": [
        (leaves_nats, "nats a byte"),
        (multiplies_by_ln2, "multiply where you should divide"),
        (counts_characters, "bits a character"),
        (bits_a_token, "bits a token"),
        (weighs_windows_equally, "equally long"),
        (adds_up_means, "add up the means"),
        (strips_the_text, "Spaces and line ends"),
        (takes_log2_of_the_loss, "too small by"),
        (composes_the_text, "Composing or lowering"),
        (rounds_ln2, "Is something rounded"),
    ],
    "stored_bytes": [
        (by_name, "once for each of its names"),
        (parameters_alone, "These are parameters alone"),
        (trained_alone, "frozen parameters"),
        (four_bytes_each, "4 bytes for every number"),
        (numbers_not_bytes, "numbers, not bytes"),
        (merges_equal_values, "equal is not the same"),
        (merges_equal_shapes, "Tensors of the same shape"),
        (all_buffers, "persistent=False"),
        (file_on_disk, "headers and names"),
        (by_identity, "tell tensors apart as objects"),
        (table_of_types, "KeyError: torch.int64"),
        (halves_what_has_two_names, "For block shared: you returned"),
        (half_for_all, "changes what it was given (model)"),
    ],
    "parameters": [
        (every_use, "counted several times"),
        (rounds_down, "you count 2 blocks"),
        (fractions_of_blocks, "asks for a whole number"),
        (head_twice, "The tied head is counted"),
        (head_never, "not tied, it has a matrix"),
        (tied_reversed, "wrong way round"),
        (no_biases, "The biases are missing"),
        (no_norms, "The norms are missing"),
        (no_last_norm, "The last norm is missing"),
        (no_positions, "The positions are missing"),
        (four_times_wide, "four times `dim` wide"),
        (rounds_up_too_far, "you count 4 blocks"),
        (leftovers_own_blocks, "left over at the end share"),
        (every_is_a_number_of_blocks, "not how many blocks there are"),
        (biased_head, "matrix of its own, the head has no bias"),
        (biased_head_always, "The head has no bias here"),
        (wide_biases, "leads back to `dim`"),
        (no_biases_in_the_feed_forward, "two biases of the feed-forward"),
        (no_biases_in_attention, "four biases of attention"),
        (weights_of_norms_alone, "A norm has two vectors"),
        (one_norm_a_block, "Half of the norms' parameters"),
        (three_norms_a_block, "which is too large by"),
    ],
    "macs": [
        (in_flops, "These are FLOPs"),
        (one_token, "single token's share"),
        (products_alone, "belong to attention"),
        (three_projections, "There are four projections"),
        (one_product, "one of them, or half of both"),
        (linear_in_T, "grows like T"),
        (heads_multiply, "Heads do not multiply"),
        (one_matrix, "two matrices"),
        (swapped, "attention first"),
        (pairs_of_one_head, "pairs of a single head"),
        (causal_pairs, "causal mask hides. Here all"),
        (projections_of_each_head, "do not multiply with H"),
        (counts_biases, "Biases are counted too"),
        (capped_pairs, "For T=300, C=128, F=512, H=4: attention"),
        (adds_them_up, "asks for a tuple of 2 numbers"),
    ],
    "speedup": [
        (one_run_each, "Runs of the old model: 1."),
        (one_after_the_other, "one model after the other"),
        (two_threads, "Everything ran on 2 threads"),
        (threads_differ, "same number of threads"),
        (of_means, "The mean follows"),
        (of_the_fastest, "The fastest run"),
        (warm_up_counts, "Cold runs are among those"),
        (threads_set_late, "set the threads before the first run"),
        (one_span_for_both, "looks like seconds"),
        (new_over_old, "new over old"),
        (new_alone, "The old model never ran"),
        (runs_for_a_second, "still running models"),
        (unequal_numbers, "the same number of runs"),
        (median_of_ratios, "median of each turn's ratio"),
        (other_clock, "knows nothing of this machine"),
        (shadows_a_method, "AttributeError"),
        (saves_nothing, "is more than 0"),
        (guesses, "own record of its runs says otherwise"),
    ],
    "joules_a_token": [
        (always_rapl, "modelled is called measured"),
        (nothing_is_zero, "measurement of 0 J"),
        (negative, "Energy is never negative"),
        (absolute, "size of the difference"),
        (microjoules, "Counters count microjoules"),
        (first_package, "several packages"),
        (whole_pass_measured, "What was measured is a pass"),
        (whole_pass_modelled, "What was modelled is a pass"),
        (weights_for_each_token, "charge every token"),
        (no_reading, "reading the weights is missing"),
        (no_arithmetic, "arithmetic is missing"),
        (macs_of_one_token, "MACs are counted a token"),
        (zero_is_no_reading, "did not move was read"),
        (still_counter_turns, "did not count a whole turn"),
        (negative_is_zero, "you count nothing"),
        (never_divides, "Both are joules of the pass"),
        (largest_package, "joules: you returned"),
        (other_order, "in the other order: joules first"),
        (loses_a_microjoule, "has 10 values"),
        (adds_up_first, "mend each difference"),
        (mean_of_packages, "counters' mean"),
        (ignores_readings, "you return the model"),
        (measured_is_the_word, "You return the method 'measured'"),
        (joules_alone, "a pair: joules and method"),
    ],
}
RIGHT = {
    "bits_per_byte": [in_numpy, by_perplexity],
    "stored_bytes": [by_safetensors, by_storage],
    "parameters": [builds_it, in_floats],
    "macs": [head_by_head, an_array],
    "speedup": [warm_up_first, pairs_there_and_back, shuffled],
    "joules_a_token": [step_by_step],
}
