"""Task 5 of exercise 10: a linear layer in whole numbers, as a formula with parts that can be wrong."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import torch
from minieff.grid import Grid, quantize
from torch import Tensor

from exercises.graders import NotYet
from exercises.graders.grids import on_grid, read
from exercises.graders.kinds import kind_of


@dataclass(frozen=True)
class Call:
    """One call of Task 5."""

    x: Tensor
    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    @property
    def label(self) -> str:
        bias = "bias=None" if self.bias is None else "a bias"
        return f"x of shape {tuple(self.x.shape)}, codes of shape {tuple(self.codes.shape)}, {bias}"

    @property
    def arguments(self) -> tuple:
        return self.x, self.codes, self.scales, self.bias

    def read(self, value: object) -> Tensor:
        if isinstance(value, Tensor) and not value.is_floating_point():
            raise NotYet(
                f"Your function returns {kind_of(value)} of {value.dtype}, and the task asks for floats: y, as the linear layer has it."
            )
        return read(value, "output", (*self.x.shape[:-1], len(self.codes)))

    def is_(self, y: Tensor, *ways: Tensor) -> Tensor:
        """At which tokens y is one of these, to 1e-4 of the token's largest number without bias; NaN is none."""
        plain = 1e-4 * formula(replace(self, bias=None)).abs().amax(-1)
        return torch.stack(
            [(y - way).abs().amax(-1) <= plain + 1e-6 * way.abs().amax(-1) for way in ways]
        ).any(0)

    @property
    def filled(self) -> Tensor:
        """Which tokens are not of zeros."""
        return (self.x != 0).any(-1)


def a_token(x: Tensor) -> Tensor:
    return x.abs().amax(-1, keepdim=True)


def wrapped(sums: Tensor, dtype: torch.dtype) -> Tensor:
    return sums.long().to(dtype).double()


def formula(
    call: Call,
    most: Callable = a_token,
    to_code: Callable = torch.round,
    store: Callable = lambda x_q: x_q,
    sums: Callable = lambda sums: sums,
    steps: float = 127,
    w_scale: Callable = lambda scales: scales,
    unscaled: bool = False,
    off: float = 0.0,
    weight: Callable = lambda codes: codes,
    bias: Callable = lambda bias, s_x, s_w: bias,
) -> Tensor:
    """x W^T + b through whole numbers, in double precision."""
    x, w, scales = (t.double() for t in (call.x, call.codes, call.scales))
    s_x = most(x).clamp(min=1e-30) / steps
    acc = sums(store(to_code(x / s_x * (1 + off))) @ weight(w).T)
    y = acc * (1 if unscaled else s_x) * w_scale(scales)
    return y + bias(0 * scales if call.bias is None else call.bias.double(), s_x, scales)


def products(draw: Random) -> list[Call]:
    """All shapes of x, tokens of unequal size, a small one and one of zeros; the first is square, where a wrong axis does not stop the code."""
    n = draw.randrange(30, 40)
    shapes = [
        ((n,), n, n),
        ((), 43, 27),
        ((5,), 52, 31),
        ((3, 7), 39, 46),
        ((2, 3, 4), 61, 25),
        ((1,), 47, 33),
        ((), 37, 29),
    ]
    found = []
    for place, (tokens, C, R) in enumerate(shapes):
        generator = torch.Generator().manual_seed(draw.randrange(2**31))
        T = int(torch.tensor(tokens).prod())
        x = on_grid(draw, T, C, 8, [10 ** draw.uniform(-1, 1.3) for _ in range(T)])
        if T > 4:
            x[1], x[2] = x[1].abs(), -40 * x[2].abs() / x[2].abs().max()
            x[3], x[4] = 0.0, x[4] * 5e-4 / x[4].abs().max()
        codes = torch.randint(-127, 128, (R, C), generator=generator).to(torch.int8)
        codes[0], codes[1] = (torch.sign(x[0]) * 127).to(torch.int8), 127
        scales = 0.001 + 0.01 * torch.rand(R, generator=generator)
        bias = 30 * torch.randn(R, generator=generator) if place in (0, 2, 3, 6) else None
        found.append(Call(x.view(*tokens, C), codes, scales, bias))
    return found  # fmt: skip


def whole_tensor(x: Tensor) -> Tensor:
    return x.abs().max()


def a_sequence(x: Tensor) -> Tensor:
    return x.abs().amax((-2, -1) if x.dim() > 1 else -1, keepdim=True)


def a_feature(x: Tensor) -> Tensor:
    return x.abs().amax(tuple(range(x.dim() - 1)), keepdim=True) if x.dim() > 1 else x.abs()


