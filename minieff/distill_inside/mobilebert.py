"""MobileBERT's layer: narrow inside, outside as wide as its teacher, so that hidden states can be compared.

    h = norm(x W_in);   s = norm(x W_shared);   h <- norm(h + attention(q: s, k: s, v: x));
    h <- norm(h + feed(h)), several times;   x <- norm(x + h W_out)

(Sun et al. 2020, arXiv 2004.02984.) With the paper's sizes, 24 layers of width 512 with 128 inside, 4 heads,
4 feed-forward layers, an embedding of width 128 and a vocabulary of 30,522, it has 24,581,888 parameters.
`NoNorm` stands for LayerNorm, which takes long on phones: a scale and a shift per channel, no statistics.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minieff.core.attention import Attention, Mask, causal
from minieff.core.past import Fresh, fresh


class NoNorm(nn.Module):
    """x * weight + bias, for each channel.

    >>> NoNorm(8)(torch.ones(2, 8)).sum().item()
    16.0
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        return x * self.weight + self.bias


class Feed(nn.Module):
    """norm(x + down(relu(up(x))))."""

    def __init__(self, dim: int, ffn: int) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(dim, ffn), nn.Linear(ffn, dim), NoNorm(dim)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        return self.norm(x + self.down(self.up(x).relu()))


class BottleneckBlock(nn.Module):
    """A layer of width `dim` that works at the width `inner`; it takes the place of a `Block`.

    q and k come from one projection to the inner width, v from x itself.

    >>> BottleneckBlock(dim=64, inner=16, heads=2, ffn=32)(torch.randn(1, 5, 64)).shape
    torch.Size([1, 5, 64])
    """

    def __init__(
        self, dim: int = 512, inner: int = 128, heads: int = 4, ffn: int = 512, feeds: int = 4
    ) -> None:
        super().__init__()
        self.narrow, self.shared = (nn.Sequential(nn.Linear(dim, inner), NoNorm(inner)) for _ in range(2))
        self.attention, self.norm = Attention(inner, heads), NoNorm(inner)
        self.attention.v = nn.Linear(dim, inner)
        self.feeds = nn.Sequential(*(Feed(inner, ffn) for _ in range(feeds)))
        self.wide, self.wide_norm = nn.Linear(inner, dim), NoNorm(dim)

    def forward(
        self, x: Float[Tensor, "B T C"], mask: Mask = causal, past: Fresh = fresh
    ) -> Float[Tensor, "B T C"]:
        attn, s = self.attention, self.shared(x)
        q, k, v = attn.split(attn.q(s)), attn.split(attn.k(s)), attn.split(attn.v(x))
        k, v = past.slot().extend(k, v)
        y = attn.kernel(attn, q, k, v, mask & attn.mask, past.start)  # (B, H, T, D)
        h = self.norm(self.narrow(x) + attn.out(y.transpose(1, 2).flatten(2)))
        return self.wide_norm(x + self.wide(self.feeds(h)))


class TrigramEmbedding(nn.Module):
    """Token vectors of a small width; each token and its two neighbours together give one of width `dim`.

    Positions are added, and one of `types` vectors: the first, for a single text. It sees the next token, so
    it is for encoders alone.

    >>> TrigramEmbedding(vocab=50, context=16, width=8, dim=64)(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 64])
    """

    def __init__(self, vocab: int, context: int, width: int = 128, dim: int = 512, types: int = 2) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, width), nn.Embedding(context, dim)
        self.kind = nn.Embedding(types, dim)
        self.widen, self.norm = nn.Linear(3 * width, dim), NoNorm(dim)

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        if ids.dim() != 2 or ids.shape[1] > len(self.pos.weight):
            raise ValueError(
                f"ids {tuple(ids.shape)}: give (B, T), with T up to context={len(self.pos.weight)}"
            )
        x = F.pad(self.tok(ids), (0, 0, 1, 1))  # (B, T + 2, width)
        x = self.widen(torch.cat([x[:, 2:], x[:, 1:-1], x[:, :-2]], dim=-1))
        return self.norm(x + self.pos.weight[: ids.shape[1]] + self.kind.weight[0])
