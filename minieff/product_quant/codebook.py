"""A weight as codes: for each of its blocks, which of the K codewords of a codebook stands for it.

    W_q = codebook[codes]        codes (R, C / d), one byte each; codebook (K, d)

Bytes: R C / d for the codes, and 4, 2 or 1 times K d for the codewords, which several weights may share.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from minieff.core.storage import half, in_fp16


def blocks(w: Float[Tensor, "R C"], size: int) -> Float[Tensor, "N d"]:
    """Rows cut into blocks, row after row. ValueError when `size` does not divide a row.

    >>> blocks(torch.arange(8.0).view(2, 4), 2)
    tensor([[0., 1.],
            [2., 3.],
            [4., 5.],
            [6., 7.]])
    """
    if type(size) is not int or size < 1 or w.shape[1] % size:
        raise ValueError(f"rows of {w.shape[1]} weights cannot be cut with block={size}; pick a divisor")
    return w.reshape(-1, size)


def mean_gradient(
    codebook: Float[Tensor, "K d"], codes: Int[Tensor, "*R"], counts: Int[Tensor, "K"]
) -> Float[Tensor, "*R d"]:
    """codebook[codes], but the gradient of a codeword is the mean, not the sum, over its `counts` blocks.

    With the sum, a codeword of many blocks would move faster than the others.

    >>> codebook = torch.zeros(2, 1, requires_grad=True)
    >>> codes = torch.tensor([0, 0, 0, 1])
    >>> mean_gradient(codebook, codes, codes.bincount()).sum().backward()
    >>> codebook.grad.flatten()  # plain indexing gives 3 and 1
    tensor([1., 1.])
    """
    share = codebook / counts.clamp(min=1)[:, None]
    codebook = codebook.detach() + (share - share.detach())  # its value, with the share's gradient
    return codebook.index_select(0, codes.flatten()).view(*codes.shape, codebook.shape[1])


class Codebook(nn.Module):
    """Codewords (K, d) of one weight or several, which can be trained."""

    def __init__(self, codewords: Float[Tensor, "K d"], counts: Int[Tensor, "K"]) -> None:
        super().__init__()
        self.codewords = nn.Parameter(codewords)
        self.register_buffer("counts", counts.int())  # blocks per codeword

    def forward(self, codes: Int[Tensor, "*R"]) -> Float[Tensor, "*R d"]:
        return mean_gradient(self.codewords, codes, self.counts)

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return 0


class HalfCodebook(nn.Module):
    """Codewords of 16 bits."""

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.register_buffer("codewords", half(codebook.codewords.detach(), "a codebook"))

    def forward(self, codes: Int[Tensor, "*R"]) -> Float[Tensor, "*R d"]:
        return self.codewords[codes].float()


class IntCodebook(nn.Module):
    """Codewords of 8 bits and a scale."""

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        codewords = codebook.codewords.detach()
        scale = in_fp16(codewords.abs().amax() / 127)
        self.register_buffer("codewords", (codewords / scale).round().to(torch.int8))
        self.register_buffer("scale", scale.half())

    def forward(self, codes: Int[Tensor, "*R"]) -> Float[Tensor, "*R d"]:
        return self.scale.float() * self.codewords[codes].float()


class Coded(nn.Module):
    """A weight (R, C) as codes (R, C / d), one byte each, and their codebook."""

    def __init__(self, codes: UInt8[Tensor, "R B"], codebook: Codebook) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.codebook = codebook

    def dense(self, rows: Int[Tensor, "r"] | None = None) -> Float[Tensor, "r C"]:
        """The weight, or some of its rows, as numbers again. IndexError for a missing row."""
        codes = self.codes if rows is None else self.codes.index_select(0, rows)
        return self.codebook(codes.long()).flatten(1)
