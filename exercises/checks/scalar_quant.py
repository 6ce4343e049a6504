"""Exercise 10: small whole numbers and their scales, in matrices, files, noise, products, and someone else's model."""

from copy import deepcopy
from functools import partial
from math import ceil, inf
from random import Random

import numpy as np
import torch
from torch import Tensor, nn

from exercises.checks import Task, seeded
from exercises.checks.compare import difference

# Whole numbers times such a scale are exact in float32; in fp16 the scale is off by 0.05 %
SHORT = 2051 / 2048
FP16 = 1.1e-3  # as far as a scale moves that is rounded to fp16, up or to the nearest
HALF = 0.502  # of a step, where steps are that much longer


def top(bits: int) -> int:
    return 2 ** (bits - 1) - 1


def magnitude(w: Tensor, dims: int | tuple = 1) -> Tensor:
    return w.abs().amax(dims, keepdim=True)


def numbers(value: object) -> Tensor:
    return (value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))).detach().double()


def between(low: int, high: int, shape: tuple, generator: torch.Generator) -> Tensor:
    """Numbers up to 0.3 from whole ones, so that none is near a tie."""
    whole = torch.randint(low, high + 1, shape, generator=generator)
    return whole + 0.6 * torch.rand(shape, generator=generator) - 0.3


def on_grid(draw: Random, R: int, C: int, m: int) -> Tensor:
    """Rows of unequal size with extremes of both signs, the second one of zeros."""
    q = between(-m, m, (R, C), seeded(draw)).clamp(0.2 - m, m - 0.2)
    for i in range(R):
        q[i, draw.randrange(C)] = (-1) ** i * m
    q[1] = 0
    return q * SHORT * 2.0 ** torch.tensor([[draw.randrange(-12, -1)] for _ in range(R)])


def grid_fault(codes, scale, zero, w, low: int, high: int, step) -> str:
    """What is wrong with codes from `low` to `high`, where `step` is the right scale; empty if nothing is."""
    if codes.shape != w.shape or scale.shape != step.shape:
        return f"codes of shape {tuple(w.shape)} come first, and then one scale for each row."
    if not all(part.isfinite().all() for part in (codes, scale, zero)):
        return "NaN or infinity. What is divided by 0?"
    if ((scale - step).abs() > FP16 * step).any():
        ratio = (scale / step)[step > 0]
        return f"a scale is {ratio[(ratio - 1).abs().argmax()]:.3g} times what it should be."
    if (codes != codes.round()).any() or zero != zero.round():
        return "some codes are not whole numbers. They are what is stored, in place of the weights."
    if min(codes.min(), zero) < low or max(codes.max(), zero) > high:
        return f"codes run from {codes.min():g} to {codes.max():g}, where {low} to {high} are asked for."
    far = (scale * (codes - zero) - w).abs() > HALF * step
    return "a weight comes back more than half a step from where it was." if far.any() else ""


# Task 1
def codes_of(w, bits, largest=magnitude, steps=top, code=lambda q, bits: q.round()):
    scales = largest(w) / steps(bits)
    return code(w / scales.clamp(min=1e-30), bits), scales


def matrices(draw: Random) -> list[tuple]:
    return [(on_grid(draw, *draw.sample(range(7, 14), 2), top(bits)), bits) for bits in range(2, 9)]


def codes_and_scales(run, w, bits):
    """Scales as (R, 1). That of a row of zeros with codes 0 is free, if it is a number."""
    codes, scales = map(numbers, run(w, bits))
    scales = scales[:, None] if scales.shape == w.shape[:1] else scales
    return codes, scales * (w.any(1, keepdim=True) | (codes != 0).any(-1, keepdim=True))


def codes_fault(found, w, bits) -> str:
    step = magnitude(w.double()) / top(bits)
    return grid_fault(*found, torch.zeros(()), w, -top(bits), top(bits), step)


