"""What a step does with the gradients: AdamW, and its learning rate over a run."""

from math import cos, pi

import torch
from torch import nn


def adamw(model: nn.Module, decay: float) -> torch.optim.AdamW:
    """AdamW with weight decay for matrices and embeddings, none for vectors. Each step sets the rate.

    >>> [group["weight_decay"] for group in adamw(nn.Linear(3, 2), decay=0.1).param_groups]
    [0.1, 0.0]
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.95), fused=True)


def rate_at(step: int, steps: int, warmup: int, highest: float) -> float:
    """The learning rate: linear from 0 over `warmup` steps, then half a cosine down to 0 at `steps`.

    >>> [round(rate_at(step, steps=10, warmup=2, highest=1.0), 3) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return highest * (step + 1) / warmup
    return highest * 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))
