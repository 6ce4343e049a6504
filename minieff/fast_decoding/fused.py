"""A model laid out for decoding, where one token a pass leaves more time to the calls than to the sums.

Of each block q, k and v are one product, and weights are transposed once; in the loop over the layers no
module is called. The function is that of the model, up to rounding.
"""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minieff.core.attention import Attention, Mask, causal, everything, fused, softmax, unchanged
from minieff.core.past import Fresh, fresh
from minieff.core.transformer import Block, FeedForward, Residual, Stack, TokenEmbedding, Transformer

PARTS = {
    "": Block, "mix": Residual, "mix.norm": nn.LayerNorm, "mix.inner": Attention,
    "mix.inner.q": nn.Linear, "mix.inner.k": nn.Linear, "mix.inner.v": nn.Linear, "mix.inner.out": nn.Linear,
    "feed": Residual, "feed.norm": nn.LayerNorm, "feed.inner": FeedForward,
    "feed.inner.up": nn.Linear, "feed.inner.down": nn.Linear,
}  # fmt: skip


class Norm(NamedTuple):
    """A LayerNorm's weights."""

    shape: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    eps: float


class Product(NamedTuple):
    """A linear's weights for `torch.addmm`: bias (out,) and weight (in, out)."""

    bias: Tensor
    weight: Tensor


class Layer(NamedTuple):
    """A block's weights; `qkv` holds q, k and v side by side."""

    heads: int
    width: int
    norm: Norm
    qkv: Product
    out: Product
    norm_feed: Norm
    up: Product
    down: Product


class Fused:
    """ids (B, T) -> logits (B, T, V), called like the model it came from. It has no parameters to train.

    >>> from minieff.core.transformer import Config
    >>> model = Transformer(Config(vocab=50, context=16, layers=3, heads=2, dim=8))
    >>> fuse(model).keep([0, 2])
    Fused(layers=2, dim=8)
    """

    def __init__(self, model: Transformer) -> None:
        layers = {block: _layer(f"blocks.layers.{i}", block) for i, block in enumerate(model.blocks.layers)}
        self.config = model.config
        self.layers = [layers[block] for block in model.blocks.layers]  # a shared block is laid out once
        self.tok, self.pos = model.tok.weight.detach().clone(), model.pos.weight.detach().clone()
        self.norm = _norm(model.norm)

    def __repr__(self) -> str:
        return f"Fused(layers={len(self.layers)}, dim={self.config.dim})"

    def keep(self, layers: list[int]) -> "Fused":
        """These layers alone, with the same tensors: a draft for `speculate` that takes no more memory.

        ValueError for layers that are not there.
        """
        L = len(self.layers)
        if type(layers) is not list or not layers or not all(type(i) is int and 0 <= i < L for i in layers):
            raise ValueError(f"keep({layers!r}): give a list of layer numbers from 0 to {L - 1}")
        kept = copy.copy(self)
        kept.layers = [self.layers[i] for i in layers]
        return kept

    def __call__(
        self, ids: Int[Tensor, "B T"], mask: Mask = causal, past: Fresh = fresh
    ) -> Float[Tensor, "B T V"]:
        x = self.embed(ids, past.length)  # raises before the past remembers ids that do not fit
        past.begin(ids)
        B, T = ids.shape
        seen = self.visible(B, T, past.start, mask)
        for heads, width, norm, qkv, out, norm_feed, up, down in self.layers:
            y = torch.addmm(qkv.bias, F.layer_norm(x, *norm), qkv.weight).view(B, T, -1, width)
            q, kv = y.transpose(1, 2).tensor_split((heads,), dim=1)  # (B, H, T, D), (B, 2 G, T, D)
            (kv,) = past.slot().extend(kv)  # one tensor and one copy for both
            k, v = kv.chunk(2, dim=1)
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=k.shape[1] < heads, **seen)
            x += torch.addmm(out.bias, y.transpose(1, 2).reshape(B * T, -1), out.weight)
            y = F.gelu(torch.addmm(up.bias, F.layer_norm(x, *norm_feed), up.weight), approximate="tanh")
            x += torch.addmm(down.bias, y, down.weight)
        return F.linear(F.layer_norm(x, *self.norm), self.tok).view(B, T, -1)

    def embed(self, ids: Int[Tensor, "B T"], start: int) -> Float[Tensor, "N C"]:
        """Token and position vectors, B * T rows. ValueError as for the model."""
        if ids.dim() != 2 or ids.is_floating_point():
            raise ValueError(
                f"ids {tuple(ids.shape)} of {ids.dtype}; give integers (B, T), for one row ids[None]"
            )
        end = start + ids.shape[1]
        if end > self.config.context:
            raise ValueError(f"{end} tokens are more than this model's context={self.config.context}")
        try:
            return (F.embedding(ids, self.tok) + self.pos[start:end]).flatten(0, 1)
        except IndexError:
            raise ValueError(
                f"ids from {ids.min()} to {ids.max()}, but the vocabulary is 0 to {self.config.vocab - 1}"
            ) from None

    def visible(self, B: int, T: int, start: int, mask: Mask) -> dict:
        """What tells torch's attention who may see whom: the same in all layers."""
        if mask is everything or (mask is causal and T == 1):
            return {}
        if mask is causal and start == 0:
            return {"is_causal": True}
        positions = torch.arange(start + T, device=self.tok.device)
        return {"attn_mask": mask.visible(B, self.config.heads, positions[start:, None], positions)}


