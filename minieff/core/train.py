"""One training loop: AdamW, warm-up and cosine, clipping, techniques, checkpoints, any number of processes.

A checkpoint is one file, written atomically, with all that a step changes: weights, optimizer, step, the
generator of the data and every other random state. A run that is killed and resumed therefore ends with
bit-identical weights. Under `torchrun` each process draws the same global batch and computes its own rows, so
that two processes compute what one would.
"""

import json
import os
import time
from contextlib import nullcontext
from math import isfinite
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from minieff import compose
from minieff.core import cost
from minieff.core.checkpoint import (
    generators,
    pack,
    pack_optimizer,
    read_tensors,
    unpack,
    unpack_optimizer,
    write_tensors,
)
from minieff.core.data import SILENT, Trainable, loss
from minieff.core.files import cache, write
from minieff.core.optimizer import adamw, rate_at
from minieff.core.processes import processes
from minieff.core.recipe import Recipe
from minieff.core.transformer import Transformer


class Run:
    """All that a step changes, and the folder where it is saved."""

    def __init__(
        self,
        recipe: Recipe,
        corpus: Trainable,
        rank: int,
        world: int,
        device: torch.device,
        teacher: nn.Module | None = None,
    ) -> None:
        self.recipe, self.rank, self.world = recipe, rank, world
        self.teacher = None if teacher is None else teacher.to(device).eval()
        self.text, self.mask = corpus.fingerprint(), corpus.mask
        self.folder = cache() / "train" / recipe.name
        self.techniques = compose.parse(recipe.techniques)
        seed = recipe.train.seed
        torch.manual_seed(seed)  # all processes start from the same weights
        coins = torch.Generator().manual_seed(seed + 1)  # and draw the same random numbers
        model = Transformer(recipe.config(corpus.vocab)).to(device, getattr(torch, recipe.train.dtype))
        if recipe.distill and recipe.distill.layers:
            model = compose.find("distill").from_layers(model, teacher, layers=recipe.distill.layers)
        self.model = compose.apply(model, self.techniques, coins).train()
        self.optimizer = adamw(self.model, recipe.train.decay)
        self.draw = torch.Generator().manual_seed(seed + 2)
        torch.manual_seed(seed + 3 + rank)  # dropout differs from process to process
        self.step, self.seconds = 0, 0.0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def save(self) -> None:
        """Writes the checkpoint, in the first process; the others send it their random states."""
        states = [torch.get_rng_state()]
        if self.world > 1:
            states = [torch.empty_like(states[0]) for _ in range(self.world)]
            dist.all_gather(states, torch.get_rng_state())
        if self.rank == 0:
            tensors = {f"model.{name}": t for name, t in pack(self.model).items()}
            tensors |= {f"optimizer.{name}": t for name, t in pack_optimizer(self.optimizer).items()}
            tensors |= {f"random.{rank}": state for rank, state in enumerate(states)}
            for i, generator in enumerate([self.draw, *generators(self.model)]):
                tensors[f"generator.{i}"] = generator.get_state()
            if torch.cuda.is_available():
                tensors["cuda.0"] = torch.cuda.get_rng_state()
            write_tensors(
                self.checkpoint,
                tensors,
                {
                    "recipe": self.recipe.as_dict(),
                    "text": self.text,
                    "step": self.step,
                    "seconds": self.seconds,
                },
            )

    def restore(self) -> None:
        """Continues from the checkpoint, if there is one. ValueError when it belongs to another recipe."""
        if not self.checkpoint.exists():
            return
        tensors, state = read_tensors(self.checkpoint)
        if not self.recipe.trains_like(state["recipe"]) or state["text"] != self.text:
            raise ValueError(
                f"{self.checkpoint} was made by another recipe of this name or from another text; restore "
                "them, rename the recipe, or delete the checkpoint"
            )

        def part(kind: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(f"{kind}."): t for name, t in tensors.items() if name.startswith(f"{kind}.")
            }

        unpack(self.model, part("model"))
        unpack_optimizer(self.optimizer, part("optimizer"))
        for i, generator in enumerate([self.draw, *generators(self.model)]):
            generator.set_state(part("generator")[f"{i}"])
        torch.set_rng_state(part("random").get(f"{self.rank}", torch.get_rng_state()))
        if torch.cuda.is_available() and "cuda.0" in tensors:
            torch.cuda.set_rng_state(tensors["cuda.0"])
        self.step, self.seconds = state["step"], state["seconds"]

    def log(self) -> list[dict]:
        """The rows logged up to the current step."""
        path = self.folder / "log.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if row["step"] <= self.step]


def take_step(run: Run, model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """One optimizer step on a global batch; returns its mean loss, without penalties.

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
        group["lr"] = rate_at(run.step, run.recipe.steps, plan.warmup, plan.rate)
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
    compose.project(run.model, run.techniques)
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


def train(recipe: Recipe, *, resume: bool = False, teacher: nn.Module | None = None) -> Run:
    """Trains, with `resume` from a checkpoint of this recipe if there is one; returns the finished run.

    A recipe with [distill] needs its `teacher`, which is called as `teacher(ids, mask)`; `zoo.make` loads it.

    The log is `log.jsonl` beside the checkpoint. FileExistsError when there is a checkpoint and `resume` is
    False: nothing trained is overwritten silently. The variable TQDM_DISABLE=1 hides the progress bar.

    >>> from tempfile import TemporaryDirectory
    >>> from unittest.mock import patch
    >>> from minieff.core.recipe import parse
    >>> tables = {"data": {"corpus": "files", "vocab": 256, "paths": [__file__]}, "train": {"tokens": 64}}
    >>> tables["model"] = {"layers": 1, "heads": 1, "dim": 8, "context": 4}
    >>> with TemporaryDirectory() as folder, patch.dict(os.environ, XDG_CACHE_HOME=folder, TQDM_DISABLE="1"):
    ...     train(parse("tiny", Path("."), tables)).step  # of 16 sequences of 4 tokens
    1
    """
    if (teacher is None) != (recipe.distill is None):
        raise ValueError(
            f"{recipe.name}: a recipe with [distill] needs teacher=, and other recipes take none"
        )
    with processes() as (rank, world, device):
        corpus = recipe.check(world)
        run = Run(recipe, corpus, rank, world, device, teacher)
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
