"""Which weights a storage format applies to; the rest are stored in 16 bits.

A weight has at most one format. A parametrization that decides it has the attribute `decides_format = True`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, register_parametrization

from minieff.core.surgery import clone, named, parametrizations

SMALLEST = 2.0**-24  # the smallest positive number of fp16: a smaller scale would be stored as 0
LARGEST = torch.finfo(torch.float16).max

is_position = named("pos", "wpe", "position_embeddings", "position_embedding", "embed_positions")


def matrices(name: str, module: nn.Module) -> bool:
    """Matches linears and embeddings, except those of positions: few numbers, added to every token.

    >>> matrices("tok", nn.Embedding(9, 4)), matrices("pos", nn.Embedding(9, 4))
    (True, False)
    """
    return isinstance(module, nn.Linear | nn.Embedding) and not is_position(name, module)


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
    ValueError: tok, of type Embedding, writes into its weight, with max_norm=1; pick others, with where=
    """
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
        raise ValueError(f"{name}, of type {kind.__name__}, {why}; pick others, with where=")


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


class Widened(nn.Module):
    """A parametrization: a weight stored in 16 bits, used in 32."""

    def forward(self, w: Tensor) -> Tensor:
        return w.float()


def halve(model: nn.Module) -> nn.Module:
    """A copy whose fp32 parameters are stored in fp16 and still used in fp32.

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
