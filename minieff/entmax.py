"""Entmax: a softmax that gives exact zeros, with a learned sharpness for each attention head.

Correia, Niculae, Martins 2019, "Adaptively Sparse Transformers", arXiv 1909.00015; the mapping and its loss
are from Peters, Niculae, Martins 2019, arXiv 1905.05702. Of scores z, alpha-entmax makes the weights

    p_i = [(alpha - 1) z_i - tau]_+ ^ (1 / (alpha - 1)),   tau such that sum_i p_i = 1

alpha = 1, in the limit, is softmax; alpha = 2 is sparsemax (Martins, Astudillo 2016, arXiv 1602.02068). The
larger alpha, the fewer weights are above zero; one is left where the best score leads by 1 / (alpha - 1).
The threshold tau is found without sorting. For x = (alpha - 1) z and r = 1 / (alpha - 1) >= 1 the norm
N(tau) = |[x - tau]_+|_r is convex and falls: from tau = max x - 1, where N >= 1, Newton's method on N = 1
never oversteps, and needs 4 to 8 steps. Backward, with s_i = p_i ^ (2 - alpha) where p_i > 0, and else 0:

    dp_i / dz_j = s_i [i = j] - s_i s_j / sum s,     dp_i / dalpha = c_i - s_i sum c / sum s,
    c_i = (p_i - s_i) / (alpha - 1)^2 - p_i log p_i / (alpha - 1)

Saves: nothing by itself, since all scores are computed first; it gives weights that can be read, and heads
that differ. Costs: the explicit attention path, and many times the time of a softmax. By hand, in an
attention of your own:

    # in __init__, for an alpha of each head's own
    self.a = nn.Parameter(torch.zeros(4, 1, 1))
    # in forward, in place of scores.softmax(-1): scores (B, H, T, S), -inf where they are masked
    attn = entmax(scores, 1 + self.a.sigmoid())
"""

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minieff.core.attention import Attention, softmax
from minieff.core.data import SILENT
from minieff.core.surgery import Where, is_a, swap

STAGE = "seam"
IDEA = ("entmax",)

STEPS = 50  # at most; few are needed
TINY = 1e-30


def sparsemax(scores: Float[Tensor, "*B S"]) -> Float[Tensor, "*B S"]:
    """The point of the probability simplex that is nearest to `scores`: alpha = 2.

    >>> sparsemax(torch.tensor([-2.0, 0.0, 0.5]))
    tensor([0.0000, 0.2500, 0.7500])
    """
    return entmax(scores, 2.0)


def entmax15(scores: Float[Tensor, "*B S"]) -> Float[Tensor, "*B S"]:
    """alpha = 1.5, half-way between softmax and sparsemax.

    >>> entmax15(torch.tensor([-2.0, 0.0, 0.5]))
    tensor([0.0000, 0.3260, 0.6740])
    """
    return entmax(scores, 1.5)


def entmax(scores: Float[Tensor, "*B S"], alpha: float | Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Weights over the last dimension, with gradients with respect to `scores` and to a tensor `alpha`.

    `alpha` is a number, or a tensor with one for each row or group of rows: (H, 1, 1) for scores (B, H, T,
    S). A score of -inf gets no weight, and a row of them only zeros. float16 and bfloat16 are computed in
    float32. ValueError for scores that are no floats, empty rows, an alpha outside [1, 2], and one that
    differs along a row.

    >>> entmax(torch.tensor([[0.0, 0.5], [0.0, 0.5]]), torch.tensor([[1.0], [2.0]]))
    tensor([[0.3775, 0.6225],
            [0.2500, 0.7500]])
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        kind = getattr(scores, "dtype", type(scores))
        raise ValueError(f"scores of {kind}: give floats, as scores.float()")
    if 0 in (scores.dim(), *scores.shape[-1:]):
        raise ValueError(f"scores of shape {tuple(scores.shape)}: give rows of one or more")
    if not isinstance(alpha, Tensor | int | float):
        raise ValueError(f"alpha={alpha!r}: a number from 1, softmax, to 2, sparsemax, or a tensor of them")
    dtype = torch.promote_types(scores.dtype, torch.float32)
    alpha = torch.as_tensor(alpha, dtype=dtype, device=scores.device)
    if not ((alpha >= 1) & (alpha <= 2)).all():
        raise ValueError(f"alpha={alpha.tolist()}: it lies from 1, softmax, to 2, sparsemax")
    if alpha.dim() and alpha.shape[-1] != 1:
        raise ValueError(f"alpha of shape {tuple(alpha.shape)} differs along a row: give it (..., 1)")
    z = scores.to(dtype).expand(torch.broadcast_shapes(scores.shape, alpha.shape))
    return _Entmax.apply(z, alpha).to(scores.dtype)


class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, alpha: Tensor) -> Tensor:
        p = _solve(z, alpha)
        ctx.save_for_backward(p, alpha)
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        p, alpha = ctx.saved_tensors
        s, by_alpha = _slopes(p, alpha), None
        centred = grad - (s * grad).sum(-1, keepdim=True) / _total(s)
        if ctx.needs_input_grad[1]:
            by_alpha = (centred * _along_alpha(p, s, alpha)).sum_to_size(alpha.shape)
        return centred.mul_(s), by_alpha