SQUARE: dict[str, Callable] = {
    "The scales of the weight stand along the wrong axis: you multiply the outputs of token t by scale t. A scale belongs to an output, the last dimension of "
    "the product. (Where x has as many tokens as the layer has outputs, nothing stops you.)": partial(formula, w_scale=lambda s: s[:, None]),
    "You multiply by the codes as they lie, x @ codes. A linear layer computes x W^T, and here W is square, so that nothing stops you.": partial(
        formula, weight=lambda w: w.T
    ),
    "You put the scales of the weight on its columns, before the product. A scale belongs to a row of codes, which is an output.": lambda call: formula(
        replace(call, codes=call.codes.double() * call.scales), w_scale=torch.ones_like
    ),
    "You have a scale for each feature of x, over all tokens. Then no sum over features can be scaled back, and the future changes the past. A token is "
    "a vector of the last dimension: over which dimension does its maximum run?": partial(formula, most=a_feature),
}  # fmt: skip


def ways(of: Callable = formula, **changes: object) -> list[Callable]:
    """A formula with changes, wherever float32 puts a whole number or a tie."""
    return [partial(of, off=off, **changes) for off in (0, 1e-6, -1e-6)]


def a_place(x: Tensor, least: int, dims: tuple) -> Tensor:
    """The largest magnitude over dimension 0, which is the batch, where x has at least so many dimensions."""
    return x.abs().amax(dims, keepdim=True) if x.dim() >= least else a_token(x)


def scaled_back_first(call: Call, most: Callable, off: float) -> Tensor:
    """x is put on its grid, and multiplied as floats: then any of its numbers may share a scale."""
    scale = most(call.x.double()).clamp(min=1e-30) / 127
    x = (call.x.double() / scale * (1 + off)).round() * scale
    y = x @ call.codes.double().T * call.scales.double()
    return y if call.bias is None else y + call.bias.double()


def over_batch(least: int) -> list[Callable]:
    places = partial(a_place, least=least, dims=(0, -1))
    return ways(most=places) + ways(scaled_back_first, most=partial(a_place, least=least, dims=(0,)))


def stored(x: Tensor) -> Tensor:
    """127 times the scales in fp16 of `minieff`, which are rounded up."""
    return 127 * quantize(x.reshape(-1, x.shape[-1]), Grid())[1].double().view(*x.shape[:-1], 1)


def stored_near(x: Tensor) -> Tensor:
    return 127 * (a_token(x) / 127).half().double()


PRODUCT_MISTAKES: dict[str, Callable | list[Callable]] = {
    "You have one scale for all of x: the largest number anywhere, in a later token, too, decides how coarse each token is. The check changed a later "
    "token. Over what should the maximum run?": partial(formula, most=whole_tensor),
    "You have one scale for a whole sequence: its later tokens decide how coarse the earlier ones are. What has a scale of its own?": partial(formula, most=a_sequence),
    "Sequences of a batch share a scale: your maximum runs over dimension 0, so that what one sequence gives depends on the others. "
    "What has a scale of its own is a token, a vector of the last dimension.": over_batch(2) + over_batch(3),
    "x is not rounded: you multiply floats by codes. Integer arithmetic needs whole numbers on both sides.": partial(formula, to_code=lambda x: x),
    "You cut off the fractions of x instead of rounding. .to(torch.int8) does so.": ways(to_code=torch.trunc),
    "You round x down (floor). Which whole number is nearest?": ways(to_code=torch.floor),
    "The product overflows: you add in 8 bits. 127 times 127 does not fit. How many bits does a sum of C such products take?": partial(
        formula, sums=partial(wrapped, dtype=torch.int8)
    ),
    "The product overflows: you add in 16 bits. Three products of 127 times 127 do not fit.": partial(formula, sums=partial(wrapped, dtype=torch.int16)),
    "The scale of x is missing in what you return: the sums count steps of x.": partial(formula, unscaled=True),
    "The scales of the weight are missing in what you return: the sums count steps of W.": partial(formula, w_scale=torch.ones_like),
    "You divide by the scales of the weight. codes * scales is W.": partial(formula, w_scale=lambda s: 1 / s),
    "You multiply by the scales of the weight twice.": partial(formula, w_scale=lambda s: s * s),
    "The bias is scaled by the scales of x and W together: you add it to the sums before they are scaled back. It is a number in units of y.": partial(
        formula, bias=lambda b, s_x, s_w: b * s_x * s_w
    ),
    "The bias is scaled by the scales of the weight. Is it one of the codes?": partial(formula, bias=lambda b, s_x, s_w: b * s_w),
    "The bias is scaled by the scale of x. It has nothing to do with how large a token is.": partial(formula, bias=lambda b, s_x, s_w: b * s_x),
    "The bias is missing.": partial(formula, bias=lambda b, s_x, s_w: 0 * b),
    "The bias is subtracted.": partial(formula, bias=lambda b, s_x, s_w: -b),
    "You round x to 128 steps. The code of the largest number is then 128, and 127 is the last one that fits.": partial(formula, steps=128),
    "You round x to 128 steps, and the largest number of a token is cut off to 127. How many steps does the task ask for?": partial(
        formula, steps=128, store=lambda x_q: x_q.clamp(-128, 127)
    ),
    "You round x to 255 steps from 0 to its largest magnitude. Half of the codes do not fit into 8 bits.": partial(formula, steps=255),
    "Codes of x below 0 are cut off, or were stored without a sign. x is as often negative.": partial(formula, store=lambda x_q: x_q.clamp(min=0)),
    "The scale of x is rounded to fp16. That is for scales that are stored in a file; the task leaves this one as it is.": [
        partial(formula, most=stored), partial(formula, most=stored_near)
    ],
    "The rounded x is clamped to -1 to 1: divide by the scale first, clamp at 127 steps.": partial(formula, store=lambda x_q: x_q.clamp(-1, 1)),
}  # fmt: skip