def fuse(model: Transformer) -> Fused:
    """The model laid out for decoding, with weights of its own: same logits up to rounding, no dropout.

    ValueError for a model with parts that it does not know: techniques first, then their `finalize`, and of
    those only what leaves plain blocks, such as pruned, shared or grouped ones.

    >>> from minieff.core.transformer import Config
    >>> model = Transformer(Config(vocab=50, context=16, layers=2, heads=2, dim=8)).eval()
    >>> ids = torch.randint(50, (1, 9))
    >>> torch.allclose(fuse(model)(ids), model(ids), atol=1e-5)
    True
    """
    root = {
        "": Transformer,
        "tok": TokenEmbedding,
        "pos": nn.Embedding,
        "blocks": Stack,
        "norm": nn.LayerNorm,
    }
    _refuse_others("", model, root)
    return Fused(model)


def _refuse_others(name: str, module: nn.Module, kinds: dict[str, type]) -> None:
    for part, kind in kinds.items():
        found = module.get_submodule(part)
        if type(found) is not kind:
            raise ValueError(
                f"{'.'.join(filter(None, (name, part))) or 'the root'} is a {type(found).__name__}, and fuse "
                f"knows a plain {kind.__name__} there; finalize the model first, or generate with it as it is"
            )


def _layer(name: str, block: nn.Module) -> Layer:
    """The weights of a plain block."""
    _refuse_others(name, block, PARTS)
    attn, feed = block.mix.inner, block.feed.inner
    seams = {"mask": everything, "normalize": softmax, "reweight": unchanged, "kernel": fused}
    for seam, default in seams.items():
        if getattr(attn, seam) is not default:
            raise ValueError(
                f"{name}.mix.inner has {seam}={getattr(attn, seam)}, and fuse knows {default} alone; "
                "generate with the model as it is"
            )
    norms, linears = (_norm(block.mix.norm), _norm(block.feed.norm)), (attn.out, feed.up, feed.down)
    out, up, down = (_product(linear) for linear in linears)
    return Layer(attn.heads, attn.width, norms[0], _product(attn.q, attn.k, attn.v), out, norms[1], up, down)


def _norm(norm: nn.LayerNorm) -> Norm:
    return Norm(norm.normalized_shape, norm.weight.detach().clone(), norm.bias.detach().clone(), norm.eps)


def _product(*linears: nn.Linear) -> Product:
    """Linears with one input, side by side."""
    weight = torch.cat([linear.weight.detach() for linear in linears]).T.contiguous()
    biases = [
        torch.zeros(linear.out_features).to(weight) if linear.bias is None else linear.bias.detach()
        for linear in linears
    ]
    return Product(torch.cat(biases), weight)
