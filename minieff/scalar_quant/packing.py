"""How a weight on a grid is stored: codes of 1 to 8 bits packed into bytes, and fp16 scales."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int8, Num, UInt8
from torch import Tensor, nn

from minieff.scalar_quant.grid import Grid, dequantize, quantize


def pack(level: UInt8[Tensor, "R C"], bits: int) -> UInt8[Tensor, "R b"]:
    """The codes of each row in turn, lowest bits first, in pieces of 4, 2 or 1 bits that fill bytes.

    >>> pack(torch.tensor([[1, 2, 15]], dtype=torch.uint8), bits=4)  # 1 + 16 * 2, and 15
    tensor([[33, 15]], dtype=torch.uint8)
    """
    piece = bits & -bits
    pieces = (level[..., None] >> _shifts(piece, bits, level)) & (2**piece - 1)  # (R, C, bits / piece)
    pieces = F.pad(pieces.flatten(1), (0, -pieces[0].numel() % (8 // piece))).unflatten(1, (-1, 8 // piece))
    return (pieces << _shifts(piece, 8, level)).sum(-1, dtype=torch.uint8)


def unpack(packed: UInt8[Tensor, "R b"], bits: int, columns: int) -> UInt8[Tensor, "R C"]:
    """The codes that `pack` has packed.

    >>> unpack(torch.tensor([[33, 15]], dtype=torch.uint8), bits=4, columns=3)
    tensor([[ 1,  2, 15]], dtype=torch.uint8)
    """
    piece = bits & -bits
    pieces = ((packed[..., None] >> _shifts(piece, 8, packed)) & (2**piece - 1)).flatten(1)
    pieces = pieces[:, : columns * bits // piece].unflatten(1, (columns, -1))  # the last byte may hold more
    return sum(part << i * piece for i, part in enumerate(pieces.unbind(-1)))


def _shifts(step: int, end: int, like: Tensor) -> UInt8[Tensor, "m"]:
    return torch.arange(0, end, step, dtype=torch.uint8, device=like.device)


class Packed(nn.Module):
    """A weight (R, C) as it is stored: fp16 scales, and codes of b bits in ceil(C b / 8) bytes per row.

    >>> Packed(torch.ones(2, 5), Grid(bits=4)).codes.shape
    torch.Size([2, 3])
    """

    def __init__(self, w: Num[Tensor, "R C"], grid: Grid) -> None:
        super().__init__()
        q, scale, zero = quantize(w, grid)
        self.grid, self.shape = grid, tuple(w.shape)
        self.register_buffer("codes", self._pack(q))
        self.register_buffer("scale", scale.half())
        self.register_buffer("zero", None if grid.symmetric else zero.to(torch.int8))
        self.laid_out: tuple[Tensor, int, Tensor] | None = None  # the codes as the int8 kernel needs them

    def __getstate__(self) -> dict:
        return self.__dict__ | {"laid_out": None}  # a copy makes its own

    def _pack(self, q: Float[Tensor, "R C"]) -> Tensor:
        bits = self.grid.bits
        if bits == 8:
            return q.to(torch.int8).contiguous()
        level = q > 0 if bits == 1 else q + 2 ** (bits - 1)
        return pack(level.to(torch.uint8), bits)

    def integers(self, rows: Int[Tensor, "r"] | None = None) -> Int8[Tensor, "r C"]:
        """The codes, or those of some rows, one byte each. IndexError for a missing row."""
        bits = self.grid.bits
        codes = self.codes if rows is None else self.codes.index_select(0, rows)
        if bits == 8:
            return codes
        level = unpack(codes, bits, self.shape[1]).to(torch.int8)
        return 2 * level - 1 if bits == 1 else level - 2 ** (bits - 1)

    def dense(self, rows: Int[Tensor, "r"] | None = None) -> Float[Tensor, "r C"]:
        """The weight, or some of its rows, as numbers again."""
        zero = torch.zeros_like(self.scale) if self.zero is None else self.zero
        own = rows is not None and len(self.scale) > 1
        scale, zero = (t.index_select(0, rows).float() if own else t.float() for t in (self.scale, zero))
        return dequantize(self.integers(rows).float(), scale, zero)
