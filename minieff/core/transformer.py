"""The one architecture: GPT-2's function (Radford et al. 2019), pre-norm, learned positions, tanh GELU.

    x = tok[ids] + pos;   for each block: x += mix(norm(x)), x += feed(norm(x));   logits = norm(x) tok^T

The head *is* the embedding: there is nothing to tie and nothing stored twice. A forward pass knows two values
besides x: `mask`, who may see whom, and `past`, what came before. Parameters: V C + context C + L (12 C^2 +
13 C) + 2 C with a feed-forward width of 4 C; MACs per token: L (12 C^2 + 2 S C) + V C.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minieff.core.attention import Attention, Mask, as_mask, causal
from minieff.core.past import Fresh, fresh


@dataclass(frozen=True)
class Config:
    """Sizes of a Transformer; `context` is its longest sequence, `ffn` its inner width (None: 4 dim).

    >>> Config(vocab=2048, context=128, layers=8, heads=4, dim=128).ffn
    512
    """

    vocab: int
    context: int
    layers: int
    heads: int
    dim: int
    ffn: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.ffn is None:
            object.__setattr__(self, "ffn", 4 * self.dim)
        for field in ("vocab", "context", "layers", "heads", "dim", "ffn"):
            value = getattr(self, field)
            if type(value) is not int or value < 1:
                raise ValueError(f"{field}={value!r}: sizes are integers of at least 1")
        if self.dim % self.heads:
            raise ValueError(
                f"dim={self.dim} is not a multiple of heads={self.heads}; "
                f"pick a number of heads that divides {self.dim}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: a probability of at least 0 and less than 1")


class FeedForward(nn.Module):
    """Two linears with a GELU between, on each position by itself: mask and past are ignored."""

    def __init__(self, dim: int, ffn: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dim, ffn), nn.Linear(ffn, dim)

    def forward(
        self, x: Float[Tensor, "B T C"], mask: Mask = causal, past: Fresh = fresh
    ) -> Float[Tensor, "B T C"]:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Residual(nn.Module):
    """x + inner(norm(x)): a sub-layer that can be dropped, which leaves x."""

    def __init__(self, norm: nn.Module, inner: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm, self.inner, self.dropout = norm, inner, dropout

    def forward(
        self, x: Float[Tensor, "B T C"], mask: Mask = causal, past: Fresh = fresh
    ) -> Float[Tensor, "B T C"]:
        return x + F.dropout(self.inner(self.norm(x), mask, past), self.dropout, self.training)


class Block(nn.Module):
    """One layer: a mixer of positions, then a feed-forward, each with its residual connection."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, p = config.dim, config.dropout
        self.mix = Residual(nn.LayerNorm(dim), Attention(dim, config.heads, p), p)
        self.feed = Residual(nn.LayerNorm(dim), FeedForward(dim, config.ffn), p)

    def forward(
        self, x: Float[Tensor, "B T C"], mask: Mask = causal, past: Fresh = fresh
    ) -> Float[Tensor, "B T C"]:
        return self.feed(self.mix(x, mask, past), mask, past)


class Stack(nn.Module):
    """Blocks in order. What changes their order, number or timing replaces this module."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: Float[Tensor, "B T C"], mask: Mask = causal, past: Fresh = fresh
    ) -> Float[Tensor, "B T C"]:
        for layer in self.layers:
            x = layer(x, mask, past)
        return x


class TokenEmbedding(nn.Embedding):
    """One vector per token; as the head, the dot product of x with each of them."""

    def logits(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T V"]:
        return F.linear(x, self.weight)


class Transformer(nn.Module):
    """ids (B, T) -> logits (B, T, V). Weights are initialized as in GPT-2, from torch's global generator.

    >>> model = Transformer(Config(vocab=50, context=16, layers=2, heads=2, dim=8))
    >>> model(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 50])
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.tok = TokenEmbedding(config.vocab, config.dim)
        self.pos = nn.Embedding(config.context, config.dim)
        self.blocks = Stack(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self._start()

    def _start(self) -> None:
        """N(0, 0.02) and zero biases; projections into the residual have their std divided by sqrt(2 L)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                into_residual = name.endswith((".out", ".down"))
                nn.init.normal_(
                    module.weight, std=0.02 / sqrt(2 * self.config.layers) if into_residual else 0.02
                )
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def embed(self, ids: Int[Tensor, "B T"], start: int) -> Float[Tensor, "B T C"]:
        """Token and position vectors. ValueError for an id outside the vocabulary or a sequence beyond the
        context.
        """
        end = start + ids.shape[1]
        if end > self.config.context:
            raise ValueError(
                f"{end} tokens are more than this model's context={self.config.context}; "
                "shorten the sequence, or train with a longer context"
            )
        try:
            x = self.tok(ids)
        except IndexError:
            raise ValueError(
                f"ids from {ids.min()} to {ids.max()}, but the vocabulary is 0 to {self.config.vocab - 1}; "
                "encode the text with the tokenizer this model was trained with"
            ) from None
        x = x + self.pos(torch.arange(start, end, device=ids.device))
        return F.dropout(x, self.config.dropout, self.training)

    def forward(
        self, ids: Int[Tensor, "B T"], mask: Mask = causal, past: Fresh = fresh
    ) -> Float[Tensor, "B T V"]:
        if ids.dim() != 2 or ids.is_floating_point():
            raise ValueError(
                f"ids of shape {tuple(ids.shape)} and type {ids.dtype}; give integers of shape (B, T); "
                "for a single sequence, ids[None]"
            )
        as_mask(mask)
        x = self.embed(ids, past.length)  # raises before the past remembers ids that do not fit
        past.begin(ids)
        x = self.blocks(x, mask, past)
        return self.tok.logits(self.norm(x))
