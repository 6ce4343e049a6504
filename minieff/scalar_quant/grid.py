"""Numbers on a grid: neighbours share a scale s, and each becomes a small whole number q.

    symmetric   q = clamp(round(w / s), -m, m)              w_q = s q          m = 2^(bits - 1) - 1
    affine      q = clamp(round(w / s) + z, -m - 1, m)      w_q = s (q - z)    the range always holds 0
    binary      q = sign(w)                                 w_q = s q          s = mean |w|

(Nagel et al. 2021, arXiv 2106.08295; for binary Rastegari et al. 2016, arXiv 1603.05279: the mean is the best
scale, since there the derivative of sum (|w| - s)^2 is zero.) A number in range moves at most s / 2, and
s / sqrt(12) in root mean square if all places between two steps are equally likely. Scales are rounded up to
fp16 before codes are chosen, so that no code is clipped and each is the nearest one for the scale that is
stored. Numbers below about 1e-5 have coarse scales, since fp16 ends at 6e-8.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from minieff.core.storage import SMALLEST, in_fp16


def row_scale(x: Float[Tensor, "*B C"], qmax: int = 127) -> Float[Tensor, "*B 1"]:
    """The step between two codes, one per row: its largest number gets the largest code.

    >>> row_scale(torch.tensor([[1.0, -12.7], [0.5, 2.54]]))
    tensor([[0.1000],
            [0.0200]])
    """
    largest = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True)).float()
    return largest.clamp(min=SMALLEST) / qmax


def int8(
    x: Float[Tensor, "*B C"], scale: Float[Tensor, "*B 1"] | None = None
) -> tuple[Float[Tensor, "*B C"], Bool[Tensor, "*B C"]]:
    """x rounded to 255 steps, by default with one scale per row, and which numbers are in range.

    >>> int8(torch.tensor([[1.03, -12.7]]))[0]
    tensor([[  1.0000, -12.7000]])
    """
    scale = row_scale(x) if scale is None else scale
    q = (x / scale).round().clamp(-127, 127)
    return (scale * q).to(x), (x / scale - q).abs() <= 0.501


SPANS = ("minmax", "percentile", "mse")


@dataclass(frozen=True)
class Grid:
    """The values that numbers may take; by default those of `int8`, with scales in fp16.

    `bits` from 1 (binary) to 8; `group`, which numbers share a scale: "tensor", "row" (an output channel, or
    a token's vector), or how many neighbours in a row; `span`, the range that the codes cover: "minmax", all
    values; "percentile", all but the lowest and the highest percent; "mse", the share of minmax with the
    smallest mean squared error. ValueError for anything else.

    >>> affine = Grid(bits=4, symmetric=False)
    >>> affine.qmin, affine.qmax
    (-8, 7)
    """

    bits: int = 8
    symmetric: bool = True
    group: str | int = "row"
    span: str = "minmax"

    def __post_init__(self) -> None:
        if type(self.bits) is not int or not 1 <= self.bits <= 8:
            raise ValueError(f"bits={self.bits}: pick a whole number from 1 to 8")
        if self.bits == 1 and not self.symmetric:
            raise ValueError("bits=1 is a sign and a scale, without a zero point; take symmetric=True")
        if self.group not in ("tensor", "row") and not (type(self.group) is int and self.group > 0):
            raise ValueError(f"group={self.group!r}: 'tensor', 'row', or how many neighbours share a scale")
        if self.span not in SPANS:
            raise ValueError(f"span={self.span!r}: pick one of {', '.join(SPANS)}")

    @property
    def qmax(self) -> int:
        """The largest code."""
        return max(1, 2 ** (self.bits - 1) - 1)

    @property
    def qmin(self) -> int:
        """The smallest code."""
        return -self.qmax if self.symmetric else -self.qmax - 1

    def __call__(self, w: Float[Tensor, "R C"]) -> tuple[Float[Tensor, "R C"], Bool[Tensor, "R C"]]:
        """w on the grid, and which weights get a gradient: those in range, or all if binary."""
        w_q, in_range = snap(w, self)
        return w_q, in_range | (self.bits == 1)  # most binary weights are more than half a step away


def _grouped(w: Num[Tensor, "R C"], group: str | int) -> Float[Tensor, "r G n"]:
    """w as (rows, groups, numbers that share a scale). ValueError for a weight without numbers, with whole
    numbers, NaN or infinity, and for groups that do not fill a row.
    """
    if w.numel() == 0:
        raise ValueError(f"a weight of shape {tuple(w.shape)} has 0 numbers, so no scale; leave it out")
    if not w.is_floating_point():
        raise ValueError(f"weights of type {w.dtype} are whole numbers; give the floats they stand for")
    if not w.isfinite().all():
        raise ValueError("NaN or infinity among the weights, which no scale reaches; fix them first")
    if group == "tensor":
        return w.float().reshape(1, 1, -1)
    if group == "row":
        return w.float()[:, None]
    if w.shape[1] % group:
        raise ValueError(f"a row of {w.shape[1]} is not a multiple of group={group}; pick a divisor")
    return w.float().unflatten(1, (-1, group))


def _scale_and_zero(
    groups: Float[Tensor, "r G n"], grid: Grid
) -> tuple[Float[Tensor, "r G 1"], Float[Tensor, "r G 1"]]:
    """The step between two codes and the code of 0, for each group."""
    if grid.bits == 1:
        scale = in_fp16(groups.abs().mean(-1, keepdim=True))
        return scale, torch.zeros_like(scale)
    low, high = _ends(groups, grid)
    if grid.span != "mse":
        return _between(low, high, grid)
    shares = [share / 50 for share in range(50, 0, -1)]
    errors = []
    for share in shares:
        scale, zero = _between(share * low, share * high, grid)
        w_q = scale * (nearest_codes(groups, scale, zero, grid) - zero)
        errors.append((w_q - groups).square().sum(-1))
    best = torch.tensor(shares).to(groups)[torch.stack(errors).argmin(0)][..., None]
    return _between(best * low, best * high, grid)


def _ends(
    groups: Float[Tensor, "r G n"], grid: Grid
) -> tuple[Float[Tensor, "r G 1"], Float[Tensor, "r G 1"]]:
    """The lowest and highest value that codes cover; 0 always lies between."""
    out = groups.shape[-1] // 100 if grid.span == "percentile" else 0  # numbers left out at each end
    low = groups.kthvalue(out + 1, keepdim=True)[0]
    high = groups.kthvalue(groups.shape[-1] - out, keepdim=True)[0]
    return low.clamp(max=0), high.clamp(min=0)


def _between(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scale and zero of a grid from `low` to `high`."""
    reach = 2 * torch.maximum(-low, high) if grid.symmetric else high - low
    scale = in_fp16(reach / (grid.qmax - grid.qmin))
    if grid.symmetric:
        return scale, torch.zeros_like(scale)
    return scale, (grid.qmin - low / scale).round().clamp(grid.qmin, grid.qmax)


def nearest_codes(w: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """The nearest codes, still as floats. 0 has a code of its own, except in binary.

    >>> w, scale = torch.tensor([0.24, -0.9]), torch.tensor(0.1)
    >>> nearest_codes(w, scale, torch.tensor(0.0), Grid(bits=4))
    tensor([ 2., -7.])
    """
    if grid.bits == 1:
        return torch.where(w < 0, -1.0, 1.0).to(w)
    return ((w / scale).round() + zero).clamp(grid.qmin, grid.qmax)


def quantize(
    w: Num[Tensor, "R C"], grid: Grid
) -> tuple[Float[Tensor, "R C"], Float[Tensor, "r G"], Float[Tensor, "r G"]]:
    """Codes, scales and codes of 0, as floats with the values that are stored; r is 1 for group="tensor".

    ValueError for a weight without numbers, with whole numbers, NaN or infinity, for groups that do not fill
    a row, and for a scale beyond fp16.

    >>> codes, scale, zero = quantize(torch.tensor([[0.5, -3.5, 1.9]]), Grid(bits=4))
    >>> codes, scale
    (tensor([[ 1., -7.,  4.]]), tensor([[0.5000]]))
    """
    groups = _grouped(w, grid.group)
    scale, zero = _scale_and_zero(groups, grid)
    return nearest_codes(groups, scale, zero, grid).view(w.shape), scale[..., 0], zero[..., 0]


def dequantize(
    q: Float[Tensor, "R C"], scale: Float[Tensor, "r G"], zero: Float[Tensor, "r G"]
) -> Float[Tensor, "R C"]:
    """scale (q - zero). A scale serves C / G neighbours; one row of scales serves all rows.

    >>> dequantize(torch.tensor([[1.0, -7.0]]), torch.tensor([[0.5]]), torch.tensor([[0.0]]))
    tensor([[ 0.5000, -3.5000]])
    """
    return (scale[..., None] * (q.unflatten(1, (scale.shape[1], -1)) - zero[..., None])).flatten(1)


def snap(w: Float[Tensor, "R C"], grid: Grid) -> tuple[Float[Tensor, "R C"], Bool[Tensor, "R C"]]:
    """w rounded to its grid, and which weights are in range: at most half a step away.

    >>> snap(torch.tensor([[0.6, -3.5, 1.9]]), Grid(bits=4))[0]
    tensor([[ 0.5000, -3.5000,  2.0000]])
    """
    groups = _grouped(w, grid.group)
    scale, zero = _scale_and_zero(groups, grid)
    q = nearest_codes(groups, scale, zero, grid)
    in_range = (groups / scale + zero - q).abs() <= 0.501
    return (scale * (q - zero)).view(w.shape).to(w), in_range.view(w.shape)
