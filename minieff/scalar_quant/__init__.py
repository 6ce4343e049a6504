"""Scalar quantization: store a weight as a small whole number and a scale that it shares with its row.

    w_q = s round(w / s)            s = max |w| / 127 of the row, for 8 bits; other grids in `grid.py`
    x W^T ~ s_x s_w (x_q W_q^T)     where inputs are rounded as well, with one scale s_x a token

In training the forward pass sees w_q, and the gradient passes to w where w is in range (straight-through
estimator, Bengio et al. 2013, arXiv 1308.3432). Of all weights, p = 1, that is quantization-aware training
(Jacob et al. 2018, arXiv 1712.05877). Of a random share p in each pass it is Quant-Noise (Fan, Stock et al.
2020, arXiv 2004.07320), where the other weights get an exact gradient. Without training it is rounding.

Saves: bytes, 4x with 8 bits and 8x with 4, counted from fp32 and without the scales; and with 8 bits time,
where the processor multiplies bytes. A scale over several tokens would let the future change the past, hence
one a token. It does not save: multiplications, nor anything in training; and codes of fewer bits are unpacked
before they are multiplied, which takes time.
"""

from collections.abc import Iterable
from math import isfinite

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int8
from torch import Tensor, nn

from minieff.grid import SMALLEST, Grid, Packed, in_fp16, snap
from minieff.int_product import KERNEL, bytes_multiply, product
from minieff.stored import format_of, half, halve, matrices, refuse_other_layers
from minieff.surgery import Where, Wrap, clone, is_a, parametrize, pick, recode, swap

STAGE = "weight"
CACHED = 2**18  # numbers that are rounded at a time: what lies between stays in the caches


