"""Attention, with the places where techniques plug in.

    scores = q k^T / sqrt(D),   attn = softmax(scores where the mask allows, else -inf),   y = attn v

(Vaswani et al. 2017, arXiv 1706.03762.) Three seams say *what* is computed: `mask` (who may see whom),
`normalize` (scores to weights) and `reweight` (weights and distances to weights). A fourth, `kernel`, says
*how*, and only a `finalize` replaces it. Cost per token: 4 C^2 MACs for the projections and 2 S C for the
rest. While the seams are at their defaults everything runs through torch's fused kernel, which never stores
the T x S weights; it still computes them all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minieff.core.past import Fresh, fresh


@dataclass(frozen=True, eq=False)
class Mask:
    """Who may see whom: `see(b, h, q_idx, kv_idx) -> bool`, with FlexAttention's signature.

    `see` is elementwise in its four indices, so that one mask can be asked about single positions, a band, a
    table of positions, or all pairs. Masks are combined with `&`, `|` and `~`; what differs from batch to
    batch (lengths, tags) is a tensor that `see` closes over. Each query must see at least one key, or its
    softmax is over nothing: add `| itself`.

    >>> near = causal & Mask(lambda b, h, q, k: q - k < 2, "near")
    >>> near.visible(1, 1, torch.arange(4)[:, None], torch.arange(4)).long()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 1, 1, 0],
            [0, 0, 1, 1]])
    """

    see: Callable
    name: str = "mask"
    factors: tuple = ()  # of an `&`: the masks that it is made of

    def __call__(self, b, h, q_idx, kv_idx):
        return self.see(b, h, q_idx, kv_idx)

    def __and__(self, other: "Mask") -> "Mask":
        as_mask(other)
        if other is everything or other is self:
            return self
        if self is everything:
            return other
        return Mask(
            lambda b, h, q, k: self.see(b, h, q, k) & other.see(b, h, q, k),
            f"({self.name} & {other.name})",
            tuple(dict.fromkeys((*self.parts, *other.parts))),
        )

    def __or__(self, other: "Mask") -> "Mask":
        as_mask(other)
        if other is self or self is everything:
            return self
        if other is everything:
            return other
        return Mask(
            lambda b, h, q, k: self.see(b, h, q, k) | other.see(b, h, q, k), f"({self.name} | {other.name})"
        )

    def __invert__(self) -> "Mask":
        return Mask(lambda b, h, q, k: ~self.see(b, h, q, k), f"~{self.name}")

    @property
    def parts(self) -> tuple["Mask", ...]:
        """The masks whose `&` this is: a kernel that was built for some of them asks only the others."""
        return self.factors or (self,)

    def __deepcopy__(self, memo: dict) -> "Mask":
        return self  # a copied model keeps the same mask: `mask is causal` survives surgery

    def __repr__(self) -> str:
        return self.name

    def visible(
        self, batch: int, heads: int, q_idx: Int[Tensor, "..."], kv_idx: Int[Tensor, "..."]
    ) -> Bool[Tensor, "..."]:
        """The mask for all heads of a batch at once; dimensions on which it does not depend are left out.

        `q_idx` (T, 1) and `kv_idx` (S,) give the full mask, broadcastable to (B, H, T, S); `kv_idx` (T, W)
        asks about a table of W keys per query and gives (B, H, T, W).
        """
        device = q_idx.device
        b = torch.arange(batch, device=device).view(-1, 1, 1, 1)
        h = torch.arange(heads, device=device).view(1, -1, 1, 1)
        seen = self.see(b, h, q_idx, kv_idx)
        if (kind := getattr(seen, "dtype", type(seen))) is not torch.bool:
            raise ValueError(f"mask={self} returns {kind}; it is elementwise, so give bools, as q >= k does")
        return seen.expand(torch.broadcast_shapes(seen.shape, q_idx.shape, kv_idx.shape))


def as_mask(given: object) -> Mask:
    """The mask itself. ValueError for what is none, such as a tensor.

    >>> as_mask(causal)
    causal
    """
    if not isinstance(given, Mask):
        raise ValueError(f"mask={given!r}: give a mask, such as causal or Mask(lambda b, h, q, k: q >= k)")
    return given


# `k * 0 == 0` and not `True`: FlexAttention and broadcasting want a tensor
everything = Mask(lambda b, h, q, k: k * 0 == 0, "everything")
causal = Mask(lambda b, h, q, k: q >= k, "causal")
itself = Mask(lambda b, h, q, k: q == k, "itself")


def prefix(lengths: Int[Tensor, "B"]) -> Mask:
    """Causal, except that the first `lengths[b]` tokens of row b are visible to all its positions.

    This is the mask of a prefix language model.

    >>> prefix(torch.tensor([2])).visible(1, 1, torch.arange(4)[:, None], torch.arange(4))[0, 0].long()
    tensor([[1, 1, 0, 0],
            [1, 1, 0, 0],
            [1, 1, 1, 0],
            [1, 1, 1, 1]])
    """
    return causal | Mask(lambda b, h, q, k: k < lengths[b], "prefix")


def softmax(scores: Float[Tensor, "*B T S"]) -> Float[Tensor, "*B T S"]:
    """The default of the seam `normalize`.

    >>> softmax(torch.tensor([[1.0, 1.0, float("-inf")]]))
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    return scores.softmax(-1)


