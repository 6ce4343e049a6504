"""Training a little further, with a teacher or without: what the quantization benchmarks have in common."""

import torch
from torch import nn

from minieff import compose, distill
from minieff.compose import Techniques
from minieff.core.data import Corpus, loss
from minieff.core.optimizer import adamw, rate_at
from minieff.core.surgery import clone

BATCH, CONTEXT = 8, 128


def finetune(
    model: nn.Module,
    corpus: Corpus,
    tokens: int,
    *,
    techniques: Techniques = (),
    teacher: nn.Module | None = None,
    rate: float = 1e-3,
    seed: int = 0,
) -> nn.Module:
    """A copy, trained on `tokens` more with its `techniques` on: AdamW, warm-up and cosine from `rate`.

    With a `teacher`, half of the loss is the divergence of the two predictions (KL, in nats per token).
    """
    draw, steps = torch.Generator().manual_seed(1000 + seed), tokens // (BATCH * CONTEXT)
    model = clone(model).train()
    optimizer = adamw(model, decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, steps // 20, rate)
        ids, targets = corpus.batch(BATCH, CONTEXT, draw)
        if teacher is None:
            loss(model(ids), targets).backward()
        else:
            with torch.no_grad():
                theirs = teacher(ids)
            distill.loss(model(ids), theirs, targets, temperature=1.0).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        compose.project(model, list(techniques))
    return model.eval()
