"""An embedding of V tokens as two factors: a small table, and a projection to the model's width.

    E (V, C) = A B,   A (V, r), B (r, C);      head: x E^T = (x B^T) A^T
    E = U S W^T:      A = U sqrt(S), B = sqrt(S) W^T, of the r largest singular values

No pair of factors of that width is nearer to E (Eckart, Young 1936). Numbers: r (V + C) in place of V C. A
look-up costs r C MACs in place of none, the head r (V + C) in place of V C.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class FactorizedEmbedding(nn.Module):
    """ids -> rows of A B; and the head, x -> x (A B)^T. The factors are an Embedding and a Linear."""

    def __init__(self, weight: Float[Tensor, "V C"], rank: int) -> None:
        super().__init__()
        u, s, w = torch.linalg.svd(weight.detach().double(), full_matrices=False)
        root, trains = s[:rank].sqrt(), weight.requires_grad
        pair = u[:, :rank] * root, w[:rank].mT * root
        a, b = (part.to(weight).contiguous() for part in pair)  # (V, r), (C, r)
        self.tokens = nn.Embedding.from_pretrained(a, freeze=not trains)
        self.project = nn.Linear(rank, weight.shape[1], bias=False, device="meta")
        self.project.weight = nn.Parameter(b, trains)

    @property
    def weight(self) -> Float[Tensor, "V C"]:
        return self.tokens.weight @ self.project.weight.mT

    def forward(self, ids: Int[Tensor, "*B"]) -> Float[Tensor, "*B C"]:
        return self.project(self.tokens(ids))

    def logits(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B V"]:
        return F.linear(x @ self.project.weight, self.tokens.weight)

    def head_macs(self) -> int:
        """Of one token's `logits`."""
        return self.tokens.weight.shape[1] * sum(self.weight.shape)


class FactorizedHead(nn.Module):
    """x (..., C) -> logits (..., V), of a linear layer that used the embedding's weight."""

    def __init__(self, embedding: FactorizedEmbedding, bias: Tensor | None) -> None:
        super().__init__()
        self.embedding, self.bias = embedding, bias

    @property
    def weight(self) -> Float[Tensor, "V C"]:
        return self.embedding.weight

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B V"]:
        logits = self.embedding.logits(x)
        return logits if self.bias is None else logits + self.bias

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return output[..., 0].numel() * self.embedding.head_macs()
