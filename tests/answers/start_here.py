"""Answers to exercise 00: right ones, written in another way, and wrong ones that are easy to let through."""

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from minieff.core.checkpoint import pack
from minieff.core.transformer import Config, Transformer

# Task 1


def in_numpy(losses, tokens, text):
    return np.dot(losses, tokens) / np.log(2) / len(bytes(text, "utf-8"))


def strips_the_text(losses, tokens, text):
    return in_numpy(losses, tokens, text.strip())


# Task 2


def by_safetensors(model):
    return sum(t.nbytes for t in pack(model).values())


def by_storage(model):
    tensors = model.state_dict().values()
    return torch.tensor(sum({t.untyped_storage().data_ptr(): t.nbytes for t in tensors}.values()))


def the_whole_file(model):
    return len(save(pack(model)))


# Task 3


def builds_it(vocab, context, layers, dim, ffn, tied, every):
    blocks = len(range(0, layers, every))
    model = Transformer(Config(vocab=vocab, context=context, layers=blocks, heads=1, dim=dim, ffn=ffn))
    return sum(p.numel() for p in model.parameters()) + (0 if tied else vocab * dim)


def in_floats(vocab, context, layers, dim, ffn, tied, every):
    linears = [nn.Linear(dim, dim)] * 4 + [nn.Linear(dim, ffn), nn.Linear(ffn, dim)]
    block = sum(p.numel() for linear in linears for p in linear.parameters()) + 4 * dim
    blocks = len({i // every for i in range(layers)})
    return np.float64(block * blocks + dim * (vocab * (2 - tied) + context + 2))


def bias_in_the_head(vocab, *others):
    return builds_it(vocab, *others) + vocab


# Task 4


def head_by_head(T, C, F, H):
    products = sum(2 * T * T * (C // H) for _ in range(H))
    return [np.int64(4 * T * C * C + products), torch.tensor(T * C * F + T * F * C)]


def feed_forward_first(*sizes):
    return head_by_head(*sizes)[::-1]


# Task 5


def timed(machine, names):
    machine.threads(1)
    times = {"old": [], "new": []}
    for name in names:
        begun = machine.clock()
        getattr(machine, name)()
        times[name].append(machine.clock() - begun)
    return times["old"], times["new"]


def warms_up_first(machine):
    old, new = timed(machine, ["new"] * 10 + ["old"] * 10 + ["old", "new"] * 30)
    return np.median(old[10:]) / np.median(new[10:])


def there_and_back(machine):
    old, new = timed(machine, ["new", "old", "old", "new"] * 60)
    return torch.tensor(old[12:]).median() / torch.tensor(new[12:]).median()


def old_is_cold(machine):
    old, new = timed(machine, ["old", "new"] * 40)
    return np.median(old) / np.median(new[10:])


# Task 6


def step_by_step(tokens, macs, stored, readings):
    if readings is None or len(readings) == 0:
        return [torch.tensor(macs * 4.6e-12 + stored * 1.6e-10 / tokens, dtype=torch.float64), "modelled"]
    total = 0.0
    for before, after, largest in readings:
        total += after - before if after >= before else largest - before + 1 + after
    return [np.float64(total) / 1e6 / tokens, "rapl"]


def measured_is_the_word(*a_pass):
    return step_by_step(*a_pass)[0], "measured"


RIGHT = {
    "bits_per_byte": [in_numpy],
    "stored_bytes": [by_safetensors, by_storage],
    "parameters": [builds_it, in_floats],
    "macs": [head_by_head],
    "speedup": [warms_up_first, there_and_back],
    "joules_per_token": [step_by_step],
}
WRONG = {
    "bits_per_byte": [(strips_the_text, "too large by")],
    "stored_bytes": [(the_whole_file, "too large by")],
    "parameters": [(bias_in_the_head, "too large by")],
    "macs": [(feed_forward_first, "item 1")],
    "speedup": [(old_is_cold, "too large by")],
    "joules_per_token": [(measured_is_the_word, "item 2: you return a str, measured")],
}
