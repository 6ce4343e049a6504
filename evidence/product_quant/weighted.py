"""Codebooks that weigh an error in a weight by what it is multiplied by, which `codebooks.py` compares.

    repeat:  code(i) = argmin over k of sum_j a_ij (b_ij - c_kj)^2    c_k = mean of its b_i, weighted by a_i

where a is the second moment of a layer's inputs (Stock et al. 2019, arXiv 1907.05686).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from minieff.core.storage import matrices
from minieff.core.surgery import Where, is_a, recode, record
from minieff.product_quant import pq_layer
from minieff.product_quant.codebook import Codebook, Coded, blocks
from minieff.product_quant.kmeans import start


@torch.no_grad()
def input_second_moment(
    model: nn.Module, batches: Iterable, where: Where = is_a(nn.Linear)
) -> dict[str, Tensor]:
    """Mean square (C,) of each layer's inputs, over `model(batch)` for all batches: {name: second moment}.

    An error in a weight counts as much as what it is multiplied by. ValueError without inputs.
    """
    sums: dict[str, Tensor] = {}
    inputs: dict[str, int] = {}
    for batch in batches:
        with record(model, where) as calls:
            model(batch)
        for call in calls:
            x = call.inputs[0].reshape(-1, call.inputs[0].shape[-1]).float()  # (N, C)
            sums[call.name] = sums.get(call.name, 0) + x.square().sum(0)
            inputs[call.name] = inputs.get(call.name, 0) + len(x)
    if not sums or not all(inputs.values()):
        raise ValueError("no inputs: there is nothing to measure; give batches that are not empty")
    return {name: total / inputs[name] for name, total in sums.items()}


def weighted_kmeans(
    points: Tensor, weights: Tensor, codewords: int, iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A codebook (K, d) and the codes (N,) of points (N, d), with a weight for each coordinate (N, d)."""
    codebook, heavy = start(points, codewords, generator), weights * points
    for _ in range(iterations):
        distances = weights @ codebook.square().T - 2 * heavy @ codebook.T  # less what all K have in common
        codes = distances.min(1).indices
        total = torch.zeros_like(codebook).index_add_(0, codes, weights)
        means = torch.zeros_like(codebook).index_add_(0, codes, heavy) / total
        codebook = torch.where(total > 0, means, codebook)
    return codebook, codes


def finalize(
    model: nn.Module, moments: dict[str, Tensor], *, block: int, iterations: int, generator: torch.Generator
) -> nn.Module:
    """`product_quant.finalize` with 256 codewords a weight; a layer without a second moment counts evenly."""

    def encode(weight: Tensor, name: str) -> Coded:
        moment = moments.get(name, torch.ones(weight.shape[1])).expand_as(weight)
        parts = blocks(weight, block), blocks(moment.contiguous(), block)
        codewords, codes = weighted_kmeans(*parts, 256, iterations, generator)
        codebook = Codebook(codewords, torch.bincount(codes, minlength=256))
        return Coded(codes.to(torch.uint8).view(len(weight), -1), codebook)

    return recode(model, matrices, encode, pq_layer)
