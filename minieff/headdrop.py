"""Attention heads skipped at random in training: structured dropout, in smaller units than LayerDrop.

Fan, Grave, Joulin 2019, "Reducing Transformer Depth on Demand with Structured Dropout", arXiv 1909.11556: in
training the weights of each head are zero with probability p, without rescaling, so that a model can do
without some heads afterwards:

    attn[h] <- 0          with probability p
    attn[h] <- attn[h]    otherwise, and always in eval mode

Costs: the explicit attention path, which is slower than the fused one. Saves: nothing by itself, since a
head at zero is still computed; it could be cut out of the four matrices, which `finalize` does not do.
By hand, in an attention of your own:

    # in __init__
    self.skip = HeadSkip(p=0.1)
    # in forward, after the softmax: (B, H, T, S)
    attn = self.skip(attn)
"""

import torch
from torch import Tensor, nn

from minieff.core.attention import Attention, unchanged
from minieff.core.draw import uniform
from minieff.core.surgery import Where, clone, is_a, swap

STAGE = "seam"
IDEA = ("HeadSkip",)


class HeadSkip(nn.Module):
    """Sets the attention weights (B, H, T, S) of each head to zero with probability p, in training."""

    def __init__(self, p: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.p = p
        self.generator = generator

    def forward(self, attn: Tensor, distance: Tensor | None = None) -> Tensor:
        if not self.training:
            return attn
        stays = uniform(attn.shape[-3:-2], self.generator) >= self.p  # (H,)
        return attn * stays.to(attn)[:, None, None]

    def extra_repr(self) -> str:
        return f"p={self.p}"


def apply(
    model: nn.Module,
    *,
    p: float,
    where: Where = is_a(Attention),
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy in which each attention head is skipped with probability `p` in train mode; with p=0 none is.

    It takes the seam `reweight` of Attention, whose forward computes `attn = self.reweight(attn, distance)`
    after the softmax; the default is `unchanged`. (In minieff, `adopt` brings it to nn.MultiheadAttention.)
    ValueError when p is not a probability, or the seam is taken.

    >>> attention = Attention(8, 2)
    >>> apply(attention, p=0.1).reweight
    HeadSkip(p=0.1)
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p={p}: the probability of skipping a head is a number from 0 to 1")

    def coin(attention: nn.Module) -> nn.Module:
        if attention.reweight is not unchanged:
            raise ValueError(f"reweight={attention.reweight}: the seam is taken, and it fits one technique")
        attention.reweight = HeadSkip(p, generator)
        return attention

    return swap(model, where, coin)


def finalize(model: nn.Module) -> nn.Module:
    """A copy in eval mode without coins, back on the fused path. Equals `model` in eval mode.

    >>> finalize(apply(Attention(8, 2), p=0.1)).reweight is unchanged
    True
    """
    model = clone(model).eval()
    for module in model.modules():
        if isinstance(getattr(module, "reweight", None), HeadSkip):
            del module.reweight
            module.reweight = unchanged
    return model