def _solve(z: Tensor, alpha: Tensor) -> Tensor:
    """Newton's method for tau, which is counted from where the largest weight would be 1."""
    b, limits = _above_one(alpha), torch.finfo(z.dtype)
    x = (z - z.amax(-1, keepdim=True).clamp_min(limits.min)) * b  # -inf - -inf would be NaN
    tau, p, s = torch.zeros_like(x[..., :1]), torch.empty_like(x), torch.empty_like(x)
    for _ in range(STEPS):
        _fill(x, tau, alpha, p, s)
        mass = _total(p)
        # (N - 1) / -N' of the norm N = mass^b, which has N' = -mass^(b - 1) sum s
        further = tau - torch.expm1(-b * mass.log()) * mass / _total(s)
        if not (mass > 1 + 8 * limits.eps).any() or torch.equal(further, tau):  # as near as rounding allows
            break
        tau = further
    return p.div_(mass)


def _fill(x: Tensor, tau: Tensor, alpha: Tensor, p: Tensor, s: Tensor) -> None:
    """p = u^(1 / (alpha - 1)) and s = p / u, for u = [1 + x - tau]_+, with no new memory."""
    if alpha.dim() == 0 and alpha == 2.0:
        torch.sub(x, tau - 1, out=p).relu_()
        torch.sign(p, out=s)
    elif alpha.dim() == 0 and alpha == 1.5:
        torch.sub(x, tau - 1, out=s).relu_()
        torch.mul(s, s, out=p)
    else:
        # log1p keeps p exact as alpha nears 1; exp2 is as fast where it gives 0 as elsewhere, exp is not
        torch.sub(x, tau, out=s).clamp_min_(-1)
        torch.log1p(s, out=p).mul_(1 / (_above_one(alpha) * log(2))).exp2_()
        torch.div(p, s.add_(1).clamp_min_(TINY), out=s)


def _slopes(p: Tensor, alpha: Tensor) -> Tensor:
    """s = p^(2 - alpha), and 0 where p = 0."""
    if alpha.dim() == 0 and alpha == 2.0:
        return p.sign()
    if alpha.dim() == 0 and alpha == 1.5:
        return p.clamp_min(TINY).rsqrt_().mul_(p)  # sqrt is slow where it is asked for that of 0
    return p.pow(2 - alpha).mul_(p.sign())


