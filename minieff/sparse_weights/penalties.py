"""Sparsity by a loss: a price on weights (L1), on rows or blocks (group L1), on the number of them (L0).

L1. A step along the gradient of price * |w| jumps over zero and back. The proximal step ends at zero exactly:

    w <- sign(w) max(|w| - t, 0)        for a group of weights: w <- w max(1 - t / ||w||, 0)

with t the learning rate times the price (Daubechies et al. 2004; groups: Yuan and Lin 2006). L0. Each unit
has a gate z from 0 to 1 that is 0 or 1 with a probability more than 0, yet has a gradient, the hard concrete
distribution:

    s = sigmoid((log u - log(1 - u) + log_alpha) / beta)        u uniform in (0, 1)
    z = clamp(s (zeta - gamma) + gamma, 0, 1)
    P(z > 0) = sigmoid(log_alpha - beta log(-gamma / zeta))

(Louizos, Welling and Kingma 2018, arXiv 1712.01312). The price is on the sum of P(z > 0), the expected number
of weights.
"""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minieff.core.draw import uniform
from minieff.sparse_weights.masks import norms, spread

BETA = 2 / 3
GAMMA = -0.1
ZETA = 1.1
SHIFT = BETA * log(-GAMMA / ZETA)
FURTHEST = log(100)  # of log_alpha from 0: beyond, a gate hardly moves any more


def soft_threshold(
    w: Float[Tensor, "R C"], threshold: float, unit: tuple[int, int] = (1, 1)
) -> Float[Tensor, "R C"]:
    """Each unit with its norm made smaller by `threshold`, to zero at least.

    >>> soft_threshold(torch.tensor([[3.0, -0.5, -2.0]]), 1.0)
    tensor([[ 2., -0., -1.]])
    >>> soft_threshold(torch.tensor([[3.0, 4.0]]), 2.5, (1, 2))  # a norm of 5 becomes 2.5
    tensor([[1.5000, 2.0000]])
    """
    size = norms(w, unit)
    factor = (size - threshold).clamp(min=0) / size.clamp(min=torch.finfo(w.dtype).tiny)
    return w * spread(factor, w.shape)


class Shrink(nn.Module):
    """A parametrization that changes nothing: it says what `project` does with the weight."""

    def __init__(self, price: float, pattern: str | int) -> None:
        super().__init__()
        self.price, self.pattern = price, pattern

    def forward(self, w: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        return w

    def extra_repr(self) -> str:
        return f"price={self.price}, pattern={self.pattern!r}"


def hard_concrete(
    log_alpha: Float[Tensor, "*n"], u: Float[Tensor, "*n"] | None = None
) -> Float[Tensor, "*n"]:
    """Gates from 0 to 1 for the random numbers `u`, uniform in [0, 1); None: those of eval mode.

    >>> hard_concrete(torch.tensor([-4.0, 0.0, 4.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    s = torch.sigmoid(log_alpha if u is None else (torch.logit(u) + log_alpha) / BETA)
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(log_alpha: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """P(z > 0).

    >>> open_probability(torch.zeros(1))
    tensor([0.8318])
    """
    return torch.sigmoid(log_alpha - SHIFT)


class Gate(nn.Module):
    """A parametrization: w times a gate per unit, drawn in each pass in train mode, fixed in eval mode.

    `log_alpha`, the same for all in the beginning, is learned with the weights. `size`: weights per gate.
    """

    def __init__(
        self,
        log_alpha: Float[Tensor, "r c"],
        size: int,
        price: float,
        pattern: str | int = "any",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(log_alpha)
        self.size, self.price, self.pattern, self.generator = size, price, pattern, generator

    def forward(self, w: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        u = None
        if self.training:
            u = uniform(self.log_alpha.shape, self.generator).to(self.log_alpha)
        return w * spread(hard_concrete(self.log_alpha, u), w.shape)

    def penalty(self) -> Float[Tensor, ""]:
        """The price of the expected number of weights that are not zero."""
        return self.price * self.size * open_probability(self.log_alpha).sum()

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return 0

    def extra_repr(self) -> str:
        return f"{self.log_alpha.numel()} gates of {self.size}, price={self.price}"
