"""What an unknown module computes, found by running it on a few numbers."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from minieff.core.surgery import evaluating


@torch.no_grad()
def as_linear(module: nn.Module) -> nn.Linear | None:
    """The nn.Linear that computes the same as a module whose `weight` is a matrix W; None if none does.

    x W^T + b keeps its Parameter, x W + b gets one with W^T.

    >>> class Transposed(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.randn(3, 2))
    ...     def forward(self, x):
    ...         return x @ self.weight
    >>> as_linear(Transposed()), as_linear(nn.Bilinear(3, 3, 2))
    (Linear(in_features=3, out_features=2, bias=False), None)
    """
    w, bias = (module._parameters.get(name) for name in ("weight", "bias"))
    if w is None or w.dim() != 2 or w.is_meta or not w.is_floating_point() or module._modules:
        return None
    for kept, weight in ((w, w), (nn.Parameter(w.t().contiguous(), w.requires_grad), w.t())):
        x = torch.randn(2, weight.shape[1], generator=torch.Generator().manual_seed(0), device="cpu").to(w)
        try:
            with evaluating(module):
                y = module(x)
            wanted = nn.functional.linear(x, weight, bias)
        except Exception:  # of a forward that wants other inputs, by whatever name
            continue
        if isinstance(y, Tensor) and y.shape == wanted.shape and torch.allclose(y, wanted, 1e-2, 1e-4):
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
            linear.weight, linear.bias = kept, bias
            return linear.train(module.training)
    return None


def _plain(value: Any) -> Any:
    """`value`, with None in place of objects that a call might change, such as caches."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(part) for part in value)
    return value if isinstance(value, Tensor | int | float | str) else None


@contextmanager
def _unwatched(layer: nn.Module) -> Iterator[None]:
    """No forward hook runs inside the `with`: some collect what layers return."""
    hooks = {module: module._forward_hooks for module in layer.modules()}
    for module in hooks:
        module._forward_hooks = OrderedDict()
    try:
        yield
    finally:
        for module, own in hooks.items():
            module._forward_hooks = own


@torch.compiler.disable
@torch.no_grad()
def without_weights(layer: nn.Module, x: Tensor, args: tuple, kwargs: Mapping) -> Any:
    """What a layer returns, in eval mode, for x in place of its first input, with zeros for its matrices.

    What is left is its residual connection. A layer without matrices gets zeros for all parameters. None when
    the layer does not run like that.

    >>> without_weights(nn.Linear(2, 2, bias=False), torch.ones(1, 2), (None,), {})
    tensor([[0., 0.]])
    """
    own = dict(layer.named_parameters())
    zeros = {name: torch.zeros_like(p) for name, p in own.items() if p.dim() > 1}
    zeros = zeros or {name: torch.zeros_like(p) for name, p in own.items()}
    args, kwargs = _plain(args), _plain(kwargs)
    args, kwargs = ((x, *args[1:]), kwargs) if args else ((), kwargs | {next(iter(kwargs)): x})
    try:
        with evaluating(layer), _unwatched(layer):
            return functional_call(layer, zeros, args, kwargs)
    except Exception:  # of a forward that needs what _plain leaves out
        return None
