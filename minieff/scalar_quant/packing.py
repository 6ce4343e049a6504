"""How a weight on a grid is stored: codes of 1 to 8 bits packed into bytes, and fp16 scales."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int8, Num, UInt8
from torch import Tensor, nn

from minieff.scalar_quant.grid import Grid, dequantize, quantize


def pack(level: UInt8[Tensor, "R C"], n: int) -> UInt8[Tensor, "R b"]:
    """8 / n numbers of n bits a byte, the first in the lowest bits."""
    level = F.pad(level, (0, -level.shape[1] % (8 // n))).unflatten(1, (-1, 8 // n))
    return (level << shifts(n, level)).sum(-1, dtype=torch.uint8)


def unpack(packed: UInt8[Tensor, "R b"], n: int) -> UInt8[Tensor, "R c"]:
    """The numbers that `pack` has packed, and those that fill the last byte up."""
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
        self.laid_out: tuple[Tensor, int, Tensor] | None = None  # what the int8 kernel made of the codes

    def __getstate__(self) -> dict:
        return self.__dict__ | {"laid_out": None}  # a copy makes its own

    def _pack(self, q: Float[Tensor, "R C"]) -> Tensor:
        """The codes of a row after one another, then the next piece of all; each fills its last byte up."""
        if self.grid.bits == 8:
            return q.to(torch.int8).contiguous()
        level = (q > 0 if self.grid.bits == 1 else q + 2 ** (self.grid.bits - 1)).to(torch.uint8)
        parts = []
        for n in self.pieces:
            parts.append(pack(level & (2**n - 1), n))
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
            level = level + (unpack(part, n)[:, :columns] << below)
            below += n
        return 2 * level.to(torch.int8) - 1 if bits == 1 else level.to(torch.int8) - 2 ** (bits - 1)

    def dense(self, rows: Int[Tensor, "r"] | None = None) -> Float[Tensor, "r C"]:
        """The weight, or some of its rows, as numbers again."""
        zero = torch.zeros_like(self.scale) if self.zero is None else self.zero
        own = rows is not None and len(self.scale) > 1
        scale, zero = (t.index_select(0, rows).float() if own else t.float() for t in (self.scale, zero))
        return dequantize(self.integers(rows).float(), scale, zero)
