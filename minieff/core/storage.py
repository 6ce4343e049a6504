"""Which weights a storage format applies to; the rest are stored in 16 bits.

A weight has at most one format. A parametrization that decides it has the attribute `decides_format = True`.
"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, register_parametrization

from minieff.core.probe import as_linear
from minieff.core.surgery import Where, clone, named, parametrizations, pick, source, swap

SMALLEST = 2.0**-24  # the smallest positive number of fp16: a smaller scale would be stored as 0
LARGEST = torch.finfo(torch.float16).max

is_position = named("pos", "wpe", "position_embeddings", "position_embedding", "embed_positions")


def matrices(name: str, module: nn.Module) -> bool:
    """Matches linears and embeddings, except those of positions: few numbers, added to every token.

    Also what computes the same as a linear under another name, such as Conv1D in GPT-2: see `pick_linears`.

    >>> matrices("tok", nn.Embedding(9, 4)), matrices("pos", nn.Embedding(9, 4))
    (True, False)
    """
    known = isinstance(module, nn.Linear | nn.Embedding)
    return not is_position(name, module) and (known or as_linear(module) is not None)


def pick_linears(model: nn.Module, where: Where) -> tuple[nn.Module, dict[nn.Module, str]]:
    """`pick`, after what computes the same as a linear under another name has become nn.Linear.

    In a copy of the model, if there are any. With the default `matrices` a warning names large matrices that
    were not picked.

    >>> model, chosen = pick_linears(nn.Sequential(nn.Linear(3, 2)), matrices)
    >>> list(chosen.values())
    ['0']
    """
    names = set(pick(model, where).values())
    model = _with_linears(model, names)
    chosen = pick(model, lambda name, module: name in names)
    if where is matrices:
        _warn_of_rest(model, chosen)
    return model, chosen


def _with_linears(model: nn.Module, names: set[str]) -> nn.Module:
    known = (nn.Linear, nn.Embedding)
    parts = {name: model.get_submodule(name) for name in names}
    others = {n for n, m in parts.items() if not isinstance(m, known) and as_linear(m) is not None}
    if not others:
        return model
    done: dict[nn.Parameter, nn.Linear] = {}  # a weight that is shared stays shared

    def linear(module: nn.Module) -> nn.Linear:
        made, weight = as_linear(module), source(module)
        made.weight = done.setdefault(weight, made).weight
        return made

    return swap(model, lambda name, module: name in others, linear)


def _warn_of_rest(model: nn.Module, chosen: dict[nn.Module, str]) -> None:
    """A warning when more than a twentieth of the parameters are matrices that are not among the chosen."""
    coded = {source(module) for module in chosen}
    rest = {
        name: p.numel()
        for name, p in model.named_parameters()
        if p.dim() > 1 and p not in coded and not is_position(name.removesuffix(".weight"), model)
        if {"parametrizations", "codebook"}.isdisjoint(name.split("."))  # parts of another format
    }
    share = sum(rest.values()) / max(1, sum(p.numel() for p in model.parameters()))
    if share > 0.05:
        largest = sorted(rest, key=rest.__getitem__, reverse=True)[:3]
        warnings.warn(
            f"{share:.0%} of the parameters stay in 16 bits, as they belong to no linear or embedding: "
            f"{', '.join(largest)}{f' and {len(rest) - 3} more' if len(rest) > 3 else ''} (`adopt` makes "
            "linears of nn.MultiheadAttention)",
            stacklevel=4,
        )


def format_of(module: nn.Module) -> nn.Module | None:
    """The parametrization that decides how a module's weight will be stored, if there is one.

    >>> format_of(nn.Linear(3, 2)) is None
    True
    """
    chain = parametrizations(module).get("weight", ())
    return next((p for p in chain if getattr(p, "decides_format", False)), None)


def refuse_other_layers(chosen: dict[nn.Module, str], decided: type | None = None) -> None:
    """ValueError for a module that uses its weight in another way than nn.Linear or nn.Embedding, and for a
    weight that has a format already, unless its parametrization is of the type `decided`.

    >>> refuse_other_layers({nn.Embedding(9, 4, max_norm=1): "tok"})
    Traceback (most recent call last):
        ...
    ValueError: tok, of type Embedding, writes into its weight, with max_norm=1; leave out tok, with where=
    """
    refused: dict[str, str] = {}
    for module, name in chosen.items():
        kind, format = type(module), format_of(module)
        if kind.forward not in (nn.Linear.forward, nn.Embedding.forward):
            why = "may do more with its weight than nn.Linear or nn.Embedding do, or has it stored already"
        elif getattr(module, "max_norm", None) is not None:
            why = f"writes into its weight, with max_norm={module.max_norm}"
        elif format is not None and (decided is None or not isinstance(format, decided)):
            why = f"has a {type(format).__name__} already, and a weight has one format"
        else:
            continue
        refused[name] = f"{name}, of type {kind.__name__}, {why}"
    if refused:
        weights = {source(module) for module, name in chosen.items() if name in refused} - {None}
        out = [name for module, name in chosen.items() if name in refused or source(module) in weights]
        shared = ", which share a weight" if len(out) > len(refused) else ""
        raise ValueError(f"{next(iter(refused.values()))}; leave out {', '.join(out)}{shared}, with where=")


def refuse_nested(x: Tensor) -> None:
    """ValueError for a nested tensor, which nn.TransformerEncoder makes of a padded batch by default.

    >>> refuse_nested(torch.zeros(2, 3))  # an ordinary tensor passes
    """
    if x.is_nested:
        raise ValueError("inputs are nested tensors; build nn.TransformerEncoder(enable_nested_tensor=False)")


def disable_fast_path(module: nn.Module, inputs: tuple) -> None:
    """A hook that does nothing: its presence makes nn.TransformerEncoder call its layers.

    Without a hook the encoder's fused path reads the weights and calls no layer.

    >>> hook = nn.Linear(2, 2).register_forward_pre_hook(disable_fast_path)
    """


def widen_inputs(module: nn.Module, inputs: tuple) -> tuple:
    """A hook for modules that compute in 32 bits: numbers in 16 bits are widened.

    >>> widen_inputs(nn.Linear(2, 2), (torch.ones(2).half(), None))
    (tensor([1., 1.]), None)
    """
    narrow = (torch.float16, torch.bfloat16)
    return tuple(x.float() if isinstance(x, Tensor) and x.dtype in narrow else x for x in inputs)


class Widened(nn.Module):
    """A parametrization: a weight stored in 16 bits, used in 32."""

    def forward(self, w: Tensor) -> Tensor:
        return w.float()


def halve(model: nn.Module) -> nn.Module:
    """A copy whose fp32 parameters are stored in fp16 and still used in fp32; inputs of both are taken.

    What is under a parametrization stays as it is. ValueError for a number beyond fp16's largest, 65,504.

    >>> linear = halve(nn.Linear(3, 2))
    >>> linear.parametrizations.weight.original.dtype, linear.weight.dtype
    (torch.float16, torch.float32)
    """
    model = clone(model)
    halved: dict[nn.Parameter, nn.Parameter] = {}
    for module in list(model.modules()):
        if isinstance(module, ParametrizationList):
            continue
        for key, p in list(module._parameters.items()):
            if p is not None and p.dtype == torch.float32:
                if p not in halved:
                    halved[p] = nn.Parameter(half(p.detach(), key), p.requires_grad)
                register_parametrization(module, key, Widened(), unsafe=True)
                module.parametrizations[key].original = halved[p]
                module.parametrizations.train(module.training)
                if widen_inputs not in module._forward_pre_hooks.values():
                    module.register_forward_pre_hook(widen_inputs)
    return model


def half(p: Tensor, name: str) -> Tensor:
    """`p` in fp16. ValueError with its `name` for NaN or a number beyond the range of fp16.

    >>> half(torch.tensor([1.0, 70_000.0]), "weight")
    Traceback (most recent call last):
        ...
    ValueError: weight holds 70000, beyond 65504, the largest number of fp16; fix it first
    """
    if p.numel() and not p.abs().max() <= LARGEST:
        raise ValueError(
            f"{name} holds {p.abs().max():g}, beyond {LARGEST:g}, the largest number of fp16; fix it first"
        )
    return p.half()


def in_fp16(scale: Float[Tensor, "*g"]) -> Float[Tensor, "*g"]:
    """`scale` rounded up to a number that fp16 holds. ValueError beyond the largest.

    >>> in_fp16(torch.tensor([3.0, 2049.0]))
    tensor([   3., 2050.])
    """
    if scale.numel() and scale.max() > LARGEST:
        raise ValueError(f"a scale of {scale.max():g} is beyond fp16's {LARGEST:g}; scale the weights")
    half = scale.clamp(min=SMALLEST).half()
    above = (half.view(torch.int16) + 1).view(torch.float16)  # for positive numbers, the next one
    return torch.where(half.float() < scale, above, half).to(scale)
