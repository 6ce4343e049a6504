"""One training loop: AdamW, warm-up and cosine, clipping, techniques, checkpoints, any number of processes.

Under `torchrun` each process draws the same global batch and computes its own rows, so that two processes
compute what one would.
"""

import json
import os
import time
from contextlib import nullcontext
from math import isfinite

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from minieff import compose
from minieff.core import cost
from minieff.core.data import SILENT, Trainable, loss
from minieff.core.files import write
from minieff.core.processes import processes
from minieff.core.recipe import Recipe
from minieff.core.run import Run


def take_step(run: Run, model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """One optimizer step on a global batch; returns its mean loss, without penalties.

    >>> from pathlib import Path
    >>> from minieff.core.recipe import parse
    >>> tables = {"data": {"corpus": "files", "vocab": 256, "paths": [__file__]}, "train": {"tokens": 64}}
    >>> tables["model"] = {"layers": 1, "heads": 1, "dim": 8, "context": 4}
    >>> recipe = parse("tiny", Path("."), tables)
    >>> run = Run(recipe, recipe.check(), rank=0, world=1, device=torch.device("cpu"))
    >>> ids = torch.arange(64).view(16, 4)
    >>> take_step(run, run.model, ids, ids + 1).exp().round()  # the perplexity of a guess among 256 bytes
    tensor(256., dtype=torch.float64)
    """
    plan = run.recipe.train
    for group in run.optimizer.param_groups:
        group["lr"] = run.rate
    asked, distill = targets != SILENT, run.recipe.distill
    if distill and distill.augment:  # else no coins: the same batches as without a teacher
        augment = compose.find("distill").augment
        ids, targets = augment(ids, targets, rows=distill.augment, generator=run.draw)
    counts = (targets != SILENT).sum().clamp(min=1), asked.sum()
    own = [t[run.rank :: run.world].chunk(plan.accumulate) for t in (ids, targets, asked)]
    total = torch.zeros((), dtype=torch.float64)
    for piece, batch in enumerate(zip(*own, strict=True), start=1):
        last = piece == plan.accumulate
        with nullcontext() if last or run.world == 1 else model.no_sync():
            part = _loss(run, model, *batch, *counts)
            total += part.detach().double().cpu()
            part = part * run.world  # gradients are averaged over processes
            (part + compose.penalty(run.model, run.techniques) if last else part).backward()
    nn.utils.clip_grad_norm_(run.model.parameters(), plan.clip)
    run.optimizer.step()
    run.optimizer.zero_grad()
    compose.project(run.model, run.techniques, rate=run.rate)
    if run.world > 1:
        dist.all_reduce(total)
    return total


def _loss(
    run: Run, model: nn.Module, ids: Tensor, targets: Tensor, asked: Tensor, labelled: Tensor, tokens: Tensor
) -> Tensor:
    """What some rows add to the loss of a batch, divided by the batch's counts of targets and of tokens."""
    logits = model(ids, run.mask)
    hard = loss(logits, targets, "sum") / labelled
    if run.teacher is None:
        return hard
    with torch.no_grad():
        theirs = run.teacher(ids, run.mask)
    plan = run.recipe.distill
    soft = compose.find("distill").soft_loss(logits[asked], theirs[asked], temperature=plan.temperature)
    return plan.weight * soft * asked.sum() / tokens + (1 - plan.weight) * hard


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    teacher: nn.Module | None = None,
    start: nn.Module | None = None,
) -> Run:
    """Trains, with `resume` from a checkpoint of this recipe if there is one; returns the finished run.

    A recipe with [distill] needs its `teacher`, which is called as `teacher(ids, mask)`, and one with a start
    the model of that name as `start`; `zoo.make` loads both.

    The log is `log.jsonl` beside the checkpoint. FileExistsError when there is a checkpoint and `resume` is
    False: nothing trained is overwritten silently. The variable TQDM_DISABLE=1 hides the progress bar.

    >>> from tempfile import TemporaryDirectory
    >>> from unittest.mock import patch
    >>> from pathlib import Path
    >>> from minieff.core.recipe import parse
    >>> tables = {"data": {"corpus": "files", "vocab": 256, "paths": [__file__]}, "train": {"tokens": 64}}
    >>> tables["model"] = {"layers": 1, "heads": 1, "dim": 8, "context": 4}
    >>> with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder, TQDM_DISABLE="1"):
    ...     train(parse("tiny", Path("."), tables)).step  # of 16 sequences of 4 tokens
    1
    """
    with processes() as (rank, world, device):
        corpus = recipe.check(world)
        run = Run(recipe, corpus, rank, world, device, teacher, start)
        if resume:
            run.restore()
        elif run.checkpoint.exists():
            raise FileExistsError(
                f"{run.checkpoint} holds a run of {recipe.name}; "
                "continue with --resume, or delete it to start again"
            )
        model = run.model
        if world > 1:  # a technique may leave parameters without a gradient in a step
            model = DistributedDataParallel(model, find_unused_parameters=bool(run.techniques))
        _loop(run, model, corpus, device)
        del model
    return run


def _loop(run: Run, model: nn.Module, corpus: Trainable, device: torch.device) -> None:
    """The remaining steps, with log, validation and checkpoints."""
    plan, steps, context = run.recipe.train, run.recipe.steps, run.recipe.model["context"]
    rows, losses, often = run.log(), [], max(1, steps // 100)
    off = run.rank > 0 or os.environ.get("TQDM_DISABLE") == "1"
    with tqdm(total=steps, initial=run.step, desc=run.recipe.name, disable=off or None) as bar:
        while run.step < steps:
            begun = time.perf_counter()
            ids, targets = corpus.batch(plan.batch, context, run.draw)
            losses.append(float(take_step(run, model, ids.to(device), targets.to(device))))
            _refuse_divergence(run, losses[-1])
            run.step += 1
            run.seconds += time.perf_counter() - begun
            bar.update()
            if run.step % often == 0 or run.step == steps:
                rows.append(
                    _row(run, losses, corpus, looked=run.step % (5 * often) == 0 or run.step == steps)
                )
                losses.clear()
                bar.set_postfix(rows[-1])
                if run.rank == 0:
                    write(run.folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            if run.step % plan.save == 0 or run.step == steps:
                run.save()


def _row(run: Run, losses: list[float], corpus: Trainable, looked: bool) -> dict:
    """One row of the log: the mean loss since the last row and, with `looked`, a quick validation loss."""
    context = run.recipe.model["context"]
    entry = {"step": run.step, "tokens": run.step * run.recipe.train.batch * context}
    entry |= {"seconds": round(run.seconds, 1), "train": round(sum(losses) / len(losses), 4)}
    if looked:
        entry["valid"] = round(cost.quality(run.model, corpus, context, windows=256).nats, 4)
    return entry


def _refuse_divergence(run: Run, last: float) -> None:
    """ValueError at the first loss that is NaN or infinite: training cannot recover from it."""
    if not isfinite(last):
        plan = run.recipe.train
        raise ValueError(
            f"{run.recipe.name}: the loss of step {run.step} is {last}; try less than rate={plan.rate} or "
            f"clip={plan.clip}, and delete {run.checkpoint} if it exists"
        )
