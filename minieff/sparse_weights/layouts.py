"""Sparse matrices as they are stored: values, and where they stand, as plain tensors.

With n = R C weights, of which nnz are kept in vb bytes each, and indices of 4 bytes:

    csr        nnz (vb + 4) + 4 (R + 1)              a value and its column; saves below a share vb / (vb + 4)
    bsr        blocks (b^2 vb + 4) + 4 (C / b + 1)   an index per block of b x b
    bitmask    nnz vb + n / 8                        a bit for every place
    2:4        n / 2 vb + n / 8                      two bits for each of two values among four: 9/16 in fp16

Products with csr and bsr skip what is not stored; from the other two the dense matrix is made in each call.
torch's own sparse tensors are made of these in each call, for neither safetensors nor `.to()` knows them.
"""

import warnings

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Num, UInt8
from torch import Tensor, nn

from minieff.core.storage import disable_fast_path, refuse_nested
from minieff.sparse_weights.masks import two_of_four

NO_HALF = (
    "on a CPU torch has no CSR product in 16 bits; finalize in 32 bits, and core.storage.halve stores the "
    "values in 16"
)


class Stored(nn.Module):
    """A matrix W (R, C) of which the units that a grid of booleans keeps are stored; x (N, C) -> x W^T."""

    def __init__(self, w: Num[Tensor, "R C"], values: Num[Tensor, "..."]) -> None:
        super().__init__()
        self.shape = tuple(w.shape)
        self.entries = nn.Parameter(values.contiguous(), requires_grad=values.is_floating_point())

    @property
    def units(self) -> int:
        """How many are stored: values, or blocks."""
        return len(self.entries)

    def dense(self) -> Num[Tensor, "R C"]:
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "N C"]) -> Float[Tensor, "N R"]:
        return F.linear(x, self.dense())

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return len(inputs[0]) * self.shape[0] * self.shape[1]

    def extra_repr(self) -> str:
        return f"{self.shape[0]} x {self.shape[1]}, {self.entries.numel()} values stored"


class CSR(Stored):
    """Values row after row, each with its column; and where each row starts."""

    def __init__(self, w: Num[Tensor, "R C"], keep: Bool[Tensor, "R C"]) -> None:
        if w.element_size() < 4 and w.device.type == "cpu":
            raise ValueError(f"a weight of {w.dtype}: {NO_HALF}")
        super().__init__(w, w[keep])
        self.register_buffer("starts", row_starts(keep))
        self.register_buffer("columns", keep.nonzero()[:, 1].int())
        with warnings.catch_warnings():  # torch says once that this is in beta
            warnings.simplefilter("ignore")
            self.sparse()

    def sparse(self) -> Tensor:
        """As torch's sparse tensor."""
        return torch.sparse_csr_tensor(
            self.starts, self.columns, self.entries, self.shape, check_invariants=False
        )

    def dense(self) -> Num[Tensor, "R C"]:
        rows = rows_of(self.starts)
        return self.entries.new_zeros(self.shape).index_put((rows, self.columns.long()), self.entries)

    def forward(self, x: Float[Tensor, "N C"]) -> Float[Tensor, "N R"]:
        if self.entries.element_size() < 4 and x.device.type == "cpu":
            raise ValueError(f"values of {self.entries.dtype}: {NO_HALF}")
        with torch.autocast(x.device.type, enabled=False):
            # F.linear(x, self.sparse()) takes four times as long
            return (self.sparse() @ x.to(self.entries.dtype).T).T

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return len(inputs[0]) * self.entries.numel()


