"""Numbers on a grid: neighbours share a scale s, and each becomes a small whole number q.

    symmetric   q = clamp(round(w / s), -m, m)              w_q = s q          m = 2^(bits - 1) - 1
    affine      q = clamp(round(w / s) + z, -m - 1, m)      w_q = s (q - z)    the range always holds 0
    binary      q = sign(w)                                 w_q = s q          s = mean |w|

A number in range moves by s / 2 at most, and by s / sqrt(12) in the root of the mean square if every place
between two steps is as likely as any other. For binary the mean is the best scale: there the derivative of
sum (|w| - s)^2 is zero. Scales are rounded to fp16 before codes are chosen, so that the codes are the nearest
ones for the scale that is stored. (All but the last point: Nagel et al. 2021, arXiv 2106.08295.)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int8, UInt8
from torch import Tensor, nn

SPANS = ("minmax", "percentile", "least_squares")
SMALLEST = 2.0**-24  # the least positive number of fp16: a smaller scale would be stored as 0
LARGEST = 65504.0


@dataclass(frozen=True)
class Grid:
    """Which values numbers may take.

    `bits` from 1 (binary) to 8; `group`, the numbers that share a scale: "tensor", "row" (an output channel,
    or a token's vector), or how many neighbours in a row; `span`, the range that the codes cover: "minmax",
    all values; "percentile", all but the lowest and the highest 0.1 percent; "least_squares", that share of
    minmax that has the least squared error. ValueError for anything else.
    """

    bits: int = 8
    symmetric: bool = True
    group: str | int = "row"
    span: str = "minmax"

    def __post_init__(self) -> None:
        if self.bits not in range(1, 9):
            raise ValueError(f"bits={self.bits}: from 1 to 8")
        if self.bits == 1 and not self.symmetric:
            raise ValueError("bits=1 is a sign and a scale, without a zero point; take symmetric=True")
        if self.group not in ("tensor", "row") and not (isinstance(self.group, int) and self.group > 0):
            raise ValueError(f"group={self.group!r}: 'tensor', 'row', or how many neighbours share a scale")
        if self.span not in SPANS:
            raise ValueError(f"span={self.span!r}: one of {', '.join(SPANS)}")

    @property
    def high(self) -> int:
        """The greatest code."""
        return max(1, 2 ** (self.bits - 1) - 1)

    @property
    def low(self) -> int:
        """The least code."""
        return -self.high if self.symmetric else -self.high - 1


def grouped(w: Float[Tensor, "R C"], group: str | int) -> Float[Tensor, "r G n"]:
    """(rows, groups, numbers that share a scale). ValueError when groups do not fill a row."""
    if group == "tensor":
        return w.reshape(1, 1, -1)
    if group == "row":
        return w[:, None]
    if w.shape[1] % group:
        raise ValueError(f"a row of {w.shape[1]} is no multiple of group={group}; pick a divisor")
    return w.unflatten(1, (-1, group))


def spread(w: Float[Tensor, "r G n"], grid: Grid) -> tuple[Float[Tensor, "r G 1"], Float[Tensor, "r G 1"]]:
    """(low, high): the values between which the codes lie, 0 among them."""
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    if grid.span == "percentile":
        low, high = w.quantile(0.001, -1, keepdim=True), w.quantile(0.999, -1, keepdim=True)
    low, high = low.clamp(max=0), high.clamp(min=0)
    if grid.span != "least_squares" or grid.bits == 1:
        return low, high
    shares = [share / 50 for share in range(50, 0, -1)]
    errors = [
        (rounded(w, *steps(share * low, share * high, grid), grid) - w).square().sum(-1) for share in shares
    ]
    best = torch.tensor(shares).to(w)[torch.stack(errors).argmin(0)][..., None]
    return best * low, best * high


def steps(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The scale between two codes, as fp16 holds it, and the code of 0."""
    reach = 2 * torch.maximum(-low, high) if grid.symmetric else high - low
    scale = (reach / (grid.high - grid.low)).clamp(SMALLEST, LARGEST).half().to(low)
    if grid.symmetric:
        return scale, torch.zeros_like(scale)
    return scale, (grid.low - low / scale).round().clamp(grid.low, grid.high)


def rounded(w: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    return scale * (codes(w, scale, zero, grid) - zero)


def codes(w: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """The nearest codes, still as floats. 0 has a code of its own, except in binary."""
    if grid.bits == 1:
        return torch.where(w < 0, -1.0, 1.0).to(w)
    return ((w / scale).round() + zero).clamp(grid.low, grid.high)


def fit(groups: Float[Tensor, "r G n"], grid: Grid) -> tuple[Float[Tensor, "r G 1"], Float[Tensor, "r G 1"]]:
    """The scale and the code of 0 of each group. ValueError for NaN or infinity."""
    if not groups.isfinite().all():
        raise ValueError("NaN or infinity among the weights: no scale reaches it; mend the weights first")
    if grid.bits > 1:
        return steps(*spread(groups, grid), grid)
    scale = groups.abs().mean(-1, keepdim=True).clamp(SMALLEST, LARGEST).half().to(groups)
    return scale, torch.zeros_like(scale)


def quantize(
    w: Float[Tensor, "R C"], grid: Grid
) -> tuple[Float[Tensor, "R C"], Float[Tensor, "r G"], Float[Tensor, "r G"]]:
    """Codes, scales and codes of 0, as floats with the values that are stored; r is 1 for group="tensor".

    ValueError for NaN or infinity.
    """
    groups = grouped(w.float(), grid.group)
    scale, zero = fit(groups, grid)
    return codes(groups, scale, zero, grid).view(w.shape), scale[..., 0], zero[..., 0]


def snap(w: Float[Tensor, "R C"], grid: Grid) -> tuple[Float[Tensor, "R C"], Bool[Tensor, "R C"]]:
    """w on its grid, and which weights are in range: no further than half a step from it."""
    groups = grouped(w.float(), grid.group)
    scale, zero = fit(groups, grid)
    q = codes(groups, scale, zero, grid)
    inside = (groups / scale + zero - q).abs() <= 0.5
    return (scale * (q - zero)).view(w.shape).to(w), inside.view(w.shape)


def dequantize(
    q: Float[Tensor, "R C"], scale: Float[Tensor, "r G"], zero: Float[Tensor, "r G"]
) -> Float[Tensor, "R C"]:
    """scale (q - zero). A scale serves C / G neighbours; one row of scales serves all rows."""
    return (scale[..., None] * (q.unflatten(1, (scale.shape[1], -1)) - zero[..., None])).flatten(1)


class Packed(nn.Module):
    """A weight (R, C) as it is stored: codes of 8, 4, 2 or 1 bits, the fewest that hold them; fp16 scales."""

    def __init__(self, w: Float[Tensor, "R C"], grid: Grid) -> None:
        super().__init__()
        q, scale, zero = quantize(w, grid)
        self.grid, self.shape = grid, tuple(w.shape)
        self.width = next(n for n in (1, 2, 4, 8) if n >= grid.bits)
        self.register_buffer("codes", self._pack(q))
        self.register_buffer("scale", scale.half())
        self.register_buffer("zero", None if grid.symmetric else zero.to(torch.int8))

    def _pack(self, q: Float[Tensor, "R C"]) -> Tensor:
        """8 / width codes a byte, the first in the lowest bits; the last byte of a row is filled up."""
        if self.width == 8:
            return q.to(torch.int8)
        level = (q > 0 if self.grid.bits == 1 else q - self.grid.low).to(torch.uint8)
        level = F.pad(level, (0, -q.shape[1] % (8 // self.width))).unflatten(1, (-1, 8 // self.width))
        return (level << self._shifts()).sum(-1, dtype=torch.uint8)

    def _shifts(self) -> UInt8[Tensor, "n"]:
        return torch.arange(0, 8, self.width, dtype=torch.uint8)

    def integers(self, rows: Tensor | slice = slice(None)) -> Int8[Tensor, "r C"]:
        """The codes of some rows, a byte each."""
        packed = self.codes[rows]
        if self.width == 8:
            return packed
        level = (packed[..., None] >> self._shifts().to(packed.device)) & (2**self.width - 1)
        level = level.flatten(1)[:, : self.shape[1]].to(torch.int8)
        return 2 * level - 1 if self.grid.bits == 1 else level + self.grid.low

    def dense(self, rows: Tensor | slice = slice(None)) -> Float[Tensor, "r C"]:
        """Some rows as numbers again."""
        zero = torch.zeros_like(self.scale) if self.zero is None else self.zero
        scale, zero = (t.float() if len(t) == 1 else t[rows].float() for t in (self.scale, zero))
        return dequantize(self.integers(rows).float(), scale, zero)