def through(x: Tensor, x_q: Tensor, inside: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """x_q with the gradient of x where `inside`; each number with probability p, else x itself."""
    rounded = x_q + inside * (x - x.detach())  # x_q, exactly: the difference is zero, and has a gradient
    if p == 1:
        return rounded
    return torch.where(torch.rand(x.shape, generator=generator, device="cpu").to(x.device) < p, rounded, x)


class FakeQuant(nn.Module):
    """A parametrization: w on its grid, with the gradient of w where it is in range.

    In train mode each weight is rounded with probability p, anew in each pass; in eval mode all are. The
    weight itself is never written. Binary weights always get a gradient.
    """

    decides_format = True

    def __init__(self, grid: Grid, p: float = 1.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.grid, self.p, self.generator = grid, p, generator
        self.off = False  # finalize looks at w itself

    def forward(self, w: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        p = self.p if self.training else 1.0
        if self.off or p == 0:
            return w
        with torch.no_grad():
            w_q, inside = snap(w, self.grid)
        # binary weights get a gradient wherever they are: nearly all of them lie beyond half a step
        return through(w, w_q, inside | (self.grid.bits == 1), p, self.generator)

    def extra_repr(self) -> str:
        return f"{self.grid}, p={self.p}"


def input_codes(
    x: Float[Tensor, "*B C"], static: Float[Tensor, ""] | None
) -> tuple[Float[Tensor, "*B C"], Float[Tensor, "*B 1"]]:
    """x on 255 steps: codes, still as floats, and a scale for each token, its own or the static one.

    ValueError for a static scale of 0, which no batch has set, and for nested tensors.
    """
    refuse_nested(x)
    x = x.detach()
    largest = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True)).float()  # (..., 1)
    if static is None:
        scale = largest.clamp(min=SMALLEST) / 127
    elif static == 0:
        raise ValueError("this layer has no static scale yet; calibrate(model, batches) finds it")
    else:
        scale = static.float() + 0 * largest  # a NaN, for which there is no code, stays one
    codes = (x / scale).round_()
    return codes if static is None else codes.clamp_(-127, 127), scale


def refuse_nested(x: Tensor) -> None:
    """ValueError for what nn.TransformerEncoder makes of padded batches, unless it is told not to."""
    if x.is_nested:
        raise ValueError("inputs are nested tensors; build nn.TransformerEncoder(enable_nested_tensor=False)")


def in_bytes(
    x: Float[Tensor, "N C"], static: Float[Tensor, ""] | None
) -> tuple[Int8[Tensor, "N C"], Float[Tensor, "N 1"]]:
    """`input_codes` as bytes, some tokens at a time."""
    parts = [input_codes(some, static) for some in x.split(max(1, CACHED // x.shape[1]))]
    return torch.cat([x_q.to(torch.int8) for x_q, _ in parts]), torch.cat([scale for _, scale in parts])


def seen(module: nn.Module, inputs: tuple) -> None:
    """A hook that does nothing. nn.TransformerEncoder's fused path reads weights and calls no layer, unless
    one has a hook.
    """


class RoundedInput(Wrap):
    """A layer whose input x is rounded to 255 steps before x W^T, as `finalize` will do with integers.

    With `static` one scale serves all inputs, which `calibrate` finds; else each token has its own.
    """

    def __init__(self, inner: nn.Module, p: float, static: bool, generator: torch.Generator | None) -> None:
        super().__init__(inner)
        self.p, self.generator = p, generator
        self.largest: float | None = None  # of the inputs that `calibrate` shows, while it does
        self.register_buffer("scale", torch.zeros((), dtype=torch.float16) if static else None)
        self.register_forward_pre_hook(seen)

    def on_grid(self, x: Tensor) -> Tensor:
        """x rounded, each number with probability p in train mode. Token ids pass."""
        p = self.p if self.training else 1.0
        if p == 0 or not x.is_floating_point():
            return x
        if self.largest is not None:
            self.largest = float(torch.cat([x.abs().flatten(), torch.tensor([self.largest])]).max())
            return x
        x_q, scale = input_codes(x, self.scale)
        return through(x, (scale * x_q).to(x), (x.detach() / scale).abs() <= 127.5, p, self.generator)

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        return self.inner(self.on_grid(x), *args, **kwargs)

    def logits(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        return self.inner.logits(self.on_grid(x))


class IntWeight(nn.Module):
    """A layer with its weight W (R, C) as codes, for inference. `activations` is what happens to x before
    x W^T: "none", "dynamic" (rounded, a scale a token) or "static" (rounded, one scale).
    """

    def __init__(self, code: Packed, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.code, self.activations = code, "none"
        self.half_bias = None if bias is None else nn.Parameter(half(bias.detach(), "a bias"))
        self.register_buffer("scale", None)
        self.register_forward_pre_hook(seen)

    @property
    def weight(self) -> Float[Tensor, "R C"]:
        return self.code.dense()

    @property
    def bias(self) -> Float[Tensor, "R"] | None:
        return None if self.half_bias is None else self.half_bias.float()

    @property
    def in_integers(self) -> bool:
        """Whether x W^T is a product of integers: both rounded, one scale a row, on such a processor."""
        rounded = self.activations != "none" and self.code.scale.shape[1] == 1
        return rounded and self.code.codes.device.type == "cpu" and bytes_multiply()

    def times(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        """x W^T + b."""
        if self.activations == "none":
            return F.linear(x, self.weight, self.bias)
        if not self.in_integers:
            x_q, scale = input_codes(x, self.scale)
            return F.linear(scale * x_q, self.weight, self.bias)
        refuse_nested(x)
        x_q, scale = in_bytes(x.reshape(-1, x.shape[-1]), self.scale)
        y, bias = product(x_q, self.code), self.bias
        y = y.mul_(scale) if bias is None else torch.addcmul(bias, y, scale, out=y)
        return y.view(*x.shape[:-1], self.code.shape[0])

    def extra_repr(self) -> str:
        kernel = KERNEL if self.in_integers else "dequantized, then fp32"
        return f"{self.code.shape}, {self.code.grid}, activations={self.activations}, {kernel}"


class IntLinear(IntWeight):
    """x (..., C) -> x W^T + b."""

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        return self.times(x)

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return output.numel() * self.code.shape[1]


class IntEmbedding(IntWeight):
    """ids -> rows of W; and the head, x -> x W^T."""

    def forward(self, ids: Int[Tensor, "*B"]) -> Float[Tensor, "*B C"]:
        return self.code.dense(ids.flatten()).view(*ids.shape, self.code.shape[1])

    def logits(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        return self.times(x)


def apply(
    model: nn.Module,
    *,
    bits: int = 8,
    p: float = 1.0,
    activations: str = "dynamic",
    symmetric: bool = True,
    group: str | int = "row",
    span: str = "minmax",
    where: Where = matrices,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy whose weights are rounded: with probability p each in train mode, all of them in eval mode.

    For the weights see `Grid`. `activations`, the inputs of these layers: "none", left alone; "dynamic",
    rounded to 8 bits with one scale a token; "static", with one scale, which `calibrate` finds. They are
    rounded in training as in use, with probability p. ValueError for a p that is no probability, unknown
    activations, groups with rounded activations (no sum of integers spans two scales), weights that are
    rounded already or hold NaN, or when nothing matches.
    """
    grid = Grid(bits, symmetric, group, span)
    _refuse_knobs(p, activations, group)

    chosen = pick(model, where)
    refuse_other_layers(chosen)
    names = set(chosen.values())

    def rounding(weight: Tensor) -> FakeQuant:
        snap(weight.detach(), grid)  # refuses now what could not be rounded later
        return FakeQuant(grid, p, generator)

    model = parametrize(model, lambda name, m: name in names, rounding)
    if activations != "none":
        static = activations == "static"
        model = swap(model, lambda name, m: name in names, lambda m: RoundedInput(m, p, static, generator))
    return model


def _refuse_knobs(p: float, activations: str, group: str | int) -> None:
    """ValueError, as `apply` says."""
    if not 0 <= p <= 1:
        raise ValueError(f"p={p}: a probability from 0 to 1")
    if activations not in ("none", "dynamic", "static"):
        raise ValueError(f'activations={activations!r}: "none", "dynamic" or "static"')
    if activations != "none" and isinstance(group, int):
        raise ValueError(f'group={group} leaves no product of integers to gain from; take activations="none"')


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable) -> nn.Module:
    """A copy, in eval mode, with static scales: the largest input of each layer, over `model(batch)` for all
    batches, becomes 127. Layers that no batch reaches have no scale, and cannot be called.

    ValueError when no layer has a static scale, when no batch reaches one, and for NaN or infinity.
    """
    model = clone(model).eval()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, RoundedInput) and m.scale is not None}
    for layer in layers.values():
        layer.largest = 0.0
    for batch in batches:
        model(batch)
    if not any(layer.largest for layer in layers.values()):
        raise ValueError(
            'no batch reached a layer of apply(model, activations="static"), or all its inputs were 0; '
            "give some that do"
        )
    for name, layer in layers.items():
        if not isfinite(layer.largest):
            raise ValueError(f"{name} got {layer.largest} as input, which no scale reaches; leave that out")
        if layer.largest > 0:
            layer.scale = in_fp16(torch.tensor(layer.largest / 127)).half()
        layer.largest = None
    return model


def finalize(model: nn.Module) -> nn.Module:
    """A copy for inference, in eval mode: weights as codes; biases, norms and positions in 16 bits.

    It computes in 32 bits. With `activations="none"` its outputs are those of `model` in eval mode, up to 16
    bits in what is left; rounded inputs that differ by less than that may fall on the other side of a step,
    so that only each layer is that near. A layer that is never called, such as `out_proj` in
    nn.MultiheadAttention, which reads its weight, is not computed in integers. ValueError when `apply` has
    rounded nothing.
    """
    model = clone(model).float()
    roundings = {name: format_of(m) for m, name in pick(model, is_rounded).items()}
    for rounding in roundings.values():
        rounding.off = True
    model = recode(model, is_rounded, lambda weight, name: Packed(weight, roundings[name].grid), int_layer)
    if any(isinstance(m, RoundedInput) for m in model.modules()):
        model = swap(model, is_a(RoundedInput), with_rounded_input)
    return halve(model).requires_grad_(False)


def is_rounded(name: str, module: nn.Module) -> bool:
    return isinstance(format_of(module), FakeQuant)


def int_layer(module: nn.Module, code: Packed) -> IntWeight:
    kind = IntEmbedding if isinstance(module, nn.Embedding) else IntLinear
    return kind(code, getattr(module, "bias", None))


def with_rounded_input(rounded: RoundedInput) -> IntWeight:
    """The layer of integers inside, with what was around it for a knob."""
    layer = rounded.inner
    layer.activations = "dynamic" if rounded.scale is None else "static"
    layer.scale = None if rounded.scale is None else rounded.scale.half()
    return layer
