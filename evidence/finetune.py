"""Training a little further, with a teacher or without: what the quantization benchmarks have in common."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minieff import compose
from minieff.compose import Techniques
from minieff.core.data import Corpus, loss
from minieff.core.surgery import clone
from minieff.core.train import adamw, rate_at

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

    With a `teacher`, half of the loss is the divergence of the two predictions (KL, in nats a token).
    """
    draw, steps = torch.Generator().manual_seed(1000 + seed), tokens // (BATCH * CONTEXT)
    model = clone(model).train()
    optimizer = adamw(model, decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, steps // 20, rate)
        ids, targets = corpus.batch(BATCH, CONTEXT, draw)
        logits = model(ids)
        found = loss(logits, targets)
        if teacher is not None:
            found = (found + apart(logits, teacher, ids)) / 2
        found.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        compose.project(model, list(techniques))
    return model.eval()


def apart(logits: Tensor, teacher: nn.Module, ids: Tensor) -> Tensor:
    """KL divergence of the predictions from the teacher's, mean over tokens, in nats."""
    with torch.no_grad():
        theirs = teacher(ids).log_softmax(-1)
    own = logits.log_softmax(-1)
    return F.kl_div(own.flatten(0, -2), theirs.flatten(0, -2), reduction="batchmean", log_target=True)
