"""Grouped queries: several heads of queries read one head of keys and values, so that the cache is smaller.

    k[g] = mean of k[h],  v[g] = mean of v[h]      over the H / G heads h of group g

G = H is multi-head attention, G = 1 multi-query attention. (Neighbouring heads form a group.)
"""

import torch
from torch import nn

from minieff.core.attention import Attention
from minieff.core.surgery import Where, is_a, swap


def group(model: nn.Module, *, heads: int, where: Where = is_a(Attention)) -> nn.Module:
    """A copy with `heads` heads of keys and values, each the mean of its group's; those of queries stay.

    Exact where the heads of a group are equal, so at rest with heads=H; otherwise train it further
    (the paper took 5 % of the original steps). The cache has heads / H of the bytes, and the two projections
    that share of their weights. ValueError unless `heads` divides the heads that there are, and after other
    techniques on these weights: group first.

    >>> small = group(Attention(8, heads=4), heads=2)
    >>> small.q.out_features, small.k.out_features
    (8, 4)
    """

    def narrow(attention: nn.Module) -> nn.Module:
        if not isinstance(attention, Attention):
            raise ValueError(
                f"where picks a {type(attention).__name__}; group changes minieff's Attention: "
                "adopt(model) puts it in place of nn.MultiheadAttention"
            )
        attention.k = _mean(attention.k, attention.width, heads)
        attention.v = _mean(attention.v, attention.width, heads)
        return attention

    return swap(model, where, narrow)


def _mean(linear: nn.Module, width: int, heads: int) -> nn.Linear:
    """A linear with `heads` heads of outputs, each the mean of its group's."""
    if type(linear) is not nn.Linear:
        raise ValueError(f"keys or values come from a {type(linear).__name__} already; group a model first")
    now = linear.out_features // width
    if type(heads) is not int or heads < 1 or now % heads:
        raise ValueError(
            f"heads={heads!r} does not divide the {now} heads of keys and values; pick one that does"
        )
    new = nn.Linear(linear.in_features, heads * width, bias=linear.bias is not None).to(linear.weight)
    with torch.no_grad():
        for name, own in new.named_parameters():
            old = linear.get_parameter(name)
            own.copy_(old.unflatten(0, (heads, now // heads, width)).mean(1).flatten(0, 1))
            own.requires_grad_(old.requires_grad)
    return new
