"""Adaptive attention span: each head learns how far back it looks, and what is out of reach is not computed.

Sukhbaatar, Grave, Bojanowski, Joulin 2019, "Adaptive Attention Span in Transformers", arXiv 1905.07799. The
weights of a head with span z are cut off at distance x by a mask with a ramp of R, and normalized again:

    m(x) = clamp((R + z - x) / R, 0, 1),   attn(x) <- m(x) attn(x) / sum_x m(x) attn(x),   z = max_span z'

The ramp gives z a gradient; the loss gains price * z, a mean over the heads of a layer; and z' is clamped to
[0, 1] after each step, for far below 0 the mask is 0 everywhere and z has no gradient. A token is at distance
0 from itself, as in the paper's code: with z = 0, R keys remain, with m = 1, (R - 1) / R, ... (The paper's
text counts from 1.) Future keys, where a model sees any, count by their distance, too.

Saves: after `finalize`, MACs and time on texts longer than the spans; a layer computes what its longest head
needs. It does not save: anything in training, parameters, or the memory of the cache, of which less is read.
Costs: the explicit attention path in training. By hand, in an attention of your own:

    # in __init__
    self.span = Span(heads=4, max_span=512, ramp=32)
    # in forward, after the softmax: attn (B, H, T, S), distance = q_idx[:, None] - kv_idx
    attn = self.span(attn, distance)
    # in the loss of each attention, and after optimizer.step()
    loss = loss + 2e-6 * attention.span.length.mean()
    with torch.no_grad():
        attention.span.z.clamp_(0, 1)
"""

from collections.abc import Iterator
from math import ceil, inf

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minieff.core.attention import Attention, Mask, causal, softmax, unchanged
from minieff.core.surgery import Where, clone, is_a, swap

STAGE = "seam"
IDEA = ("Span",)


class Span(nn.Module):
    """Attention weights (B, H, T, S), each head's cut off at its span and normalized again.

    `z` (H,) is z', the span as a share of `max_span`; `price` is of a token of span. Keys out of reach take
    part in the softmax before: where one of them leads by more than 17 (in fp16; by 100 in fp32), nothing is
    left to normalize. `finalize` computes with logarithms and has no such limit.
    """

    def __init__(self, heads: int, max_span: int, ramp: int, price: float = 0.0, start: float = 0.0) -> None:
        super().__init__()
        self.max_span, self.ramp, self.price = max_span, ramp, price
        self.z = nn.Parameter(torch.full((heads,), float(start)))

    @property
    def length(self) -> Float[Tensor, "H"]:
        """z, in tokens; in single precision, for 16 bits cannot tell 600 from 602."""
        return self.max_span * self.z.float()

    @property
    def reach(self) -> int:
        """Keys that the longest head sees, a token's own among them."""
        return ceil(self.ramp + self.length.max().item())

    def soft_mask(self, distance: Int[Tensor, "T S"]) -> Float[Tensor, "H T S"]:
        return ((self.ramp + self.length[:, None, None] - distance.abs()) / self.ramp).clamp(0, 1)

    def forward(
        self, attn: Float[Tensor, "B H T S"], distance: Int[Tensor, "T S"]
    ) -> Float[Tensor, "B H T S"]:
        attn = attn * self.soft_mask(distance).to(attn)
        return attn / attn.sum(-1, keepdim=True).clamp_min(torch.finfo(attn.dtype).tiny)

    def macs(self, inputs: tuple, output: Tensor) -> int:
        """Not counted, as softmax is not."""
        return 0

    def extra_repr(self) -> str:
        return f"length={[round(z, 1) for z in self.length.tolist()]}, ramp={self.ramp}, price={self.price}"


class Near(nn.Module):
    """The kernel of attention that computes no more than the keys within `reach`.

    Queries are taken `reach` at a time: a block meets at most 2 reach - 1 keys, and as many future ones where
    the mask may show them. The soft mask is added to the scores as its logarithm: with softmax, and with it
    alone, that is the same as multiplying the weights and normalizing again.
    """

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach

    def forward(
        self,
        attn: nn.Module,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B H S D"],
        v: Float[Tensor, "B H S D"],
        mask: Mask,
        start: int,
    ) -> Float[Tensor, "B H T D"]:
        self.check(attn)
        if not q.shape[2]:  # no query, no output
            return q
        B, H, T, S = *q.shape[:3], k.shape[-2]
        bias, parts = self.bias(attn.reweight, min(T, self.reach)).to(q), []
        positions = torch.arange(start + T - S, start + T, device=q.device)
        for own, near, columns in self.blocks(T, S, mask):
            visible = mask.visible(B, H, positions[S - T :][own, None], positions[near])
            b = bias[:, :, : own.stop - own.start, columns].masked_fill(~visible, float("-inf"))
            parts.append(F.scaled_dot_product_attention(q[:, :, own], k[:, :, near], v[:, :, near], b))
        return torch.cat(parts, -2)

    def blocks(self, T: int, S: int, mask: Mask) -> Iterator[tuple[slice, slice, slice]]:
        """Of each block: its queries, its keys (of S, the last T are the queries'), its columns of bias."""
        ahead = 0 if mask is causal else self.reach - 1  # any other mask may show the future
        for first in range(0, T, self.reach):
            last, nearest = min(first + self.reach, T), S - T + first - self.reach + 1
            near = slice(max(0, nearest), min(S, S - T + last + ahead))
            yield slice(first, last), near, slice(near.start - nearest, near.stop - nearest)

    def bias(self, span: Span, queries: int) -> Float[Tensor, "1 H T S"]:
        """log m of a block: from reach - 1 keys before its first query to as many after its last."""
        keys = torch.arange(1 - self.reach, queries + self.reach - 1, device=span.z.device)
        distance = (keys[self.reach - 1 :][:queries, None] - keys).abs().clamp_max(self.reach)
        m = span.soft_mask(torch.arange(self.reach, device=keys.device)[None])[:, 0].detach()  # (H, reach)
        return F.pad(m.log(), (0, 1), value=float("-inf"))[:, distance][None]

    def check(self, attn: nn.Module) -> None:
        if attn.normalize is not softmax:
            raise ValueError(
                f"normalize={attn.normalize}: only before softmax can keys be left out, so leave out finalize"
            )

    def macs(self, inputs: tuple, output: Tensor) -> int:
        _, q, k, _, mask, _ = inputs
        blocks = self.blocks(q.shape[-2], k.shape[-2], mask)
        pairs = sum((own.stop - own.start) * (near.stop - near.start) for own, near, _ in blocks)
        return 2 * pairs * q[..., 0, :].numel()

    def extra_repr(self) -> str:
        return f"reach={self.reach}"


