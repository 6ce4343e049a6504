"""Scalar quantization: store a weight as a small whole number and a scale that it shares with its row.

    w_q = s round(w / s)            s = max |w| / 127 of the row, for 8 bits
    x W^T ~ s_x s_w (x_q W_q^T)     where inputs are rounded as well, with one scale s_x per token

In training the forward pass sees w_q, and the gradient passes to w where w is in range (straight-through
estimator, Bengio et al. 2013, arXiv 1308.3432). With all weights rounded, p = 1, this is quantization-aware
training (Jacob et al. 2018, arXiv 1712.05877). With a random share p in each pass it is Quant-Noise (Fan,
Stock et al. 2020, arXiv 2004.07320): the others get an exact gradient. Without training it is rounding.

Saves: bytes, 4x with 8 bits and 8x with 4, compared with fp32 and without the scales; and with 8 bits
time, where the processor multiplies bytes. Inputs have a scale per token, since one for several tokens would
let the future change the past. It does not save: multiplications, nor anything in training; and codes of
fewer bits have to be unpacked first, which takes time. By hand, for the weights alone:

    # before training
    for layer in [m for m in model.modules() if isinstance(m, nn.Linear)]:
        nn.utils.parametrize.register_parametrization(layer, "weight", FakeQuant(p=0.5))
    # after training, in eval mode: what to store of each layer; its weight is scale * codes
    scale = row_scale(layer.weight)
    codes = (layer.weight / scale).round().to(torch.int8)
"""

from collections.abc import Iterable, Mapping
from math import isfinite

import torch
from torch import Tensor, nn

from minieff.core.draw import before_drawing
from minieff.core.storage import format_of, halve, in_fp16, matrices, pick_linears, refuse_other_layers
from minieff.core.surgery import Where, clone, is_a, parametrize, pick, recode, swap
from minieff.scalar_quant.fake_quant import FakeQuant, FakeQuantInput
from minieff.scalar_quant.grid import Grid
from minieff.scalar_quant.int_layers import IntEmbedding, IntLinear, IntWeight
from minieff.scalar_quant.packing import Packed

STAGE = "weight"
IDEA = ("row_scale", "int8", "straight_through", "FakeQuant")


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

    For the weights see `Grid`. `activations` is for the inputs of these layers: "none" leaves them alone;
    "dynamic" rounds them to 8 bits with one scale per token; "static" with one scale for all, which
    `calibrate` finds. In training they are rounded with probability p, too. ValueError for a p that is not a
    probability, unknown activations, groups with rounded activations (a sum of integers cannot span two
    scales), weights that are rounded already or hold NaN, or when nothing matches.

    >>> model = apply(nn.Sequential(nn.Linear(64, 2)), bits=2)
    >>> model[0].weight.unique().numel()  # 3 values per row, 0 in both
    5
    """
    grid = Grid(bits, symmetric, group, span)
    _refuse_knobs(p, activations, group)

    model, chosen = pick_linears(model, where)
    refuse_other_layers(chosen)
    names = set(chosen.values())

    def rounding(weight: Tensor) -> FakeQuant:
        grid(weight.detach())  # a weight that cannot be rounded raises here
        return _drawing(FakeQuant(grid, p, generator))

    model = parametrize(model, lambda name, m: name in names, rounding)
    if activations != "none":
        static = activations == "static"
        model = swap(model, lambda name, m: name in names, lambda m: FakeQuantInput(m, p, static, generator))
    return model


def _drawing(module: FakeQuant) -> FakeQuant:
    """The module with the check of what it draws."""
    module.register_forward_pre_hook(before_drawing)
    return module


def _refuse_knobs(p: float, activations: str, group: str | int) -> None:
    """ValueError, as `apply` says."""
    if not 0 <= p <= 1:
        raise ValueError(f"p={p}: pick a probability from 0 to 1")
    if activations not in ("none", "dynamic", "static"):
        raise ValueError(f'activations={activations!r}: pick "none", "dynamic" or "static"')
    if activations != "none" and isinstance(group, int):
        raise ValueError(f'group={group}: a sum of integers cannot span two scales; take activations="none"')


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable) -> nn.Module:
    """A copy in eval mode with static scales: the largest input that a layer gets in all batches becomes the
    code 127. A batch is what the model takes: a tensor, a tuple of arguments or a mapping of named ones, such
    as a tokenizer returns. Layers that no batch reaches have no scale and cannot be called.

    ValueError when no layer has a static scale, when no batch reaches one, and for NaN or infinity.

    >>> model = apply(nn.Sequential(nn.Linear(2, 2)), activations="static")
    >>> calibrate(model, [torch.tensor([[0.5, -127.0]])])[0].scale
    tensor(1., dtype=torch.float16)
    """
    model = clone(model).eval()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FakeQuantInput) and m.scale is not None}
    for layer in layers.values():
        layer.largest = 0.0
    for batch in batches:
        if isinstance(batch, Mapping):
            model(**batch)
        else:
            model(*(batch if isinstance(batch, list | tuple) else [batch]))
    if not any(layer.largest for layer in layers.values()):
        raise ValueError('no batch reached a layer with activations="static", or all its inputs were 0')
    for name, layer in layers.items():
        if not isfinite(layer.largest):
            raise ValueError(f"{name} got {layer.largest} as input, which no scale reaches; drop that batch")
        if layer.largest > 0:
            layer.scale = in_fp16(torch.tensor(layer.largest / 127)).half()
        layer.largest = None
    return model


def finalize(model: nn.Module) -> nn.Module:
    """A copy for inference, in eval mode: weights as codes; biases, norms and positions in 16 bits.

    It computes in 32 bits, also for inputs in 16. With `activations="none"` its outputs equal those of
    `model` in eval mode, up to the rounding of biases and norms to 16 bits. With rounded inputs that holds
    for each layer by itself; through several layers small differences can move an input to the next step. A
    layer that is never called, since another module reads its weight (`out_proj` in nn.MultiheadAttention),
    is not computed in integers.
    ValueError when `apply` has rounded nothing.

    >>> small = finalize(apply(nn.Sequential(nn.Linear(64, 128)), bits=4))
    >>> small[0].code.codes.shape, small[0].code.codes.dtype  # two codes per byte
    (torch.Size([128, 32]), torch.uint8)
    """
    grids = {name: format_of(m).grid for m, name in pick(model, is_fake_quantized).items()}
    model = swap(model, is_a(FakeQuant), lambda rounding: nn.Identity()).float()  # codes come from w itself
    model = recode(
        model, lambda name, m: name in grids, lambda weight, name: Packed(weight, grids[name]), _int_layer
    )
    if any(isinstance(m, FakeQuantInput) for m in model.modules()):
        model = swap(model, is_a(FakeQuantInput), _with_quantized_input)
    return halve(model).requires_grad_(False)


def is_fake_quantized(name: str, module: nn.Module) -> bool:
    """Matches modules whose weight is rounded by `apply`.

    >>> is_fake_quantized("0", apply(nn.Sequential(nn.Linear(4, 2)))[0].inner)
    True
    """
    return isinstance(format_of(module), FakeQuant)


def _int_layer(module: nn.Module, code: Packed) -> IntWeight:
    kind = IntEmbedding if isinstance(module, nn.Embedding) else IntLinear
    return kind(code, getattr(module, "bias", None))


def _with_quantized_input(rounded: FakeQuantInput) -> IntWeight:
    """The integer layer inside a fake-quantized one, set to round its inputs in the same way."""
    layer = rounded.inner
    layer.activations = "dynamic" if rounded.scale is None else "static"
    layer.scale = None if rounded.scale is None else rounded.scale.half()
    return layer