like = partial(partial, codes_of)
to_codes = Task(
    inputs=matrices, right=codes_of, play=codes_and_scales, fault=codes_fault, rtol=1e-5,
    passed="Nearest values from 2 to 8 bits: each row has its own scale, a row of zeros too.",
    wrong={
        "You divide by 127 whatever `bits` is. That is the largest code of 8 bits; with 4 bits there is no room for it.": like(steps=lambda bits: 127),
        "Your scale divides by 2^(bits - 1). The largest code is then one too large, or it is cut off. Which codes are symmetric around 0?":
            (like(steps=lambda b: 2 ** (b - 1)), like(steps=lambda b: 2 ** (b - 1), code=lambda q, b: q.round().clamp(-top(b) - 1, top(b)))),
        "Your scale divides by 2^bits - 1, the number of steps from the lowest code to the highest. How many steps are there from 0 to the largest code?":
            like(steps=lambda bits: 2**bits - 1),
        "All rows share the scale of the largest number in the matrix. What is left of a row of small numbers?": like(largest=lambda w: w.abs().max()),
        "You have a scale for each column. Over which dimension does the maximum run?": like(largest=partial(magnitude, dims=0)),
        "Your scale comes from the largest number of a row, not from the largest magnitude. What if that is negative?":
            like(largest=lambda w: w.amax(1, keepdim=True)),
        "You cut fractions off (int(), .to(torch.int8), //): weights move by up to a whole step. Which whole number is nearest?":
            (like(code=lambda q, bits: q.trunc()), like(code=lambda q, bits: q.floor())),
    },
)  # fmt: skip


# Task 2
def affine_of(w, bits, low=True, high=True, more=0, zero=torch.round, code=lambda x, zero, last: (x.round() + zero.round()).clamp(0, last)):  # fmt: skip
    """`low`, `high`: whether these ends of the range are held at 0; `more` steps than there are."""
    bottom = w.min().clamp(max=0) if low else w.min()
    span = (w.max().clamp(min=0) if high else w.max()) - bottom
    scale = (span / (2**bits - 1 + more)).clamp(min=1e-30)
    return code(w / scale, -bottom / scale, 2**bits - 1), scale, zero(-bottom / scale)