class BSR(Stored):
    """Blocks of b x b. Those that read the same inputs are neighbours: the order is BSR's for W^T."""

    def __init__(self, w: Num[Tensor, "R C"], keep: Bool[Tensor, "r c"]) -> None:
        b = len(w) // len(keep)
        blocks = w.unflatten(0, (-1, b)).unflatten(2, (-1, b)).permute(2, 0, 1, 3)  # (C / b, R / b, b, b)
        super().__init__(w, blocks[keep.T])
        self.register_buffer("starts", row_starts(keep.T))
        self.register_buffer("rows", keep.T.nonzero()[:, 1].int())

    def dense(self) -> Num[Tensor, "R C"]:
        (R, C), b = self.shape, self.entries.shape[1]
        blocks = self.entries.new_zeros(R // b, C // b, b, b)
        blocks = blocks.index_put((self.rows.long(), rows_of(self.starts)), self.entries)
        return blocks.transpose(1, 2).reshape(R, C)

    def forward(self, x: Float[Tensor, "N C"]) -> Float[Tensor, "N R"]:
        """One product for all blocks that read the same b inputs, added to the outputs of each block.

        More than twice as fast as torch's own product with a BSR matrix (benchmarks/bench_sparse_weights.py).
        """
        b, counts = self.entries.shape[1], self.starts.diff().tolist()
        y = x.new_zeros(self.shape[0] // b, b, len(x))
        for blocks, rows, part in zip(
            self.entries.split(counts), self.rows.split(counts), x.split(b, 1), strict=True
        ):
            product = blocks.flatten(0, 1) @ part.T
            y.index_add_(0, rows, product.to(y.dtype).unflatten(0, (-1, b)))  # autocast returns 16 bits
        return y.flatten(0, 1).T

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return len(inputs[0]) * self.entries.numel()


class Bitmask(Stored):
    """Values row after row, and a bit for every place of the matrix."""

    def __init__(self, w: Num[Tensor, "R C"], keep: Bool[Tensor, "R C"]) -> None:
        super().__init__(w, w[keep])
        self.register_buffer("bits", pack(keep.flatten().byte(), 1))

    def dense(self) -> Num[Tensor, "R C"]:
        keep = unpack(self.bits, 1)[: self.shape[0] * self.shape[1]].bool()
        return (
            self.entries.new_zeros(keep.shape)
            .index_put((keep.nonzero()[:, 0],), self.entries)
            .view(self.shape)
        )


class TwoOfFour(Stored):
    """Two values of every four neighbours in a row, and two bits each for where they stand."""

    def __init__(self, w: Num[Tensor, "R C"], keep: Bool[Tensor, "R C"]) -> None:
        if w.shape[1] % 4 or keep.unflatten(1, (-1, 4)).sum(-1).max() > 2:
            raise ValueError(
                f'a weight of {tuple(w.shape)} has more than two of four: apply(model, pattern="2:4", '
                'sparsity=0.5) prunes it so, and layout="bitmask" stores any'
            )
        chosen = two_of_four(w)
        super().__init__(w, w[chosen].view(len(w), -1))
        self.register_buffer("places", pack(chosen.view(-1, 4).nonzero()[:, 1].byte(), 2))

    @property
    def units(self) -> int:
        return self.entries.numel()

    def dense(self) -> Num[Tensor, "R C"]:
        n = self.entries.numel()
        places = unpack(self.places, 2)[:n].view(-1, 2).long()
        groups = self.entries.new_zeros(n // 2, 4)
        return groups.scatter(1, places, self.entries.view(-1, 2)).view(self.shape)


LAYOUTS = {"csr": CSR, "bsr": BSR, "bitmask": Bitmask, "2:4": TwoOfFour}


def row_starts(keep: Bool[Tensor, "r c"]) -> Tensor:
    """Where each row starts among what is kept, row after row; and the end.

    >>> row_starts(torch.tensor([[True, True], [False, True]]))
    tensor([0, 2, 3], dtype=torch.int32)
    """
    return F.pad(keep.sum(1).cumsum(0), (1, 0)).int()


def rows_of(starts: Tensor) -> Tensor:
    """The row of each that is stored.

    >>> rows_of(torch.tensor([0, 2, 3]))
    tensor([0, 0, 1])
    """
    counts = starts.long().diff()
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)


def pack(numbers: UInt8[Tensor, "n"], bits: int) -> UInt8[Tensor, "m"]:
    """Numbers of 1, 2 or 4 bits, several to a byte, the lowest bits first.

    >>> pack(torch.tensor([1, 0, 3], dtype=torch.uint8), bits=2)  # 1 + 4 * 0 + 16 * 3
    tensor([49], dtype=torch.uint8)
    """
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=numbers.device)
    padded = F.pad(numbers, (0, -len(numbers) % len(shifts))).view(-1, len(shifts))
    return (padded << shifts).sum(1, dtype=torch.uint8)


def unpack(packed: UInt8[Tensor, "m"], bits: int) -> UInt8[Tensor, "n"]:
    """What `pack` has packed, filled up with zeros.

    >>> unpack(torch.tensor([49], dtype=torch.uint8), bits=2)
    tensor([1, 0, 3, 0], dtype=torch.uint8)
    """
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed[:, None] >> shifts) & (2**bits - 1)).flatten()


class SparseLinear(nn.Module):
    """x (..., C) -> x W^T + b with a stored W, for inference."""

    def __init__(self, code: Stored, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.code, self.bias = code, bias
        self.register_forward_pre_hook(disable_fast_path)

    @property
    def weight(self) -> Float[Tensor, "R C"]:
        return self.code.dense()

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        refuse_nested(x)
        y = self.code(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], self.code.shape[0])
        return y if self.bias is None else y + self.bias

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return 0  # those of `code` are counted there
