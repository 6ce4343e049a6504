"""A run: all that a training step changes, and the checkpoint where it is saved.

A checkpoint is one file, written atomically: weights, optimizer, step, the generator of the data and every
other random state. A run that is killed and resumed therefore ends with bit-identical weights.
"""

import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minieff import compose
from minieff.core.checkpoint import (
    generators,
    pack,
    pack_optimizer,
    read_tensors,
    unpack,
    unpack_optimizer,
    write_tensors,
)
from minieff.core.data import Trainable
from minieff.core.files import cache
from minieff.core.optimizer import adamw, rate_at
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
        start: nn.Module | None = None,
    ) -> None:
        self.recipe, self.rank, self.world = recipe, rank, world
        self.teacher = None if teacher is None else teacher.to(device).eval()
        self.text, self.mask = corpus.fingerprint(), corpus.mask
        self.folder = cache() / "train" / recipe.name
        self.techniques = compose.parse(recipe.techniques)
        seed = recipe.train.seed
        torch.manual_seed(seed)  # all processes start from the same weights
        coins = torch.Generator().manual_seed(seed + 1)  # and draw the same random numbers
        model = _begun(recipe, corpus.vocab, teacher, start).to(device, getattr(torch, recipe.train.dtype))
        self.model = compose.apply(model, self.techniques, coins).train()
        self.optimizer = adamw(self.model, recipe.train.decay)
        self.draw = torch.Generator().manual_seed(seed + 2)
        torch.manual_seed(seed + 3 + rank)  # dropout differs from process to process
        self.step, self.seconds = 0, 0.0

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        plan = self.recipe.train
        return rate_at(self.step, self.recipe.steps, plan.warmup, plan.rate)

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


def _begun(recipe: Recipe, vocab: int, teacher: nn.Module | None, start: nn.Module | None) -> nn.Module:
    """The model before techniques: random, with the weights of `start`, or with layers of the teacher."""
    if (teacher is None) != (recipe.distill is None):
        raise ValueError(f"{recipe.name}: a recipe with [distill] needs teacher=, and no other takes one")
    if (start is None) == bool(recipe.train.start):
        raise ValueError(f"{recipe.name}: a recipe with a start needs start=, and no other takes one")
    model = Transformer(recipe.config(vocab))
    if start is not None:
        try:
            unpack(model, pack(start))
        except ValueError as error:
            raise ValueError(
                f"{recipe.name}: start={recipe.train.start!r}: {error}; start from a model without "
                "techniques, with the sizes in [model]"
            ) from None
    if recipe.distill and recipe.distill.layers:
        model = compose.find("distill").from_layers(model, teacher, layers=recipe.distill.layers)
    return model