def unchanged(attn: Float[Tensor, "*B T S"], distance: Int[Tensor, "..."]) -> Float[Tensor, "*B T S"]:
    """The default of the seam `reweight`; `distance` is q_idx - kv_idx, broadcastable to `attn`.

    >>> attn = torch.eye(3)
    >>> unchanged(attn, torch.arange(3)[:, None] - torch.arange(3)) is attn
    True
    """
    return attn


def fused(
    attn: "Attention",
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H S D"],
    v: Float[Tensor, "B H S D"],
    mask: Mask,
    start: int,
) -> Float[Tensor, "B H T D"]:
    """The default kernel: torch's fused attention while the seams are at their defaults, else `explicit`.

    >>> q, k, v = torch.randn(3, 1, 2, 5, 4)  # (B, H, T, D) each
    >>> fused(Attention(dim=8, heads=2), q, k, v, causal, start=0).shape
    torch.Size([1, 2, 5, 4])
    """
    if attn.normalize is not softmax or attn.reweight is not unchanged:
        return explicit(attn, q, k, v, mask, start)
    T, S = q.shape[-2], k.shape[-2]
    p = attn.dropout if attn.training else 0.0
    if mask is everything or (mask is causal and T == 1):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p)
    if mask is causal and T == S:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
    visible = mask.visible(q.shape[0], q.shape[1], *_positions(T, S, start, q.device))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=p)


def explicit(
    attn: "Attention",
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H S D"],
    v: Float[Tensor, "B H S D"],
    mask: Mask,
    start: int,
) -> Float[Tensor, "B H T D"]:
    """The same function as `fused`, written out.

    >>> q, k, v = torch.randn(3, 1, 2, 5, 4)
    >>> y = explicit(Attention(dim=8, heads=2), q, k, v, causal, start=0)
    >>> torch.equal(y[:, :, 0], v[:, :, 0])  # the first token sees only itself
    True
    """
    q_idx, kv_idx = _positions(q.shape[-2], k.shape[-2], start, q.device)
    scores = q @ k.mT / sqrt(q.shape[-1])  # (B, H, T, S)
    visible = mask.visible(q.shape[0], q.shape[1], q_idx, kv_idx)
    weights = attn.normalize(scores.masked_fill(~visible, float("-inf")))
    weights = attn.reweight(weights, q_idx - kv_idx)
    return F.dropout(weights, attn.dropout, attn.training) @ v


def _positions(T: int, S: int, start: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of the queries (T, 1), counted from `start`, and of the keys (S,), which end with the last
    query.
    """
    end = start + T
    return torch.arange(start, end, device=device)[:, None], torch.arange(end - S, end, device=device)


def widen(x: Float[Tensor, "B G S D"], heads: int) -> Float[Tensor, "B H S D"]:
    """Keys or values of G heads, each repeated for H / G neighbouring heads of queries.

    >>> widen(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), heads=4).flatten()
    tensor([1., 1., 2., 2.])
    """
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


class Attention(nn.Module):
    """Multi-head attention over x (B, T, C): separate q, k, v projections, contiguous heads, D = C // H.

    ValueError when `heads` does not divide `dim`.

    >>> attention = Attention(dim=8, heads=2)
    >>> attention.mask = itself  # a seam: each token now sees only itself
    >>> attention(torch.randn(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(
                f"dim={dim} is not a multiple of heads={heads}; pick a number of heads that divides {dim}"
            )
        self.heads, self.width = heads, dim // heads
        self.dropout = dropout
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=bias) for _ in range(4))
        self.mask, self.normalize, self.reweight, self.kernel = everything, softmax, unchanged, fused
        self.keep: int | None = None  # old keys that a kernel asks a past for; None: all

    def split(self, x: Float[Tensor, "B T F"]) -> Float[Tensor, "B G T D"]:
        return x.unflatten(-1, (-1, self.width)).transpose(1, 2)

    def forward(
        self, x: Float[Tensor, "B T C"], mask: Mask = causal, past: Fresh = fresh
    ) -> Float[Tensor, "B T C"]:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        k, v = (widen(t, self.heads) for t in past.slot().extend(k, v, keep=self.keep))
        y = self.kernel(self, q, k, v, mask & self.mask, past.start)  # (B, H, T, D)
        return self.out(y.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        rest = {"mask": everything, "normalize": softmax, "reweight": unchanged, "kernel": fused}
        taken = [
            f"{seam}={getattr(self, seam)}"
            for seam, default in rest.items()
            if getattr(self, seam) is not default
        ]
        return ", ".join([f"heads={self.heads}", *taken])