def rows(draw: Random) -> list[tuple]:
    """Both signs, `zero` 0.3 steps from whole, and one sign; numbers nearly halfway; ties at both ends; equal numbers."""
    cases, generator = [], seeded(draw)
    for bits in range(2, 9):
        last, step, n = 2**bits - 1, SHORT * 2.0 ** (draw.randrange(3) - bits - 4), draw.randrange(21, 40)
        for off in (0.3, -0.3):
            low = -draw.randrange(1, last) - off
            q = between(-last, last, (n,), generator).clamp(low, low + last)
            q[:3] = torch.tensor([low, low + last, 0.0])
            cases.append((q * step, bits))
        q = between(last // 4 + 1, last, (n,), generator).clamp(max=last)
        q[2] = last
        cases += [(q * step, bits), (-q * step, bits)]
    near = torch.randint(80, 126, (11,), generator=generator) + torch.tensor([0.485, 0.515] * 6)[:11]
    near[draw.randrange(11)] = 127  # the others nearly halfway: there the last bits of a scale count
    cases.append((near * SHORT / 32, 7))
    cases += [(torch.tensor([0.0, 1.25, -end, end]), bits) for end, bits in ((3.5, 3), (127.5, 8))]
    return [*cases, *((torch.full((n,), c), 4) for n, c in ((7, draw.random() + 0.1), (6, -0.7), (5, 0.0)))]


def codes_scale_zero(run, w, bits):
    """Of equal numbers only what comes back."""
    codes, scale, zero = map(numbers, run(w, bits))
    return scale * (codes - zero) if w.min() == w.max() else (codes, scale.reshape(()), zero.reshape(()))


def affine_fault(found, w, bits) -> str:
    if w.min() == w.max():
        off = difference(found, w, FP16)
        return off and f"equal numbers do not come back. Their range holds 0, too: what are its ends? ({off})"
    step = (w.double().max().clamp(min=0) - w.double().min().clamp(max=0)) / (2**bits - 1)
    return grid_fault(*found, w, 0, 2**bits - 1, step)


like = partial(partial, affine_of)
affine = Task(
    inputs=rows, right=affine_of, play=codes_scale_zero, fault=affine_fault, rtol=1e-5,
    label=lambda w, bits: f"{len(w)} numbers from {w.min():.3g} to {w.max():.3g}, bits={bits}",
    passed="0 has a code, every weight comes back within half a step, and rows of equal numbers do not divide by 0.",
    wrong={
        "Your range is from min to max. If all numbers of a row have the same sign, 0 lies outside and has no code. What must the range always contain?":
            like(low=False, high=False),
        "One end of your range should be 0 and is not: look at a row in which all numbers have the same sign.": (like(low=False), like(high=False)),
        "Your range has 2^bits steps. From code 0 to the last one, how many steps are there?":
            (like(more=1), like(more=1, code=lambda x, zero, last: x.round() + zero.round())),
        "You clamp before you add `zero`: negative numbers are cut off to 0, and codes run past the end. Which numbers have to stay in range?":
            like(code=lambda x, zero, last: x.round().clamp(0, last) + zero.round()),
        "`zero` is not rounded. Then no code stands for 0, and what was exactly 0 comes back as something else.":
            (like(zero=lambda z: z, code=lambda x, zero, last: (x.round() + zero).clamp(0, last)), like(zero=lambda z: z)),
        "You cut fractions off: weights, or `zero`, move by up to a whole step. Which whole number is nearest?":
            like(code=lambda x, zero, last: (x.trunc() + zero.round()).clamp(0, last)),
        "Instead of `zero` you return the lowest value. `zero` is a code: the one that 0 has.":
            lambda w, bits: (*affine_of(w, bits)[:2], w.min().clamp(max=0)),
    },
)  # fmt: skip


# Task 3
def bytes_of(weights, others, bits, key=lambda weight: weight[3], scale=lambda R, bits: 2 * R, codes=lambda R, full: R * ceil(full), other=2):  # fmt: skip
    """`codes`: from rows, and from how many bytes a row fills."""
    stored = {key(weight): weight[1:3] for weight in weights}.values()
    return sum(codes(R, C * bits / 8) + scale(R, bits) for R, C in stored) + other * others


def model_files(draw: Random) -> list[tuple]:
    """Small ones first, which a message can show. Then two entries are tied, far apart, and others share names or shapes."""
    (a, b, c), R = draw.sample(range(9), 3), draw.choice((5, 7, 9))
    small = [([("up", R, R + 2, a)], 0, 4), ([("up", R, 8 * R, b)], 0, 1), ([], draw.randrange(11, 99), 4)]
    R, C, V = (8 * n + odd for n, odd in zip(draw.sample(range(3, 20), 3), (1, 3, 5), strict=True))
    weights = [("tok", V, C, a), ("up", R, C, b), ("up", R, C, c), ("down", C, R, 9), ("head", V, C, a)]
    return [*small, *((weights, draw.randrange(101, 999), bits) for bits in (8, 4, 1))]


like = partial(partial, bytes_of)
file_bytes = Task(
    inputs=model_files, right=bytes_of, label=lambda weights, others, bits: f"weights={weights}, others={others}, bits={bits}",
    passed="Whole bytes of codes per row, one scale per row, everything else in 16 bits, and tied weights once.",
    wrong={
        "The scales are missing. Each row has one; without it, codes cannot be turned back into weights.": like(scale=lambda R, bits: 0),
        "With 1 bit you store no scale. A sign says nothing about the size: what is a binary weight multiplied by?": like(scale=lambda R, bits: 2 * R * (bits > 1)),
        "You count a tied weight each time that it is listed. What do entries with the same key have in common?": like(key=lambda weight: object()),
        "You fill up the last byte of a weight, but not the last byte of each row. Where does the next row start?": like(codes=lambda R, full: ceil(R * full)),
        "You count the other numbers with 32 bits. The task stores them with 16.": like(other=4),
    },
)  # fmt: skip


# Task 4
def rounded(w, bits, dims=1):
    scale = magnitude(w, dims).clamp(min=1e-30) / top(bits)
    return scale * (w / scale).round()


def straight(w, bits):
    return w + (rounded(w, bits) - w).detach()


def cut(w, bits):
    return rounded(w, bits).detach()


def noise(w, bits, p, training, coins, which=lambda c, p: c < p, to=straight, rest=lambda w, p: w, factor=lambda p: 1, evaluate=straight):  # fmt: skip
    if evaluate and not training:
        return evaluate(w, bits)
    return torch.where(which(coins, p), to(w, bits), rest(w, p)) * factor(p)


def passes(draw: Random) -> list[tuple]:
    """Both modes, p from 0 to 1, some coins 0 or exactly p; the last two without requires_grad."""
    cases, training = [], [(0.25, 4), (0.625, 8), (0.125, 2), (0.0, 4), (1.0, 3)]
    for p, bits in [*training, (0.25, 4), (0.0, 3), (1.0, 6), (0.75, 5), (0.375, 6)]:
        R, C = draw.sample(range(5, 12), 2)
        coins = torch.rand(R, C, generator=seeded(draw))
        coins[:, :2] = torch.tensor([0.0, min(p, 0.99)])
        w = on_grid(draw, R, C, top(bits)).requires_grad_(len(cases) < 8)
        cases.append((w, bits, p, len(cases) in (0, 1, 2, 3, 4, 9), coins))
    return cases


def value_and_gradient(run, w, *rest):
    """w stays itself where arguments are copied. The gradient from above differs everywhere."""
    w = w.clone().detach().requires_grad_(w.requires_grad)
    w.__deepcopy__ = lambda memo: w
    value, gradient = run(w, *rest), None
    if w.requires_grad and value.requires_grad:
        (gradient,) = torch.autograd.grad(value, w, torch.linspace(-1, 2, w.numel()).view_as(w), allow_unused=True)  # fmt: skip
    return {"values": value.detach(), "gradient": torch.zeros_like(w) if gradient is None else gradient}


like = partial(partial, noise)
noisy = Task(
    inputs=passes, right=noise, play=value_and_gradient, rtol=1e-5,
    label=lambda w, bits, p, training, coins: f"w of shape {tuple(w.shape)}, bits={bits}, p={p:g}, training={training}",
    passed="Rounded where the coin says so, the gradient passes everywhere, and w is unchanged.",
    wrong={
        "You divide by 1 - p, as dropout does. Dropout makes up for zeros; a rounded weight has nearly its old size.":
            (like(factor=lambda p: 1 / (1 - p or 1)), like(factor=lambda p: 1 / (1 - p) if p < 1 else inf), like(rest=lambda w, p: w / (1 - p)), like(rest=lambda w, p: w / (1 - p or 1))),
        "With training=False you return w as it is. What will be stored, and what should the evaluation see?": like(evaluate=lambda w, bits: w),
        "With training=False coins still decide. An evaluation should show what the stored model does.": like(evaluate=None),
        "In training nothing is rounded: your values are those of w. What has to be added to w, and which part of it detached?":
            (like(to=lambda w, bits: w), like(to=lambda w, bits: w.detach())),
        "The values are right, and where a weight is rounded no gradient comes back to it. What should it get, straight through?":
            (like(to=cut), like(to=cut, evaluate=cut), like(evaluate=cut), lambda *case: noise(*case).detach()),
        "The values are right. Where a weight is rounded, its gradient goes through the scale, to the largest of its row: for torch the derivative "
        "of round() is 0. Which derivative is used instead?": (like(to=rounded, evaluate=rounded), like(to=rounded), like(evaluate=rounded)),
        "You round a share of 1 - p. The share that is rounded is p: coins below p.":
            (like(which=lambda c, p: c >= p), like(which=lambda c, p: c > p), like(which=lambda c, p: c < 1 - p)),
    },
)  # fmt: skip


# Task 5
def ints(x, w, s_w, b, dims=lambda n: -1, largest=magnitude, code=torch.round, sums=torch.clone, scale=lambda s_x, s_w: s_x * s_w, bias=lambda b, s_x, s_w: b):  # fmt: skip
    s_x = largest(x.double(), dims(x.dim())).clamp(min=1e-30) / 127
    y = sums(code(x.double() / s_x) @ w.double().T) * scale(s_x, s_w)
    return y if b is None else y + bias(b, s_x, s_w)


def layers(draw: Random) -> list[tuple]:
    """x of one to four dimensions. Tokens are of unequal size, one is of zeros, and each has its extreme below 0."""
    cases = []
    for *tokens, C in ([41], [5, 52], [3, 7, 39], [2, 3, 4, 61]):
        generator, R = seeded(draw), draw.choice((25, 33, 46, 58))
        q = between(-126, 126, (*tokens, C), generator)
        q[..., draw.randrange(C)] = -127
        x = q * SHORT * 2.0 ** torch.randint(-12, -1, (*tokens, 1), generator=generator)
        x.view(-1, C)[1::4] = 0
        codes = torch.randint(-127, 128, (R, C), generator=generator).to(torch.int8)
        scales, bias = 0.001 + 0.01 * torch.rand(2, R, generator=generator)
        cases.append((x, codes, scales, None if len(tokens) in (1, 2) else 900 * bias))
    return cases


like = partial(partial, ints)
int_linear = Task(
    inputs=layers, right=ints, rtol=1e-4,
    label=lambda x, codes, scales, bias: f"x of shape {tuple(x.shape)}, codes of shape {tuple(codes.shape)}, {'no' if bias is None else 'a'} bias",
    passed="Equal to the formula in whole numbers, for x of every shape, and no token depends on another.",
    wrong={
        "Several tokens share a scale: later ones decide how coarse earlier ones are. What has a scale of its own?":
            (like(dims=lambda n: ()), *(like(dims=lambda n, least=least, over=over: (over, -1) if n > least else -1) for least, over in ((1, -2), (1, 0), (2, 0)))),
        "The scale of x comes from its largest number, not from its largest magnitude. A token may have its extreme below 0.":
            tuple(like(largest=lambda x, dims: x.amax(dims, keepdim=True), code=code) for code in (torch.round, lambda q: q.round().clamp(-127, 127))),
        "x is not rounded: you multiply floats by codes. Integer arithmetic needs whole numbers on both sides.": like(code=lambda q: q),
        "You cut off the fractions of x, as .to(torch.int8) does. Which whole number is nearest?": (like(code=torch.trunc), like(code=torch.floor)),
        "The sums overflow. 127 times 127 is 16,129: how many bits does a sum of C such products take?":
            tuple(like(sums=lambda s, kind=kind: s.long().to(kind).double()) for kind in (torch.int8, torch.int16)),
        "A scale is missing in what you return: the sums count steps of x times steps of W.":
            (like(scale=lambda s_x, s_w: s_x), like(scale=lambda s_x, s_w: s_w), like(scale=lambda s_x, s_w: 1)),
        "The bias is scaled, or missing. It is a number in units of y: when is it added?":
            (like(bias=lambda b, s_x, s_w: b * s_w), like(bias=lambda b, s_x, s_w: b * s_x), like(bias=lambda b, s_x, s_w: b * s_x * s_w), like(bias=lambda b, s_x, s_w: 0 * b)),
    },
)  # fmt: skip


# Task 6
class Conv1D(nn.Module):
    """GPT-2's layer, as in the library transformers: y = x W + b, with W of shape (in, out)."""

    def __init__(self, n_out: int, n_in: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


Own = type("Own", (Conv1D,), {})
KINDS = (nn.Linear, nn.Embedding, nn.Conv1d, Conv1D)


def models(draw: Random) -> list[tuple]:
    """Tied and frozen weights, derived classes, layers deep inside, others that have a weight; and a model that is a layer."""
    C, H, V = draw.sample(range(6, 13), 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw.randrange(2**31))
        feeds = [nn.Sequential(nn.LayerNorm(C), up(H, C), nn.GELU(), Conv1D(C, H)) for up in (Conv1D, Own)]
        text = {"tok": nn.Embedding(V, C), "pos": nn.Embedding(5, C), "head": nn.Linear(C, V), "blocks": nn.ModuleList(feeds)}  # fmt: skip
        text["head"].weight = text["tok"].weight
        deep = nn.ModuleList([nn.Conv1d(H, C, 5), nn.Linear(C, H, bias=False), nn.MultiheadAttention(C, 1)])
        deep.extend([nn.LayerNorm((3, C)), nn.EmbeddingBag(4, C), nn.ConvTranspose1d(C, H, 3)])
        sound = nn.Sequential(nn.Conv1d(C, H, 3), nn.BatchNorm1d(H), nn.Conv2d(3, C, 5), deep)
        cases = [(nn.ModuleDict(text), 4), (sound.eval(), 3), (Conv1D(H, C), 5), (nn.Embedding(V, H), 2)]
        for p in [p.data for model, _ in cases for p in model.parameters()]:
            p.normal_()[1] = 0
            p.transpose(0, -1)[1] = 0
    feeds[0][3].weight.requires_grad_(False)
    return cases


def looks(run, model, bits):
    """What there is to compare of a copy."""
    mine = run(model, bits)
    named = dict(mine.named_parameters(remove_duplicate=False))
    first = {id(p): name for name, p in reversed(named.items())}
    return {
        "parameters": {name: p.detach() for name, p in named.items()},
        "requires_grad": {name: p.requires_grad for name, p in named.items()},
        "tied": {name: first[id(p)] for name, p in named.items()},
    }


def inputs_of(module, w):
    """The dimensions that share a scale."""
    return 0 if isinstance(module, Conv1D) else tuple(range(1, w.dim()))


@torch.no_grad()
def snap(model, bits, kinds=KINDS, dims=inputs_of, which=nn.Module.modules, put=lambda module, w: module.weight.copy_(w)):  # fmt: skip
    model = deepcopy(model)
    for module in which(model):
        if isinstance(module, kinds):
            put(module, rounded(module.weight.data, bits, dims(module, module.weight)))
    return model


like = partial(partial, snap)
round_outputs = Task(
    inputs=models, right=snap, play=looks, rtol=1e-5,
    passed="Four kinds of layers, each along its output channels; ties, norms, biases and the original are as they were.",
    wrong={
        "Nothing is rounded: your copy has the weights of the original. Did the rounded values arrive in it?": lambda model, bits: model,
        "Right except for Conv1D: there each scale belongs to a row of the weight, which is an input. Where in (in, out) is an output channel?":
            like(dims=lambda module, w: tuple(range(1, w.dim()))),
        "Layers of one kind are not rounded. The table has four: which one does your loop not ask for?":
            tuple(like(kinds=tuple({*KINDS} - {kind})) for kind in KINDS),
        "Layers of derived classes are not rounded, such as the linear in nn.MultiheadAttention. What asks for these, too?":
            like(which=lambda model: [m for m in model.modules() if type(m) in KINDS]),
        "Some layers are not reached: those deep inside, or a model that is itself a layer. What goes through all modules?":
            (like(which=nn.Module.children), like(which=lambda model: [*model.modules()][1:])),
        "Tied weights are no longer tied, and frozen ones are trained again: you make new parameters. Put the new values into those that are there.":
            tuple(like(put=lambda m, w, keep=keep: setattr(m, "weight", nn.Parameter(w, keep or m.weight.requires_grad))) for keep in (True, False)),
        "You go by the shape of a weight. nn.Conv2d, nn.ConvTranspose1d or an nn.LayerNorm over two dimensions are not in the table: ask for the class.":
            (like(kinds=(*KINDS, nn.Conv2d)), *(like(kinds=nn.Module, which=lambda model, to=to: [m for m in model.modules() if 2 <= getattr(m, "weight", torch.zeros(())).dim() <= to]) for to in (3, 4))),
    },
)  # fmt: skip
