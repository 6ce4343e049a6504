"""LayerDrop as a regularizer, where data are few: results/layerdrop/few.json, for lesson 08.

    python evidence/layerdrop/few.py           after `make zoo`: reads cards and weights of its runs

A tenth and a fiftieth of the speeches, a tenth of the pronunciations; nothing, LayerDrop, or dropout; all
seeds that have a recipe; the fiftieth also with half of the steps. Held-out loss, always on the same windows,
is given at the end of training and at the best look during it (which nobody who must not look could have
picked), and for the pronunciations the share of held-out ones of which every sound is right.
"""

from typing import Any

import torch
from torch import nn

from minieff.core import cost, zoo
from minieff.core.data import SILENT, Source
from minieff.core.files import save_results
from minieff.core.recipe import parse

FOLDER = zoo.FOLDER / "layerdrop"
KINDS = ["plain", "layerdrop-20", "dropout-10"]
TASKS = ["tenth", "fiftieth", "sounds"]
SEEDS = ["", "-seed-1", "-seed-2"]


def main() -> None:
    found: dict[str, dict] = {}
    there = {run.name for _, run in zoo.recipes(FOLDER)}
    short = [f"fiftieth-{kind}-short" for kind in KINDS]
    for name in [f"{task}-{kind}" for task in TASKS for kind in KINDS] + short:
        runs = [outcome(f"{name}{seed}") for seed in SEEDS if f"{name}{seed}" in there]
        found[name] = {key: [run[key] for run in runs] for key in runs[0]}
        print(name, found[name], flush=True)
    times = {task: passes(f"{task}-{KINDS[0]}") for task in TASKS}
    print(save_results("layerdrop/few", {"passes": times, "models": found}))


def passes(name: str) -> float:
    """How often a run saw each of its training windows, or rows, in the mean."""
    recipe = parse(name, FOLDER, zoo.card(name, FOLDER)["recipe"])
    train, context = recipe.data.load().train, recipe.model["context"]
    windows = len(train) / context if isinstance(train, torch.Tensor) else len(train[0])
    return recipe.train.tokens / context / windows


def outcome(name: str) -> dict[str, Any]:
    """What came out of one run."""
    card = zoo.card(name, FOLDER)
    looks = [row for row in card["log"] if "valid" in row]
    best = min(looks, key=lambda row: row["valid"])
    numbers = {
        "end": looks[-1]["valid"],
        "best": best["valid"],
        "best_tokens": best["tokens"],
        "train": card["log"][-1]["train"],
    }
    if name.startswith("sounds"):
        corpus = parse(name, FOLDER, card["recipe"]).data.load()
        numbers["all_right"] = all_right(zoo.load(name, FOLDER), corpus)
    return numbers


@torch.no_grad()
def all_right(model: nn.Module, corpus: Source) -> float:
    """The share of rows of which every target is the likeliest token: what greedy decoding gets right."""
    right = rows = 0
    with cost.evaluating(model):
        for ids, targets in corpus.windows(model.config.context):
            good = (model(ids).argmax(-1) == targets) | (targets == SILENT)
            right += int(good.all(1).sum())
            rows += len(ids)
    return right / rows


if __name__ == "__main__":
    main()
