"""Numbers on a grid: neighbours share a scale s, and each becomes a small whole number q.

    symmetric   q = clamp(round(w / s), -m, m)              w_q = s q          m = 2^(bits - 1) - 1
    affine      q = clamp(round(w / s) + z, -m - 1, m)      w_q = s (q - z)    the range always holds 0
    binary      q = sign(w)                                 w_q = s q          s = mean |w|

(Nagel et al. 2021, arXiv 2106.08295; for binary Rastegari et al. 2016, arXiv 1603.05279: the mean is the best
scale, for there the derivative of sum (|w| - s)^2 is zero.) A number in range moves by s / 2 at most, and by
s / sqrt(12) in the root of the mean square if every place between two steps is as likely as any other. Scales
are rounded up to fp16 before codes are chosen: so no code is cut off, and codes are the nearest ones for the
scale that is stored. Numbers below 1e-5 or so have coarse scales, for fp16 ends at 6e-8.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int8, Num, UInt8
from torch import Tensor, nn

SPANS = ("minmax", "percentile", "least_squares")
SMALLEST = 2.0**-24  # the least positive number of fp16: a smaller scale would be stored as 0
LARGEST = 65504.0


@dataclass(frozen=True)
class Grid:
    """Which values numbers may take.

    `bits` from 1 (binary) to 8; `group`, the numbers that share a scale: "tensor", "row" (an output channel,
    or a token's vector), or how many neighbours in a row; `span`, the range that the codes cover: "minmax",
    all values; "percentile", all but the lowest and the highest percent; "least_squares", that share of
    minmax that has the least squared error. ValueError for anything else.
    """

    bits: int = 8
    symmetric: bool = True
    group: str | int = "row"
    span: str = "minmax"

    def __post_init__(self) -> None:
        if type(self.bits) is not int or not 1 <= self.bits <= 8:
            raise ValueError(f"bits={self.bits}: a whole number from 1 to 8")
        if self.bits == 1 and not self.symmetric:
            raise ValueError("bits=1 is a sign and a scale, without a zero point; take symmetric=True")
        if self.group not in ("tensor", "row") and not (type(self.group) is int and self.group > 0):
            raise ValueError(f"group={self.group!r}: 'tensor', 'row', or how many neighbours share a scale")
        if self.span not in SPANS:
            raise ValueError(f"span={self.span!r}: one of {', '.join(SPANS)}")

    @property
    def greatest(self) -> int:
        """The greatest code."""
        return max(1, 2 ** (self.bits - 1) - 1)

    @property
    def least(self) -> int:
        """The least code."""
        return -self.greatest if self.symmetric else -self.greatest - 1


def grouped(w: Num[Tensor, "R C"], group: str | int) -> Float[Tensor, "r G n"]:
    """(rows, groups, numbers that share a scale). ValueError for none or whole numbers, NaN, infinity, and
    when groups do not fill a row.
    """
    if w.numel() == 0:
        raise ValueError(f"a weight of shape {tuple(w.shape)} has 0 numbers, and no scale; leave it out")
    if not w.is_floating_point():
        raise ValueError(f"weights of type {w.dtype} are whole numbers already: give what they stand for")
    if not w.isfinite().all():
        raise ValueError("NaN or infinity among the weights: no scale reaches it; mend the weights first")
    if group == "tensor":
        return w.float().reshape(1, 1, -1)
    if group == "row":
        return w.float()[:, None]
    if w.shape[1] % group:
        raise ValueError(f"a row of {w.shape[1]} is no multiple of group={group}; pick a divisor")
    return w.float().unflatten(1, (-1, group))


def scale_and_zero(
    groups: Float[Tensor, "r G n"], grid: Grid
) -> tuple[Float[Tensor, "r G 1"], Float[Tensor, "r G 1"]]:
    """The step between two codes and the code of 0, for each group."""
    if grid.bits == 1:
        scale = in_fp16(groups.abs().mean(-1, keepdim=True))
        return scale, torch.zeros_like(scale)
    low, high = ends(groups, grid)
    if grid.span != "least_squares":
        return between(low, high, grid)
    shares = [share / 50 for share in range(50, 0, -1)]
    errors = []
    for share in shares:
        scale, zero = between(share * low, share * high, grid)
        w_q = scale * (nearest_codes(groups, scale, zero, grid) - zero)
        errors.append((w_q - groups).square().sum(-1))
    best = torch.tensor(shares).to(groups)[torch.stack(errors).argmin(0)][..., None]
    return between(best * low, best * high, grid)


def ends(groups: Float[Tensor, "r G n"], grid: Grid) -> tuple[Float[Tensor, "r G 1"], Float[Tensor, "r G 1"]]:
    """The values between which the codes lie, 0 among them."""
    out = groups.shape[-1] // 100 if grid.span == "percentile" else 0  # how many are left out at each end
    low, high = (
        groups.kthvalue(out + 1, keepdim=True)[0],
        groups.kthvalue(groups.shape[-1] - out, keepdim=True)[0],
    )
    return low.clamp(max=0), high.clamp(min=0)


def between(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scale and zero of a grid from `low` to `high`."""
    reach = 2 * torch.maximum(-low, high) if grid.symmetric else high - low
    scale = in_fp16(reach / (grid.greatest - grid.least))
    if grid.symmetric:
        return scale, torch.zeros_like(scale)
    return scale, (grid.least - low / scale).round().clamp(grid.least, grid.greatest)


def in_fp16(scale: Float[Tensor, "*g"]) -> Float[Tensor, "*g"]:
    """The next number that fp16 holds, from `scale` upwards. ValueError beyond the last one."""
    if scale.numel() and scale.max() > LARGEST:
        raise ValueError(
            f"a scale of {scale.max():g} is beyond fp16, which ends at {LARGEST:g}; scale the weights"
        )
    half = scale.clamp(min=SMALLEST).half()
    above = (half.view(torch.int16) + 1).view(torch.float16)  # of positive numbers, the next
    return torch.where(half.float() < scale, above, half).to(scale)


def nearest_codes(w: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """Still as floats. 0 has a code of its own, except in binary."""
    if grid.bits == 1:
        return torch.where(w < 0, -1.0, 1.0).to(w)
    return ((w / scale).round() + zero).clamp(grid.least, grid.greatest)


def quantize(
    w: Num[Tensor, "R C"], grid: Grid
) -> tuple[Float[Tensor, "R C"], Float[Tensor, "r G"], Float[Tensor, "r G"]]:
    """Codes, scales and codes of 0, as floats with the values that are stored; r is 1 for group="tensor".

    ValueError as for `grouped`, and for a scale beyond fp16.
    """
    groups = grouped(w, grid.group)
    scale, zero = scale_and_zero(groups, grid)
    return nearest_codes(groups, scale, zero, grid).view(w.shape), scale[..., 0], zero[..., 0]


def dequantize(
    q: Float[Tensor, "R C"], scale: Float[Tensor, "r G"], zero: Float[Tensor, "r G"]
) -> Float[Tensor, "R C"]:
    """scale (q - zero). A scale serves C / G neighbours; one row of scales serves all rows."""
    return (scale[..., None] * (q.unflatten(1, (scale.shape[1], -1)) - zero[..., None])).flatten(1)


def snap(w: Float[Tensor, "R C"], grid: Grid) -> tuple[Float[Tensor, "R C"], Bool[Tensor, "R C"]]:
    """w on its grid, and which weights are in range: no further than half a step from it."""
    groups = grouped(w, grid.group)
    scale, zero = scale_and_zero(groups, grid)
    q = nearest_codes(groups, scale, zero, grid)
    inside = (groups / scale + zero - q).abs() <= 0.501
    return (scale * (q - zero)).view(w.shape).to(w), inside.view(w.shape)


def together(level: UInt8[Tensor, "R C"], n: int) -> UInt8[Tensor, "R b"]:
    """8 / n numbers of n bits a byte, the first in the lowest bits."""
    level = F.pad(level, (0, -level.shape[1] % (8 // n))).unflatten(1, (-1, 8 // n))
    return (level << shifts(n, level)).sum(-1, dtype=torch.uint8)


def apart(packed: UInt8[Tensor, "R b"], n: int) -> UInt8[Tensor, "R c"]:
    """The numbers that `together` has packed, and those that fill the last byte up."""
    return ((packed[..., None] >> shifts(n, packed)) & (2**n - 1)).flatten(1)


def shifts(n: int, like: Tensor) -> UInt8[Tensor, "m"]:
    return torch.arange(0, 8, n, dtype=torch.uint8, device=like.device)


class Packed(nn.Module):
    """A weight (R, C) as it is stored: codes and fp16 scales.

    Bytes hold a whole number of codes only if these have 8, 4, 2 or 1 bits. Others are cut into such pieces,
    lowest bits first: codes of 7 bits are stored as 4, then 2, then 1.
    """

    def __init__(self, w: Num[Tensor, "R C"], grid: Grid) -> None:
        super().__init__()
        q, scale, zero = quantize(w, grid)
        self.grid, self.shape = grid, tuple(w.shape)
        self.pieces = [n for n in (8, 4, 2, 1) if grid.bits & n]
        self.register_buffer("codes", self._pack(q))
        self.register_buffer("scale", scale.half())
        self.register_buffer("zero", None if grid.symmetric else zero.to(torch.int8))

    def _pack(self, q: Float[Tensor, "R C"]) -> Tensor:
        """The codes of a row after one another, then the next piece of all; each fills its last byte up."""
        if self.grid.bits == 8:
            return q.to(torch.int8).contiguous()
        level = (q > 0 if self.grid.bits == 1 else q + 2 ** (self.grid.bits - 1)).to(torch.uint8)
        parts = []
        for n in self.pieces:
            parts.append(together(level & (2**n - 1), n))
            level = level >> n
        return torch.cat(parts, 1)

    def integers(self, rows: Int[Tensor, "r"] | None = None) -> Int8[Tensor, "r C"]:
        """The codes, or those of some rows, a byte each. IndexError for a row that is not there."""
        packed, bits, columns = self.codes, self.grid.bits, self.shape[1]
        if rows is not None:
            packed = packed.index_select(0, rows)
        if bits == 8:
            return packed
        level = below = 0
        for n, part in zip(
            self.pieces, packed.split([-(-n * columns // 8) for n in self.pieces], 1), strict=True
        ):
            level = level + (apart(part, n)[:, :columns] << below)
            below += n
        return 2 * level.to(torch.int8) - 1 if bits == 1 else level.to(torch.int8) - 2 ** (bits - 1)

    def dense(self, rows: Int[Tensor, "r"] | None = None) -> Float[Tensor, "r C"]:
        """The weight, or some of its rows, as numbers again."""
        zero = torch.zeros_like(self.scale) if self.zero is None else self.zero
        own = rows is not None and len(self.scale) > 1
        scale, zero = (t.index_select(0, rows).float() if own else t.float() for t in (self.scale, zero))
        return dequantize(self.integers(rows).float(), scale, zero)