# What becomes of codes beyond 127
BEYOND: list[Callable] = [
    lambda x_q: x_q,
    lambda x_q: x_q.clamp(-127, 127),
    lambda x_q: x_q.clamp(-128, 127),
    partial(wrapped, dtype=torch.int8),
]
SIGNED = [
    way
    for store in BEYOND
    for to_code in (torch.round, torch.trunc)
    for way in ways(most=lambda x: x.amax(-1, keepdim=True), to_code=to_code, store=store)
]


def later(call: Call) -> Call:
    """The same, with a last token that is by far the largest."""
    x = call.x.clone()
    x[..., -1, :] *= 200 / x[..., -1, :].abs().max()
    return replace(call, x=x)


def square_complaint(call: Call, y: Tensor) -> str:
    """What is on a wrong axis, which other shapes would not let pass; empty if nothing is."""
    return next((text for text, of in SQUARE.items() if call.is_(y, of(call))[call.filled].all()), "")


def agree(pairs: list[tuple[Call, Tensor]], of: Callable | list[Callable], above: bool = False) -> bool:
    """Whether one of these gives each token that is not of zeros; `above`: that has a number above 0."""
    many = of if isinstance(of, list) else [of]
    tokens = [(call.x.amax(-1) > 0) if above else call.filled for call, _ in pairs]
    return all(
        call.is_(y, *[way(call) for way in many])[some].all()
        for (call, y), some in zip(pairs, tokens, strict=True)
    )


def product_complaint(calls: list[Call], got: list[Tensor], changed: Tensor, place: int) -> str:
    """What is wrong with the outputs; empty if nothing is. `changed` is that of `later(calls[place])`."""
    pairs, other = list(zip(calls, got, strict=True)), later(calls[place])
    if all(call.is_(y, formula(call)).all() for call, y in pairs):
        right = other.is_(changed, formula(other)).all()
        return "" if right else "Right, but for a last token that is by far the largest."
    if agree(pairs, formula):
        return "For a token of zeros you return something other than the bias. If it is NaN: its largest magnitude is 0, and you divide by it."
    for message, of in PRODUCT_MISTAKES.items():
        if agree(pairs, of):
            return message
    if agree(pairs, SIGNED, above=True) and not agree(pairs, formula, above=True):
        return "The scale of x comes from its largest number, and not from its largest magnitude. A token may have its extreme below 0."
    past = (changed - got[place])[..., :-1, :].abs().max()
    if past > 1e-4 * got[place].abs().max():
        return "A later token was changed, and what you return for the earlier ones changed with it. What do tokens share in your code?"
    call, y = next(pair for pair in pairs if not pair[0].is_(pair[1], formula(pair[0])).all())
    wanted = formula(call)
    bad = ~call.is_(y, wanted) & call.filled
    plain = formula(replace(call, bias=None))[bad][0]
    size = float((y - wanted)[bad][0].abs().max() / plain.abs().max())
    return (
        f"For {call.label}: a token whose largest number is {float(call.x[bad][0].abs().max()):.2g} is off by {size:.2g} of its largest output (before the bias). "
        "Print the codes of one token, their sums, and what the scales make of them."
    )