def apply(
    model: nn.Module,
    *,
    max_span: int,
    ramp: int = 32,
    price: float = 0.0,
    start: float = 0.0,
    where: Where = is_a(Attention),
) -> nn.Module:
    """A copy whose attention heads learn their spans, of at most `max_span` tokens and a ramp of `ramp`.

    Spans start at `start * max_span`: at 0, as in the paper; 1 changes nothing in a trained model whose
    context is `max_span`. Add `penalty(model)` to the loss, and call `project(model)` after each step. It
    holds the seam `reweight` of Attention: its forward says `attn = self.reweight(attn, distance)` after the
    softmax. (In minieff, `adopt` brings it to nn.MultiheadAttention.) ValueError for a size below 1, a
    negative price, a start outside [0, 1], or where the seam is taken.

    >>> apply(Attention(8, 2), max_span=64, ramp=16, price=2e-6).reweight
    Span(length=[0.0, 0.0], ramp=16, price=2e-06)
    """
    if type(max_span) is not int or type(ramp) is not int or min(max_span, ramp) < 1:
        raise ValueError(f"max_span={max_span!r}, ramp={ramp!r}: each is a number of tokens, at least 1")
    numbers = isinstance(price, int | float) and isinstance(start, int | float)
    if not (numbers and 0 <= price < inf and 0 <= start <= 1):
        raise ValueError(f"price={price!r}, start={start!r}: at least 0, and a share of max_span from 0 to 1")

    def take(attention: nn.Module) -> nn.Module:
        if getattr(attention, "reweight", None) is None:
            raise ValueError(
                f"a {type(attention).__name__} has no seam `reweight`; use minieff.core.adopt first"
            )
        if attention.reweight is not unchanged:
            raise ValueError(f"reweight={attention.reweight}: the seam is taken, and held only once")
        span = Span(attention.heads, max_span, ramp, price, start)
        attention.reweight = span.to(next(attention.parameters()).device)
        return attention

    return swap(model, where, take)


def penalty(model: nn.Module) -> Float[Tensor, ""]:
    """The loss of the spans: price * z as a mean over the heads of a layer, and a sum over layers.

    >>> penalty(apply(Attention(8, 2), max_span=64, price=0.01, start=0.5))
    tensor(0.3200, grad_fn=<AddBackward0>)
    """
    spans = [module for module in model.modules() if isinstance(module, Span)]
    return sum((span.price * span.length.mean() for span in spans), torch.zeros(()))


@torch.no_grad()
def project(model: nn.Module) -> None:
    """Clamps all spans to [0, max_span].

    >>> model = apply(Attention(8, 2), max_span=64)
    >>> _ = nn.init.constant_(model.reweight.z, -0.1)
    >>> project(model)
    >>> model.reweight.length.tolist()
    [0.0, 0.0]
    """
    for module in model.modules():
        if isinstance(module, Span):
            module.z.clamp_(0, 1)


def finalize(model: nn.Module, *, reach: list[int] | None = None) -> nn.Module:
    """A copy in eval mode that computes, and reads from a cache, only keys within the reach of each layer.

    `reach` is a number of keys for each attention, in the order of `model.modules()`; None for what their
    spans need, which equals the eval output. ValueError for a `reach` of another length or below 1, without
    spans, where the kernel is taken, and under any other `normalize` than softmax, in which keys that are
    left out change the others' weights.

    >>> finalize(apply(Attention(8, 2), max_span=64, ramp=16)).kernel
    Near(reach=16)
    """
    model = clone(model).eval()
    layers = [m for m in model.modules() if isinstance(m._modules.get("reweight"), Span)]
    if not layers:
        raise ValueError("no attention has a span here; call apply before training")
    if not all(layer.reweight.length.max() > -layer.reweight.ramp for layer in layers):
        raise ValueError("a span is far below 0, or NaN; call project(model) after each training step")
    reach = [layer.reweight.reach for layer in layers] if reach is None else reach
    whole = isinstance(reach, list | tuple) and all(type(keys) is int for keys in reach)
    if not whole or len(reach) != len(layers) or min(reach) < 1:
        raise ValueError(f"reach={reach!r}: give {len(layers)} numbers of keys, one a layer, of at least 1")
    for layer, keys in zip(layers, reach, strict=True):
        if isinstance(layer.kernel, nn.Module):
            raise ValueError(f"kernel={layer.kernel}: the seam is taken, and held only once")
        layer.kernel, layer.keep = Near(keys).eval(), keys - 1
        layer.kernel.check(layer)
    return model