def _along_alpha(p: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    """c. With a = -b log p it is -p (e^a - 1 - a) / b^2, a difference that cancels where a is small."""
    b = _above_one(alpha)
    a = -b * p.clamp_min(TINY).log()
    series = 1 / 2 + a * (1 / 6 + a * (1 / 24 + a * (1 / 120 + a * (1 / 720 + a / 5040))))
    return torch.where(a < 0.2, -p * a**2 * series, p - s + p * a) / b**2


def _above_one(alpha: Tensor) -> Tensor:
    """b = alpha - 1. Softmax, at 0, is replaced by the smallest step, which no rounding shows."""
    return (alpha - 1).clamp_min(torch.finfo(alpha.dtype).eps)


def _total(x: Tensor) -> Tensor:
    return x.sum(-1, keepdim=True).clamp_min(1)  # it is less only in a row that is masked as a whole


def loss(logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"], *, alpha: float) -> Float[Tensor, ""]:
    """The Fenchel-Young loss of entmax, as a mean over the targets that are not -100; 0 without any.

        -z_y + <p, z> + sum_j (p_j - p_j^alpha) / (alpha (alpha - 1)),   p = entmax(z),   gradient p - e_y

    At alpha = 1 it is cross-entropy; it is 0 where p is all on the target. ValueError for an alpha outside
    [1, 2], and for targets that are no words.

    >>> loss(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0]), alpha=2.0)
    tensor(0.1250)
    """
    if not isinstance(alpha, int | float):
        raise ValueError(f"alpha={alpha!r}: the loss takes one number, from 1, softmax, to 2, sparsemax")
    V, words = logits.shape[-1], isinstance(targets, Tensor) and targets.shape == logits.shape[:-1]
    words = words and not targets.is_floating_point()
    if not words or not ((targets == SILENT) | (targets >= 0) & (targets < V)).all():
        raise ValueError(f"targets={targets}: give {tuple(logits.shape[:-1])} integers below {V}, or -100")
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    z = z - z.detach().amax(-1, keepdim=True)  # cancels, for p sums to 1
    p, b = entmax(z.detach(), alpha), max(alpha - 1, torch.finfo(z.dtype).eps)
    entropy = -(p * torch.expm1(b * p.clamp_min(TINY).log())).sum(-1) / (b * alpha)
    rest = (p * z.masked_fill(p == 0, 0.0)).sum(-1) + entropy
    told = targets != SILENT
    total = F.nll_loss(z.reshape(-1, V), targets.flatten().long(), reduction="sum") + rest[told].sum()
    return total / told.sum().clamp(min=1)


class Entmax(nn.Module):
    """Attention weights (B, H, T, S) of scores, with a fixed alpha."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, scores: Float[Tensor, "*B T S"]) -> Float[Tensor, "*B T S"]:
        return entmax(scores, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class LearnedEntmax(nn.Module):
    """Attention weights (B, H, T, S) of scores, with alpha = 1 + sigmoid(a) for each head; a starts at 0."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(heads))

    @property
    def alpha(self) -> Float[Tensor, "H"]:
        return 1 + self.a.sigmoid()

    def forward(self, scores: Float[Tensor, "B H T S"]) -> Float[Tensor, "B H T S"]:
        return entmax(scores, self.alpha[:, None, None])

    def macs(self, inputs: tuple, output: Tensor) -> int:
        """Not counted, as softmax is not."""
        return 0

    def extra_repr(self) -> str:
        return f"alpha={[round(alpha, 2) for alpha in self.alpha.tolist()]}"


def apply(model: nn.Module, *, alpha: float | str = 1.5, where: Where = is_a(Attention)) -> nn.Module:
    """A copy with entmax in place of softmax in its attention; alpha = 1 changes nothing.

    `alpha` is a number from 1 to 2, or "learned": one for each head, which starts at 1.5. It holds the seam
    `normalize` of Attention: its forward says `attn = self.normalize(scores)`, and that is `softmax` by
    default. (In minieff, `adopt` brings it to nn.MultiheadAttention.) There is nothing to finalize.
    ValueError for another alpha, or where the seam is taken.

    >>> apply(Attention(8, 2), alpha="learned").normalize
    LearnedEntmax(alpha=[1.5, 1.5])
    """
    number = isinstance(alpha, int | float) and 1 <= alpha <= 2
    if not number and str(alpha) != "learned":
        raise ValueError(f'alpha={alpha!r}: a number from 1, softmax, to 2, sparsemax, or "learned"')

    def take(attention: nn.Module) -> nn.Module:
        if (seam := getattr(attention, "normalize", None)) is not softmax:
            raise ValueError(f"normalize={seam}: the seam is taken, or missing: use minieff.core.adopt first")
        device = next(attention.parameters()).device
        attention.normalize = Entmax(alpha) if number else LearnedEntmax(attention.heads).to(device)
        return attention

    return swap(model, where, take)
